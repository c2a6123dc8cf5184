"""images/folders.py: which files count, in which order, and two hashes that notice changes."""

import hashlib
import os
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import torch
from helpers import named
from image_cases import plainly
from PIL import Image

import cli
import data
from images import folders

pytestmark = pytest.mark.usefixtures("one_thread")
ODD = os.fsdecode(b"caf\xe9")  # latin-1


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(["top.png", "zebra/2.png", "zebra/10.png", "ant/b/deep.png"]):
        write(tmp_path / "set" / name, seed)
    return tmp_path / "set"


def replace_unseen(path, content):
    """Other bytes of equal size under the same modification time."""
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_bytes(path):
    """The bytes of a PNG with another last checksum, which decodes all the same."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    return bytes(content)


# ---- the two hashes ------------------------------------------------------------------------------


def test_both_hashes_are_those_of_the_set_itself(folder):
    images = data.image_folder(folder, plainly(12))
    assert folders.listing_hash(folder) == images.source
    assert folders.content_hash(folder) == images.content()
    assert folders.fingerprint(folder) == {
        "listing": images.source,
        "content": images.content(),
    }
    assert images.source.startswith("files ") and images.content().startswith("sha256 ")


def test_the_content_is_a_hash_over_names_and_file_hashes_in_order(folder):
    digest = hashlib.sha256(folders.RULES.encode())
    for name in ["ant/b/deep.png", "top.png", "zebra/10.png", "zebra/2.png"]:
        file = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        digest.update(b"\0" + name.encode() + b"\0" + file.encode())
    assert folders.content_hash(folder) == f"sha256 {digest.hexdigest()}"


def test_an_image_replaced_with_equal_size_and_time_changes_the_content_and_not_the_listing(folder):
    before = folders.listing_hash(folder), folders.content_hash(folder)
    replace_unseen(folder / "top.png", other_bytes(folder / "top.png"))
    after = folders.listing_hash(folder), folders.content_hash(folder)
    assert after[0] == before[0] and after[1] != before[1]


def test_a_touched_image_changes_the_listing_and_not_the_content(folder):
    before = folders.listing_hash(folder), folders.content_hash(folder)
    os.utime(folder / "top.png", ns=(1, 1))
    after = folders.listing_hash(folder), folders.content_hash(folder)
    assert after[0] != before[0] and after[1] == before[1]


def test_swapped_and_renamed_images_change_the_content(folder):
    found = {folders.content_hash(folder)}
    (folder / "top.png").rename(folder / "peak.png")
    found.add(folders.content_hash(folder))
    one, two = (folder / "zebra" / name for name in ("2.png", "10.png"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert len({*found, folders.content_hash(folder)}) == 3


def test_a_copied_folder_has_the_same_content(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert folders.content_hash(tmp_path / "copy") == folders.content_hash(folder)


def test_files_are_hashed_while_they_are_decoded_and_not_read_again(folder, monkeypatch):
    images = data.image_folder(folder, plainly(12))
    expected = folders.content_hash(folder)
    list(images.batches(3))
    monkeypatch.setattr(folders, "file_hash", None)
    assert images.content() == expected == images.in_memory().content()


def test_the_content_is_that_of_the_bytes_that_were_decoded(folder):
    images = data.image_folder(folder, plainly(12))
    expected = folders.content_hash(folder)
    list(images.batches(3))
    replace_unseen(folder / "top.png", other_bytes(folder / "top.png"))
    assert images.content() == expected != folders.content_hash(folder)


def test_a_part_shares_the_hashes_and_answers_for_its_own_paths(folder, monkeypatch):
    images = data.image_folder(folder, plainly(12))
    part, rest = images.take(torch.tensor([3, 0])), images.take(torch.tensor([1, 2]))
    assert part.content() == folders.content_hash(folder, part.paths)
    assert len({images.content(), part.content(), rest.content()}) == 3
    assert set(images.hashes) == set(images.paths) and part.hashes is images.hashes


def test_rules_are_part_of_both_hashes(folder, monkeypatch):
    before = folders.listing_hash(folder), folders.content_hash(folder)
    monkeypatch.setattr(folders, "RULES", "1: as the pixels lie")
    assert folders.listing_hash(folder) != before[0] and folders.content_hash(folder) != before[1]


def test_many_files_are_hashed_in_order_by_any_number_of_threads(tmp_path):
    for index in range(150):
        (tmp_path / f"{index}.png").write_bytes(b"%d" % index)
    paths = folders.listing(tmp_path).paths
    for threads in (1, 3):
        hashes = folders.file_hashes(tmp_path, paths, threads)
        assert hashes == {
            path: hashlib.sha256(path.removesuffix(".png").encode()).hexdigest() for path in paths
        }


def test_a_folder_that_is_gone_or_empty_has_no_listing_and_no_silent_content(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        assert folders.listing_hash(tmp_path / name) is None
        with pytest.raises(ValueError, match=name):
            folders.content_hash(tmp_path / name)


# ---- a single file -------------------------------------------------------------------------------


def test_a_single_file_is_a_folder_of_one(tmp_path):
    path = write(tmp_path / "alone" / "photo.jpg")
    write(tmp_path / "beside" / "photo.jpg", seed=1)
    images = data.image_folder(path, plainly(12))
    whole = data.image_folder(path.parent, plainly(12))
    assert images.paths == ["photo.jpg"] == whole.paths and images.labels.tolist() == [-1]
    assert torch.equal(images.in_memory().pixels, whole.in_memory().pixels)
    assert (
        images.source
        == whole.source
        == folders.listing_hash(path)
        == data.source_of(named(f"mine={path}"), None)
    )
    assert images.content() == whole.content() == folders.content_hash(path)
    assert folders.content_hash(path, ["photo.jpg"]) == images.content()


def test_a_single_file_takes_no_file_beside_it(tmp_path):
    path = write(tmp_path / "b.png")
    write(tmp_path / "a.png")
    assert data.image_folder(path, plainly(12)).paths == ["b.png"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("notes.txt", "is not an image that can be read"), ("a.HEIC", "magick mogrify")],
)
def test_a_single_file_of_another_kind_is_refused(tmp_path, name, said):
    (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match=said):
        data.image_folder(tmp_path / name, plainly(8))


# ---- links ---------------------------------------------------------------------------------------


def circle(folder):
    """Two links that lead to each other."""
    (folder / "one").symlink_to(folder / "two")
    (folder / "two").symlink_to(folder / "one")
    return folder / "one"


def test_a_link_to_itself_inside_a_folder_is_a_broken_link(folder):
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    images = data.image_folder(folder, plainly(12))
    assert len(images) == 4 and images.left_out == "2 other files left out (broken link)"


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_set_whose_path_is_a_circle_of_links_is_refused(tmp_path, below):
    path = circle(tmp_path) / below
    said = "leads through links that go round in a circle"
    with pytest.raises(ValueError, match=said):
        data.image_folder(path, plainly(8))
    with pytest.raises(ValueError, match=said):
        data.check_ood([named(f"mine={path}")], "digits", path.parent)
    assert folders.listing_hash(path) is None


# ---- names ---------------------------------------------------------------------------------------

LITERAL = [
    "[ab]",
    "*",
    "?",
    "~",
    "a b",
    "it's",
    'say "x"',
    "$HOME",
    "a\\b",
    "{x}",
    "%s",
    "#1",
    "=1+1",
    "007",
    "null",
]


@pytest.mark.parametrize("name", LITERAL)
def test_names_of_folders_are_taken_literally(tmp_path, monkeypatch, name):
    write(tmp_path / name / name / f"{name}.png")
    write(tmp_path / "a" / "a" / "a.png", seed=1)  # what a pattern would find
    monkeypatch.chdir(tmp_path)
    images = data.image_folder(name, plainly(12))
    assert images.paths == [f"{name}/{name}.png"] and images.class_names == [name]
    assert images.content() == folders.content_hash(tmp_path / name)
    ood = data.load_ood(named(f"mine={name}"), None, plainly(12), None)
    assert torch.equal(
        ood.in_memory().pixels, images.in_memory().pixels
    ) and ood.labels.tolist() == [-1]


@pytest.mark.parametrize("name", [*LITERAL, "new\nline", ODD])
def test_a_quoted_name_comes_back_from_the_shell(name):
    word = subprocess.run(
        ["bash", "-c", f"printf %s {folders.quoted(name)}"], capture_output=True, check=True
    ).stdout
    assert os.fsdecode(word) == name


def test_a_remedy_for_a_name_that_is_not_utf8_names_the_folder_as_a_shell_takes_it(tmp_path):
    root = tmp_path / ODD
    try:
        write(root / "a.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(ValueError, match="not UTF-8") as caught:
        data.image_folder(root, plainly(8))
    word = str(caught.value).rpartition("--notest ")[2]
    found = subprocess.run(
        ["bash", "-c", f"ls {word}"], capture_output=True, text=True, check=True
    ).stdout
    assert found == "a.png\n"


# ---- paths as arguments --------------------------------------------------------------------------


def parse(*words):
    parser = cli.Parser("x")
    cli.add_flags(parser, "checkpoint", "dataset", "ood", "model", "data-dir", "output-dir")
    return parser.parse_args(list(words))


def test_a_leading_tilde_is_the_home_folder_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    args = parse(
        "--data-dir",
        "~/sets",
        "--output-dir",
        "~",
        "--checkpoint",
        "~/a.pth",
        "--ood",
        "mine=~/photos",
        "dtd",
        "--dataset",
        "birds=~/birds",
        "--model",
        "~/net.py:build",
    )
    assert vars(args) == {
        "data_dir": "/home/me/sets",
        "output_dir": "/home/me",
        "checkpoint": "/home/me/a.pth",
        "debug": False,
        "quiet": False,
        "ood": [named("mine=/home/me/photos"), named("dtd")],
        "dataset": named("birds=/home/me/birds"),
        "model": "/home/me/net.py:build",
    }


@pytest.mark.parametrize("path", ["./~", "a~", "x/~/y", "[a]*?", "it's", "a b"])
def test_other_paths_are_taken_as_they_stand(path):
    args = parse(
        "--data-dir", path, "--output-dir", path, "--ood", f"mine={path}", f"--checkpoint={path}"
    )
    assert [args.data_dir, args.output_dir, *map(str, args.ood), args.checkpoint] == [
        path,
        path,
        f"mine={path}",
        path,
    ]


FLAGS = ["--data-dir", "--output-dir", "--checkpoint", "--model", "--ood", "--dataset"]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_circle_of_links_in_any_path_is_one_clear_message(tmp_path, capsys, flag):
    path = circle(tmp_path)
    word = f"mine={path}" if flag in ("--ood", "--dataset") else str(path)
    with pytest.raises(SystemExit) as ended:
        parse(flag, word)
    message = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and f"error: argument {flag}: {path} leads through links that go round in a circle"
        in message
    )
    assert message.rstrip().endswith(f"ls -ld {shlex.quote(str(path))}")


@pytest.mark.parametrize("flag", FLAGS)
def test_a_path_that_is_not_utf8_is_one_clear_message(capsys, flag):
    with pytest.raises(SystemExit) as ended:
        parse(flag, f"mine={ODD}/x" if flag in ("--ood", "--dataset") else f"{ODD}/x")
    message = capsys.readouterr().err
    assert ended.value.code == 2 and r"caf\xe9/x is not UTF-8; rename" in message
    assert message.rstrip().endswith(r"--notest $'caf\xe9/x'")
