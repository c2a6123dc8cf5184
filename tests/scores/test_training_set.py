"""The training set: statistics, computed once, and what it says of odd features."""

import warnings

import numpy as np
import pytest
from score_cases import CASES, OVERRIDES, Case, dead, random_case, slow_mahalanobis
from sklearn.metrics import roc_auc_score

from scores import blocks, registry, statistics


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_order_and_blocks_of_the_training_rows_change_nothing(case, monkeypatch):
    plain = registry.score_all(
        case.test, registry.fit_all(case.train, registry.METHODS, OVERRIDES), case.W, case.b
    )
    order = np.random.default_rng(3).permutation(len(case.labels))
    monkeypatch.setattr(blocks, "BLOCK", 37)
    rows, labels = case.features[order], case.labels[order]
    train = registry.Training(rows, labels, case.W, case.b, rest=case.rest)
    shuffled = registry.score_all(
        case.test[::-1], registry.fit_all(train, registry.METHODS, OVERRIDES), case.W, case.b
    )
    for name, values in plain.items():
        np.testing.assert_allclose(
            shuffled[name][::-1], values, rtol=2e-4, atol=2e-5 * np.abs(values).mean(), err_msg=name
        )


def counting(name, func, computed):
    """`func`, noting in `computed` of what rows it was called."""

    def counted(rows):
        computed.append((rows.called, name))
        return func(rows)

    return counted


def test_no_statistic_is_computed_twice_by_all_methods_together(monkeypatch):
    """Every shared statistic once, and no eigenvectors of one matrix twice: three D x D matrices
    have them, and W's."""
    computed = []
    for owner in (statistics.Statistics, registry.Training):
        for name, cached in vars(owner).items():
            if hasattr(cached, "func"):
                monkeypatch.setattr(cached, "func", counting(name, cached.func, computed))
    eigh, decomposed = np.linalg.eigh, []
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: decomposed.append(matrix) or eigh(matrix))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry.fit_all(CASES["random"].train, registry.METHODS, OVERRIDES)
    assert sorted(computed) == sorted(set(computed))
    assert {
        ("features", "class_means"),
        ("features", "covariance_within"),
        ("features", "bank"),
        ("directions of features", "whitener"),
    } <= set(computed)
    again = [
        i
        for i, one in enumerate(decomposed)
        if any(np.array_equal(one, other) for other in decomposed[:i])
    ]
    assert not again, "eigenvectors of the same matrix were computed again"


def test_shared_statistics_are_computed_once(monkeypatch):
    train, products = CASES["random"].train, []
    one_pass = registry.Training.covariance_within.func
    monkeypatch.setattr(
        registry.Training.covariance_within,
        "func",
        lambda self: products.append(1) or one_pass(self),
    )
    registry.fit_all(train, ["Mahalanobis", "RelativeMahalanobis", "ViM", "Residual", "NECO"])
    registry.fit_all(train, ["Mahalanobis", "NECO"], {"NECO": {"dim": 3}})
    assert len(products) == 1


def test_statistics_are_those_of_float64_under_a_large_offset():
    case = random_case(2000, 30, 5, seed=4)
    features = case.features + np.float32(300)
    train, z = registry.Training(features, case.labels, case.W, case.b), features.astype(np.float64)
    means = np.array([z[case.labels == c].mean(axis=0) for c in range(5)])
    within = np.cov((z - means[case.labels]).T, bias=True)
    np.testing.assert_allclose(train.class_means, means, rtol=1e-12)
    np.testing.assert_allclose(train.covariance_within, within, atol=1e-6 * within.max())
    np.testing.assert_allclose(train.covariance, np.cov(z.T, bias=True), atol=1e-6 * within.max())


def test_dead_units_are_left_out_and_reported():
    case = dead(CASES["random"])
    assert case.train.dead_units == 3
    is_id = np.arange(200) < 100
    with pytest.warns(UserWarning, match="Mahalanobis.*rank 40, 3 of 43 features"):
        found = case.score("Mahalanobis")
    assert roc_auc_score(is_id, found) == pytest.approx(0.5, abs=0.01)
    with pytest.warns(UserWarning, match="Mahalanobis: 3 of 43 .* ridge"):
        found = case.score("Mahalanobis", ridge=1e-5)
    assert roc_auc_score(is_id, found) == 1  # out of a change in units that mean nothing
    with pytest.warns(UserWarning, match="NECO: 3 features"):
        assert np.isfinite(case.score("NECO")).all()


def test_a_class_without_training_rows():
    case = CASES["random"]
    rows = case.labels != 3
    reduced = Case(case.features[rows], case.labels[rows], case.W, case.b, case.test)
    assert np.isnan(reduced.train.class_means[3]).all()
    with pytest.warns(UserWarning, match="SHE: 1 classes"):
        values = reduced.score("SHE")
    np.testing.assert_array_equal(np.isnan(values), case.logits.argmax(axis=1) == 3)
    of_predicted_class = {"SHE", "CARef", "CADRef", "CTM", "CORE"}
    for name in of_predicted_class:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            empty = np.isnan(reduced.score(name))
        np.testing.assert_array_equal(empty, np.isnan(values), err_msg=name)
    gaussians = {name for name in registry.METHODS if "Mahalanobis" in name} | {"WDiscOOD"}
    for name in set(registry.METHODS) - gaussians - of_predicted_class:
        assert np.isfinite(reduced.score(name, **OVERRIDES.get(name, {}))).all(), name
    for name in ("RelativeMahalanobis", "Mahalanobis"):
        with pytest.warns(UserWarning, match=f"{name}: 1 of 7 classes have no training image"):
            values = reduced.score(name)
    np.testing.assert_allclose(
        values, slow_mahalanobis(reduced, case.test.astype(np.float64), None), rtol=1e-3
    )


def test_a_unit_that_stirs_by_rounding_alone_counts_as_dead():
    case = CASES["random"]
    features, test = case.features.copy(), case.test.copy()
    features[:, 5], test[:, 5] = 0, 0
    dead = Case(features, case.labels, case.W, case.b, test)
    with pytest.warns(UserWarning, match="NECO: 1 features are constant"):
        expected = dead.score("NECO")
    features[3, 5] = 1e-7 * features.std()
    with pytest.warns(UserWarning, match="NECO: 1 features are constant"):
        np.testing.assert_allclose(
            Case(features, case.labels, case.W, case.b, test).score("NECO"), expected, rtol=1e-5
        )


def test_guards_warn_by_name():
    case = CASES["random"]
    headless = Case(case.features, case.labels, case.W, np.zeros_like(case.b), case.test)
    with pytest.warns(UserWarning, match="ViM: the head has no bias"):
        assert np.isfinite(headless.score("ViM")).all()
    negative = Case(case.features - 1, case.labels, case.W, case.b, case.test)
    for name in ("ReAct", "ASH-P", "ASH-B", "ASH-S", "SCALE"):
        with pytest.warns(UserWarning, match=f"{name}: some features are negative"):
            negative.score(name)
    with pytest.warns(UserWarning, match="KNN: 1000 neighbours were asked of 600"):
        assert registry.METHODS["KNN"].fit(case.train, k=1000).parameters["k"] == 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones((5, 3))}, "features have shape"),
        ({"features": np.ones(5)}, "features have shape"),
        ({"features": np.full((4, 2), np.nan)}, "NaN or infinity, first in row 0"),
        ({"labels": np.array([0, 1, 0, 2])}, "label 2 in row 3 is outside"),
        ({"labels": np.array([0, -1, 0, 1])}, "label -1 in row 1 is outside"),
        ({"labels": np.array([0.0, 1.0, 0.0, 1.0])}, "whole numbers"),
        ({"labels": np.array([0, 1])}, "expected 4 whole numbers"),
        ({"W": np.ones(2)}, "the head has weights"),
        ({"b": np.ones(3)}, "the head has weights"),
        ({"W": np.full((2, 2), np.inf)}, "the head holds NaN"),
    ],
)
def test_training_set_mistakes_are_explained(change, message):
    arguments = {
        "features": np.ones((4, 2)),
        "labels": np.array([0, 1, 0, 1]),
        "W": np.eye(2),
        "b": np.ones(2),
    }
    with pytest.raises(ValueError, match=message):
        registry.Training(**(arguments | change))
