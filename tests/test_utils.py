"""On-disk artifacts: exact numbers, whole files or none, and files that are refused because they do
not belong together."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import figures
import utils
from artifacts import records, store

ROOT = Path(__file__).resolve().parent.parent


# ---- whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_temporary(tmp_path, error):
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(error), utils.replacing(file) as temporary:
        temporary.write_text("ne")
        assert file.read_text() == "old"
        raise error
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_an_exception_before_the_first_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), utils.replacing(tmp_path / "table.csv"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_finished_block_replaces_the_file_and_leaves_no_temporary(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("old")
    os.link(file, tmp_path / "link")
    with utils.replacing(file) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".csv"
        temporary.write_text("new")
    assert file.read_text() == "new" and sorted(os.listdir(tmp_path)) == ["link", "table.csv"]
    assert (tmp_path / "link").read_text() == "old", (
        "the new file was renamed there, not written into the old one"
    )


HALF = """
import pathlib, sys, time
import utils
with utils.replacing(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the n")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_kill_9_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "ID_toy_train.csv"
    file.write_text("old")
    with subprocess.Popen(
        [sys.executable, "-c", HALF, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    left = [path for path in tmp_path.iterdir() if path != file]
    assert len(left) == 1 and left[0].name.startswith("."), (
        "what is left over is hidden from listings and from open_run"
    )
    assert list(tmp_path.glob("ID_*_train.csv")) == [file]


# Two files that differ in length, one after the other for ever; the sidecar says which it was.
FOREVER = """
import sys
import numpy as np
from artifacts import store
for number in range(10**9):
    odd = number % 2
    rows = 2000 + 500 * odd
    features = np.full((rows, 20), odd)
    store.write_features(sys.argv[1], features, np.zeros(rows), sidecar={"number": odd})
    print("written", flush=True)
"""


def test_whenever_a_writer_is_killed_the_file_is_whole_and_no_sidecar_lies(tmp_path):
    file = tmp_path / "OOD_x_test.csv"
    for wait in (0.003, 0.011, 0.02):
        with subprocess.Popen(
            [sys.executable, "-c", FOREVER, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            for _ in range(3):
                assert writer.stdout.readline() == "written\n"
            time.sleep(wait)
            writer.send_signal(signal.SIGKILL)
        found = store.read_features(file)
        number = int(found.features[0, 0])
        assert len(found.features) == 2000 + 500 * number and (found.features == number).all()
        sidecar = records.read_sidecar(file)
        assert not sidecar or (sidecar["number"], sidecar["rows"]) == (number, len(found.features))


def test_a_failed_write_leaves_a_pair_that_belongs_together(tmp_path):
    file = tmp_path / "x.csv"
    store.write_features(file, np.ones((3, 2)), np.zeros(3), sidecar={"checkpoint_sha256": "old"})
    before = file.read_bytes()
    with (
        pytest.raises(OSError),
        records.with_sidecar(file, {"checkpoint_sha256": "new"}) as temporary,
    ):
        temporary.write_text("half")
        raise OSError("disk full")
    assert file.read_bytes() == before and records.read_sidecar(file).get("checkpoint_sha256") in (
        None,
        "old",
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"x.csv", "x.json"}


def test_no_sidecar_vouches_for_a_file_that_it_does_not_know(tmp_path, monkeypatch):
    """Between the renaming of the file and the writing of its sidecar there is none: seen by
    looking at every step."""
    file, seen = tmp_path / "x.csv", []

    def looking(step):
        def look(*arguments, **options):
            done = step(*arguments, **options)
            seen.append(
                (
                    file.read_text() if file.exists() else None,
                    records.read_sidecar(file).get("number"),
                )
            )
            return done

        return look

    for number in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", looking(os.replace))
            patch.setattr(Path, "unlink", looking(Path.unlink))
            with records.with_sidecar(file, {"number": number}) as temporary:
                temporary.write_text(f"file {number}")
    assert {("file 1", 1), ("file 2", 2), ("file 1", None), ("file 2", None)} <= set(seen)
    assert ("file 2", 1) not in seen and ("file 1", 2) not in seen


def test_a_sidecar_that_cannot_be_written_leaves_a_file_without_one(tmp_path, monkeypatch):
    file = tmp_path / "x.csv"
    store.write_features(file, np.ones((3, 2)), np.zeros(3), sidecar={"number": 1})

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(records, "write_json", full)
    with pytest.raises(OSError, match="disk full"):
        store.write_features(file, np.zeros((5, 2)), np.zeros(5), sidecar={"number": 2})
    assert len(store.read_features(file).features) == 5 and records.read_sidecar(file) == {}


def test_a_file_in_one_form_does_not_leave_an_older_one_in_the_other(tmp_path):
    """CSV and Parquet of one stem share a sidecar: were both kept, it would vouch for the older
    one, too."""
    for suffix, value in ((".csv", 1), (".parquet", 2), (".csv", 3)):
        store.write_features(
            tmp_path / f"OOD_x_test{suffix}",
            np.full((4, 2), value),
            np.zeros(4),
            sidecar={"number": value},
        )
        found = store.feature_file(tmp_path, "OOD_x_test")
        assert (
            store.read_features(found).features[0, 0]
            == records.read_sidecar(found)["number"]
            == value
        )


def test_a_failed_write_in_one_form_leaves_the_file_in_the_other(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    store.write_features(tmp_path / "x.csv", np.ones((4, 2)), np.zeros(4))
    monkeypatch.setattr(store.pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="disk full"):
        store.write_features(tmp_path / "x.parquet", np.ones((4, 2)), np.zeros(4))
    assert store.feature_file(tmp_path, "x") == tmp_path / "x.csv"
    assert len(store.read_features(tmp_path / "x.csv").features) == 4


def test_a_folder_that_is_a_file_cannot_be_written_into(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(ValueError, match=r"cannot write into .*results.*--output-dir"):
        utils.writable_folder(tmp_path / "results")
    with pytest.raises(ValueError, match="cannot write into"):
        utils.writable_folder(tmp_path / "results" / "deeper")
    assert (tmp_path / "results").read_text() == "a file"


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    assert utils.writable_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a" / "b") == []


# ---- JSON, tables, hashes ------------------------------------------------------------------------


def test_json_holds_null_for_what_is_not_finite_and_plain_types_for_the_rest(tmp_path):
    content = {
        "a": np.float32(0.5),
        "b": np.nan,
        "c": (1, np.int64(2)),
        4: float("-inf"),
        "p": Path("a/b"),
        "t": np.bool_(True),
        "n": None,
    }
    expected = {"a": 0.5, "b": None, "c": [1, 2], "4": None, "p": "a/b", "t": True, "n": None}
    utils.write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == utils.plain(content) == expected
    assert utils.read_json(tmp_path / "x.json")["c"] == [1, 2]


def test_a_missing_json_is_empty_and_a_broken_one_is_named(tmp_path):
    assert utils.read_json(tmp_path / "x.json") == {}
    (tmp_path / "x.json").write_text("{half")
    with pytest.raises(ValueError, match=r"x\.json is not JSON .*delete it"):
        utils.read_json(tmp_path / "x.json")


def test_a_hash_follows_the_content(tmp_path):
    file = tmp_path / "x"
    file.write_text("one")
    assert (
        records.sha256(file) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    )
    file.write_text("two")  # the same size
    os.utime(file, ns=(1, 1))
    assert (
        records.sha256(file) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    )


def test_a_sidecar_says_what_made_the_file():
    found = records.provenance({"seed": 0}, split="train")
    assert {
        "command",
        "arguments",
        "split",
        "versions",
        "git_commit",
        "git_dirty",
        "created",
    } <= set(found)
    assert (
        found["arguments"] == {"seed": 0}
        and found["versions"]["numpy"] == np.__version__
        and "python" in found["versions"]
    )
    assert found["git_commit"] is None or re.fullmatch("[0-9a-f]{40,64}", found["git_commit"])


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "folder"),
    [
        ("svhn", "svhn", None),
        ("SVHN", "svhn", None),
        ("dtd", "textures", None),
        ("DTD", "textures", None),
        ("texture", "textures", None),
        ("textures", "textures", None),
        ("cifar-10", "cifar10", None),
        ("held-out", "held_out", None),
        ("mine=photos/2024", "mine", "photos/2024"),
        ("my_set-2=a=b", "my_set-2", "a=b"),
    ],
)
def test_names_and_folders(text, name, folder):
    asked = utils.SetName.parse(text)
    assert (asked.name, asked.folder, str(asked)) == (name, folder, text)


@pytest.mark.parametrize("text", ["", "=folder", "mine=", "../mine=folder", "a/b", "a b", "_"])
def test_what_is_neither_a_name_nor_a_folder_is_refused(text):
    with pytest.raises(ValueError, match="neither a name nor NAME=FOLDER"):
        utils.SetName.parse(text)


def test_the_command_that_makes_features_names_the_folder_of_results():
    with pytest.raises(ValueError, match=r"--checkpoint 'my net.pth' --output-dir 'my results'$"):
        utils.results_folder("my net.pth", "my results")


# ---- figures as vectors --------------------------------------------------------------------------


def drawing():
    return figures.training_curves(
        pd.DataFrame(
            {
                "epoch": [1, 2],
                "train_loss": [2.0, 1.0],
                "train_acc": [0.1, 0.4],
                "val_loss": [2.0, 1.5],
                "val_acc": [0.1, 0.3],
            }
        )
    )


def test_vector_figures_have_text_and_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        names = utils.write_figures(tmp_path / folder, {"curves": drawing()}, ["pdf", "svg"])
    assert [path.name for path in names] == ["curves.png", "curves.pdf", "curves.svg"]
    one, two = tmp_path / "one", tmp_path / "two"
    for name in ("curves.pdf", "curves.svg"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert ">Accuracy and loss during training<" in (one / "curves.svg").read_text()
    content = (one / "curves.pdf").read_bytes()
    assert b"/Type3" not in content and b"/CIDFontType2" in content  # letters, not drawings


def test_a_vector_file_of_an_earlier_run_goes_with_its_figure(tmp_path):
    utils.write_figures(tmp_path, {"curves": drawing()}, ["pdf"])
    (tmp_path / "mine.pdf").touch()
    utils.write_figures(tmp_path, {"curves": drawing()})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "mine.pdf"]
