"""images/sets.py: which files of a folder make a set, and what is said of the others."""

import os
from pathlib import Path

import pytest
import torch
from image_cases import noise, plainly, write
from PIL import Image

import data
import train
from images import folders, reading, sets

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- which files count ---------------------------------------------------------------------------


def test_what_is_left_out_is_counted_by_kind_and_hidden_files_are_not(tmp_path):
    for name in ("a.png", "sub/b.JFIF", "c.jpe"):
        write(tmp_path / name, format="JPEG" if name != "a.png" else "PNG")
    for name in (
        "d.HEIC",
        "sub/e.heic",
        "notes.txt",
        "README",
        ".hidden.txt",
        "Thumbs.db",
        "sub/desktop.ini",
        ".DS_Store",
    ):
        (tmp_path / name).write_text("x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images = data.image_folder(tmp_path, plainly(12))
    assert images.paths == ["a.png", "c.jpe", "sub/b.JFIF"]
    assert images.left_out == "5 other files left out (.heic, .txt, broken link, no ending)"
    assert images.in_memory().left_out == images.take(torch.tensor([0])).left_out == images.left_out


def test_train_says_what_it_leaves_out_of_each_split(tmp_path, capsys):
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            for index in range(4):
                write(
                    tmp_path / "insects" / split / name / f"{index}.png", noise(8, 8, 3, seed=index)
                )
    (tmp_path / "insects" / "train" / "ant" / "photo.heic").write_text("x")
    (tmp_path / "insects" / "train" / "notes").write_text("x")
    (tmp_path / "insects" / "test" / "bee" / "list.txt").write_text("x")
    train.main(
        [
            "--dataset",
            f"insects={tmp_path / 'insects'}",
            "--image-size",
            "8",
            "--model",
            "resnet_cifar",
            "--epochs",
            "1",
            "--batch-size",
            "4",
            "--val-size",
            "0",
            "--device",
            "cpu",
            "--output-dir",
            str(tmp_path / "results"),
        ]
    )
    assert capsys.readouterr().out.splitlines()[:2] == [
        "insects (train): 8 images; 2 other files left out (.heic, no ending)",
        "insects (test): 8 images; 1 other file left out (.txt)",
    ]


def test_nothing_left_out_is_no_word(tmp_path):
    write(tmp_path / "a.png")
    assert data.image_folder(tmp_path, plainly(12)).left_out == ""
    (tmp_path / "b.txt").write_text("x")
    assert data.image_folder(tmp_path, plainly(12)).left_out == "1 other file left out (.txt)"


def test_every_ending_is_one_that_pillow_has_a_reader_for():
    known = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
    optional = {".webp", ".avif", ".jp2", ".j2k"}  # by libraries that Pillow may be built without
    assert known >= folders.ENDINGS - optional - {".mpo"}  # which its reader of JPEG takes


def test_a_folder_of_unreadable_kinds_names_them_and_the_way_out(tmp_path):
    for name in ("a.heic", "b.heic", "c"):
        (tmp_path / name).write_text("x")
    with pytest.raises(
        ValueError,
        match=(
            r"holds no images; .*found 3 other files \(\.heic, no ending\); convert them, .*magick"
        ),
    ):
        data.image_folder(tmp_path, plainly(8))


def test_linked_folders_count_and_a_link_back_up_ends(tmp_path):
    write(tmp_path / "elsewhere" / "1.png")
    write(tmp_path / "set" / "ant" / "1.png")
    (tmp_path / "set" / "bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "ant" / "up").symlink_to(tmp_path / "set")
    images = data.image_folder(tmp_path / "set", plainly(12))
    assert images.paths == ["ant/1.png", "bee/1.png"]
    assert images.labels.tolist() == [0, 1]


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a.png")

    def fail(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(ValueError, match=r"cannot be listed \(Permission denied\)"):
        data.image_folder(tmp_path, plainly(12))


@pytest.mark.parametrize("place", ["file", "folder", "root"])
def test_a_name_that_is_not_utf8_is_shown_escaped(tmp_path, place):
    odd = os.fsdecode(b"caf\xe9")
    path = {
        "file": tmp_path / f"{odd}.png",
        "folder": tmp_path / odd / "a.png",
        "root": tmp_path / odd / "a.png",
    }[place]
    try:
        write(path)
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(
        ValueError, match=r"caf\\xe9.* is not UTF-8; rename it, such as with: convmv"
    ) as caught:
        data.image_folder(path.parent if place == "root" else tmp_path, plainly(12))
    str(caught.value).encode()


def test_an_ending_that_is_not_utf8_is_left_out_like_others(tmp_path):
    write(tmp_path / "a.png")
    try:
        Path(tmp_path / os.fsdecode(b"b.\xe9")).write_text("x")
    except OSError:
        pytest.skip("this file system takes no such names")
    assert data.image_folder(tmp_path, plainly(12)).left_out == r"1 other file left out (.\xe9)"


# ---- what cannot be read -------------------------------------------------------------------------


def broken_folder(root, count=30, broken=14):
    for index in range(count):
        path = write(root / f"{index:02}.png")
        if index < broken:
            path.write_bytes(path.read_bytes()[:200])
    return data.image_folder(root, plainly(12))


@pytest.mark.parametrize("batch_size", [1, 5, 500])
def test_all_unreadable_files_are_named_at_once(tmp_path, batch_size):
    images = broken_folder(tmp_path)
    assert [path.name for path, _ in images.unreadable()] == [
        f"{index:02}.png" for index in range(14)
    ]
    with pytest.raises(
        ValueError,
        match=(
            r"^14 files cannot be read as images: .*/00\.png .*/09\.png \([^)]*\), and 4 more; mend"
        ),
    ):
        list(images.batches(batch_size))


def test_looking_through_good_files_decodes_none_of_them(tmp_path, monkeypatch):
    images = broken_folder(tmp_path, broken=0)
    for ending in ("jpg", "tif", "gif", "webp", "bmp"):
        write(tmp_path / f"a.{ending}")
    monkeypatch.setattr(reading, "read", None)
    assert data.image_folder(tmp_path, plainly(12)).unreadable() == [] == images.unreadable()


def test_of_very_many_files_the_headers_are_looked_at(tmp_path, monkeypatch):
    images = broken_folder(tmp_path, count=200, broken=3)
    (tmp_path / "150.png").write_bytes(b"no image")
    monkeypatch.setattr(sets, "THOROUGH", 199)
    assert [(path.name, why) for path, why in images.unreadable()] == [
        ("150.png", "no image that Pillow knows")
    ]
    monkeypatch.setattr(sets, "THOROUGH", 200)
    assert [path.name for path, _ in images.unreadable()] == [
        "00.png",
        "01.png",
        "02.png",
        "150.png",
    ]
