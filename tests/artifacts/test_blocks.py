"""Features in bounded memory: frames, blocks of a file and of shards, and what is refused."""

import hashlib
import json
import shlex

import numpy as np
import polars as pl
import pytest

from arrays import BLOCK
from artifacts import blocks, csv_files, frames, records, shards, store

REMEDY = "python run_networks.py --checkpoint net.pth"


def numbers(rows, width=3, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, width), dtype=np.float32)


def paths_of(rows):
    return [f"a, b/{row}\n{row}.png" if row % 3 else f"{row}.png" for row in range(rows)]


def write_set(folder, features, labels, rows=4, paths=None, **facts):
    """A whole set of shards of so many rows, as an extraction leaves it."""
    folder.mkdir()
    entries = []
    for number, span in enumerate(shards.spans(len(features), rows)):
        part = shards.shard_path(folder, number)
        own = None if paths is None else paths[span]
        store.write_features(part, features[span], labels[span], own, facts)
        entries.append(shards.of_sidecar(part))
    shards.finish(folder, {**facts, "width": features.shape[1]}, entries)
    return folder


@pytest.fixture(params=[".csv", ".parquet"])
def suffix(request):
    return request.param


@pytest.fixture
def folder(tmp_path, suffix):
    """Ten rows in shards of four."""
    return write_set(tmp_path / f"ID_toy_train{suffix}", numbers(10), np.arange(10))


# ---- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 37, 200, 1 << 24])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_csv_is_the_same_in_chunks_of_any_size(tmp_path, monkeypatch, chunk, ending):
    """Quoted paths hold line ends and commas, at which no chunk may end."""
    path = tmp_path / "x.csv"
    features, paths = numbers(50), paths_of(50)
    store.write_features(path, features, np.arange(50), paths)
    if ending != "\n":
        text = path.read_bytes().replace(b"\n", b"\r\n")
        path.write_bytes(text)
        paths = [name.replace("\n", "\r\n") for name in paths]
        records.sidecar_path(path).unlink()
    monkeypatch.setattr(frames, "CHUNK", chunk)
    found = store.read_features(path)
    assert found.features.tobytes() == features.tobytes()
    assert found.labels.tolist() == list(range(50)) and found.paths == paths


@pytest.mark.parametrize("chunk", [10, 1 << 24])
def test_blank_rows_are_left_out_at_the_end_alone_in_chunks_too(tmp_path, monkeypatch, chunk):
    path = tmp_path / "x.csv"
    monkeypatch.setattr(frames, "CHUNK", chunk)
    path.write_text("ct0,label\n1.5,0\n2.5,1\n,\n,\n,\n")
    assert store.read_features(path).features.tolist() == [[1.5], [2.5]]
    path.write_text("ct0,label\n1.5,0\n,\n,\n2.5,1\n")
    with pytest.raises(ValueError, match="line 3: the row is blank, and others follow"):
        store.read_features(path)


@pytest.mark.parametrize("parts", [[10], [3, 7], [1] * 10])
def test_a_digest_in_parts_is_that_of_the_whole(parts):
    frame = pl.DataFrame(
        {"ct0": numbers(10, 1)[:, 0], "label": np.arange(10), "path": paths_of(10)}
    )
    digest, start = frames.Digest(), 0
    for rows in parts:
        digest.update(frame.slice(start, rows))
        start += rows
    assert digest.hexdigest() == csv_files.content_sha256(frame)


def test_parquet_has_row_groups_of_a_block(tmp_path):
    """A slice that lies in one group costs no more than that group: polars names them in its
    plan of the file's statistics, and the size of the file shows that there are three."""
    path = tmp_path / "x.parquet"
    rows = 2 * BLOCK + 5
    store.write_features(path, numbers(rows, 1), np.zeros(rows, int))
    one = tmp_path / "one.parquet"
    pl.read_parquet(path).write_parquet(one, row_group_size=BLOCK)
    assert path.read_bytes() == one.read_bytes()
    assert [len(frame) for frame in frames.frames(path)] == [BLOCK, BLOCK, 5]


# ---- blocks --------------------------------------------------------------------------------------


def test_blocks_are_cut_by_global_row_index(tmp_path, suffix):
    rows = 2 * BLOCK + 7
    features, labels = numbers(rows, 2), np.arange(rows) % 5
    store.write_features(tmp_path / f"x{suffix}", features, labels)
    found = list(blocks.blocks(tmp_path / f"x{suffix}"))
    assert [block.start for block in found] == [0, BLOCK, 2 * BLOCK]
    assert [len(block.labels) for block in found] == [BLOCK, BLOCK, 7]
    assert np.concatenate([block.features for block in found]).tobytes() == features.tobytes()
    assert np.concatenate([block.labels for block in found]).tolist() == labels.tolist()


def test_blocks_do_not_end_where_shards_do(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 4)
    features, paths = numbers(10), paths_of(10)
    folder = write_set(tmp_path / f"x{suffix}", features, np.arange(10), 3, paths)
    found = list(blocks.blocks(folder))
    assert [len(block.labels) for block in found] == [4, 4, 2]
    assert np.concatenate([block.features for block in found]).tobytes() == features.tobytes()
    assert [path for block in found for path in block.paths] == paths


def test_a_folder_is_read_as_the_file_is(tmp_path, folder, suffix):
    file = tmp_path / f"file{suffix}"
    store.write_features(file, numbers(10), np.arange(10))
    one, many = store.read_features(file), store.read_features(folder)
    assert one.features.tobytes() == many.features.tobytes()
    assert one.labels.tolist() == many.labels.tolist()
    assert store.width_of(folder) == 3


def test_what_differs_from_the_sidecar_is_refused_behind_the_last_block(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    store.write_features(path, numbers(10), np.arange(10))
    sidecar = json.loads(records.sidecar_path(path).read_text())
    store.write_features(path, numbers(10, seed=1), np.arange(10))
    records.sidecar_path(path).write_text(json.dumps(sidecar))
    with pytest.raises(ValueError, match="was changed after it was written") as caught:
        list(blocks.blocks(path, remedy=REMEDY))
    assert f"make it anew with: {REMEDY}, or" in str(caught.value)
    assert len(list(blocks.blocks(path, check=False))) == 1
    stale = records.Stale(allowed=True)
    with pytest.warns(UserWarning, match="taken all the same"):
        assert len(list(blocks.blocks(path, stale))) == 1


@pytest.mark.parametrize("said", [1, 9, 11, 10**15])
def test_a_sidecar_that_counts_other_rows_is_named_with_both_numbers(tmp_path, suffix, said):
    path = tmp_path / f"x{suffix}"
    store.write_features(path, numbers(10), np.arange(10))
    sidecar = json.loads(records.sidecar_path(path).read_text())
    records.sidecar_path(path).write_text(json.dumps({**sidecar, "rows": said, "sha256": "x"}))
    sidecar["content_sha256"] = None
    with pytest.raises(ValueError, match=rf"holds 10 rows, expected {said}, as its sidecar says"):
        records.sidecar_path(path).write_text(
            json.dumps({**sidecar, "rows": said, "sha256": "x" * 64})
        )
        store.read_features(path)


def test_a_label_that_is_no_class_is_named_with_its_shard(folder):
    stored = blocks.Stored(folder, classes=6)
    with pytest.raises(
        ValueError, match="found label 6, and the head knows classes 0 to 5"
    ) as found:
        list(stored.blocks())
    assert str(folder / "00001") in str(found.value)
    where = "line 4" if folder.suffix == ".csv" else "data row 3"
    assert f"{where}, column label" in str(found.value)


# ---- what can be wrong with a folder -------------------------------------------------------------


def refused(folder, words):
    """The message of every reader, which names the command that mends it."""
    messages = []
    for read in (
        lambda: store.read_features(folder, remedy=REMEDY),
        lambda: list(blocks.blocks(folder, remedy=REMEDY)),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            read()
        messages.append(str(caught.value))
    assert len(set(messages)) == 1
    return messages[0]


def test_a_missing_shard_is_named(folder):
    shards.shard_path(folder, 1).unlink()
    said = refused(folder, r"lacks 00001\.\w+: 1 of 3 shards that its sidecar lists")
    assert said.endswith(f"make it anew with: {REMEDY}")


def test_a_doubled_shard_is_named_with_a_command_that_removes_it(folder):
    again = folder / f"00001 (1){folder.suffix}"
    again.write_bytes(shards.shard_path(folder, 1).read_bytes())
    said = refused(folder, "which its sidecar does not list: its rows may be there twice")
    assert shlex.split(said.rpartition("remove it with: ")[2]) == ["rm", str(again)]
    again.unlink()
    assert len(store.read_features(folder).labels) == 10


def test_a_half_written_shard_is_named(folder):
    part = shards.shard_path(folder, 1)
    part.write_bytes(part.read_bytes()[: -len(part.read_bytes()) // 3])
    said = refused(folder, rf"00001\{folder.suffix}")
    assert f"make it anew with: {REMEDY}" in said


def test_a_shard_of_another_run_is_named(folder):
    part = shards.shard_path(folder, 1)
    store.write_features(part, numbers(4, seed=9), np.arange(4, 8))
    said = refused(folder, "was changed after it was written")
    assert str(part) in said and f"make it anew with: {REMEDY}" in said


def test_a_shard_of_another_width_is_named(folder):
    part = shards.shard_path(folder, 2)
    store.write_features(part, numbers(2, 5), np.arange(8, 10))
    said = refused(folder, r"00002\.\w+ is 5 features wide where 00000\.\w+ has 3")
    assert said.endswith(f"make it anew with: {REMEDY}")


def test_a_sidecar_that_counts_other_rows_than_its_shards_is_named(folder):
    place = records.sidecar_path(folder)
    place.write_text(json.dumps({**json.loads(place.read_text()), "rows": 12}))
    said = refused(folder, "counts 12 rows, and its shards have 10 together")
    assert str(place) in said and said.endswith(f"make it anew with: {REMEDY}")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "is not finished: 2 shards are there"),
        ({"checkpoint_sha256": "b"}, "are of another checkpoint each"),
        ({"preprocessing": {"size": 64}}, "are of another preprocessing each"),
    ],
)
def test_a_set_that_is_not_finished_says_so_and_how_to_go_on(tmp_path, suffix, facts, words):
    folder = tmp_path / f"x{suffix}"
    folder.mkdir()
    common = {"checkpoint_sha256": "a", "preprocessing": {"size": 32}}
    for number, more in enumerate(({}, facts)):
        part = shards.shard_path(folder, number)
        store.write_features(part, numbers(4), np.arange(4), sidecar={**common, **more})
    said = refused(folder, words)
    assert REMEDY in said and said.endswith("--force") == bool(facts)


def test_a_folder_without_shards_says_so(tmp_path, suffix):
    (tmp_path / f"x{suffix}").mkdir()
    assert refused(tmp_path / f"x{suffix}", "is a folder without shards").endswith(REMEDY)


@pytest.mark.parametrize("value", [[{"file": "../x.csv"}], [3], "x", [{"file": 1}]])
def test_a_list_of_shards_of_another_kind_is_refused(folder, value):
    place = records.sidecar_path(folder)
    place.write_text(json.dumps({**json.loads(place.read_text()), "shards": value}))
    with pytest.raises(ValueError, match="under 'shards', expected a list of shards"):
        store.read_features(folder)


def test_shards_from_elsewhere_are_taken_on_trust_in_the_order_of_their_names(tmp_path, suffix):
    folder = tmp_path / f"x{suffix}"
    folder.mkdir()
    for name, row in (("part-b", 2), ("part-a", 1)):
        part = folder / f"{name}{suffix}"
        store.write_features(part, [[row]], [row])
        records.sidecar_path(part).unlink()
    assert store.read_features(folder).labels.tolist() == [1, 2]


# ---- hashes, names and sizes ---------------------------------------------------------------------


def test_the_hash_of_a_set_is_made_of_those_of_its_shards(folder):
    names = [f"0000{number}{folder.suffix}" for number in range(3)]
    pairs = [[name, hashlib.sha256((folder / name).read_bytes()).hexdigest()] for name in names]
    whole = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    sidecar = records.read_sidecar(folder)
    assert records.sha256(folder) == whole == sidecar["sha256"]
    known = sidecar["content_sha256"]
    records.sidecar_path(folder).unlink()
    assert records.content_sha256(folder) == known


@pytest.mark.parametrize("rows", [BLOCK, 4 * BLOCK])
def test_whole_blocks_make_a_shard(rows):
    assert shards.complaint(rows) is None


@pytest.mark.parametrize(
    ("rows", "nearest"),
    [(50_000, "49152 or 65536"), (1, "16384"), (0, "16384"), (-5, "16384"), (16385, "16384 or")],
)
def test_other_sizes_are_refused_with_the_nearest(rows, nearest):
    assert f"give {nearest}" in shards.complaint(rows)


def test_a_file_takes_the_place_of_a_folder_and_the_other_format_goes(folder):
    other = {".csv": ".parquet", ".parquet": ".csv"}[folder.suffix]
    store.write_features(folder, numbers(3), np.arange(3))
    assert folder.is_file() and len(store.read_features(folder).labels) == 3
    store.write_features(folder.with_suffix(other), numbers(3), np.arange(3))
    assert not folder.exists()


def test_a_full_disk_in_mid_shard_keeps_the_shards_before_it(tmp_path, suffix, monkeypatch):
    import errno
    import os

    folder = tmp_path / f"x{suffix}"
    folder.mkdir()
    first = shards.shard_path(folder, 0)
    store.write_features(first, numbers(4), np.arange(4))

    def full(path, frame):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(csv_files, "write_frame", full)
    with pytest.raises(OSError, match=r"cannot write .*00001.*No space left.*make room first"):
        store.write_features(shards.shard_path(folder, 1), numbers(4), np.arange(4))
    assert sorted(path.name for path in folder.iterdir()) == sorted(["00000.json", first.name])
    assert shards.is_intact(folder, shards.of_sidecar(first))
