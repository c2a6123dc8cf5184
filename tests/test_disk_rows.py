"""disk_rows.py: rows in a file give what rows in memory give."""

import numpy as np
import pytest

import disk_rows
from disk_rows import Writer


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


@pytest.fixture
def stored(tmp_path, rows, monkeypatch):
    """The same rows in a file, written in blocks of any size, in chunks of 8."""
    monkeypatch.setattr(disk_rows, "CHUNK", 8)
    writer = Writer(tmp_path, 3)
    for start, stop in ((0, 7), (7, 7), (7, 30), (30, 50)):
        writer.add(rows[start:stop])
    return writer.finished()


@pytest.mark.parametrize(
    "chosen",
    [
        slice(0, 50),
        slice(3, 9),
        slice(40, 90),
        slice(9, 3),
        slice(None, None, 7),
        slice(1, 44, 3),
        np.array([49, 0, 8, 7, 7]),
        np.array([], int),
        np.arange(50) % 3 == 1,
    ],
)
def test_what_is_chosen_is_the_same(rows, stored, chosen):
    found = stored[chosen]
    assert found.dtype == np.float32 and np.array_equal(found, rows[chosen])


def test_it_answers_as_an_array_does(rows, stored, tmp_path):
    assert (stored.shape, stored.ndim, stored.size, len(stored)) == ((50, 3), 2, 150, 50)
    assert (stored.min(), stored.max()) == (rows.min(), rows.max())
    assert np.array_equal(np.asarray(stored), rows)
    assert np.array_equal(np.stack(list(stored)), rows)
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_nan_is_seen_at_the_ends(tmp_path):
    writer = Writer(tmp_path, 2)
    writer.add(np.array([[1, 2], [np.nan, 0]], np.float32))
    writer.add(np.array([[5, 6]], np.float32))
    stored = writer.finished()
    assert np.isnan(stored.min()) and np.isnan(stored.max())


def test_without_a_read_at_a_place_there_is_a_lock(rows, stored, monkeypatch):
    monkeypatch.delattr(disk_rows.os, "preadv")
    assert np.array_equal(stored[5:25], rows[5:25])
