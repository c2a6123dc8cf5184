"""On-disk artifacts: exact numbers, whole files or none, and files that are refused because they do not belong together."""
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

import artifacts
import records
import utils

ROOT = Path(__file__).resolve().parent.parent
SMALLEST, LARGEST = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max


def random_floats(rows, width, seed=0):
    """float32 (rows, width) of random bit patterns: every exponent, denormals, both signs; NaN and infinity redrawn."""
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2**32, (rows, width), dtype=np.uint32)
    bits[::4] &= 0x807FFFFF  # a quarter of the rows denormal
    values = bits.view(np.float32)
    values[~np.isfinite(values)] = 1.5
    values[0, :6] = [0.0, -0.0, SMALLEST, -SMALLEST, LARGEST, -LARGEST]
    return values


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype == np.float32 and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def make_run(folder, width=4, classes=3, checkpoint_sha256="a" * 64, ood=("svhn",), suffix=".csv", seed=0):
    """A folder such as run_networks.py leaves, of random features."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    W, b = generator.normal(size=(classes, width)), generator.normal(size=classes)
    artifacts.write_head(folder / "head.csv", W, b, [f"class {c}" for c in range(classes)],
                         {"checkpoint_sha256": checkpoint_sha256})
    sidecar = {"checkpoint_sha256": checkpoint_sha256, "head_sha256": records.sha256(folder / "head.csv")}
    for stem in ("ID_toy_train", "ID_toy_test", *(f"OOD_{name}_test" for name in ood)):
        artifacts.write_features(folder / f"{stem}{suffix}", generator.normal(size=(6, width)), np.arange(6) % classes,
                                 sidecar=sidecar)
    return folder


def rewrite(path, change):
    """Change a sidecar's content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ---- numbers ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_features_come_back_bit_for_bit(tmp_path, suffix):
    features, labels = random_floats(3000, 7), np.arange(3000) % 10 - 1
    file = tmp_path / f"OOD_x_test{suffix}"
    artifacts.write_features(file, features, labels)
    found = artifacts.read_features(file)
    assert same_bits(found.features, features)
    assert found.labels.dtype == np.int64 and np.array_equal(found.labels, labels)
    assert found.paths is None and found.file == file


def test_a_csv_and_a_parquet_file_hold_the_same(tmp_path):
    features, paths = random_floats(50, 6, seed=1), [f"folder/{n}.png" for n in range(50)]
    read = []
    for suffix in artifacts.SUFFIXES:
        artifacts.write_features(tmp_path / f"x{suffix}", features, np.arange(50), paths)
        assert artifacts.columns_of(tmp_path / f"x{suffix}") == [*(f"ct{d}" for d in range(6)), "label", "path"]
        assert artifacts.width_of(tmp_path / f"x{suffix}") == 6
        read.append(artifacts.read_features(tmp_path / f"x{suffix}"))
    assert same_bits(read[0].features, read[1].features)
    assert np.array_equal(read[0].labels, read[1].labels) and read[0].paths == read[1].paths == paths


def test_a_csv_holds_the_shortest_decimal_form_that_reads_back(tmp_path):
    features = random_floats(500, 6, seed=2)
    artifacts.write_features(tmp_path / "x.csv", features, np.zeros(500))
    written = pd.read_csv(tmp_path / "x.csv", dtype=str).iloc[:, :6].to_numpy().ravel()

    def digits(text):
        return re.sub(r"[eE].*|[-+.]", "", text).strip("0")
    shortest = [np.format_float_scientific(value, unique=True) for value in features.ravel()]
    assert max(len(digits(text)) for text in written) == 9
    assert [len(digits(text)) for text in written] == [len(digits(text)) for text in shortest]
    assert same_bits(written.astype(np.float32), features.ravel())  # NumPy's own reader agrees


def test_float64_and_integer_input_is_kept_as_float32(tmp_path):
    artifacts.write_features(tmp_path / "x.csv", np.array([[0.1, 2.0], [1 / 3, -7.0]]), [0, 1])
    assert same_bits(artifacts.read_features(tmp_path / "x.csv").features, np.array([[0.1, 2.0], [1 / 3, -7.0]], np.float32))


def test_paths_come_back_as_they_are(tmp_path):
    paths = ["001", 'a "quoted", comma.png', "größe/ß.jpg", "1e5", "NaN", " spaced .png"]
    artifacts.write_features(tmp_path / "x.csv", np.eye(6), np.full(6, -1), paths)
    assert artifacts.read_features(tmp_path / "x.csv").paths == paths
    assert artifacts.columns_of(tmp_path / "x.csv")[-2:] == ["label", "path"]


def test_a_leading_unnamed_index_column_of_older_files_is_passed_over(tmp_path):
    features = random_floats(40, 6, seed=3)
    frame = pd.DataFrame(features, columns=[f"ct{d}" for d in range(6)]).assign(label=np.arange(40) % 4)
    frame.to_csv(tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text().startswith(",ct0,")
    found = artifacts.read_features(tmp_path / "old.csv")
    assert artifacts.width_of(tmp_path / "old.csv") == 6
    assert same_bits(found.features, features) and np.array_equal(found.labels, frame["label"])


def test_labels_written_as_decimals_by_older_files_are_read(tmp_path):
    (tmp_path / "x.csv").write_text("ct0,label\n0.5,3.0\n0.25,0.0\n")
    assert artifacts.read_features(tmp_path / "x.csv").labels.tolist() == [3, 0]


def test_a_label_that_is_no_whole_number_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("ct0,label\n0.5,3.0\n0.25,0.5\n")
    with pytest.raises(ValueError, match="label"):
        artifacts.read_features(tmp_path / "x.csv")


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbfct0,ct1,label\r\n0.5,1,3\r\n0.25,2,0\r\n")
    found = artifacts.read_features(tmp_path / "x.csv")
    assert found.features.tolist() == [[0.5, 1], [0.25, 2]] and found.labels.tolist() == [3, 0]


def test_a_head_comes_back_exactly(tmp_path):
    W, names = random_floats(5, 6, seed=4), ["0", "1", "a, b", 'a "q"', "größe"]
    artifacts.write_head(tmp_path / "head.csv", W, W[:, 3], names)
    assert artifacts.columns_of(tmp_path / "head.csv") == ["class", *(f"w{d}" for d in range(6)), "bias"]
    found, b, classes = artifacts.read_head(tmp_path / "head.csv")
    assert same_bits(found, W) and same_bits(b, W[:, 3]) and classes == names


# ---- files that cannot be used ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("cell", ["NaN", "inf", "-inf", ""])
@pytest.mark.parametrize("row", [1, 4, 7])
def test_a_value_that_is_no_number_is_named_with_its_row(tmp_path, cell, row):
    lines = ["ct0,ct1,label", *(f"0.5,{cell if number == row else 1.25},2" for number in range(1, 8))]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"x\.csv .*NaN, infinity.* data row {row}\b"):
        artifacts.read_features(tmp_path / "x.csv")


def test_nan_in_a_parquet_file_is_named_with_its_row(tmp_path):
    features = np.ones((5, 2))
    features[3, 1] = np.nan
    artifacts.write_features(tmp_path / "x.parquet", features, np.zeros(5))
    with pytest.raises(ValueError, match="data row 4"):
        artifacts.read_features(tmp_path / "x.parquet")


@pytest.mark.parametrize(("lines", "row"), [(["1,0", "1,", "1,0"], 2), (["1,", "NaN,0"], 1), (["NaN,0", "1,"], 1)])
def test_the_first_row_that_lacks_a_label_or_a_number_is_named(tmp_path, lines, row):
    (tmp_path / "x.csv").write_text("\n".join(["ct0,label", *lines]) + "\n")
    with pytest.raises(ValueError, match=f"data row {row}"):
        artifacts.read_features(tmp_path / "x.csv")


def test_a_csv_cut_short_is_refused(tmp_path):
    artifacts.write_features(tmp_path / "x.csv", random_floats(20, 6), np.arange(20))
    content = (tmp_path / "x.csv").read_bytes()
    (tmp_path / "x.csv").write_bytes(content[:len(content) * 2 // 3].rstrip(b"\n").rpartition(b",")[0])  # ends within a row
    with pytest.raises(ValueError, match=r"x\.csv"):
        artifacts.read_features(tmp_path / "x.csv")


@pytest.mark.parametrize("header", ["a,b,c", "ct0,ct2,label", "ct1,ct0,label", "ct0,ct1", "", "label"])
def test_a_file_of_other_columns_is_no_feature_file(tmp_path, header):
    (tmp_path / "x.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(ValueError, match=r"not a feature file: expected columns ct0 \.\. ct\{D-1\}, label"):
        artifacts.read_features(tmp_path / "x.csv")


@pytest.mark.parametrize("kept", [3, 5])
def test_a_file_of_more_or_fewer_rows_than_its_sidecar_says_is_refused(tmp_path, kept):
    path = tmp_path / "x.csv"
    artifacts.write_features(path, np.ones((4, 2)), np.zeros(4))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]][: kept + 1]))
    with pytest.raises(ValueError, match=rf"holds {kept} rows, expected 4, as its sidecar says; .*, or take it as it is with "
                                         "--allow-stale"):
        artifacts.read_features(path)
    records.sidecar_path(path).unlink()
    assert len(artifacts.read_features(path).features) == kept


def test_a_file_without_rows_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("ct0,ct1,label\n")
    with pytest.raises(ValueError, match="holds no rows"):
        artifacts.read_features(tmp_path / "x.csv")


@pytest.mark.parametrize("rows", ["0.5,1,2,7,8\n", "word,1,2\n", "0.5,1,cat\n"])
def test_rows_that_do_not_fit_the_columns_are_refused(tmp_path, rows):
    (tmp_path / "x.csv").write_text("ct0,ct1,label\n1,1,1\n" + rows)
    with pytest.raises(ValueError, match=r"x\.csv"):
        artifacts.read_features(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ValueError, match=re.escape(name)):
        artifacts.read_features(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "class,w0,w1\na,1,2\n",
        "w0,bias\n1,2\n",
        "class,w1,w0,bias\na,1,2,3\n",
        "class,w0,bias\na,word,1\n",
        "class,w0,bias\na,NaN,1\n",
        "class,w0,bias\na,,1\n",
        "class,w0,bias\na,1,inf\n",
        "class,w0,bias\n",
    ],
)
def test_a_file_that_is_no_head_is_refused_by_name(tmp_path, text):
    (tmp_path / "head.csv").write_text(text)
    with pytest.raises(ValueError, match=r"head\.csv"):
        artifacts.read_head(tmp_path / "head.csv")


@pytest.mark.parametrize("label", [3, -1, 99])
def test_a_label_outside_the_classes_is_named_with_its_row(tmp_path, label):
    artifacts.write_features(tmp_path / "x.csv", np.ones((4, 2)), [0, 2, label, label])
    with pytest.raises(ValueError, match=rf"label {label} in data row 3; the head knows classes 0 to 2"):
        artifacts.check_labels(artifacts.read_features(tmp_path / "x.csv"), ["a", "b", "c"])


# ---- whole or not at all ---------------------------------------------------------------------------------------------

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
    assert (tmp_path / "link").read_text() == "old", "the new file was renamed there, not written into the old one"


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
    with subprocess.Popen([sys.executable, "-c", HALF, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    left = [path for path in tmp_path.iterdir() if path != file]
    assert len(left) == 1 and left[0].name.startswith("."), "what is left over is hidden from listings and from open_run"
    assert list(tmp_path.glob("ID_*_train.csv")) == [file]


# Two files that differ in length, one after the other for ever; the sidecar says which it was.
FOREVER = """
import sys
import numpy as np
import artifacts
for number in range(10**9):
    artifacts.write_features(sys.argv[1], np.full((2000 + 500 * (number % 2), 20), number % 2), np.zeros(2000 + 500 * (number % 2)),
                         sidecar={"number": number % 2})
    print("written", flush=True)
"""


def test_whenever_a_writer_is_killed_the_file_is_whole_and_no_sidecar_lies(tmp_path):
    file = tmp_path / "OOD_x_test.csv"
    for wait in (0.003, 0.011, 0.02):
        with subprocess.Popen([sys.executable, "-c", FOREVER, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(3):
                assert writer.stdout.readline() == "written\n"
            time.sleep(wait)
            writer.send_signal(signal.SIGKILL)
        found = artifacts.read_features(file)
        number = int(found.features[0, 0])
        assert len(found.features) == 2000 + 500 * number and (found.features == number).all()
        sidecar = records.read_sidecar(file)
        assert not sidecar or (sidecar["number"], sidecar["rows"]) == (number, len(found.features))


def test_a_failed_write_leaves_a_pair_that_belongs_together(tmp_path):
    file = tmp_path / "x.csv"
    artifacts.write_features(file, np.ones((3, 2)), np.zeros(3), sidecar={"checkpoint_sha256": "old"})
    before = file.read_bytes()
    with pytest.raises(OSError), records.with_sidecar(file, {"checkpoint_sha256": "new"}) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert file.read_bytes() == before and records.read_sidecar(file).get("checkpoint_sha256") in (None, "old")
    assert {path.name for path in tmp_path.iterdir()} <= {"x.csv", "x.json"}


def test_no_sidecar_vouches_for_a_file_that_it_does_not_know(tmp_path, monkeypatch):
    """Between the renaming of the file and the writing of its sidecar there is none: seen by looking at every step."""
    file, seen = tmp_path / "x.csv", []

    def looking(step):
        def look(*arguments, **options):
            done = step(*arguments, **options)
            seen.append((file.read_text() if file.exists() else None, records.read_sidecar(file).get("number")))
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
    artifacts.write_features(file, np.ones((3, 2)), np.zeros(3), sidecar={"number": 1})

    def full(*_):
        raise OSError("disk full")
    monkeypatch.setattr(records, "write_json", full)
    with pytest.raises(OSError, match="disk full"):
        artifacts.write_features(file, np.zeros((5, 2)), np.zeros(5), sidecar={"number": 2})
    assert len(artifacts.read_features(file).features) == 5 and records.read_sidecar(file) == {}


def test_a_file_in_one_form_does_not_leave_an_older_one_in_the_other(tmp_path):
    """CSV and Parquet of one stem share a sidecar: were both kept, it would vouch for the older one, too."""
    for suffix, value in ((".csv", 1), (".parquet", 2), (".csv", 3)):
        artifacts.write_features(tmp_path / f"OOD_x_test{suffix}", np.full((4, 2), value), np.zeros(4), sidecar={"number": value})
        found = artifacts.feature_file(tmp_path, "OOD_x_test")
        assert artifacts.read_features(found).features[0, 0] == records.read_sidecar(found)["number"] == value


def test_a_failed_write_in_one_form_leaves_the_file_in_the_other(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")
    artifacts.write_features(tmp_path / "x.csv", np.ones((4, 2)), np.zeros(4))
    monkeypatch.setattr(artifacts.pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="disk full"):
        artifacts.write_features(tmp_path / "x.parquet", np.ones((4, 2)), np.zeros(4))
    assert artifacts.feature_file(tmp_path, "x") == tmp_path / "x.csv"
    assert len(artifacts.read_features(tmp_path / "x.csv").features) == 4


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


# ---- JSON, tables, hashes --------------------------------------------------------------------------------------------

def test_json_holds_null_for_what_is_not_finite_and_plain_types_for_the_rest(tmp_path):
    content = {"a": np.float32(0.5), "b": np.nan, "c": (1, np.int64(2)), 4: float("-inf"), "p": Path("a/b"), "t": np.bool_(True),
               "n": None}
    expected = {"a": 0.5, "b": None, "c": [1, 2], "4": None, "p": "a/b", "t": True, "n": None}
    utils.write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == utils.plain(content) == expected
    assert utils.read_json(tmp_path / "x.json")["c"] == [1, 2]


def test_a_missing_json_is_empty_and_a_broken_one_is_named(tmp_path):
    assert utils.read_json(tmp_path / "x.json") == {}
    (tmp_path / "x.json").write_text("{half")
    with pytest.raises(ValueError, match=r"x\.json is not JSON .*delete it"):
        utils.read_json(tmp_path / "x.json")


def test_missing_values_in_a_table_are_empty_cells(tmp_path):
    artifacts.write_table(tmp_path / "t.csv", pd.DataFrame({"name": ["a", None], "value": [0.1, np.nan]}), {"tpr": 0.95})
    assert (tmp_path / "t.csv").read_text() == "name,value\na,0.1\n,\n"
    assert {"tpr": 0.95, "rows": 2}.items() <= records.read_sidecar(tmp_path / "t.csv").items()


def test_a_hash_follows_the_content(tmp_path):
    file = tmp_path / "x"
    file.write_text("one")
    assert records.sha256(file) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    file.write_text("two")  # the same size
    os.utime(file, ns=(1, 1))
    assert records.sha256(file) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"


def test_a_sidecar_says_what_made_the_file():
    found = records.provenance({"seed": 0}, split="train")
    assert {"command", "arguments", "split", "versions", "git_commit", "git_dirty", "created"} <= set(found)
    assert found["arguments"] == {"seed": 0} and found["versions"]["numpy"] == np.__version__ and "python" in found["versions"]
    assert found["git_commit"] is None or re.fullmatch("[0-9a-f]{40,64}", found["git_commit"])


# ---- what is current -------------------------------------------------------------------------------------------------

@pytest.fixture
def record(tmp_path):
    """A finished stage: one input, two outputs."""
    (tmp_path / "in").mkdir()
    for name in ("in/features.csv", "table.csv", "figure.png"):
        (tmp_path / name).write_text(name)
    records.write_record(tmp_path / "stage.json", {"temperature": 1.0, "ood": ("svhn",)}, [tmp_path / "in/features.csv"],
                       [tmp_path / "table.csv", tmp_path / "figure.png"])
    return tmp_path / "stage.json"


ARGUMENTS = {"temperature": 1.0, "ood": ["svhn"]}


def test_a_stage_is_current_while_nothing_changes(record):
    assert records.is_current(record, ARGUMENTS)
    assert records.is_current(record, {"ood": ("svhn",), "temperature": np.float64(1)})  # as JSON has them


@pytest.mark.parametrize("arguments", [{"temperature": 2.0, "ood": ["svhn"]}, {"temperature": 1.0}, {**ARGUMENTS, "more": None},
                                       {"temperature": 1.0, "ood": ["svhn", "mnist"]}])
def test_a_stage_with_other_arguments_is_not_current(record, arguments):
    assert not records.is_current(record, arguments)


@pytest.mark.parametrize("name", ["in/features.csv", "table.csv", "figure.png"])
@pytest.mark.parametrize("change", [lambda path: path.write_text(path.read_text() + "x"), lambda path: path.unlink()])
def test_a_stage_with_a_changed_or_missing_file_is_not_current(record, name, change):
    change(record.parent / name)
    assert not records.is_current(record, ARGUMENTS)


def test_a_file_touched_but_unchanged_keeps_a_stage_current(record):
    os.utime(record.parent / "table.csv", ns=(1, 1))
    assert records.is_current(record, ARGUMENTS)


def test_a_stage_without_a_record_is_not_current(tmp_path):
    assert not records.is_current(tmp_path / "stage.json", ARGUMENTS)


@pytest.mark.parametrize("missing", ["arguments", "inputs", "outputs"])
def test_a_record_that_lacks_a_part_is_not_current_rather_than_an_error(record, missing):
    rewrite(record, lambda content: content.pop(missing))
    assert records.is_current(record, ARGUMENTS) is False


def test_a_record_moves_with_its_folder(record):
    moved = record.parent.rename(record.parent.with_name("elsewhere"))
    assert records.is_current(moved / record.name, ARGUMENTS)


# ---- names -----------------------------------------------------------------------------------------------------------

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
    assert utils.split_name(text) == (name, folder)


@pytest.mark.parametrize("text", ["", "=folder", "mine=", "../mine=folder", "a/b", "a b", "_"])
def test_what_is_neither_a_name_nor_a_folder_is_refused(text):
    with pytest.raises(ValueError, match="neither a name nor NAME=FOLDER"):
        utils.split_name(text)
