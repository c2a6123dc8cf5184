"""--match-format through run_networks.py: where the features go, what they are, what is said."""

import pytest
import torch
from helpers import class_folders, read_csv, saved, shell
from image_cases import noise, write

import feature_files
import main
import run_networks
from artifacts import records
from networks import registry

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*the test accuracy is"),
]


@pytest.fixture
def words(tmp_path):
    """An untrained network of two classes, its JPEG images, and larger OOD images as PNG."""
    class_folders(tmp_path / "set", ("a", "b"), 3, (24, 20))
    for path in (tmp_path / "set").rglob("*.png"):
        write(path.with_suffix(".jpg"), noise(24, 20, 3, seed=len(path.name)), quality=60)
        path.unlink()
    for number in range(4):
        write(tmp_path / "far" / f"{number}.png", noise(60, 90, 3, seed=number))
    torch.manual_seed(0)
    path = saved(tmp_path, registry.build("resnet_cifar", 2).state_dict())
    words = ["--checkpoint", path, "--model", "resnet_cifar", "--dataset", f"x={tmp_path}/set"]
    words += ["--image-size", "8", "--mean", "0.5", "--std", "0.5", "--device", "cpu"]
    return [*words, "--output-dir", tmp_path / "results", "--ood", f"far={tmp_path}/far"]


def test_both_versions_of_the_features_lie_side_by_side(words, tmp_path):
    plain = shell(run_networks.main, *words)
    assert plain.code == 0, plain.err
    line = "far: PNG 90x60, ID: JPEG 60 20x24: scores may see the file, not the content"
    assert line in plain.out
    ended = shell(run_networks.main, *words, "--match-format")
    assert ended.code == 0, ended.err
    assert "every image is first made like the ID images: 20x24, JPEG 60 4:2:0" in ended.out
    assert "network_matched" in ended.out and "scores may see" not in ended.out
    folders = [tmp_path / "results" / name for name in ("network", "network_matched")]
    sidecars = [records.read_sidecar(folder / "OOD_far_test.csv") for folder in folders]
    assert "match" not in sidecars[0]["preprocessing"]
    match = {"width": 20, "height": 24, "format": "JPEG", "quality": 60, "subsampling": "4:2:0"}
    assert sidecars[1]["preprocessing"]["match"] == match
    assert sidecars[0]["files"] == sidecars[1]["files"]
    one, other = (read_csv(folder / "OOD_far_test.csv") for folder in folders)
    assert (one["path"] == other["path"]).all() and (one["ct0"] != other["ct0"]).any()
    for flags, count in (([], 3), (["--match-format"], 3)):
        again = shell(run_networks.main, *words, *flags)
        assert again.out.count("kept as it is") == count


def test_scorers_read_either_folder_and_repeat_the_flag(words, tmp_path):
    assert shell(run_networks.main, *words, "--match-format").code == 0
    run = feature_files.open_run(tmp_path / "results/network_matched")
    assert feature_files.file_notes(run) == []
    assert "--match-format" in run.command.split() and "True" not in run.command.split()
    assert shell(run_networks.main, *words).code == 0
    run = feature_files.open_run(tmp_path / "results/network")
    assert len(feature_files.file_notes(run)) == 1 and "--match-format" not in run.command


def test_other_id_images_make_matched_features_anew(words, tmp_path):
    assert shell(run_networks.main, *words, "--match-format").code == 0
    for path in (tmp_path / "set").rglob("*.jpg"):
        write(path, noise(24, 20, 3, seed=len(path.name)), quality=90)
    again = shell(run_networks.main, *words, "--match-format")
    assert "JPEG 90 4:2:0" in again.out and "kept as it is" not in again.out


def test_pixels_without_files_cannot_be_matched(own_digits_run):
    words = ["--checkpoint", own_digits_run.checkpoint, "--device", "cpu", "--match-format"]
    ended = shell(run_networks.main, *words, "--output-dir", own_digits_run.output_dir)
    assert ended.code == 2 and "digits is pixels without files" in ended.err
    assert ended.err.count("\n") == 1


def test_main_says_how_to_get_matched_features():
    ended = shell(main.main, "--match-format")
    assert ended.code == 2 and "ood_methods.py --checkpoint results/<stem>_matched" in ended.err
