"""images/odin_sets.py: where each of ODIN's sets is looked for, what is said where it is absent,
and what counts as one. The archives are made here; none is downloaded."""

import shlex
import subprocess
import tarfile
import warnings

import numpy as np
import pytest
import torch
from helpers import named, shell
from image_cases import noise, plainly, write

import data
import run_networks
from images import odin_sets

pytestmark = pytest.mark.usefixtures("one_thread")

# as the README of facebookresearch/odin links them
FOLDERS = {
    "tin_crop": "Imagenet",
    "tin_resize": "Imagenet_resize",
    "lsun_crop": "LSUN",
    "lsun_resize": "LSUN_resize",
    "isun": "iSUN",
}


@pytest.fixture
def three_are_published(monkeypatch):
    """Every set has three images, so that none has to be as large as it is."""
    for name, archive in odin_sets.SETS.items():
        monkeypatch.setitem(odin_sets.SETS, name, odin_sets.Archive(archive.folder, images=3))


def fill(folder, count=3):
    """`count` images in a folder -> their pixels (count, 12, 12, 3)."""
    made = [noise(12, 12, 3, seed=seed) for seed in range(count)]
    for number, pixels in enumerate(made):
        write(folder / f"{number}.png", pixels)
    return np.stack(made)


def loaded(text, data_dir):
    return data.load_ood(named(text), None, plainly(12), data_dir)


def refused(*texts, data_dir):
    with pytest.raises(ValueError) as caught:
        data.check_ood(list(map(named, texts)), "cifar10", data_dir)
    return str(caught.value)


def command_in(message, before, after):
    return message.partition(before)[2].partition(after)[0]


# ---- where they lie ------------------------------------------------------------------------------


def test_the_sets_are_those_that_were_published():
    assert {name: archive.folder for name, archive in odin_sets.SETS.items()} == FOLDERS
    assert [archive.images for archive in odin_sets.SETS.values()] == [10_000] * 4 + [8_925]
    assert FOLDERS.keys() <= data.OOD.keys()


@pytest.mark.parametrize("inside", ["", "test"])
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.usefixtures("three_are_published")
def test_a_set_is_the_folder_of_its_archive(tmp_path, name, inside):
    made = fill(tmp_path / FOLDERS[name] / inside)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = loaded(name, tmp_path)
    found = images.in_memory()
    assert np.array_equal(found.pixels.permute(0, 2, 3, 1), made)
    assert images.labels.tolist() == [-1, -1, -1] and images.class_names == []
    assert data.source_of(named(name), tmp_path) == images.source


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Imagenet_resize", "tin_resize"),
        ("LSUN_resize", "lsun_resize"),
        ("LSUN-C", "lsun_crop"),
        ("LSUN_R", "lsun_resize"),
        ("iSUN", "isun"),
        ("TIN_crop", "tin_crop"),
    ],
)
def test_other_names_of_a_set(text, name):
    assert named(text).name == name


@pytest.mark.parametrize(("text", "name"), [("Imagenet", "tin_crop"), ("LSUN", "lsun_crop")])
def test_a_folder_name_that_may_be_ones_own_is_answered_with_the_set(tmp_path, text, name):
    message = refused(text, data_dir=tmp_path)
    assert message.startswith(f"unknown OOD set {text!r}; expected one of svhn, ")
    assert message.endswith(f"; ODIN's {text} is called {name} here: --ood {name}")
    own = named(f"{text}={tmp_path}")
    assert own.name == text.lower()
    data.check_ood([own], "cifar10", tmp_path)


# ---- absent --------------------------------------------------------------------------------------


def test_all_absent_sets_are_named_at_once(tmp_path):
    (tmp_path / "LSUN").mkdir()
    message = refused("svhn", "iSUN", "lsun_crop", "tin_crop", data_dir=tmp_path)
    for name in ("isun", "tin_crop"):
        place = tmp_path / FOLDERS[name]
        assert f"for {name} in {place}, which is not a folder" in message
        assert f"{name}=FOLDER" in message
    assert (
        "Fetch iSUN.tar.gz, Imagenet.tar.gz, which https://github.com/facebookresearch/odin links"
        in message
    )
    assert "lsun_crop" not in message


@pytest.mark.usefixtures("three_are_published")
def test_the_commands_of_the_message_bring_the_sets_and_find_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("iSUN", "Imagenet"):
        fill(tmp_path / "made" / folder / "images")
        with tarfile.open(tmp_path / f"{folder}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "made" / folder, folder)
    message = refused("isun", "tin_crop", data_dir="my sets")
    subprocess.run(command_in(message, "unpack with: ", "; then"), shell=True, check=True)
    words = shlex.split(command_in(message, "finds all: ", ". Images"))
    assert words[:2] == ["python", "run_networks.py"]
    run_networks.main(words[2:])
    said = capsys.readouterr().out
    assert "isun: 3 images at hand" in said and "tin_crop: 3 images at hand" in said


def test_an_absent_set_is_said_before_any_set_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load_id", None)
    monkeypatch.setattr(data, "id_set", None)
    words = ["--fetch", "--dataset", "digits", "--data-dir", str(tmp_path), "--ood", "iSUN"]
    ended = shell(run_networks.main, *words)
    assert ended.code == 2 and f"looked for isun in {tmp_path}/iSUN" in ended.err


def test_a_set_that_is_kept_or_lies_elsewhere_need_not_be_there(tmp_path):
    fill(tmp_path / "mine")
    elsewhere = named(f"isun={tmp_path / 'mine'}")
    kept = named("tin_crop")
    data.check_ood([elsewhere, kept], "cifar10", tmp_path, kept=[kept])
    assert len(loaded(elsewhere.text, tmp_path)) == 3
    assert data.source_of(kept, tmp_path) is None


# ---- there, but not as published -----------------------------------------------------------------


@pytest.mark.usefixtures("three_are_published")
def test_another_count_is_warned_of(tmp_path):
    fill(tmp_path / "LSUN" / "test", 2)
    with pytest.warns(
        UserWarning, match=r"lsun_crop has 2 images in .*LSUN, and ODIN's authors published 3"
    ):
        images = loaded("lsun_crop", tmp_path)
    assert torch.equal(images.labels, torch.full((2,), -1))


@pytest.mark.parametrize("folders", [["train/a", "train/b"], ["", "test"]])
def test_several_folders_are_not_the_archive(tmp_path, folders):
    for folder in folders:
        fill(tmp_path / "Imagenet" / folder, 1)
    with pytest.raises(ValueError, match="holds images in 2 folders, first ") as caught:
        loaded("tin_crop", tmp_path)
    assert str(caught.value).endswith(f": --ood tin_crop={tmp_path}/Imagenet")
