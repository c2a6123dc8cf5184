"""Sets as folders of shards: the same numbers as one file, gone on with after an interruption, made
by several processes, and written as arrays for other programs."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from helpers import launch, ours, saved, tiny

import feature_files
import run_networks
from artifacts import records, shards, store
from extraction import array_files, sharding

ROWS = "256"  # of a shard; batches of 100 images lie across the borders
SETS = ("ID_digits_train", "ID_digits_val", "ID_digits_test", "OOD_gaussian_test")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Shards of some hundred rows, for sets of as many."""
    monkeypatch.setattr(shards, "BLOCK", 64)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    return saved(folder, ours(tiny(10)), "net.pth")


def extract(network, folder, *words):
    """run_networks.py into a folder -> the folder of features."""
    fixed = ["--ood", "gaussian", "--device", "cpu", "--batch-size", "100", "--output-dir", folder]
    run_networks.main(["--checkpoint", str(network), *map(str, fixed), *words])
    return folder / "net"


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    """Features in files."""
    return extract(network, tmp_path_factory.mktemp("files"), "--format", "parquet")


@pytest.fixture(scope="module")
def sharded(network, tmp_path_factory):
    """The same features in shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BLOCK", 64)
        folder = tmp_path_factory.mktemp("shards")
        return extract(network, folder, "--format", "parquet", "--shard-rows", ROWS)


@pytest.fixture
def own(sharded, tmp_path):
    """A copy of the shards that a test may spoil; the folder that is given as --output-dir."""
    shutil.copytree(sharded, tmp_path / "own" / "net")
    return tmp_path / "own"


def bytes_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.parquet")) if path.is_file()}


def times_of(folder):
    return {path: path.stat().st_mtime_ns for path in bytes_of(folder)}


@pytest.mark.parametrize("name", SETS)
def test_shards_hold_the_bits_of_the_file(files, sharded, name):
    one = store.read_features(files / f"{name}.parquet")
    many = store.read_features(sharded / f"{name}.parquet")
    assert one.features.tobytes() == many.features.tobytes()
    assert one.labels.tolist() == many.labels.tolist()
    sidecar = records.read_sidecar(sharded / f"{name}.parquet")
    expected = [min(256, len(one.labels) - start) for start in range(0, len(one.labels), 256)]
    assert [entry["rows"] for entry in sidecar["shards"]] == expected
    assert sorted(path.name for path in (sharded / f"{name}.parquet").iterdir()) == [
        entry["file"] for entry in sidecar["shards"]
    ]


def test_sidecars_say_the_same_of_images_and_accuracy(files, sharded):
    for name in SETS:
        one, many = (records.read_sidecar(x / f"{name}.parquet") for x in (files, sharded))
        for key in ("rows", "width", "source", "source_content", "accuracy", "largest_class"):
            assert one.get(key) == many.get(key), (name, key)


def test_shifted_images_in_shards_have_their_accuracy(network, tmp_path):
    words = ("--format", "parquet", "--csid", "fog3")
    file = extract(network, tmp_path / "file", *words)
    folder = extract(network, tmp_path / "shards", *words, "--shard-rows", ROWS)
    told = [records.read_sidecar(run / "CSID_fog3_test.parquet") for run in (file, folder)]
    assert told[1]["accuracy"] == told[0]["accuracy"]


def test_a_run_in_shards_opens_and_its_command_makes_shards_again(sharded):
    run = feature_files.open_run(sharded)
    assert run.train == sharded / "ID_digits_train.parquet"
    assert f"--shard-rows {ROWS}" in run.command


def test_what_is_whole_is_kept(network, own):
    before = times_of(own)
    extract(network, own, "--format", "parquet", "--shard-rows", ROWS)
    assert times_of(own) == before


def test_a_broken_shard_alone_is_made_anew(network, own, capsys):
    before, content = times_of(own), bytes_of(own)
    part = own / "net" / "ID_digits_train.parquet" / "00001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    extract(network, own, "--format", "parquet", "--shard-rows", ROWS)
    assert "ID_digits_train.parquet: 1,102 images" in (said := capsys.readouterr().out)
    assert "5 shards, 4 of them kept" in said
    after = times_of(own)
    assert [path for path in before if before[path] != after[path]] == [part]
    assert bytes_of(own) == content


def test_an_interrupted_set_goes_on_where_it_stopped(network, files, tmp_path, monkeypatch, capsys):
    written = store.write_features

    def interrupted(path, *others):
        if path.name == "00002.parquet":
            raise OSError(28, "No space left on device")
        written(path, *others)

    words = ("--format", "parquet", "--shard-rows", ROWS)
    monkeypatch.setattr(store, "write_features", interrupted)
    with pytest.raises(OSError, match="No space left"):
        extract(network, tmp_path, *words)
    folder = tmp_path / "net" / "ID_digits_train.parquet"
    with pytest.raises(ValueError, match="is not finished: 2 shards are there"):
        store.read_features(folder)
    first = folder / "00000.parquet"
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(store, "write_features", written)
    extract(network, tmp_path, *words)
    assert "5 shards, 2 of them kept" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == before
    for name in SETS:
        one = store.read_features(files / f"{name}.parquet").features
        assert store.read_features(tmp_path / "net" / f"{name}.parquet").features.tobytes() == (
            one.tobytes()
        )


@pytest.mark.parametrize("words", [("--batch-size", "50"), ("--force",), ("--shard-rows", "512")])
def test_shards_of_another_kind_are_not_mixed(network, own, words):
    part = own / "net" / "ID_digits_train.parquet" / "00001.parquet"
    part.unlink()
    before = times_of(own)
    extract(network, own, "--format", "parquet", "--shard-rows", ROWS, *words)
    train = own / "net" / "ID_digits_train.parquet"
    assert not {
        path for path in before if path.parent == train and times_of(own).get(path) == before[path]
    }
    assert len(store.read_features(train).labels) == 1102


@pytest.mark.parametrize(("before", "after"), [((), (ROWS,)), ((ROWS,), ())])
def test_a_file_becomes_shards_and_shards_a_file(network, tmp_path, before, after):
    def words(rows):
        return ["--format", "parquet", *(["--shard-rows", *rows] if rows else [])]

    extract(network, tmp_path, *words(before))
    folder = extract(network, tmp_path, *words(after))
    path = folder / "ID_digits_test.parquet"
    assert path.is_dir() == bool(after) and len(store.read_features(path).labels) == 599


def test_stages_are_stored_in_shards_too(network, tmp_path):
    words = ("--format", "parquet", "--layers", "--stages", "conv1")
    one = extract(network, tmp_path / "one", *words)
    many = extract(network, tmp_path / "many", *words, "--shard-rows", ROWS)
    name = "layers/ID_digits_train_conv1.parquet"
    assert (many / name).is_dir()
    assert store.read_features(one / name).features.tobytes() == (
        store.read_features(many / name).features.tobytes()
    )


@pytest.mark.parametrize(
    ("rows", "layers", "words"),
    [(100, None, "give 64 or 128"), (64, "stream", "--layers stream"), (64, None, None)],
)
def test_what_cannot_be_in_shards_is_said_at_once(rows, layers, words):
    found = sharding.complaint(rows, layers)
    assert found is None if words is None else words in found


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(network, sharded, tmp_path):
    script = tmp_path / "small_blocks.py"
    script.write_text(
        "from artifacts import shards\nshards.BLOCK = 64\nimport cli, run_networks\n"
        "cli.run(run_networks.main)\n"
    )
    words = ["--checkpoint", network, "--ood", "gaussian", "--device", "cpu", "--batch-size", "100"]
    words += ["--format", "parquet", "--shard-rows", ROWS, "--output-dir", tmp_path / "two"]
    done = launch(script, *map(str, words))
    assert done.returncode == 0, done.stderr
    found = {
        path.relative_to(tmp_path / "two"): content
        for path, content in bytes_of(tmp_path / "two").items()
    }
    assert found == {
        path.relative_to(sharded.parent): content for path, content in bytes_of(sharded).items()
    }


# ---- arrays for other programs -------------------------------------------------------------------


def test_npy_files_hold_the_features(own):
    path = own / "net" / "ID_digits_test.parquet"
    written = array_files.export(path, "npy")
    found = store.read_features(path)
    assert [file.name for file in written] == [
        "ID_digits_test_features.npy",
        "ID_digits_test_labels.npy",
    ]
    assert np.load(written[0]).tobytes() == found.features.tobytes()
    assert np.load(written[1]).tolist() == found.labels.tolist()


def test_a_safetensors_file_holds_the_features(own):
    path = own / "net" / "ID_digits_test.parquet"
    (written,) = array_files.export(path, "safetensors")
    tensors = safetensors.numpy.load_file(written)
    found = store.read_features(path)
    assert tensors["features"].tobytes() == found.features.tobytes()
    assert tensors["labels"].tolist() == found.labels.tolist()


@pytest.mark.parametrize("form", array_files.FORMATS)
def test_paths_go_with_the_arrays(tmp_path, form):
    path, names = tmp_path / "x.parquet", ["a/ü.png", "b, c.png"]
    store.write_features(path, np.ones((2, 3)), [0, 1], names)
    written = array_files.export(path, form)
    if form == "npy":
        assert np.load(written[2]).tolist() == names
    else:
        with safetensors.safe_open(written[0], "np") as file:
            assert json.loads(file.metadata()["paths"]) == names


@pytest.mark.parametrize("form", array_files.FORMATS)
def test_arrays_are_kept_while_they_are_those_of_the_features(tmp_path, form):
    path = tmp_path / "x.parquet"
    store.write_features(path, np.ones((2, 3)), [0, 1])
    (file, *_) = array_files.export(path, form)
    before = file.stat().st_mtime_ns
    array_files.export(path, form)
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"edited")
    array_files.export(path, form)
    assert file.read_bytes() != b"edited"
    store.write_features(path, np.zeros((2, 3)), [0, 1])
    again = array_files.export(path, form)[0].read_bytes()
    assert np.ones(3, np.float32).tobytes() not in again


@pytest.mark.parametrize("form", array_files.FORMATS)
def test_no_reader_of_ours_takes_arrays_for_features(own, form):
    folder = own / "net"
    for name in SETS:
        array_files.export(folder / f"{name}.parquet", form)
        shutil.rmtree(folder / f"{name}.parquet")
    assert store.feature_file(folder, "ID_digits_train") is None
    with pytest.raises(ValueError, match="0 ID data sets"):
        feature_files.open_run(folder)
