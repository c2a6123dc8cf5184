"""Gaussian distances: of directions, and where the classes differ in what no class varies in."""

import numpy as np
import pytest
from score_cases import (
    CASES,
    Case,
    random_case,
    slow_relative_mahalanobis,
    slow_relative_shrunk,
    slow_shrunk,
)
from sklearn.covariance import LedoitWolf

from scores import registry, spectra

FEW = random_case(n=30, width=40)


@pytest.mark.parametrize("name", ["Mahalanobis++", "RelativeMahalanobis++"])
def test_the_length_of_features_counts_for_nothing(name):
    case = CASES["random"]
    lengths = np.random.default_rng(0).uniform(0.1, 10, (len(case.features), 1))
    features = (case.features * lengths).astype(np.float32)
    longer = Case(features, case.labels, case.W, case.b, 3 * case.test)
    np.testing.assert_allclose(longer.score(name), case.score(name), rtol=1e-3)


def test_training_images_without_direction_are_left_out():
    case = CASES["random"]
    zeros = np.zeros((50, case.features.shape[1]), np.float32)
    features, labels = np.vstack([zeros, case.features]), np.append(np.full(50, 3), case.labels)
    test = np.vstack([case.test, zeros[:1]])
    found = Case(features, labels, case.W, case.b, test).score("Mahalanobis++")
    np.testing.assert_allclose(found[:-1], case.score("Mahalanobis++"), rtol=1e-5)
    assert np.isnan(found[-1])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_classes_may_differ_where_no_class_varies():
    case = CASES["random"]
    of_class = np.sin(case.labels)[:, None].astype(np.float32)
    test = np.column_stack([case.test, np.linspace(-1, 1, len(case.test), dtype=np.float32)])
    W = np.column_stack([case.W, np.zeros(len(case.W), np.float32)])
    wider = Case(np.hstack([case.features, of_class]), case.labels, W, case.b, test)
    expected = slow_relative_mahalanobis(wider, test.astype(np.float64), wider.logits)
    state = registry.METHODS["RelativeMahalanobis"].fit(wider.train)
    assert state.matrix.shape == (41, 40 + 41)  # two whiteners
    np.testing.assert_allclose(wider.score("RelativeMahalanobis"), expected, rtol=1e-3)


# ---- few images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [FEW, CASES["random"]], ids=["few", "many"])
def test_the_share_that_is_shrunk_is_that_of_scikit_learn(case):
    z = case.features.astype(np.float64)
    means = np.array([z[case.labels == c].mean(axis=0) for c in range(7)])
    train = case.train
    expected = LedoitWolf(assume_centered=True).fit(z - means[case.labels]).shrinkage_
    assert train.shrinkage_within == pytest.approx(expected, rel=1e-5)
    state = registry.METHODS["RelativeMahalanobis-LW"].fit(train)
    assert state.parameters == {"shrinkage": train.shrinkage_within}


def test_the_share_by_hand():
    """Rows (1, 0), (-1, 0), (0, 1), (0, -1): variances 1/2 and 1/2, nothing to shrink. Rows (2, 0),
    (-2, 0), (0, 1), (0, -1): variances 2 and 1/2, fourth powers 16, 16, 1, 1."""
    assert spectra.ledoit_wolf(np.array([0.5, 0.5]), 4.0, 4) == 0
    noise = (34 / 4 - 4.25) / 4
    assert spectra.ledoit_wolf(np.array([0.5, 2.0]), 34.0, 4) == noise / 1.125


def test_with_fewer_images_than_features_the_shrunk_distance_stands():
    x = FEW.test.astype(np.float64)
    expected = slow_shrunk(FEW, x, FEW.logits)
    np.testing.assert_allclose(FEW.score("Mahalanobis-LW"), expected, rtol=1e-4)
    expected = slow_relative_shrunk(FEW, x, FEW.logits)
    np.testing.assert_allclose(FEW.score("RelativeMahalanobis-LW"), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fewer_images_than_features_are_noted():
    names = ["Mahalanobis", "RelativeMahalanobis", "Mahalanobis++", "WDiscOOD", "ViM", "Residual"]
    states = registry.fit_all(FEW.train, names)
    for state in states.values():
        assert "30 training images are fewer than the 40 features" in state.note
    assert len({state.note for state in states.values()}) == 1  # one line for all
    for name in ("Mahalanobis-LW", "RelativeMahalanobis-LW", "MSP", "KNN"):
        assert registry.METHODS[name].fit(FEW.train).note == ""
    assert registry.METHODS["Mahalanobis"].fit(FEW.train, ridge=0.1).note == ""
    many = registry.fit_all(CASES["random"].train, names)
    assert {state.note for state in many.values()} == {""}
