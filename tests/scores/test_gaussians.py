"""Gaussian distances: of directions, and where the classes differ in what no class varies in."""

import numpy as np
import pytest
from score_cases import CASES, Case, slow_relative_mahalanobis

from scores import registry


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
