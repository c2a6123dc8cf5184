"""The class mean nearest to an image, against a slow restatement, and why it is not said."""

import dataclasses

import numpy as np
import pytest
from helpers import change_json, toy_run

from artifacts import store
from reporting import nearest
from reporting.gallery import ID
from reporting.scored import ScoredRun, ScoredSet


def sets_of(folder):
    """The ID test images and one OOD set of a toy run, without scores."""
    parts = []
    for name, stem in (("toy", "ID_toy_test"), ("near", "OOD_near_test")):
        labels = store.read_features(folder / f"{stem}.csv").labels
        parts.append(ScoredSet(name, {}, None, labels, None, {}, folder / stem))
    return ScoredRun(parts[0], parts[1:], {}), {ID: parts[0], "near": parts[1]}


@pytest.fixture
def toy(tmp_path):
    return toy_run(tmp_path / "net")


def test_the_nearest_class_by_hand(toy):
    found = nearest.nearest(*sets_of(toy))
    assert found.why_not == ""
    train = store.read_features(toy / "ID_toy_train.csv")
    means = [train.features[train.labels == c].mean(axis=0, dtype=float) for c in range(4)]
    for key, stem in ((ID, "ID_toy_test"), ("near", "OOD_near_test")):
        features = store.read_features(toy / f"{stem}.csv").features
        expected = [min(range(4), key=lambda c: np.linalg.norm(row - means[c])) for row in features]
        assert found.classes[key].tolist() == expected
        assert found.of(key, 3) == expected[3]
    assert found.of("gone", 0) is None


def test_a_class_without_images_is_nobodys_nearest():
    means = np.array([[0.0, 0.0], [np.nan, np.nan], [4.0, 0.0]])
    folder_free = nearest.blocks.Block(
        0, np.array([[1.0, 0], [3, 0]], np.float32), np.zeros(2), None
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest.blocks, "blocks", lambda _: [folder_free])
        assert nearest.nearest_classes("any", means).tolist() == [0, 2]


def test_why_it_is_not_known(toy, monkeypatch):
    run, parts = sets_of(toy)
    fewer = dataclasses.replace(parts["near"], labels=parts["near"].labels[1:])
    assert "OOD_near_test.csv has 80 rows, and near 79 scores" in (
        nearest.nearest(run, {**parts, "near": fewer}).why_not
    )
    monkeypatch.setattr(nearest, "MOST_VALUES", 100)
    assert "values of features are more than" in nearest.nearest(run, parts).why_not
    monkeypatch.undo()
    change_json(toy / "ID_toy_train.json", lambda said: said.update(checkpoint_sha256="b" * 64))
    assert "of another network" in nearest.nearest(run, parts).why_not
    (toy / "ID_toy_train.csv").unlink()
    assert nearest.nearest(run, parts).why_not == "ID_toy_train is not there"
    (toy / "OOD_near_test.csv").unlink()
    found = nearest.nearest(run, parts)
    assert found.why_not == "the features of near are not there" and found.of(ID, 0) is None
