"""run_networks.py on members of a leave-out ensemble: whose images are in which file, under which
labels."""

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
import torch
from helpers import named, shell

import data
import main
import run_networks
import train
from artifacts import records, store
from extraction import perturbation
from extraction.perturbation import Step
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


# ---- perturbed images ----------------------------------------------------------------------------


def gradient_by_hand(network, images, kind, temperature):
    """d loss / d x in float64, one image at a time, by autograd of the loss as it is written."""
    rows = []
    for image in images.double():
        image = image[None].contiguous().requires_grad_()
        shares = (network(image) / temperature).softmax(1)
        loss = -(shares * shares.log()).sum() if kind == "entropy" else -shares.max().log()
        rows.append(torch.autograd.grad(loss, image)[0])
    return torch.cat(rows)


@pytest.mark.parametrize("kind", ["entropy", "argmax"])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_a_step_goes_down_the_gradient_of_its_loss(ensemble, kind, temperature):
    std = (0.2, 0.3, 0.5)
    images = ensemble.setups[0].facts.preprocessing.normalise(whole_of(ensemble, "test").pixels[:9])
    network = loading.load(ensemble.checkpoints[0])[0]
    moved = perturbation.perturb(network, images, Step(kind, 0.01, temperature), std)
    gradient = gradient_by_hand(network.double(), images, kind, temperature)
    sizes = torch.tensor(std).view(1, 3, 1, 1)
    found = ((images - moved) / 0.01 * sizes).double()
    assert torch.allclose(found.abs()[gradient != 0], torch.ones(()).double(), atol=1e-3)
    # float32 knows no sign of what is a thousandth of the rest
    clear = gradient.abs() > 1e-3 * gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    assert clear.double().mean() > 0.8
    assert torch.equal(found.sign()[clear], gradient.sign()[clear])


def counting(network):
    """The network, and a list that grows by one for every batch that passes it."""
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_several_epsilons_share_one_gradient(ensemble):
    network = loading.load(ensemble.checkpoints[0])[0]
    images = ensemble.setups[0].facts.preprocessing.normalise(whole_of(ensemble, "test").pixels[:9])
    std = (0.2, 0.3, 0.5)
    passes = counting(network)
    held = perturbation.Directions()
    for epsilon in (0.001, 0.002, 0.003):
        step = Step("entropy", epsilon, 10)
        for row in (0, 5):
            batch = images[row : row + 5]
            signs = held.find(network, batch, step, "ID_digits_test", row)
            moved = perturbation.move(batch, signs, epsilon, std)
            assert torch.equal(moved, perturbation.perturb(network, batch, step, std))
    assert len(passes) == 2 + 6  # two batches once, and the six that the test made itself


@pytest.mark.parametrize(
    ("step", "of"),
    [
        (Step("entropy", 0.01, 100), "a"),
        (Step("argmax", 0.01, 10), "a"),
        (Step("entropy", 0.01, 10), "b"),
    ],
)
def test_another_gradient_or_other_images_are_not_taken_for_those_held(ensemble, step, of):
    network = loading.load(ensemble.checkpoints[0])[0]
    images = whole_of(ensemble, "test").pixels[:8].float() / 255
    held = perturbation.Directions()
    held.find(network, images[:4], Step("entropy", 0.01, 10), "a", 0)
    later = images[4:] if of == "b" else images[:4]
    found = held.find(network, later, step, of, 0)
    assert torch.equal(found, perturbation.direction(network, later, step))


def test_directions_beyond_the_limit_are_computed_again(ensemble):
    network = loading.load(ensemble.checkpoints[0])[0]
    images = whole_of(ensemble, "test").pixels[:8].float() / 255
    held = perturbation.Directions(limit=images[:4].nelement())
    passes = counting(network)
    for _ in range(2):
        for row in (0, 4):
            held.find(network, images[row : row + 4], Step("entropy", 0.01, 10), "a", row)
    assert len(passes) == 3


@pytest.mark.parametrize("kind", ["entropy", "argmax"])
def test_perturbed_features_of_a_member_are_of_all_classes(ensemble, tmp_path, kind):
    own = Ensemble(tmp_path, ensemble.checkpoints, ensemble.setups)
    more = [] if kind == "entropy" else ["--perturbation", kind]
    step = ["--odin-epsilon", "0.02", "--temperature", "10", *more]
    extract(own, "--ood", "held_out", "photos", *step, folds=[2])
    folder = own.folder(2) / "perturbed" / f"{kind}_T10_E0.02"
    assert {path.stem for path in folder.glob("*.csv")} == {
        "ID_digits_test",
        "OOD_held_out_test",
        "OOD_photos_test",
    }
    assert not list(own.folder(2).glob("ODIN_*"))
    preprocessing = ensemble.setups[1].facts.preprocessing
    for stem, plain in (("ID_digits_test", "all/"), ("OOD_photos_test", "")):
        found, clean = read(folder, stem), read(own.folder(2), f"{plain}{stem}")
        assert found.labels.tolist() == clean.labels.tolist()
        sidecar = records.read_sidecar(folder / f"{stem}.csv")
        assert (sidecar["odin_epsilon"], sidecar["temperature"]) == (0.02, 10)
        assert (sidecar["perturbation"], sidecar["class_names"]) == (kind, CLASSES)
        assert sidecar["leave_out"] == ensemble.setups[1].facts.leave_out
    network = loading.load(ensemble.checkpoints[1])[0]
    images = preprocessing.normalise(whole_of(ensemble, "test").pixels[:20])
    gradient = gradient_by_hand(network.double(), images, kind, 10)
    size = 0.02 / torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    network.fc3 = torch.nn.Identity()
    with torch.no_grad():
        expected = network(images.double() - size * gradient.sign()).numpy()
    found, clean = read(folder, "ID_digits_test"), read(own.folder(2), "all/ID_digits_test")
    moved = np.abs(clean.features[:20] - expected).max()
    assert np.abs(found.features[:20] - expected).max() < 0.02 * moved


def test_a_grid_is_of_validation_images_and_of_one_ood_set(ensemble, tmp_path, capsys):
    own = Ensemble(tmp_path, ensemble.checkpoints, ensemble.setups)
    grid = ["--odin-epsilon", "0", "0.000625", "0.002", "--temperature", "1", "1000"]
    words = ["--ood", "photos", "uniform", *grid, "--val-ood", "photos"]
    extract(own, *words, folds=[1])
    assert "epsilon 0: the features of plain images serve" in capsys.readouterr().out
    found = {
        path.relative_to(own.folder(1) / "perturbed").as_posix()
        for path in (own.folder(1) / "perturbed").rglob("*.csv")
    }
    assert found == {
        f"entropy_T{temperature}_E{epsilon}/{stem}.csv"
        for temperature in (1, 1000)
        for epsilon in (0.000625, 0.002)
        for stem in ("ID_digits_val", "OOD_photos_test")
    }
    place = own.folder(1) / "perturbed" / "entropy_T1000_E0.002"
    plain = read(own.folder(1), "all/ID_digits_val")
    assert read(place, "ID_digits_val").labels.tolist() == plain.labels.tolist()
    extract(own, *words, folds=[1])
    assert capsys.readouterr().out.count("kept as it is") == 7 + len(found)


def test_a_network_that_is_no_member_gets_odin_files_or_folders_of_its_own(own_digits_run):
    folder = own_digits_run.folder
    helpers.extract(own_digits_run, "--ood", "photos", "--odin-epsilon", "0.002")
    assert {path.stem for path in folder.glob("ODIN_*.csv")} == {
        "ODIN_ID_digits_test",
        "ODIN_ID_digits_val",
        "ODIN_OOD_photos_test",
    }
    assert "perturbation" not in records.read_sidecar(folder / "ODIN_ID_digits_test.csv")
    assert not (folder / "perturbed").exists()
    entropy = ["--perturbation", "entropy", "--odin-epsilon", "0.002"]
    helpers.extract(own_digits_run, "--ood", "photos", *entropy)
    place = folder / "perturbed" / "entropy_T1000_E0.002"
    assert {path.stem for path in place.glob("*.csv")} == {"ID_digits_test", "OOD_photos_test"}
    sidecar = records.read_sidecar(place / "ID_digits_test.csv")
    assert sidecar["perturbation"] == "entropy" and "leave_out" not in sidecar


def test_two_processes_write_the_files_of_one(ensemble, tmp_path):
    member, alone = ensemble.checkpoints[0], tmp_path / "alone"
    # two batches of validation images, five of test images: ranks share them unevenly
    words = ["--ood", "held_out", "--odin-epsilon", "0.02", "--batch-size", "90"]
    extract(Ensemble(alone, ensemble.checkpoints, ensemble.setups), *words, folds=[1])
    run = SimpleNamespace(checkpoint=member, output_dir=tmp_path / "two")
    ((codes, _),) = helpers.by_two(tmp_path, run, words)
    assert codes == [0, 0]
    files = [path.relative_to(alone) for path in alone.rglob("*.csv")]
    assert len(files) == 10
    for file in files:
        assert (run.output_dir / file).read_bytes() == (alone / file).read_bytes()


def test_members_of_a_folder_of_images(tmp_path):
    names = ["ant", "bee", "cat", "dog", "elk", "fox"]
    helpers.class_folders(tmp_path / "animals", names, 4, (20, 24))
    words = ["--dataset", f"animals={tmp_path / 'animals'}", "--val-size", "6", "--batch-size", "4"]
    whole = write_members(tmp_path, *words)
    extract(whole, "--ood", "held_out", "uniform", "--odin-epsilon", "0.01")
    for fold, setup in enumerate(whole.setups, start=1):
        folder, left_out = whole.folder(fold), setup.facts.leave_out["left_out"]
        trained = read(folder, "ID_animals_train")
        assert len(trained.paths) == setup.facts.images
        assert {path.split("/")[0] for path in trained.paths}.isdisjoint(left_out)
        unknown = read(folder, "OOD_held_out_test")
        assert {path.split("/")[0] for path in unknown.paths} == set(left_out)
        for place in ("all", "perturbed/entropy_T1000_E0.01"):
            of_all = read(folder / place, "ID_animals_test")
            assert [names[label] for label in of_all.labels] == [
                path.split("/")[0] for path in of_all.paths
            ]
            assert len(of_all.paths) == 24
        files = {path.name for path in (folder / "perturbed").rglob("*.csv")}
        assert files == {"ID_animals_test.csv", "OOD_uniform_test.csv"}
        assert not (folder / "all" / "OOD_held_out_test.csv").exists()
    grid = "--ood held_out --odin-epsilon 0.001 0.002 --val-ood held_out"
    message = "each class that .* leaves out is known to other members of its ensemble"
    assert re.search(message, refused(whole, tmp_path, *grid.split()))


# ---- what is refused before any work -------------------------------------------------------------


def refused(ensemble, tmp_path, *words):
    """What extraction says of a mistake, which it makes no file of."""
    own = Ensemble(tmp_path / "features", ensemble.checkpoints, ensemble.setups)
    ended = shell(run_networks.main, *words_of(own, (1, 2, 3), words))
    assert ended.code == 2, ended.out
    assert not list(own.output_dir.rglob("*"))
    return ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--odin-epsilon 2", "--odin-epsilon 2 looks like one of normalised or 0-255 pixels"),
        ("--odin-epsilon 0.001 0.5", "0.5 looks like one of normalised"),
        ("--odin-epsilon 0.001 0.001", "--odin-epsilon names 0.001 twice"),
        ("--odin-epsilon 0.001 --temperature 1 10", "2 pairs .* with --val-ood NAME"),
        ("--odin-epsilon 0.001 --val-ood photos", "a single pair .* leave --val-ood out"),
        ("--val-ood photos", "--val-ood without --odin-epsilon moves no image"),
        ("--perturbation entropy", "--perturbation without --odin-epsilon moves no image"),
        (
            "--ood photos --odin-epsilon 0 0.001 --val-ood uniform",
            "--val-ood uniform is not among the OOD sets, photos",
        ),
    ],
)
def test_perturbations_that_cannot_be_meant_are_refused(ensemble, tmp_path, words, message):
    assert re.search(message, refused(ensemble, tmp_path, *words.split()))


def changed(ensemble, tmp_path, fold, **facts):
    """The same ensemble with other entries in the checkpoint of one member."""
    path = ensemble.checkpoints[fold - 1]
    other = tmp_path / path.name
    torch.save({**torch.load(path, weights_only=True), **facts}, other)
    paths = [other if known == path else known for known in ensemble.checkpoints]
    return Ensemble(ensemble.output_dir, paths, ensemble.setups)


def test_members_that_do_not_belong_together_are_refused(ensemble, tmp_path):
    facts = ensemble.setups[1].facts
    member = facts.leave_out
    others = {
        "different splits": {"leave_out": {**member, "folds": 4}},
        "are members of different": {
            "leave_out": {**member, "left_out": ensemble.setups[0].facts.leave_out["left_out"]}
        },
        "with different models, toynet and resnet18": {"model": "resnet18"},
        "with different data sets, digits and cifar10": {"dataset": "cifar10"},
        "with different preprocessings": {
            "preprocessing": {**facts.preprocessing.as_dict(), "std": (1.0, 1.0, 1.0)}
        },
        "with different numbers of validation images, 96 and 0": {"val_size": 0},
        "fold 1 is there twice: .*; give one checkpoint of each member, such as": {
            "leave_out": ensemble.setups[0].facts.leave_out
        },
    }
    for message, entries in others.items():
        assert re.search(message, refused(changed(ensemble, tmp_path, 2, **entries), tmp_path))


def test_members_and_other_networks_are_extracted_apart(ensemble, digits_run, tmp_path):
    paths = [*ensemble.checkpoints[:2], digits_run.checkpoint]
    message = refused(Ensemble(tmp_path, paths, ensemble.setups), tmp_path)
    assert "is no member; extract them apart: python run_networks.py" in message


def test_a_grid_needs_validation_images(tmp_path):
    whole = write_members(tmp_path, "--val-size", "0")
    grid = "--ood photos --odin-epsilon 0.001 0.002 --val-ood photos"
    assert "without validation images" in refused(whole, tmp_path, *grid.split())


def test_held_out_chooses_only_where_no_member_knows_it(tmp_path):
    whole = write_members(tmp_path, "--held-out", "9")
    content = torch.load(whole.checkpoints[0], weights_only=True)
    grid = "--ood held_out --odin-epsilon 0.001 0.002 --val-ood held_out"
    assert content["held_out"] == ["9"]
    extract(whole, *grid.split(), folds=[1])
    place = whole.folder(1) / "perturbed" / "entropy_T1000_E0.002"
    sidecar = records.read_sidecar(place / "OOD_held_out_test.csv")
    assert sidecar["ood_class_names"] == ["9"]


def test_what_is_still_missing_is_said(ensemble, capsys):
    extract(ensemble, "--ood", "held_out", "photos", folds=[1, 3])
    said = capsys.readouterr().out
    assert "2 of the 3 members of a leave-out ensemble; not in this call: fold 2" in said
    extract(ensemble, "--ood", "held_out", "photos")
    assert "not in this call" not in capsys.readouterr().out
