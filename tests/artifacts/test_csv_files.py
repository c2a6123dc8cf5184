"""Features, heads and tables as files: exact numbers, one content in any valid form, damage refused
by line and column."""

import codecs
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from artifacts import csv_files, current, frames, records, store
from collapse import layers
from detection import tables

SMALLEST, LARGEST = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max


def random_floats(rows, width, seed=0):
    """float32 (rows, width) of random bit patterns: every exponent, denormals, both signs; NaN and
    infinity redrawn."""
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2**32, (rows, width), dtype=np.uint32)
    bits[::4] &= 0x807FFFFF  # a quarter of the rows denormal
    values = bits.view(np.float32)
    values[~np.isfinite(values)] = 1.5
    values[0, :6] = [0.0, -0.0, SMALLEST, -SMALLEST, LARGEST, -LARGEST]
    return values


def same_bits(a, b):
    return (
        a.shape == b.shape
        and a.dtype == b.dtype == np.float32
        and np.array_equal(a.view(np.uint32), b.view(np.uint32))
    )


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_features_come_back_bit_for_bit(tmp_path, suffix):
    features, labels = random_floats(3000, 7), np.arange(3000) % 10 - 1
    file = tmp_path / f"OOD_x_test{suffix}"
    store.write_features(file, features, labels)
    found = store.read_features(file)
    assert same_bits(found.features, features)
    assert found.labels.dtype == np.int64 and np.array_equal(found.labels, labels)
    assert found.paths is None and found.file == file


def test_a_csv_and_a_parquet_file_hold_the_same(tmp_path):
    features, paths = random_floats(50, 6, seed=1), [f"folder/{n}.png" for n in range(50)]
    read = []
    for suffix in store.SUFFIXES:
        store.write_features(tmp_path / f"x{suffix}", features, np.arange(50), paths)
        assert store.columns_of(tmp_path / f"x{suffix}") == [
            *(f"ct{d}" for d in range(6)),
            "label",
            "path",
        ]
        assert store.width_of(tmp_path / f"x{suffix}") == 6
        read.append(store.read_features(tmp_path / f"x{suffix}"))
    assert same_bits(read[0].features, read[1].features)
    assert (
        np.array_equal(read[0].labels, read[1].labels) and read[0].paths == read[1].paths == paths
    )


def test_a_csv_holds_the_shortest_decimal_form_that_reads_back(tmp_path):
    features = random_floats(500, 6, seed=2)
    store.write_features(tmp_path / "x.csv", features, np.zeros(500))
    written = pd.read_csv(tmp_path / "x.csv", dtype=str).iloc[:, :6].to_numpy().ravel()

    def digits(text):
        return re.sub(r"[eE].*|[-+.]", "", text).strip("0")

    shortest = [np.format_float_scientific(value, unique=True) for value in features.ravel()]
    assert max(len(digits(text)) for text in written) == 9
    assert [len(digits(text)) for text in written] == [len(digits(text)) for text in shortest]
    assert same_bits(written.astype(np.float32), features.ravel())  # NumPy's own reader agrees


def test_float64_and_integer_input_is_kept_as_float32(tmp_path):
    store.write_features(tmp_path / "x.csv", np.array([[0.1, 2.0], [1 / 3, -7.0]]), [0, 1])
    assert same_bits(
        store.read_features(tmp_path / "x.csv").features,
        np.array([[0.1, 2.0], [1 / 3, -7.0]], np.float32),
    )


def test_paths_come_back_as_they_are(tmp_path):
    paths = ["001", 'a "quoted", comma.png', "größe/ß.jpg", "1e5", "NaN", " spaced .png"]
    store.write_features(tmp_path / "x.csv", np.eye(6), np.full(6, -1), paths)
    assert store.read_features(tmp_path / "x.csv").paths == paths
    assert store.columns_of(tmp_path / "x.csv")[-2:] == ["label", "path"]


def test_a_leading_unnamed_index_column_of_older_files_is_passed_over(tmp_path):
    features = random_floats(40, 6, seed=3)
    frame = pd.DataFrame(features, columns=[f"ct{d}" for d in range(6)]).assign(
        label=np.arange(40) % 4
    )
    frame.to_csv(tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text().startswith(",ct0,")
    found = store.read_features(tmp_path / "old.csv")
    assert store.width_of(tmp_path / "old.csv") == 6
    assert same_bits(found.features, features) and np.array_equal(found.labels, frame["label"])


def test_labels_written_as_decimals_by_older_files_are_read(tmp_path):
    (tmp_path / "x.csv").write_text("ct0,label\n0.5,3.0\n0.25,0.0\n")
    assert store.read_features(tmp_path / "x.csv").labels.tolist() == [3, 0]


def test_a_label_that_is_no_whole_number_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("ct0,label\n0.5,3.0\n0.25,0.5\n")
    with pytest.raises(ValueError, match="label"):
        store.read_features(tmp_path / "x.csv")


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbfct0,ct1,label\r\n0.5,1,3\r\n0.25,2,0\r\n")
    found = store.read_features(tmp_path / "x.csv")
    assert found.features.tolist() == [[0.5, 1], [0.25, 2]] and found.labels.tolist() == [3, 0]


def test_a_head_comes_back_exactly(tmp_path):
    W, names = random_floats(5, 6, seed=4), ["0", "1", "a, b", 'a "q"', "größe"]
    store.write_head(tmp_path / "head.csv", W, W[:, 3], names)
    assert store.columns_of(tmp_path / "head.csv") == [
        "class",
        *(f"w{d}" for d in range(6)),
        "bias",
    ]
    head = store.read_head(tmp_path / "head.csv")
    found, b, classes = head.W, head.b, head.class_names
    assert same_bits(found, W) and same_bits(b, W[:, 3]) and classes == names


# ---- files that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["NaN", "inf", "-inf", ""])
@pytest.mark.parametrize("row", [1, 4, 7])
def test_a_value_that_is_no_number_is_named_with_its_row(tmp_path, cell, row):
    lines = [
        "ct0,ct1,label",
        *(f"0.5,{cell if number == row else 1.25},2" for number in range(1, 8)),
    ]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(
        ValueError, match=rf"x\.csv, line {row + 1}, column ct1: .*, expected a finite number"
    ):
        store.read_features(tmp_path / "x.csv")


def test_nan_in_a_parquet_file_is_named_with_its_row(tmp_path):
    features = np.ones((5, 2))
    features[3, 1] = np.nan
    store.write_features(tmp_path / "x.parquet", features, np.zeros(5))
    with pytest.raises(ValueError, match="data row 4"):
        store.read_features(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("lines", "row"), [(["1,0", "1,", "1,0"], 2), (["1,", "NaN,0"], 1), (["NaN,0", "1,"], 1)]
)
def test_the_first_row_that_lacks_a_label_or_a_number_is_named(tmp_path, lines, row):
    (tmp_path / "x.csv").write_text("\n".join(["ct0,label", *lines]) + "\n")
    with pytest.raises(ValueError, match=f"line {row + 1}, column"):
        store.read_features(tmp_path / "x.csv")


def test_a_csv_cut_short_is_refused(tmp_path):
    store.write_features(tmp_path / "x.csv", random_floats(20, 6), np.arange(20))
    content = (tmp_path / "x.csv").read_bytes()
    # ends within a row
    (tmp_path / "x.csv").write_bytes(
        content[: len(content) * 2 // 3].rstrip(b"\n").rpartition(b",")[0]
    )
    with pytest.raises(ValueError, match=r"x\.csv"):
        store.read_features(tmp_path / "x.csv")


@pytest.mark.parametrize(
    "header", ["a,b,c", "ct0,ct2,label", "ct0,ct1", "", "label", "ct0;ct1;label"]
)
def test_a_file_of_other_columns_is_no_feature_file(tmp_path, header):
    (tmp_path / "x.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(
        ValueError, match=r"not a feature file: expected columns ct0 \.\. ct\{D-1\}, label"
    ):
        store.read_features(tmp_path / "x.csv")


@pytest.mark.parametrize("kept", [3, 5])
def test_a_file_of_more_or_fewer_rows_than_its_sidecar_says_is_refused(tmp_path, kept):
    path = tmp_path / "x.csv"
    store.write_features(path, np.ones((4, 2)), np.zeros(4))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]][: kept + 1]))
    with pytest.raises(
        ValueError,
        match=rf"holds {kept} rows, expected 4, as its sidecar says; .*, or take it as it is with "
        "--allow-stale",
    ):
        store.read_features(path)
    records.sidecar_path(path).unlink()
    assert len(store.read_features(path).features) == kept


def test_a_file_without_rows_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("ct0,ct1,label\n")
    with pytest.raises(ValueError, match="holds no rows"):
        store.read_features(tmp_path / "x.csv")


@pytest.mark.parametrize("rows", ["0.5,1,2,7,8\n", "word,1,2\n", "0.5,1,cat\n"])
def test_rows_that_do_not_fit_the_columns_are_refused(tmp_path, rows):
    (tmp_path / "x.csv").write_text("ct0,ct1,label\n1,1,1\n" + rows)
    with pytest.raises(ValueError, match=r"x\.csv"):
        store.read_features(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ValueError, match=re.escape(name)):
        store.read_features(tmp_path / name)


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
        store.read_head(tmp_path / "head.csv")


@pytest.mark.parametrize("label", [3, -1, 99])
def test_a_label_outside_the_classes_is_named_with_its_row(tmp_path, label):
    store.write_features(tmp_path / "x.csv", np.ones((4, 2)), [0, 2, label, label])
    with pytest.raises(
        ValueError,
        match=(
            rf"x\.csv, line 4, column label: found label {label}, and the head knows classes 0 to 2"
        ),
    ):
        store.check_labels(store.read_features(tmp_path / "x.csv"), ["a", "b", "c"])


def test_missing_values_in_a_table_are_empty_cells(tmp_path):
    store.write_table(
        tmp_path / "t.csv",
        pd.DataFrame({"name": ["a", None], "value": [0.1, np.nan]}),
        {"tpr": 0.95},
    )
    assert (tmp_path / "t.csv").read_text() == "name,value\na,0.1\n,\n"
    assert {"tpr": 0.95, "rows": 2}.items() <= records.read_sidecar(tmp_path / "t.csv").items()


# ---- one table in many forms ---------------------------------------------------------------------

PATHS = ["a/1.png", "b, c/2.png", '"d"/3.png', "=cmd/4.png", "'e/5.png", "-2+3/6.png"]


@pytest.fixture
def written(tmp_path):
    """A feature file with paths and its sidecar."""
    store.write_features(
        tmp_path / "x.csv", random_floats(6, 6, seed=7), [11, 0, -1, 3, 2, 11], PATHS
    )
    return tmp_path / "x.csv"


def by_pandas(change, **options):
    """Rewrite a CSV as pandas does after a change of its frame of texts."""

    def rewrite(path):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        change(frame).to_csv(path, **{"index": False, **options})

    return rewrite


def by_bytes(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def crlf(content):
    return content.replace(b"\n", b"\r\n")


def with_decimal_labels(frame):
    return frame.assign(label=[f"{int(label)}.0" for label in frame["label"]])


REWRITTEN = {
    "CR LF": by_bytes(crlf),
    "byte order mark": by_bytes(lambda content: codecs.BOM_UTF8 + content),
    "all quoted": by_pandas(lambda frame: frame, quoting=1),
    "index column": by_pandas(lambda frame: frame, index=True),
    "index column read back": by_pandas(lambda frame: frame.rename_axis("Unnamed: 0"), index=True),
    "columns in another order": by_pandas(lambda frame: frame[sorted(frame.columns, reverse=True)]),
    "labels with decimals": by_pandas(with_decimal_labels),
    "final blank line": by_bytes(lambda content: content + b"\n"),
    "blank rows at the end": by_bytes(lambda content: content + b",,,,,,,\n" * 3),
    "all of it": by_bytes(lambda content: codecs.BOM_UTF8 + crlf(content + b",,,,,,,\n\n")),
    "no final line end": by_bytes(lambda content: content.rstrip(b"\n")),
}


@pytest.mark.parametrize("way", REWRITTEN)
def test_a_valid_rewriting_is_the_same_table(written, way):
    before, content = store.read_features(written), records.content_sha256(written)
    REWRITTEN[way](written)
    found = store.read_features(written)
    assert same_bits(found.features, before.features)
    assert found.labels.tolist() == [11, 0, -1, 3, 2, 11] and found.paths == PATHS
    assert frames.file_content_sha256(written) == content
    assert current.SeenFile("another", content).unchanged(written)


@pytest.mark.parametrize(
    "way",
    [
        name
        for name in REWRITTEN
        if name not in ("labels with decimals", "blank rows at the end", "all of it")
    ],
)
def test_a_valid_rewriting_of_a_head_is_the_same_head(tmp_path, way):
    W, names = random_floats(4, 6, seed=4), ["=a", "007", "'b", "null"]
    store.write_head(tmp_path / "head.csv", W, W[:, 1], names)
    content = records.content_sha256(tmp_path / "head.csv")
    REWRITTEN[way](tmp_path / "head.csv")
    assert store.columns_of(tmp_path / "head.csv")[
        -1 if way != "columns in another order" else 0
    ] in ("bias", "w5")
    head = store.read_head(tmp_path / "head.csv")
    found, b, classes = head.W, head.b, head.class_names
    assert same_bits(found, W) and same_bits(b, W[:, 1]) and classes == names
    assert frames.file_content_sha256(tmp_path / "head.csv") == content


@pytest.mark.parametrize(
    "way",
    [
        "CR LF",
        "byte order mark",
        "all quoted",
        "index column",
        "columns in another order",
        "final blank line",
    ],
)
def test_a_valid_rewriting_of_a_table_is_the_same_table(tmp_path, way):
    frame = pd.DataFrame(
        {
            "ood": ["2023", "-x"],
            "n": [1, 2],
            "auroc": [0.1, np.nan],
            "best": [True, False],
            "note": ["", "b"],
        }
    )
    store.write_table(tmp_path / "t.csv", frame)
    before, content = (
        store.read_table(tmp_path / "t.csv"),
        records.content_sha256(tmp_path / "t.csv"),
    )
    REWRITTEN[way](tmp_path / "t.csv")
    found = store.read_table(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(found[before.columns], before)
    assert frames.file_content_sha256(tmp_path / "t.csv") == content


@pytest.mark.parametrize(
    "way", ["CR LF", "byte order mark", "all quoted", "index column", "columns in another order"]
)
def test_a_valid_rewriting_of_moments_is_the_same_summary(tmp_path, way):
    generator = np.random.default_rng(0)
    tally = layers.Tally(2).update(
        generator.normal(size=(8, 3)).astype(np.float32), np.arange(8) % 2
    )
    layers.write_summary(tmp_path / "x.csv", layers.Summary.of(tally, tally.moments), {})
    before = layers.read_summary(tmp_path / "x.csv")
    REWRITTEN[way](tmp_path / "x.csv")
    found = layers.read_summary(tmp_path / "x.csv")
    assert np.array_equal(found.mean, before.mean) and np.array_equal(
        found.moments.within, before.moments.within
    )
    assert np.array_equal(found.moments.means, before.moments.means)


def test_an_edited_number_in_a_file_of_moments_is_refused(tmp_path):
    tally = layers.Tally(2).update(np.eye(4, 3, dtype=np.float32), np.arange(4) % 2)
    layers.write_summary(tmp_path / "x.csv", layers.Summary.of(tally, tally.moments), {})
    text = (tmp_path / "x.csv").read_text()
    (tmp_path / "x.csv").write_text(text.replace("0.25", "0.35", 1))
    with pytest.raises(ValueError, match="changed after it was written"):
        layers.read_summary(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text(text.replace("0.25", "0.x5", 1))
    with pytest.raises(ValueError, match=r"line 2, column ct0: found .0\.x5., expected a number"):
        layers.read_summary(tmp_path / "x.csv")


def test_labels_that_turn_into_decimals_after_a_thousand_rows_are_the_same_labels(tmp_path):
    labels = np.arange(2500) % 7
    rows = [f"0.5,{label}{'.0' if row > 1000 else ''}" for row, label in enumerate(labels)]
    (tmp_path / "x.csv").write_text("\n".join(["ct0,label", *rows, ""]))
    assert np.array_equal(store.read_features(tmp_path / "x.csv").labels, labels)


def test_the_content_is_the_same_in_parquet_and_differs_for_each_changed_value(tmp_path):
    features, labels, paths = (
        random_floats(5, 6, seed=3),
        [0, 1, 2, 3, 4],
        [f"{n}.png" for n in range(5)],
    )

    def content(features=features, labels=labels, paths=paths, suffix=".csv"):
        store.write_features(tmp_path / f"x{suffix}", features, labels, paths)
        hashes = {
            records.read_sidecar(tmp_path / "x.csv")["content_sha256"],
            frames.file_content_sha256(tmp_path / f"x{suffix}"),
        }
        assert len(hashes) == 1
        return hashes.pop()

    assert content() == content(suffix=".parquet")
    one_bit = features.copy()
    one_bit.view(np.uint32)[3, 2] ^= 1
    others = [
        content(one_bit),
        content(labels=[0, 1, 2, 4, 3]),
        content(paths=[*paths[:4], "5.png"]),
        content(paths=None),
        content(features[:, :5]),
        content(features[:4], labels[:4], paths[:4]),
        content(features[:, ::-1]),
    ]
    assert len({content(), *others}) == 8


# ---- damage --------------------------------------------------------------------------------------

DAMAGED = {
    "a label that is true": (
        "ct0,ct1,label\n1,2,0\n3,4,true\n",
        r"line 3, column label: found 'true', expected a whole number",
    ),
    "labels that are all true or false": (
        "ct0,ct1,label\n1,2,false\n3,4,true\n",
        "line 2, column label: found 'false'",
    ),
    "a short row where path is last": (
        "ct0,ct1,label,path\n1,2,0,a\n3,4,1\n5,6,1,b\n",
        r"line 3, column path: the row ends before it, with 3 cells; expected 4",
    ),
    "a short row where another column is last": (
        "ct0,ct1,label,more\n1,2,0,a\n3,4,1\n",
        "line 3, column more: the row ends",
    ),
    "a short row of zeros at the end": (
        "ct0,ct1,label\n0,0,0\n0,0\n",
        "line 3, column label: the row ends before it",
    ),
    "an empty path": ("ct0,label,path\n1,0,\n", "line 2, column path: the cell is empty"),
    "a long row": (
        "ct0,ct1,label\n1,2,0\n3,4,1,5\n",
        r"line 3, column 4: the row has 4 cells; expected 3",
    ),
    "two columns label": (
        "ct0,label,label\n1,0,1\n",
        "line 1, column 3: a second column called 'label'",
    ),
    "two columns ct0": ("ct0,ct0,label\n1,0,1\n", "line 1, column 2: a second column called 'ct0'"),
    "a column without a name": ("ct0,,label\n1,0,1\n", "line 1, column 2: this column has no name"),
    "a last label cut from 11 to 1": (
        "ct0,label\n1,11\n1,1",
        "line 3, column label: the file ends within a line, so that '1' may",
    ),
    "a last path cut": (
        "ct0,label,path\n1,11,a.png\n1,1,b.p",
        "line 3, column path: the file ends within a line",
    ),
    "a blank line between": (
        "ct0,label\n1,0\n\n2,0\n",
        "line 3: the row is blank, and others follow",
    ),
    "blank cells between": (
        "ct0,label\n1,0\n,\n2,0\n",
        "line 3: the row is blank, and others follow",
    ),
    "a quote that is never closed": (
        'ct0,label,path\n1,0,a\n2,0,"b\n3,0,c\n',
        'line 3: a cell opens with " and is never closed',
    ),
    "a quote too many": ('ct0,label,path\n1,0,"a"b"\n', "line 2: "),
    "a word": ("ct0,label\n1,0\nx,0\n", "line 3, column ct0: found 'x', expected a finite number"),
    "a number beyond float32": ("ct0,label\n1,0\n1e39,0\n", "line 3, column ct0: found '1e39'"),
    "a number with a space behind it": ("ct0,label\n1 ,0\n", "line 2, column ct0: found '1 '"),
    "a number with an underscore": ("ct0,label\n1_0,0\n", "line 2, column ct0: found '1_0'"),
    "half a label": ("ct0,label\n1,0.5\n", "line 2, column label: found '0.5'"),
    "an enormous label": ("ct0,label\n1,1e30\n", "line 2, column label: found '1e30'"),
    "a label that is infinite": ("ct0,label\n1,inf\n", "line 2, column label: found 'inf'"),
    "a line after a cell of two lines": (
        'ct0,label,path\n1,0,"a\nb"\nx,0,c\n',
        "line 4, column ct0: found 'x'",
    ),
    "lines that end in CR": ("ct0,label\r1,0\r", "line 1: lines end in CR alone"),
    "columns apart by semicolons": ("ct0;label\n1;0\n", "the columns must be separated by commas"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_feature_file_is_refused_by_line_and_column(tmp_path, case):
    text, message = DAMAGED[case]
    (tmp_path / "x.csv").write_bytes(text.encode())
    with pytest.raises(ValueError, match=r"x\.csv.*" + message):
        store.read_features(tmp_path / "x.csv")
    assert (
        records.content_sha256(tmp_path / "x.csv") is None or "cut" in case or "semicolons" in case
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,w0,bias\na,1,2\nb,1\n", "line 3, column bias: the row ends before it"),
        ("class,w0,bias\na,1,2\nb,NaN,1\n", "line 3, column w0: found 'NaN'"),
        ("class,w0,bias\na,1,2\nb,true,1\n", "line 3, column w0: found 'true'"),
        ("class,w0,w0,bias\na,1,2,3\n", "line 1, column 3: a second column called 'w0'"),
        ("class,w0,bias\na,1,2\nb,1,0.51", "line 3, column bias: the file ends within a line"),
        ("bias,w0,class\n1,1,a\n1,1\n", "line 3, column class: the row ends before it"),
    ],
)
def test_a_damaged_head_is_refused_by_line_and_column(tmp_path, text, message):
    (tmp_path / "head.csv").write_text(text)
    with pytest.raises(ValueError, match=r"head\.csv, " + message):
        store.read_head(tmp_path / "head.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ood,auroc\nx,0.5\ny\n", "line 3, column auroc: the row ends before it"),
        ("ood,auroc\nx,0.5\ny,0.5,1\n", "line 3, column 3: the row has 3 cells"),
        ("ood,auroc,auroc\nx,0.5,1\n", "line 1, column 3: a second column called 'auroc'"),
        (
            "ood,auroc\nx,0.5\ny,0.x\nz,0.7\n",
            "line 3, column auroc: found '0.x', expected a number",
        ),
        ("ood,auroc\nx,0.5\ny,0.9", "line 3, column auroc: the file ends within a line"),
        ('ood,auroc,note\nx,0.5,"a\ny,0.9,b\n', 'line 2: a cell opens with " and is never closed'),
    ],
)
def test_a_damaged_table_is_refused_by_line_and_column(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=r"t\.csv, " + message):
        store.read_table(tmp_path / "t.csv")


def test_bytes_that_are_not_utf_8_are_refused_by_line_and_column(tmp_path):
    (tmp_path / "x.csv").write_bytes("ct0,label,path\n1,0,a\n1,0,größe\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"x\.csv, line 3, column path: not UTF-8 text"):
        store.read_features(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_bytes("ct0,label\n1,0\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"x\.csv, line 1: not UTF-8 text"):
        store.read_features(tmp_path / "x.csv")


def damaged(content, random):
    """Content with one fault: cut off, a byte changed, taken out or put in, a line doubled or lost,
    cells swapped."""
    at = random.randrange(len(content))
    rows = content.split(b"\n")
    row = random.randrange(len(rows) - 1)
    cells = rows[row].split(b",")
    random.shuffle(cells)
    extra = random.choice([b",", b"\n", b'"', b"\r", b"0", b"'", b"-", b"true", b",,", b"\xff"])
    return random.choice(
        [
            content[:at],
            content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :],
            content[:at] + content[at + 1 :],
            content[:at] + extra + content[at:],
            b"\n".join([*rows[:row], rows[row], *rows[row:]]),
            b"\n".join([*rows[:row], *rows[row + 1 :]]),
            b"\n".join([*rows[:row], b",".join(cells), *rows[row + 1 :]]),
        ]
    )


def test_no_damage_changes_a_value_in_silence(written):
    """With its sidecar a file gives the same values or is refused; without it, what is refused is
    named by its line."""
    good, values = written.read_bytes(), store.read_features(written)
    generator = random.Random(0)
    for _ in range(300):
        content = damaged(good, generator)
        written.write_bytes(content)
        try:
            found = store.read_features(written)
        except ValueError as error:
            assert re.search(
                r"line \d+|not a feature file|changed after it was written|rows, expected 6",
                str(error),
            ), content
        else:
            assert (
                same_bits(found.features, values.features)
                and found.labels.tolist() == values.labels.tolist()
            ), content
            assert found.paths == values.paths, content


# ---- Parquet files of others ---------------------------------------------------------------------


def test_a_parquet_file_of_other_number_types_and_further_columns_is_taken(tmp_path):
    frame = pl.DataFrame(
        {
            "more": ["x", "y"],
            "path": ["a", "b"],
            "label": pl.Series([1, 0], dtype=pl.Int32),
            "ct1": [0.1, 2.0],
            "ct0": pl.Series([1, 2], dtype=pl.Int8),
        }
    )
    frame.with_columns(pl.col("path").cast(pl.Categorical)).write_parquet(tmp_path / "x.parquet")
    found = store.read_features(tmp_path / "x.parquet")
    assert same_bits(found.features, np.array([[1, 0.1], [2, 2]], np.float32))
    assert found.labels.tolist() == [1, 0] and found.paths == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"ct0": [True, False], "label": [0, 1]},
            "column ct0: found Boolean values, expected numbers",
        ),
        ({"ct0": ["1", "2"], "label": [0, 1]}, "column ct0: found String values, expected numbers"),
        (
            {"ct0": [1.0, None], "label": [0, 1]},
            "data row 2, column ct0: found None, expected a finite number",
        ),
        (
            {"ct0": [1.0, 1e300], "label": [0, 1]},
            r"data row 2, column ct0: found 1e\+?300, expected a finite number",
        ),
        (
            {"ct0": [1.0, 2.0], "label": [True, False]},
            "data row 1, column label: found True, expected a whole number",
        ),
        (
            {"ct0": [1.0, 2.0], "label": [0, 0.5]},
            "data row 2, column label: found 0.5, expected a whole number",
        ),
        ({"ct0": [1.0, 2.0], "label": [0, None]}, "data row 2, column label: found None"),
        (
            {"ct0": [1.0, 2.0], "label": [0, 1], "path": ["a", None]},
            "data row 2, column path: the cell is empty",
        ),
        (
            {"ct0": [1.0, 2.0], "label": [0, 1], "path": [1, 2]},
            "column path: found Int64 values, expected text",
        ),
    ],
)
def test_a_parquet_file_of_other_values_is_refused_by_row_and_column(tmp_path, columns, message):
    pl.DataFrame(columns, strict=False).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        store.read_features(tmp_path / "x.parquet")


# ---- paths are no patterns -----------------------------------------------------------------------

FOLDERS = ["lr[1]", "lr*", "lr?", "~", "a b", "{lr1,x}", "$HOME", "%41", "file:", "'q'", "x.gz"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_path_is_taken_literally(tmp_path, monkeypatch, folder, suffix):
    """A file that a pattern would find, and a home folder, hold other values."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for number, name in enumerate(["lr1", "home", folder]):
        for stem in ("x1", "x[1]", "x*"):
            values = np.full((2, 1), 10 * number + len(stem))
            Path(name).mkdir(exist_ok=True)
            store.write_features(Path(name) / f"{stem}{suffix}", values, [0, 1])
            store.write_table(Path(name) / f"t{stem}.csv", pd.DataFrame({"value": values[:, 0]}))
            store.write_head(Path(name) / f"h{stem}.csv", values, values[:, 0], ["a", "b"])
    for stem in ("x1", "x[1]", "x*"):
        assert store.read_features(Path(folder) / f"{stem}{suffix}").features[0, 0] == 20 + len(
            stem
        )
        assert store.read_table(Path(folder) / f"t{stem}.csv")["value"][0] == 20 + len(stem)
        assert store.read_head(Path(folder) / f"h{stem}.csv").W[0, 0] == 20 + len(stem)


def test_moments_are_read_by_their_literal_path(tmp_path):
    for name, value in (("lr1", 1), ("lr[1]", 2)):
        tally = layers.Tally(2).update(np.full((4, 1), value, np.float32), np.arange(4) % 2)
        (tmp_path / name).mkdir()
        layers.write_summary(tmp_path / name / "x.csv", layers.Summary.of(tally, tally.moments), {})
    assert layers.read_summary(tmp_path / "lr[1]" / "x.csv").mean.tolist() == [2]


# ---- names ---------------------------------------------------------------------------------------

NAMES = [
    "2023",
    "007",
    "null",
    "NA",
    "1e5",
    "nan",
    "True",
    "-",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "'x",
    "''",
    "a'b",
]


def test_no_text_cell_can_be_run_by_a_spreadsheet_and_each_comes_back(tmp_path):
    count = len(NAMES)
    W = -np.eye(count, dtype=np.float32)
    store.write_head(tmp_path / "head.csv", W, W[0], NAMES)
    assert store.read_head(tmp_path / "head.csv").class_names == NAMES
    store.write_features(tmp_path / "x.csv", W, np.full(count, -1), NAMES)
    assert store.read_features(tmp_path / "x.csv").paths == NAMES
    frame = pd.DataFrame({"class_name": NAMES, "ood": NAMES, "value": np.full(count, -1.5)})
    for name, table in (("p", frame), ("q", pl.DataFrame(frame.to_dict("list")))):
        store.write_table(tmp_path / f"{name}.csv", table)
        found = store.read_table(tmp_path / f"{name}.csv")
        assert found["ood"].tolist() == found["class_name"].tolist() == NAMES
        assert found["value"].tolist() == [-1.5] * count
    texts = {
        "head": ["class"],
        "x": ["path"],
        "p": ["class_name", "ood"],
        "q": ["class_name", "ood"],
    }
    for stem, columns in texts.items():
        cells = (
            pd.read_csv(tmp_path / f"{stem}.csv", dtype=str, keep_default_na=False)[columns]
            .to_numpy()
            .ravel()
        )
        assert not [cell for cell in cells if re.match(r"[=+\-@\t\r]", cell)]
        assert {
            "'=1+1",
            "'+1",
            "'-1",
            "'@SUM(A1)",
            "'\tx",
            "'\rx",
            "''x",
            "'''",
            "2023",
            "a'b",
        } <= set(cells)


def test_numbers_are_written_as_they_are(tmp_path):
    store.write_features(tmp_path / "x.csv", [[-1.5], [2]], [-1, 0], ["a", "b"])
    assert (tmp_path / "x.csv").read_text() == "ct0,label,path\n-1.5,-1,a\n2.0,0,b\n"
    mixed = pd.DataFrame(
        {"nearest": pd.Series([-1.5, None, "-x"], dtype=object), "n": [-1, -2, -3]}
    )
    store.write_table(tmp_path / "t.csv", mixed)
    assert (tmp_path / "t.csv").read_text() == "nearest,n\n-1.5,-1\n,-2\n'-x,-3\n"


def test_a_quote_in_front_that_was_not_written_here_stays(tmp_path):
    (tmp_path / "head.csv").write_text("class,w0,bias\n'tis,1,2\n'=a,1,2\n")
    assert store.read_head(tmp_path / "head.csv").class_names == ["'tis", "=a"]


def test_columns_of_names_are_text_and_others_are_what_their_cells_are(tmp_path):
    names = ["2023", "007", "null", "NA", "1e5"]
    frame = pd.DataFrame(dict.fromkeys(csv_files.TEXT, names))
    frame = frame.assign(
        n=range(5),
        mean=[0.5, None, 1, 2, 3],
        best=[True, False] * 2 + [True],
        none=None,
        words=list("abc12"),
    )
    store.write_table(tmp_path / "t.csv", frame)
    found = store.read_table(tmp_path / "t.csv")
    assert all(found[name].tolist() == names for name in csv_files.TEXT)
    assert (
        found["n"].dtype == np.int64
        and found["mean"].dtype == np.float64
        and found["best"].dtype == bool
    )
    assert found["words"].tolist() == list("abc12") and found["none"].isna().all()
    assert found["mean"].isna().tolist() == [False, True, False, False, False]
    assert list(found.groupby("ood", sort=False)["n"].sum().index) == names


def test_decimals_of_a_table_are_read_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=500) * 10.0 ** np.arange(-250, 250)
    store.write_table(tmp_path / "t.csv", pd.DataFrame({"value": values}))
    assert np.array_equal(store.read_table(tmp_path / "t.csv")["value"], values)


SETS = {"2023": 0.5, "a|b": 0.75, "<b>x</b>": 0.25, "**x**": 0.5, "_y_": 0.5}


def test_markdown_and_latex_escape_names():
    rows = [
        {
            "checkpoint": "# net_s0",
            "dataset": "[x](y)",
            "ood": name,
            "method": "MSP",
            "parameters": "",
            "auroc": value,
            "fpr95": 0.1,
            "best": False,
            "n_id": 10,
            "n_ood": 20,
            "accuracy": np.nan,
            "note": "",
            "auroc_low": value,
            "auroc_high": value,
        }
        for name, value in SETS.items()
    ]
    table = pd.DataFrame(rows)
    text = tables.markdown(tables.by_method(table, [("a&b\n| c", list(SETS))]), table, 0.95)
    heading, _, names, *_ = text.splitlines()
    assert heading.startswith(
        r"\# net_s0: \[x\](y) (10 test images) against 2023 (20), a\|b (20), &lt;b&gt;x&lt;/b&gt;"
        r" (20), "
        r"\*\*x\*\* (20), \_y\_ (20);"
    )
    assert len(re.split(r"(?<!\\)\|", names)) == 2 + 1 + 2 * 6, "a pipe in a name makes no column"
    assert r"a&amp;b \| c AUROC" in names and len(text.splitlines()) == 5
    page = tables.latex(tables.by_method(table), table, 0.95, None, "tab:ood")
    assert (
        r"a\textbar{}b" in page and r"{*}{*}x{*}{*}" in page and r"\# net\_s0: {[}x{]}(y)" in page
    )


# ---- full disks ----------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "frame", [pl.DataFrame({"a": np.arange(1e5)}), pd.DataFrame({"a": np.arange(1e5)})]
)
def test_a_full_disk_is_named_with_the_file(frame):
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'") as error:
        csv_files.write_frame("/dev/full", frame)
    assert error.value.errno == 28
