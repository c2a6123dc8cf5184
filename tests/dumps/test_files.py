"""Files of arrays in the forms that people have: each format gives the same numbers, and none runs
code."""

import pickle

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from dumps import entries, files, tables

FEATURES = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
LABELS = np.arange(9) % 3
CALLS = []


class Evil:
    """What a pickle would call when it is read."""

    def __reduce__(self):
        return CALLS.append, (1,)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks a file."""
    for module in (entries, tables):
        monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr("dumps.numpy_files.BLOCK", 4)
    monkeypatch.setattr("dumps.tensors.BLOCK", 4)


def write(path, x=FEATURES, y=LABELS):
    """The same arrays in the format of a file's name, under the keys x and y."""
    columns = {f"x{place}": x[:, place] for place in range(x.shape[1])}
    frame = pl.DataFrame({**columns, "y": y})
    writers = {
        ".npz": lambda: np.savez(path, x=x, y=y),
        ".pt": lambda: torch.save({"x": torch.tensor(x), "y": torch.tensor(y)}, path),
        ".safetensors": lambda: save_file({"x": torch.tensor(x), "y": torch.tensor(y)}, path),
        ".csv": lambda: frame.write_csv(path),
        ".parquet": lambda: frame.write_parquet(path),
    }
    writers[path.suffix]()
    return path


@pytest.mark.parametrize("ending", [".npz", ".pt", ".safetensors", ".csv", ".parquet"])
def test_every_format_gives_the_same_bits(tmp_path, ending):
    dump = files.open_dump(write(tmp_path / f"a{ending}"))
    assert list(dump.entries) == ["x", "y"]
    x, y = dump.entries["x"], dump.entries["y"]
    assert x.shape == (9, 3) and x.kind == entries.FLOAT
    assert [len(block) for block in x.blocks()] == [4, 4, 1]
    assert x.whole().tobytes() == FEATURES.tobytes() and x.whole().dtype == np.float32
    assert y.kind == entries.WHOLE and y.whole().tolist() == LABELS.tolist()


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_and_npz_in_either_order(tmp_path, order):
    array = np.asarray(FEATURES, order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", array)
    for path, key in ((tmp_path / "a.npy", ""), (tmp_path / "a.npz", "arr_0")):
        assert np.array_equal(files.open_dump(path).entries[key].whole(), FEATURES)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read_exactly(tmp_path, kind):
    values = torch.tensor(FEATURES).to(kind)
    torch.save(values, tmp_path / "a.pt")
    save_file({"x": values}, tmp_path / "a.safetensors")
    for name, key in (("a.pt", ""), ("a.safetensors", "x")):
        found = files.open_dump(tmp_path / name).entries[key].whole()
        assert np.array_equal(found.astype(np.float64), values.double().numpy())


def test_tuples_dicts_and_lists_of_torch_save(tmp_path):
    torch.save(
        {
            "train": (torch.tensor(FEATURES), list(range(9))),
            "names": ["cat", "dog"],
            "numpy": FEATURES.astype(np.float64),
            "texts": np.array(["a", "b"]),
            "epoch": 3,
        },
        tmp_path / "a.pt",
    )
    dump = files.open_dump(tmp_path / "a.pt")
    assert set(dump.entries) == {"train.0", "train.1", "names", "numpy", "texts"}
    assert dump.entries["train.1"].whole().tolist() == list(range(9))
    assert dump.entries["names"].kind == dump.entries["texts"].kind == entries.TEXT
    assert np.array_equal(dump.entries["numpy"].whole(), FEATURES.astype(np.float64))
    assert dump.entries["texts"].whole().tolist() == ["a", "b"]


def test_a_fortran_array_in_a_pt_file_keeps_its_order(tmp_path):
    torch.save({"x": np.asfortranarray(FEATURES)}, tmp_path / "a.pt")
    found = files.open_dump(tmp_path / "a.pt").entries["x"].whole()
    assert np.array_equal(found, FEATURES)


def test_a_parquet_column_of_lists_is_a_matrix(tmp_path):
    frame = pl.DataFrame({"embedding": FEATURES.tolist(), "label": LABELS})
    frame.write_parquet(tmp_path / "a.parquet")
    found = files.open_dump(tmp_path / "a.parquet").entries["embedding"]
    assert found.shape == (9, 3)
    assert np.array_equal(found.whole().astype(np.float32), FEATURES)
    pl.DataFrame({"e": [[1.0, 2.0], [3.0]]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"data row 2, column e: found 1 numbers, expected 2"):
        files.open_dump(tmp_path / "b.parquet").entries["e"].whole()


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["ct0", "ct1", "label"], {"ct": ["ct0", "ct1"]}),
        (["f_2", "f_1", "y"], {"f": ["f_1", "f_2"]}),
        (["0", "1", "2"], {tables.NUMBERED: ["0", "1", "2"]}),
        (["x0", "x2"], {}),
        (["x1", "y"], {}),
        (["a0", "a1", "b0", "b1"], {"a": ["a0", "a1"], "b": ["b0", "b1"]}),
    ],
)
def test_columns_that_are_numbered_through_are_a_family(names, wanted):
    assert tables.families(names) == wanted


def test_a_name_like_a_pattern_is_a_name(tmp_path):
    path = write(tmp_path / "a[1]*.parquet")
    assert files.open_dump(path).entries["x"].whole().shape == (9, 3)


# ---- what is refused -----------------------------------------------------------------------------


def test_pickled_objects_are_named_and_never_read(tmp_path):
    objects = np.array([Evil(), Evil()], dtype=object)
    np.savez(tmp_path / "a.npz", x=FEATURES, names=objects)
    np.save(tmp_path / "a.npy", objects)
    dump = files.open_dump(tmp_path / "a.npz")
    assert dump.entries["x"].whole().shape == (9, 3)
    for found, key in ((dump, "names"), (files.open_dump(tmp_path / "a.npy"), "")):
        with pytest.raises(ValueError, match="holds pickled objects"):
            found.entry(key)
        with pytest.raises(ValueError, match="OBJECT"):
            found.entries[key].whole()
    assert CALLS == []


def test_code_in_a_pt_file_does_not_run(tmp_path):
    torch.save({"x": torch.tensor(FEATURES), "y": Evil()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="is code, and code from a file is not run"):
        files.open_dump(tmp_path / "a.pt")
    assert CALLS == []


def test_an_array_of_objects_in_a_pt_file_is_left_out(tmp_path):
    torch.save({"x": FEATURES, "y": np.array(["a", 1, None], object)}, tmp_path / "a.pt")
    assert list(files.open_dump(tmp_path / "a.pt").entries) == ["x"]


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.joblib"])
def test_a_pickle_is_refused_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"is a pickle, .*np\.savez"):
        files.open_dump(tmp_path / name)
    assert CALLS == []


@pytest.mark.parametrize("ending", [".npz", ".npy", ".pt", ".safetensors", ".parquet", ".csv"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    with pytest.raises(ValueError, match=r"a\.\w+"):
        for entry in files.open_dump(path).entries.values():
            entry.whole()


@pytest.mark.parametrize("ending", [".npz", ".npy", ".pt", ".safetensors", ".parquet"])
def test_a_file_cut_short_is_refused(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    if ending == ".npy":
        np.save(path, FEATURES)
    else:
        write(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"a\.\w+"):
        for entry in files.open_dump(path).entries.values():
            entry.whole()


def test_a_csv_without_a_header_is_refused(tmp_path):
    np.savetxt(tmp_path / "a.csv", FEATURES, delimiter=",")
    with pytest.raises(ValueError, match=r"line 1: found numbers, expected the names"):
        files.open_dump(tmp_path / "a.csv")


def test_a_missing_file_a_folder_and_an_unknown_ending(tmp_path):
    (tmp_path / "a.txt").write_text("1")
    for name, said in (("no.npz", "is not there"), ("", "is a folder"), ("a.txt", "ends in .txt")):
        with pytest.raises(ValueError, match=said):
            files.open_dump(tmp_path / name)
