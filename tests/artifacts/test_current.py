"""Is it current? A stage's record against its arguments, files and images, and why it is not."""

import os

import numpy as np
import pandas as pd
import pytest
from helpers import change_json

from artifacts import current, store
from images import folders

# ---- one stage -----------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path):
    """A finished stage: one input, two outputs."""
    (tmp_path / "in").mkdir()
    for name in ("in/features.csv", "table.csv", "figure.png"):
        (tmp_path / name).write_text(name)
    current.write_record(
        tmp_path / "stage.json",
        {"temperature": 1.0, "ood": ("svhn",)},
        [tmp_path / "in/features.csv"],
        [tmp_path / "table.csv", tmp_path / "figure.png"],
    )
    return tmp_path / "stage.json"


ARGUMENTS = {"temperature": 1.0, "ood": ["svhn"]}


def test_a_stage_is_current_while_nothing_changes(record):
    assert current.is_current(record, ARGUMENTS)
    # as JSON has them
    assert current.is_current(record, {"ood": ("svhn",), "temperature": np.float64(1)})


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 2.0, "ood": ["svhn"]},
        {"temperature": 1.0},
        {**ARGUMENTS, "more": False},
        {"temperature": 1.0, "ood": ["svhn", "mnist"]},
    ],
)
def test_a_stage_with_other_arguments_is_not_current(record, arguments):
    assert not current.is_current(record, arguments)


@pytest.mark.parametrize("name", ["in/features.csv", "table.csv", "figure.png"])
@pytest.mark.parametrize(
    "change", [lambda path: path.write_text(path.read_text() + "x"), lambda path: path.unlink()]
)
def test_a_stage_with_a_changed_or_missing_file_is_not_current(record, name, change):
    change(record.parent / name)
    assert not current.is_current(record, ARGUMENTS)


def test_a_file_touched_but_unchanged_keeps_a_stage_current(record):
    os.utime(record.parent / "table.csv", ns=(1, 1))
    assert current.is_current(record, ARGUMENTS)


def test_a_stage_without_a_record_is_not_current(tmp_path):
    assert not current.is_current(tmp_path / "stage.json", ARGUMENTS)


@pytest.mark.parametrize("missing", ["arguments", "inputs", "outputs"])
def test_a_record_that_lacks_a_part_is_not_current_rather_than_an_error(record, missing):
    change_json(record, lambda content: content.pop(missing))
    assert current.is_current(record, ARGUMENTS) is False


def test_a_record_moves_with_its_folder(record):
    moved = record.parent.rename(record.parent.with_name("elsewhere"))
    assert current.is_current(moved / record.name, ARGUMENTS)


REASONS = {
    "an argument": (
        None,
        {"temperature": 2.0, "ood": ["svhn"]},
        "--temperature is 2.0, and was 1.0",
    ),
    "a list": (None, {**ARGUMENTS, "ood": ["svhn", "dtd"]}, "--ood is svhn dtd, and was svhn"),
    "a new flag": (None, {**ARGUMENTS, "val_ood": "dtd"}, "--val-ood is dtd, and was not given"),
    "an edit": (
        lambda run: (run / "table.csv").write_text("x"),
        ARGUMENTS,
        "table.csv changed",
    ),
    "a loss": (lambda run: (run / "figure.png").unlink(), ARGUMENTS, "figure.png is gone"),
    "no record": (lambda run: (run / "stage.json").unlink(), ARGUMENTS, "it has not run yet"),
}


@pytest.mark.parametrize(("change", "arguments", "reason"), REASONS.values(), ids=list(REASONS))
def test_a_record_says_why_its_stage_has_to_run_again(record, change, arguments, reason):
    assert current.Record.read(record).why_outdated(ARGUMENTS) == ""
    if change:
        change(record.parent)
    assert current.Record.read(record).why_outdated(arguments) == reason


# ---- files that were absent, or are written again ------------------------------------------------


@pytest.fixture
def stage(tmp_path):
    """record(**changes) -> the record of a stage that read one table, looked for another, and wrote
    a third."""
    for name in ("read.csv", "written.csv"):
        store.write_table(tmp_path / name, pd.DataFrame({"value": [1.5, 2.5]}))

    def record():
        current.write_record(
            tmp_path / "stage.json",
            {"flag": 1},
            [tmp_path / "read.csv", tmp_path / "absent.csv"],
            [tmp_path / "written.csv"],
            listings=["OOD_*_test.*"],
        )
        return tmp_path / "stage.json"

    return record


def test_a_stage_is_current_until_what_it_looked_for_in_vain_comes(stage, tmp_path):
    record = stage()
    assert current.is_current(record, {"flag": 1})
    store.write_table(tmp_path / "absent.csv", pd.DataFrame({"value": [1]}))
    assert not current.is_current(record, {"flag": 1})


def test_a_flag_that_came_later_and_was_not_given_changes_nothing(stage):
    record = stage()
    assert current.is_current(record, {"flag": 1, "later": None})
    for value in (False, [], 0, "x"):
        assert not current.is_current(record, {"flag": 1, "later": value})


def test_a_stage_is_current_until_another_file_comes_that_it_would_have_read(stage, tmp_path):
    record = stage()
    (tmp_path / ".OOD_half_test.csv").write_text("half")
    assert current.is_current(record, {"flag": 1}), "a hidden file is not there yet"
    (tmp_path / "OOD_svhn_test.csv").write_text("whole")
    assert not current.is_current(record, {"flag": 1})


def test_a_stage_stays_current_over_a_rewriting_and_not_over_an_edit(stage, tmp_path):
    record = stage()
    text = (tmp_path / "read.csv").read_text()
    (tmp_path / "read.csv").write_text(text.replace("\n", "\r\n"), newline="")
    assert current.is_current(record, {"flag": 1})
    (tmp_path / "read.csv").write_text(text.replace("2.5", "2.25"))
    assert not current.is_current(record, {"flag": 1})


def photographs(folder):
    from PIL import Image

    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_stage_is_current_while_its_images_are_the_same_by_content(tmp_path):
    folder = photographs(tmp_path / "photographs")
    hashes = folders.fingerprint(folder)
    record = tmp_path / "stage.json"
    current.write_record(record, {}, [], [], folders={folder: hashes})
    assert current.is_current(record, {})
    os.utime(folder / "1.png", (1, 1))
    assert current.is_current(record, {}), "touched, but the same"
    status = os.stat(folder / "2.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:-1] + b"x")
    assert not current.is_current(record, {})
    os.utime(folder / "1.png", ns=(os.stat(folder / "0.png").st_mtime_ns,) * 2)
    os.utime(folder / "2.png", ns=(status.st_atime_ns, status.st_mtime_ns))


def test_an_image_of_equal_size_and_time_is_found_by_verify(tmp_path):
    folder = photographs(tmp_path / "photographs")
    hashes = folders.fingerprint(folder)
    record = tmp_path / "stage.json"
    current.write_record(record, {}, [], [], folders={folder: hashes})
    status = os.stat(folder / "2.png")
    content = bytearray((folder / "2.png").read_bytes())
    content[-1] ^= 1
    (folder / "2.png").write_bytes(content)
    os.utime(folder / "2.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert current.is_current(record, {}), "size and time say nothing"
    assert not current.is_current(record, {}, verify=True)


def test_what_came_since_is_named(stage, tmp_path):
    record = stage()
    (tmp_path / "OOD_svhn_test.csv").write_text("whole")
    assert current.Record.read(record).why_outdated({"flag": 1}) == "OOD_svhn_test.csv came or went"
    store.write_table(tmp_path / "absent.csv", pd.DataFrame({"value": [1]}))
    assert current.Record.read(record).why_outdated({"flag": 1}) == "absent.csv came since"


def test_a_stage_has_read_a_file_of_the_same_bytes_or_content_under_any_name(stage, tmp_path):
    record = current.Record.read(stage())
    other = tmp_path / "other.csv"
    other.write_bytes((tmp_path / "read.csv").read_bytes())
    assert record.has_read(other)
    other.write_text((tmp_path / "read.csv").read_text().replace("\n", "\r\n"), newline="")
    assert record.has_read(other)
    other.write_text("value\n1.5\n2.25\n")
    assert not record.has_read(other) and not record.has_read(tmp_path / "nowhere.csv")
