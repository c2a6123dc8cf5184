"""ood_methods.py with training features on the disk, and with a sample that is searched: the same
scores, and what is said."""

import numpy as np
import pytest
from helpers import blank_figures, read_csv, shell, toy_run
from score_cases import random_case

import feature_files
import machine_memory
import ood_methods
from artifacts import store
from detection import inputs
from disk_rows import DiskRows, Writer
from scores import registry, training_set

CASE = random_case(n=400, width=16, classes=5)


def on_disk(folder, features):
    writer = Writer(folder, features.shape[1])
    for start in range(0, len(features), 37):
        writer.add(features[start : start + 37])
    return writer.finished()


def training(features, **more):
    return registry.Training(features, CASE.labels, CASE.W, CASE.b, None, CASE.rest, **more)


@pytest.mark.filterwarnings("ignore")
def test_every_method_scores_alike_from_memory_and_from_disk(tmp_path):
    """To the bit, banks and samples among them."""
    scores = []
    for features in (CASE.features, on_disk(tmp_path, CASE.features)):
        states = registry.fit_all(training(features), list(registry.METHODS))
        scores.append(registry.score_all(CASE.test, states, CASE.W, CASE.b))
    assert scores[0].keys() == set(registry.METHODS)
    for name, values in scores[0].items():
        assert np.array_equal(values, scores[1][name], equal_nan=True), name


# ---- a run ---------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    blank_figures(monkeypatch)
    return toy_run(tmp_path / "net")


def scored(folder, *words):
    ended = shell(ood_methods.main, "--checkpoint", folder, "--replace", *words)
    assert ended.code == 0, ended.err
    names = ["ood_metrics.csv", "detector.safetensors"]
    names += sorted(path.name for path in folder.glob("scores_*.csv"))
    return ended, {name: (folder / name).read_bytes() for name in names}


def without_command(content):
    """A detector says which command made it."""
    return content[: content.index(b"command")] if b"command" in content else content


@pytest.mark.slow
def test_a_run_from_disk_writes_the_bytes_of_a_run_from_memory(run, tmp_path):
    folder = tmp_path / "net"
    _, memory = scored(folder, "--features-in", "memory")
    _, disk = scored(folder, "--features-in", "disk")
    for name in memory:
        if name != "detector.safetensors":
            assert disk[name] == memory[name], name
    assert not [path for path in folder.iterdir() if path.name.startswith((".", "tmp"))]


def test_training_features_go_to_the_disk_where_memory_is_small(run, tmp_path, monkeypatch):
    folder = tmp_path / "net"
    files = feature_files.open_run(str(folder))
    size = sum(
        store.read_features(path).features.nbytes
        for path in folder.glob("*.csv")
        if path.name.startswith(("ID_", "OOD_"))
    )
    monkeypatch.setattr(machine_memory, "total", lambda: 4 * size)
    assert inputs.in_memory(files, "auto")
    monkeypatch.setattr(machine_memory, "total", lambda: 4 * size - 4)
    assert not inputs.in_memory(files, "auto") and inputs.in_memory(files, "memory")
    monkeypatch.setattr(machine_memory, "total", lambda: None)
    assert inputs.in_memory(files, "auto")
    kept = store.read_features_to_disk(files.train, tmp_path)
    assert isinstance(kept.features, DiskRows)
    assert np.array_equal(kept.features, store.read_features(files.train).features)


def test_a_disk_that_fills_up_meanwhile_is_said(run, tmp_path, monkeypatch):
    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "add", full)
    ended = shell(
        ood_methods.main, "--checkpoint", tmp_path / "net", "--replace", "--features-in", "disk"
    )
    assert ended.code == 2 and "--features-in memory (No space left on device)" in ended.err


def test_a_disk_without_room_is_said_before_anything_is_read(run, tmp_path, monkeypatch):
    usage = store.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    ended = shell(
        ood_methods.main, "--checkpoint", tmp_path / "net", "--replace", "--features-in", "disk"
    )
    assert ended.code == 2 and "--features-in memory" in ended.err


# ---- a sample that is searched -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "size", "quota"),
    [
        ([10, 10, 10], 30, 10),
        ([10, 10, 10], 29, 9),
        ([2, 10, 30], 22, 10),
        ([2, 10, 30], 42, 30),
        ([0, 5, 5], 4, 2),
        ([5, 5], 1, 1),  # one of each class at least
    ],
)
def test_the_sample_has_as_many_of_each_class_as_there_are(counts, size, quota):
    counts = np.array(counts)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    assert training_set.largest_quota(counts, size) == quota
    rows = training_set.balanced_rows(labels, counts, size)
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(np.bincount(labels[rows], minlength=len(counts)), counts.clip(max=quota))
    assert np.array_equal(rows, training_set.balanced_rows(labels, counts, size))


def test_neighbours_are_those_of_the_sample_and_the_state_says_so():
    train = training(CASE.features, bank_size=100)
    state = registry.METHODS["KNN"].fit(train, k=3)
    found = registry.score_all(CASE.test, {"KNN": state}, CASE.W, CASE.b)["KNN"]
    units = CASE.features[train.bank_rows].astype(float)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    queries = CASE.test / np.linalg.norm(CASE.test, axis=1, keepdims=True)
    third = np.sort(queries @ units.T, axis=1)[:, -3]
    np.testing.assert_allclose(found, -np.sqrt(2 - 2 * third), atol=1e-5)
    assert "it searched 100 of 400 training images" in state.note
    for name in ("NNGuide", "Relation", "ActSub"):
        assert "--bank-size" in registry.METHODS[name].fit(train).note


@pytest.mark.slow
def test_the_table_says_that_a_sample_was_searched(run, tmp_path):
    ended, _ = scored(tmp_path / "net", "--bank-size", "40", "--methods", "KNN", "MSP")
    assert "it searched" in ended.out and "--bank-size changes their number" in ended.out
    table = read_csv(tmp_path / "net/ood_metrics.csv")
    notes = table.set_index("method")["note"]
    assert notes.loc["KNN"].str.contains("it searched 40 of").all()
