"""run_networks.py on members of a leave-out ensemble: whose images are in which file, under which
labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import named, shell

import data
import main
import run_networks
import train
from artifacts import records, store
from networks import loading
from processes import World
from training.state import State

pytestmark = [
    pytest.mark.slow,  # importing training, and the extraction of three small networks
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*the test accuracy is"),
]
CLASSES = [str(number) for number in range(8)]
# Digits without 8 and 9, which no member knows.
WORDS = (
    "--dataset digits --model toynet --mode leave-out --folds 3 --epochs 1 --no-amp --device cpu"
)


@dataclass(frozen=True)
class Ensemble:
    """Checkpoints of untrained members, and what their training would have begun with."""

    output_dir: Path
    checkpoints: list[Path]
    setups: list[train.Setup]

    def folder(self, fold: int) -> Path:
        return self.output_dir / self.checkpoints[fold - 1].stem


def write_members(folder, *words):
    """The checkpoints of an ensemble's members as train.py writes them, before their first step."""
    world = World(0, 1, torch.device("cpu"))
    paths, setups = [], []
    for args in train.runs(train.parse_args([*WORDS.split(), "--fold", "all", *words])):
        setup = train.prepare(args, world)
        torch.manual_seed(setup.seed)
        paths.append(folder / f"toynet_{args.suffix}.pth")
        setups.append(setup)
        State(setup.facts, world).save(paths[-1])
    return Ensemble(folder / "results", paths, setups)


def words_of(ensemble, folds, words):
    paths = [ensemble.checkpoints[fold - 1] for fold in folds]
    place = ["--device", "cpu", "--output-dir", ensemble.output_dir]
    return [str(word) for word in ["--checkpoint", *paths, *place, *words]]


def extract(ensemble, *words, folds=(1, 2, 3)):
    run_networks.main(words_of(ensemble, folds, words))


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory, one_thread):
    """Three members of digits, extracted with the OOD sets held_out and photos; change nothing."""
    found = write_members(tmp_path_factory.mktemp("ensemble"))
    extract(found, "--ood", "held_out", "photos")
    return found


def whole_of(ensemble, split):
    """Images of all eight classes, in data-set order; those of "train" and "val" together."""
    preprocessing = ensemble.setups[0].facts.preprocessing
    return data.load_id(data.ID["digits"], split, preprocessing, None, ["8", "9"])


def features_of(ensemble, fold, pixels):
    """The input of the classifier, by hand."""
    network = loading.load(ensemble.checkpoints[fold - 1])[0]
    network.fc3 = torch.nn.Identity()
    with torch.no_grad():
        return network(ensemble.setups[0].facts.preprocessing.normalise(pixels)).numpy()


def read(folder, stem):
    return store.read_features(folder / f"{stem}.csv")


# ---- whose images --------------------------------------------------------------------------------


def test_a_members_files(ensemble):
    folder = ensemble.folder(1)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.csv")} == {
        "head.csv",
        *(f"ID_digits_{split}.csv" for split in ("train", "val", "test")),
        "OOD_held_out_test.csv",
        "OOD_photos_test.csv",
        "all/ID_digits_val.csv",
        "all/ID_digits_test.csv",
        "all/OOD_held_out_test.csv",
    }


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_a_members_training_images_are_those_it_was_trained_on_without_outliers(ensemble, fold):
    setup = ensemble.setups[fold - 1]
    whole = whole_of(ensemble, "train")
    left_out = [CLASSES.index(name) for name in setup.facts.leave_out["left_out"]]
    for part, split in enumerate(("train", "val")):
        trained = getattr(setup, split)
        rows = data.split_validation(len(whole), 96)[part]
        is_known = ~torch.isin(whole.labels[rows], torch.tensor(left_out))
        order = rows[is_known].argsort()  # files are in data-set order, training is not
        found = read(ensemble.folder(fold), f"ID_digits_{split}")
        assert found.labels.tolist() == trained.labels[order].tolist()
        expected = features_of(ensemble, fold, trained.pixels[order])
        assert np.allclose(found.features, expected, atol=1e-5)
    tested = read(ensemble.folder(fold), "ID_digits_test")
    assert tested.labels.tolist() == setup.test.labels.tolist()
    expected = features_of(ensemble, fold, setup.test.pixels)
    assert np.allclose(tested.features, expected, atol=1e-5)


def test_files_of_all_classes_are_in_the_order_and_under_the_labels_of_the_ensemble(ensemble):
    training = whole_of(ensemble, "train")
    rows = data.split_validation(len(training), 96)[1].sort().values
    expected = {"val": training.take(rows), "test": whole_of(ensemble, "test")}
    for fold in (1, 2, 3):
        for split, images in expected.items():
            found = read(ensemble.folder(fold) / "all", f"ID_digits_{split}")
            assert found.labels.tolist() == images.labels.tolist()
            features = features_of(ensemble, fold, images.pixels)
            assert np.allclose(found.features, features, atol=1e-5)


def test_images_of_held_out_classes_are_those_a_member_does_not_know_or_none_does(ensemble):
    preprocessing = ensemble.setups[0].facts.preprocessing
    for fold, setup in enumerate(ensemble.setups, start=1):
        left_out = setup.facts.leave_out["left_out"]
        for place, classes in (("", ["8", "9", *left_out]), ("all", ["8", "9"])):
            folder = ensemble.folder(fold) / place
            images = data.load_ood(
                named("held_out"), data.ID["digits"], preprocessing, None, classes
            )
            found = read(folder, "OOD_held_out_test")
            features = features_of(ensemble, fold, images.pixels)
            assert np.allclose(found.features, features, atol=1e-5)
            sidecar = records.read_sidecar(folder / "OOD_held_out_test.csv")
            assert sidecar["held_out"] == sidecar["ood_class_names"] == classes


def test_every_sidecar_says_which_member_it_is(ensemble):
    for fold, setup in enumerate(ensemble.setups, start=1):
        files = list(ensemble.folder(fold).rglob("*.csv"))
        assert len(files) == 9
        for file in files:
            sidecar = records.read_sidecar(file)
            assert sidecar["leave_out"] == setup.facts.leave_out
            is_of_all = file.parent.name == "all"
            expected = CLASSES if is_of_all else setup.facts.class_names
            assert sidecar["class_names"] == expected
        head = store.read_head(ensemble.folder(fold) / "head.csv")
        assert head.W.shape == (len(setup.facts.class_names), 84)


def test_a_second_call_keeps_every_file_of_a_member(ensemble, capsys):
    extract(ensemble, "--ood", "held_out", "photos", folds=[2])
    assert capsys.readouterr().out.count("kept as it is") == 8


def test_layers_are_those_of_a_members_own_images(tmp_path, ensemble):
    own = Ensemble(tmp_path, ensemble.checkpoints, ensemble.setups)
    extract(own, "--ood", "held_out", "--layers", folds=[1])
    assert {path.name for path in (own.folder(1) / "layers").glob("*_fc1.csv")} == {
        *(f"ID_digits_{split}_fc1.csv" for split in ("train", "val", "test")),
        "OOD_held_out_test_fc1.csv",
    }
    found = read(own.folder(1) / "layers", "ID_digits_test_fc1")
    assert found.labels.tolist() == ensemble.setups[0].test.labels.tolist()


def test_main_refuses_a_member(ensemble, tmp_path):
    ended = shell(
        main.main, "--checkpoint", ensemble.checkpoints[0], "--output-dir", tmp_path / "features"
    )
    assert ended.code == 2
    assert "is member 1 of 3 of a leave-out ensemble and does not know" in ended.err
    assert not (tmp_path / "features").exists()
