"""Scores from where features lie: worked out by hand, under collapse, and where nothing is left."""

import numpy as np
import pytest
from score_cases import CASES, Case, random_case, score_one, slow_mahalanobis, slow_residual, tiny

from scores import registry, spectra


def test_distances_by_hand():
    # two classes at (-2, 0) and (2, 0), each with within-class variances 1 and 4
    offsets, mean = np.array([[1, 2], [1, -2], [-1, 2], [-1, -2]]), np.array([2, 0])
    train = tiny(
        np.vstack([offsets - mean, offsets + mean]),
        [0] * 4 + [1] * 4,
        [[-1, 0], [1, 0]],
        [1e-9, 1e-9],
    )
    assert score_one("Mahalanobis", train, [2, 4]) == pytest.approx(-4)  # 16 / 4
    assert score_one("Mahalanobis", train, [5, 0]) == pytest.approx(-9)
    # 0.2 of the mean variance 2.5
    assert score_one("Mahalanobis", train, [5, 0], ridge=0.2) == pytest.approx(-9 / 1.5)
    assert score_one("RelativeMahalanobis", train, [5, 4]) == pytest.approx(
        25 / 5 + 16 / 4 - (9 + 16 / 4)
    )
    assert score_one("fDBD", train, [2, 0]) == pytest.approx(1)  # 4 / |w1 - w2| = 2, over |h| = 2
    assert score_one("NCI", train, [3, 4]) == pytest.approx(3 / 5 + 7e-4)
    assert score_one("SHE", train, [3, 4]) == pytest.approx(6)
    assert score_one("NECO", train, [2, 2], dim=1, scaler=False) == pytest.approx(np.sqrt(0.5))
    assert score_one("Residual", train, [3, 1.5], dim=1) == pytest.approx(-1.5)


@pytest.mark.parametrize(("width", "expected"), [(64, 32), (767, 383), (768, 512), (2048, 1000)])
def test_vim_dimension_rule(width, expected):
    rng = np.random.default_rng(0)
    features, W = (
        rng.normal(size=(30, width)).astype(np.float32),
        rng.normal(size=(3, width)).astype(np.float32),
    )
    train = registry.Training(features, np.arange(30) % 3, W, np.ones(3))
    train.__dict__["vim_axes"] = np.eye(width)  # the rule needs no eigenvectors
    assert registry.METHODS["Residual"].fit(train).parameters["dim"] == expected


def test_vim_origin_of_a_head_whose_rows_sum_to_zero():
    case = CASES["random"]
    W = case.W - case.W.mean(axis=0)  # rank C - 1, up to rounding, as collapse makes it
    b = case.b + 1
    u = spectra.vim_origin(W, b)
    default = np.linalg.pinv(W.astype(np.float64)) @ b
    assert np.linalg.norm(u) < 10 < 1e4 < np.linalg.norm(default)
    # all logits equal, as near to 0 as such a head gets
    np.testing.assert_allclose(W @ u + b, b.mean(), atol=1e-5)
    state = registry.METHODS["ViM"].fit(registry.Training(case.features, case.labels, W, b), dim=12)
    slow = slow_residual(
        Case(case.features, case.labels, W, b, case.test), case.features.astype(np.float64)
    ).mean()
    assert state.alpha == pytest.approx(
        (case.features @ W.T + b).max(axis=1).mean() / slow, rel=1e-4
    )


def test_mahalanobis_under_strong_collapse():
    case = random_case(1500, 20, 5, seed=2, spread=1e-3)  # class means a thousand deviations apart
    z = np.random.default_rng(1).permutation(case.features)[:200]
    collapsed = Case(case.features, case.labels, case.W, case.b, z)
    found = collapsed.score("Mahalanobis")
    np.testing.assert_allclose(
        found, slow_mahalanobis(collapsed, z.astype(np.float64), None), rtol=5e-3
    )


def test_linearly_dependent_features_do_not_count_twice():
    case = random_case(width=20)
    mixed = np.random.default_rng(0).normal(size=(20, 25)).astype(np.float32)
    wide = Case(
        case.features @ mixed,
        case.labels,
        case.W @ np.linalg.pinv(mixed).T,
        case.b,
        case.test @ mixed,
    )
    for name in ("Mahalanobis", "RelativeMahalanobis"):
        with pytest.warns(UserWarning, match=f"{name}: the covariance has rank 20, 0 of 25"):
            np.testing.assert_allclose(wide.score(name), case.score(name), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("name", ["ViM", "Residual"])
def test_features_without_residual_leave_it_undefined(name, turn):
    rng = np.random.default_rng(0)
    features = np.zeros((50, 8), np.float32)
    features[:, :2] = rng.normal(size=(50, 2))
    # turned, rounding leaves a residual
    axes = np.linalg.qr(rng.normal(size=(8, 8)))[0] if turn else np.eye(8)
    # in the span, so that u is
    W = np.linalg.pinv(features.astype(np.float64) @ axes)[:, :2].T.astype(np.float32)
    features = (features @ axes).astype(np.float32)
    case = Case(features, np.arange(50) % 2, W, np.ones(2, np.float32), features)
    with pytest.warns(UserWarning, match=f"{name}: the training features leave no residual"):
        assert np.isnan(case.score(name, dim=4)).all()
    states = registry.fit_all(case.train, ["MSP", name], {name: {"dim": 4}})
    together = registry.score_all(features, states, case.W, case.b)
    assert np.isnan(together[name]).all() and np.isfinite(together["MSP"]).all()


def test_a_small_ridge_is_added_and_leaves_nothing_out():
    case = CASES["random"]
    features = case.features.copy()
    features[:, 5] = features[:, 4]
    singular = Case(features, case.labels, case.W, case.b, case.test)
    with pytest.warns(UserWarning, match="Mahalanobis: the covariance has rank"):
        plain = singular.score("Mahalanobis")
    found, width = singular.score("Mahalanobis", ridge=1e-7), case.W.shape[1]
    state = registry.METHODS["Mahalanobis"].fit(singular.train, ridge=1e-7)
    assert state.matrix.shape == (width, width) and np.median(found / plain) > 10, (
        "the test images leave that plane"
    )


def test_zero_features_have_no_direction():
    case = CASES["random"]
    test = np.vstack([case.test[:5], np.zeros((1, 40), np.float32)])
    states = registry.fit_all(case.train, ["KNN", "NNGuide", "Relation", "ASH-S", "SCALE"])
    for name, values in registry.score_all(test, states, case.W, case.b).items():
        assert np.isnan(values[5]), name
        assert np.isfinite(values[:5]).all(), name
    zeros = np.vstack([case.features, np.zeros((1, 40), np.float32)])
    train = registry.Training(zeros, np.append(case.labels, 0), case.W, case.b)
    assert np.isfinite(
        registry.score_all(case.test, registry.fit_all(train, ["KNN"]), case.W, case.b)["KNN"]
    ).all()


def test_coinciding_rows_of_the_head_have_no_boundary():
    case = CASES["random"]
    W, b = case.W.copy(), case.b.copy()
    W[1], b[1] = W[0], b[0]
    assert np.isfinite(Case(case.features, case.labels, W, b, case.test).score("fDBD")).all()
