"""A CSV that grows block by block is, byte for byte and by its hashes, the one that is written at
once."""

import numpy as np
import pytest

from artifacts import growing, records, store

PATHS = ["a.png", "=b.png", 'c"d.png', "e,f.png", "g.png", "ä.png", "'h.png"]


@pytest.mark.parametrize("paths", [None, PATHS])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_blocks_make_the_file_and_the_hashes_of_a_whole(tmp_path, paths, size):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(7, 5)).astype(np.float32)
    labels = np.arange(7)
    store.write_features(tmp_path / "whole.csv", features, labels, paths, {"made_by": "a test"})
    blocks = [
        (
            features[start : start + size],
            labels[start : start + size],
            paths and paths[start : start + size],
        )
        for start in range(0, 7, size)
    ]
    growing.write_features(tmp_path / "grown.csv", blocks, 7, 5, {"made_by": "a test"})
    assert (tmp_path / "grown.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    whole = records.read_sidecar(tmp_path / "whole.csv")
    assert records.read_sidecar(tmp_path / "grown.csv") == whole


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.csv"
    store.write_features(path, np.ones((2, 2)), [0, 1])
    before = path.read_bytes()

    def blocks():
        yield np.zeros((1, 2), np.float32), np.array([0]), None
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        growing.write_features(path, blocks(), 2, 2, {})
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.csv", "x.json"]


def test_parquet_reads_back_the_same_and_replaces_the_csv(tmp_path):
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    store.write_features(tmp_path / "x.csv", features, [0, 1, 2])
    blocks = [(features[:2], np.array([0, 1]), None), (features[2:], np.array([2]), None)]
    growing.write_features(tmp_path / "x.parquet", blocks, 3, 2, {})
    assert not (tmp_path / "x.csv").exists()
    found = store.read_features(tmp_path / "x.parquet")
    assert np.array_equal(found.features, features) and found.labels.tolist() == [0, 1, 2]
