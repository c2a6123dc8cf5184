"""ID and OOD together: an OOD set as class C + 1, in a table of its own."""

import numpy as np
import pytest
from helpers import read_csv, shell, toy_run, write_blank

import neural_collapse
import utils
from artifacts import store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run to measure, with blank figures."""
    monkeypatch.setattr(utils, "write_figure", write_blank)
    return toy_run(tmp_path / "net_s0")


def measure(folder, *words):
    ended = shell(neural_collapse.main, "--checkpoint", folder, *words)
    assert ended.code == 0, ended.err
    return ended.out


def slow(features, labels):
    """NC1 and the CV of the means' norms, class by class in float64."""
    classes = np.unique(labels)
    z = features.astype(np.float64)
    means = np.array([z[labels == c].mean(axis=0) for c in classes])
    centred = means - means.mean(axis=0)
    spread = [(z[labels == c] - means[place]) for place, c in enumerate(classes)]
    within = sum(rows.T @ rows for rows in spread) / len(z)
    between = centred.T @ centred / len(classes)
    norms = np.linalg.norm(centred, axis=1)
    inverse = np.linalg.pinv(between, rcond=1e-6, hermitian=True)
    return {
        "nc1": np.trace(within @ inverse) / len(classes),
        "cv": norms.std() / norms.mean(),
    }


def test_each_set_is_one_more_class(folder):
    printed = measure(folder, "--with-ood-class")
    table = read_csv(folder / "nc_with_ood.csv").fillna({"ood": ""})
    values = table.set_index(["ood", "metric"])["value"]
    train = store.read_features(folder / "ID_toy_train.csv")
    for name in ("", "far_noise", "near"):
        features, labels = train.features, train.labels
        if name:
            other = store.read_features(folder / f"OOD_{name}_test.csv").features
            features = np.vstack([features, other])
            labels = np.append(labels, np.full(len(other), 4))
        expected = slow(features, labels)
        assert values[name, "nc1"] == pytest.approx(expected["nc1"], rel=1e-4)
        assert values[name, "nc2_means_norm_cv"] == pytest.approx(expected["cv"], rel=1e-4)
        rows = table[table["ood"] == name]
        assert set(rows["classes"]) == {4 + bool(name)}
        assert set(rows["images"]) == {len(features)}
    assert "(none)" in printed and "far_noise" in printed


def test_alone_it_is_what_the_ordinary_table_says_and_changes_nothing_there(folder):
    measure(folder)
    before = (folder / "nc_metrics.csv").read_bytes()
    measure(folder, "--with-ood-class")
    assert (folder / "nc_metrics.csv").read_bytes() == before
    ordinary = read_csv(folder / "nc_metrics.csv").set_index(["metric", "split"])["value"]
    table = read_csv(folder / "nc_with_ood.csv")
    alone = table[table["ood"].isna()].set_index("metric")["value"]
    for metric, value in alone.items():
        assert value == pytest.approx(ordinary[metric, "train"], rel=1e-12)


def test_without_the_flag_an_earlier_table_goes(folder):
    measure(folder, "--with-ood-class")
    measure(folder)
    assert not list(folder.glob("nc_with_ood*"))
