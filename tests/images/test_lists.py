"""images/lists.py: lines of a list, what is wrong with them, classes, and both hashes of a list."""

import os
import re

import pytest
from helpers import named
from image_cases import plainly, write

import cli
import data
from images import folders, lists, places

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def root(tmp_path):
    for name in ["n1/a b.png", "n1/c.png", "n2/d.png"]:
        write(tmp_path / "root" / name)
    return tmp_path / "root"


@pytest.fixture
def listed(tmp_path, root):
    """A function that writes lines into a list -> its place."""

    def write_list(*lines, name="list.txt"):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return f"{tmp_path / name}@{root}"

    return write_list


# ---- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("a.txt@b", ("a.txt", "b")),
        ("x@y/a.TXT@b@c.txt@d", ("x@y/a.TXT", "b@c.txt@d")),
        ("{split}.txt@b", ("{split}.txt", "b")),
        ("a.txt@", ("a.txt", "")),
        ("photos@home", None),
        ("a.txt", None),
    ],
)
def test_a_list_is_told_from_a_folder_by_its_text_alone(place, expected):
    assert lists.parts(place) == expected


@pytest.mark.parametrize(
    ("folder", "train", "test"),
    [
        ("birds", "birds/train", "birds/test"),
        ("{split}_x.txt@r", "train_x.txt@r", "test_x.txt@r"),
        ("{split:val}_x.txt@r/{split:val}", "train_x.txt@r/train", "val_x.txt@r/val"),
        ("ILSVRC/{split:val}", "ILSVRC/train", "ILSVRC/val"),
    ],
)
def test_the_splits_of_an_id_set_lie_in_folders_or_lists_of_their_own(folder, train, test):
    asked = named(f"x={folder}")
    assert asked.split("train").folder == train
    assert asked.split("test").folder == test


def test_a_home_folder_is_expanded_in_the_list_and_in_its_root():
    home = os.path.expanduser("~")
    assert cli.data_set("x=~/a.txt@~/b").folder == f"{home}/a.txt@{home}/b"


def test_two_ways_to_one_list_are_one_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lists.resolved("a.txt@r") == lists.resolved(f"{tmp_path}/a.txt@./r")
    assert lists.resolved("a.txt@r") != lists.resolved("a.txt@q")


# ---- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.png 3", ("a.png", 3)),
        ("a b  c.png\t-1", ("a b  c.png", -1)),
        ("a b.png", ("a b.png", None)),
        ("12.png", ("12.png", None)),
        ("12", ("12", None)),
        ("a.png 3.5", ("a.png 3.5", None)),
        ("a.png ²", ("a.png ²", None)),
    ],
)
def test_the_last_field_is_the_label_if_it_is_a_whole_number(line, expected):
    assert lists.path_and_label(line) == expected


def test_a_list_keeps_its_order_and_skips_empty_and_repeated_lines(listed):
    place = listed("\ufeffn2/d.png 7\r", "", "n1/a b.png 0", "n2/d.png 7", "./n1//c.png 0")
    found = lists.read(place)
    assert found.paths == ["n2/d.png", "n1/a b.png", "n1/c.png"]
    assert (found.labels, found.lines, found.repeated) == ([7, 0, 0], [1, 3, 5], 1)
    assert found.said == {"n2/d.png": "7", "n1/a b.png": "0", "n1/c.png": "0"}


def test_bad_lines_are_named_with_their_numbers_ten_at_most(listed):
    outside = [f"../{number}.png 0" for number in range(20)]
    place = listed("n1/c.png 0", *outside, "n1/c.png 1", "/etc/passwd 0")
    with pytest.raises(ValueError, match="22 lines that cannot be used") as caught:
        folders.listing(place)
    message = str(caught.value)
    assert re.findall(r"line (\d+) leaves", message) == [str(line) for line in range(2, 12)]
    assert "and 12 more" in message and "PATH LABEL" in message


def test_an_image_with_two_labels_is_refused(listed):
    with pytest.raises(ValueError, match=r"line 3 gives n1/c\.png another label than line 1"):
        folders.listing(listed("n1/c.png 0", "n2/d.png 1", "n1/c.png 1"))


def test_an_absolute_path_below_the_root_is_taken(listed, root):
    assert lists.read(listed(f"{root}/n1/c.png 0")).paths == ["n1/c.png"]


def test_a_list_that_changes_is_read_again(listed):
    assert len(lists.read(listed("n1/c.png 0")).paths) == 1
    assert len(lists.read(listed("n1/c.png 0", "n2/d.png 1")).paths) == 2


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("no.txt@root", "no.txt is not a file"),
        ("list.txt@no", "no is not a folder"),
        ("list.txt@", "does not say which folder"),
        ("{split}.txt@root", "an OOD set has one list"),
        ("empty.txt@root", "names no images"),
        ("latin.txt@root", "is not UTF-8"),
    ],
)
def test_what_is_no_list_is_refused_with_its_name(tmp_path, monkeypatch, listed, place, said):
    monkeypatch.chdir(tmp_path)
    listed("n1/c.png 0")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png 0\n")
    with pytest.raises(ValueError, match=said):
        folders.listing(place)


# ---- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["train/n1/a 4", "train/n2/b 0"], {0: "n2", 4: "n1"}),
        (["n1/x/a 0", "n1/y/b 0", "n2/x/c 1"], {0: "n1", 1: "n2"}),
        (["n1/a 0", "n2/b 0", "n3/c 1"], {0: "0", 1: "1"}),
        (["n1/a 0", "n1/b 1"], {0: "0", 1: "1"}),
        (["a 0", "n1/b 1"], {0: "0", 1: "1"}),
    ],
    ids=["below-what-is-shared", "first-level", "two-folders", "two-labels", "at-the-top"],
)
def test_classes_are_named_by_folders_where_that_is_one_to_one(listed, lines, expected):
    found = lists.classes(lists.read(listed(*lines)))
    assert found == expected
    assert list(found) == sorted(found)


def test_an_id_list_gives_labels_without_gaps_and_images_in_its_order(listed):
    place = listed("n2/d.png 9", "n1/a b.png 4", "n1/c.png 4")
    images = places.labelled_list(place, plainly(12), None)
    assert images.class_names == ["n1", "n2"]
    assert images.labels.tolist() == [1, 0, 0]
    assert images.paths == ["n2/d.png", "n1/a b.png", "n1/c.png"]


def test_an_id_image_needs_a_label_of_the_training_list(listed):
    place = listed("n1/c.png 0", "n1/a b.png", "n2/d.png -1", "n2/e.png 5", "n2/f.png 0")
    with pytest.raises(ValueError, match="4 lines") as caught:
        places.labelled_list(place, plainly(12), {0: "n1", 1: "n2"})
    for said in (
        "line 2 has no label (n1/a b.png)",
        "line 3 has the label -1",
        "line 4 has the label 5, which no training image has",
        "line 5 has the label 0, and n2 is 1 among the training images",
    ):
        assert said in str(caught.value)


def test_an_id_set_of_lists_is_like_the_same_folders(tmp_path, listed):
    lines = {"train": [], "test": []}
    for split, chosen in lines.items():
        for label, name in enumerate(("ant", "bee")):
            for number in range(3):
                path = f"{split}/{name}/{number}.png"
                write(tmp_path / "root" / path)
                chosen.append(f"{path} {label}")
        listed(*chosen, name=f"{split}_all.txt")
    both = [
        data.id_set(named(text), "", 12)
        for text in (f"x={tmp_path}/root", f"x={tmp_path}/{{split}}_all.txt@{tmp_path}/root")
    ]
    assert both[0].mean == both[1].mean and both[0].val_size == both[1].val_size
    for split in lines:
        of_folder, of_list = (row.load(split, plainly(12), "") for row in both)
        assert of_folder.class_names == of_list.class_names == ["ant", "bee"]
        assert of_folder.labels.equal(of_list.labels)
        assert of_folder.in_memory().pixels.equal(of_list.in_memory().pixels)
        assert of_list.paths == [f"{split}/{path}" for path in of_folder.paths]


def test_one_list_is_no_id_set(listed):
    with pytest.raises(ValueError, match=r"is one list.*\{split\}"):
        data.id_set(named(f"x={listed('n1/c.png 0')}"), "")


@pytest.mark.parametrize("lines", [["n1/c.png -1", "n2/d.png -1"], ["n1/c.png", "n2/d.png"]])
def test_an_ood_list_needs_no_labels(listed, lines):
    place = listed(*lines)
    images = data.load_ood(named(f"x={place}"), None, plainly(12), "")
    assert images.labels.tolist() == [-1, -1]
    assert images.class_names == ["n1", "n2"]
    assert images.source == data.source_of(named(f"x={place}"), "")


# ---- hashes --------------------------------------------------------------------------------------


def hashes(place):
    return folders.listing_hash(place), folders.content_hash(place)


def test_both_hashes_are_those_of_the_set_itself(listed):
    place = listed("n2/d.png 1", "n1/c.png 0")
    images = places.labelled_list(place, plainly(12), None)
    assert hashes(place) == (images.source, images.content())
    assert folders.content_hash(place, images.paths[1:]) == images.take([1]).content()
    list(images.batches(2))
    assert images.content() == hashes(place)[1]


@pytest.mark.parametrize(
    "lines", [["n2/d.png 2", "n1/c.png 0"], ["n1/c.png 0", "n2/d.png 1"], ["n2/d.png 1"]]
)
def test_another_label_order_or_number_changes_both_hashes(listed, lines):
    before = hashes(listed("n2/d.png 1", "n1/c.png 0"))
    after = hashes(listed(*lines))
    assert before[0] != after[0] and before[1] != after[1]


def test_a_touched_image_changes_the_listing_alone(listed, root):
    place = listed("n2/d.png 1", "n1/c.png 0")
    before = hashes(place)
    os.utime(root / "n1/c.png", ns=(1, 1))
    after = hashes(place)
    assert before[0] != after[0] and before[1] == after[1]


def test_a_list_without_its_images_or_root_is_gone(listed, root):
    assert folders.listing_hash(listed("no.png 1")) is None
    assert folders.listing_hash(f"no.txt@{root}") is None
    assert folders.listing_hash(f"{listed('n1/c.png 1').partition('@')[0]}@no") is None
