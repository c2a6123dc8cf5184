"""--csid and --calibration of run_networks.py: more ID images, with their classes."""

import numpy as np
import pytest
import torch
from helpers import read_csv, shell
from image_cases import noise, write

import data
import run_networks
from artifacts import records
from images.corruptions import Corruption
from networks import checkpoints

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*the test accuracy is"),
]


def extract(checkpoint, output_dir, *words):
    given = ["--checkpoint", checkpoint, "--device", "cpu", "--output-dir", output_dir]
    return shell(run_networks.main, *given, "--ood", "photos", *words)


@pytest.fixture
def by_class(tmp_path):
    """Three images of the class 2 and one of the class 5, in folders."""
    for name, count in (("2", 3), ("5", 1)):
        for number in range(count):
            write(tmp_path / "own" / name / f"{number}.png", noise(9, 9, 3, seed=number))
    return tmp_path / "own"


def test_corrupted_test_images_and_those_of_a_folder_keep_their_classes(own_digits_run, by_class):
    run = own_digits_run
    ended = extract(run.checkpoint, run.output_dir, "--csid", "contrast3", f"own={by_class}")
    assert ended.code == 0, ended.err
    plain = read_csv(run.folder / "ID_digits_test.csv")
    changed = read_csv(run.folder / "CSID_contrast3_test.csv")
    assert list(changed["label"]) == list(plain["label"])
    sidecar = records.read_sidecar(run.folder / "CSID_contrast3_test.csv")
    assert sidecar["corruption"] == {"kind": "contrast", "severity": 3, "seed": 0}
    assert f"{sidecar['accuracy']:.2%} of them are classified right" in ended.out
    own = read_csv(run.folder / "CSID_own_test.csv")
    assert list(own["label"]) == [2, 2, 2, 5] and own["path"].iloc[0] == "2/0.png"
    again = extract(run.checkpoint, run.output_dir, "--csid", "contrast3", f"own={by_class}")
    assert again.out.count("kept as it is") == 6, again.out


def test_the_images_are_those_of_the_network_s_size_corrupted_then(own_digits_run):
    content = checkpoints.read(own_digits_run.checkpoint)
    preprocessing = data.Preprocessing(**content["preprocessing"])
    plain = data.load_id(data.ID["digits"], "test", preprocessing, None, content["held_out"])
    corruption = Corruption("gaussian_noise", 2)
    found = data.load_corrupted(
        data.ID["digits"], corruption, preprocessing, None, content["held_out"]
    )
    assert torch.equal(found.labels, plain.labels)
    for number in (0, 7):
        image = plain.pixels[number].permute(1, 2, 0).numpy()
        expected = corruption.apply(image)
        np.testing.assert_array_equal(found.pixels[number].permute(1, 2, 0).numpy(), expected)


def test_calibration_images_stand_for_validation_images(own_digits_run, by_class, tmp_path):
    content = torch.load(own_digits_run.checkpoint, weights_only=True)
    other = tmp_path / "resnet_cifar_foreign.pth"
    torch.save({**content, "val_size": 0}, other)
    ended = extract(other, tmp_path / "out", "--calibration", f"held={by_class}")
    assert ended.code == 0, ended.err
    held = read_csv(tmp_path / "out" / other.stem / "ID_digits_val.csv")
    assert list(held["label"]) == [2, 2, 2, 5]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--csid", "fog"), "--csid fog: expected NAME=FOLDER"),
        (("--csid", "photos=x"), "names two sets"),
        (("--csid", "own=nowhere"), "nowhere is not a folder"),
        (("--calibration", "own=nowhere"), "validation images held out, which serve as such"),
    ],
)
def test_mistakes_are_said_before_the_work(own_digits_run, words, said):
    ended = extract(own_digits_run.checkpoint, own_digits_run.output_dir, *words)
    assert ended.code and said in ended.err, ended.err


def test_a_class_that_the_network_does_not_know_is_named(own_digits_run, by_class):
    write(by_class / "tiger" / "1.png", noise(9, 9, 3, seed=4))
    run = own_digits_run
    ended = extract(run.checkpoint, run.output_dir, "--csid", f"own={by_class}")
    assert ended.code and "the class folder 'tiger'" in ended.err
    assert f"those of other classes are an OOD set: --ood own={by_class}" in ended.err


def test_images_are_changed_for_adascale_where_validation_images_are(own_digits_run, tmp_path):
    run = own_digits_run
    ended = extract(run.checkpoint, run.output_dir, "--adascale")
    assert ended.code == 0, ended.err
    made = {path.stem for path in run.folder.glob("ADASCALE_*.csv")}
    assert made == {
        "ADASCALE_ID_digits_val",
        "ADASCALE_ID_digits_test",
        "ADASCALE_OOD_photos_test",
    }
    plain, changed = (
        read_csv(run.folder / f"{kind}ID_digits_test.csv") for kind in ("", "ADASCALE_")
    )
    assert list(plain["label"]) == list(changed["label"])
    assert (plain["ct0"] - changed["ct0"]).abs().mean() > 0
    content = torch.load(run.checkpoint, weights_only=True)
    other = tmp_path / "resnet_cifar_foreign.pth"
    torch.save({**content, "val_size": 0}, other)
    ended = extract(other, tmp_path / "out", "--adascale")
    assert ended.code and "--calibration NAME=FOLDER" in ended.err
