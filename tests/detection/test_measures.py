"""Measures of a classifier and a score: hand-computed cases, slow definitions, invariants."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from detection import measures, metrics
from scores import common


def scored(seed, n=60, decimals=1):
    """Whether each image is right, and scores with ties that are higher for right ones."""
    rng = np.random.default_rng(seed)
    right = rng.uniform(size=n) < 0.8
    return right, (rng.normal(size=n) + right).round(decimals)


def probabilities(seed, n=200, classes=4):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes))
    return logits, common.softmax(logits), rng.integers(0, classes, n)


# ---- rates ---------------------------------------------------------------------------------------


def test_wilson_limits_are_z_of_their_own_errors_away():
    for limit in measures.wilson(7, 40):
        assert abs(limit - 7 / 40) == pytest.approx(1.959964 * np.sqrt(limit * (1 - limit) / 40))
    assert measures.wilson(0, 40).low == 0 < measures.wilson(0, 40).high < 0.1
    assert np.isnan(measures.wilson(0, 0)).all()


@pytest.mark.parametrize("count", [0, 1, 13, 40])
def test_clopper_pearson_limits_have_the_tails_of_their_binomials(count):
    low, high = measures.clopper_pearson(count, 40)
    if count:
        assert binom.sf(count - 1, 40, low) == pytest.approx(0.025)
    if count < 40:
        assert binom.cdf(count, 40, high) == pytest.approx(0.025)
    assert (low == 0) == (count == 0) and (high == 1) == (count == 40)


# ---- selective classification --------------------------------------------------------------------


def test_a_hand_computed_curve():
    right = np.array([True, False, True, True])
    curve = measures.risk_coverage(right, np.array([4.0, 3.0, 2.0, 1.0]))
    assert curve.coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert curve.risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert measures.aurc(curve) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 4)
    # the best order has its one error last
    assert measures.excess_aurc(curve) == pytest.approx((1 / 2 + 1 / 3) / 4)
    assert measures.risk_at(curve, 0.5)[0] == 0.5
    assert measures.risk_at(curve, 0.51)[0] == pytest.approx(1 / 3)


def test_equal_scores_count_as_the_mean_over_their_orders():
    right, scores = np.array([True, False, False, True, True]), np.array([2.0, 1, 1, 1, 0])
    found = []
    for order in itertools.permutations([1, 2, 3]):
        ordered = right[[0, *order, 4]]
        found.append(np.cumsum(~ordered) / np.arange(1, 6))
    curve = measures.risk_coverage(right, scores)
    assert curve.risk == pytest.approx(np.mean(found, axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_aurc_agrees_with_a_loop(seed):
    right, scores = scored(seed, decimals=8)
    order = np.argsort(-scores)
    risks = [np.mean(~right[order[:kept]]) for kept in range(1, 61)]
    curve = measures.risk_coverage(right, scores)
    assert measures.aurc(curve) == pytest.approx(np.mean(risks))
    best = measures.risk_coverage(right, right.astype(float))
    assert measures.excess_aurc(curve) == pytest.approx(
        measures.aurc(curve) - measures.aurc(best), abs=0.05
    )
    perfect = measures.risk_coverage(np.sort(right)[::-1], -np.arange(60.0))
    assert measures.excess_aurc(perfect) == pytest.approx(0, abs=1e-12)


def test_a_classifier_without_errors_has_no_risk():
    curve = measures.risk_coverage(np.ones(5, dtype=bool), np.arange(5.0))
    assert measures.aurc(curve) == measures.excess_aurc(curve) == 0


# ---- open sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_oscr_is_the_area_under_the_curve_of_all_thresholds(seed):
    right, inside = scored(seed, 70)
    outside = np.random.default_rng(seed + 9).normal(-0.5, 1, 50).round(1)
    thresholds = np.unique(np.concatenate([inside, outside, [np.inf]]))[::-1]
    ccr = [np.mean(right & (inside >= t)) for t in thresholds]
    fpr = [np.mean(outside >= t) for t in thresholds]
    ood_below, _ = metrics.placements(inside, outside)
    _, of_right = metrics.placements(inside[right], outside)
    area, interval = measures.oscr(right, ood_below, of_right * right.mean())
    assert area == pytest.approx(np.trapezoid(ccr, fpr))
    assert interval.low < area < interval.high


def test_oscr_of_a_perfect_classifier_is_the_auroc():
    _, inside = scored(4, 70)
    outside = np.random.default_rng(1).normal(-0.5, 1, 50)
    ood_below, id_above = metrics.placements(inside, outside)
    area, _ = measures.oscr(np.ones(70, dtype=bool), ood_below, id_above)
    assert area == pytest.approx(metrics.auroc(inside, outside))


@pytest.mark.parametrize("fpr", [0.0, 0.02, 0.1, 0.5, 1.0])
def test_ccr_is_the_best_over_all_thresholds_that_keep_few_enough(fpr):
    right, inside = scored(5, 70)
    outside = np.random.default_rng(2).normal(-0.5, 1, 50).round(1)
    thresholds = np.append(np.unique(np.concatenate([inside, outside])), np.inf)
    allowed = [t for t in thresholds if np.mean(outside >= t) <= fpr + 1e-12]
    best = max(np.mean(right & (inside >= t)) for t in allowed)
    found, _ = measures.ccr_at_fpr(right, inside, np.sort(outside), fpr)
    assert found == pytest.approx(best)


# ---- calibration ---------------------------------------------------------------------------------


def test_a_hand_computed_calibration_error():
    confidence = np.array([0.2, 0.25, 0.9, 1.0])
    right = np.array([False, True, True, False])
    # 2 bins: (0, 0.5] has 0.225 against 0.5, (0.5, 1] 0.95 against 0.5
    assert measures.ece(confidence, right, bins=2) == pytest.approx((0.275 + 0.45) / 2)
    assert measures.ece_equal_mass(confidence, right, bins=2) == pytest.approx((0.275 + 0.45) / 2)
    # 4 bins of one image each
    gaps = [0.2, 0.75, 0.1, 1.0]
    assert measures.ece_equal_mass(confidence, right, bins=4) == pytest.approx(np.mean(gaps))


def test_a_value_on_an_edge_belongs_to_the_bin_below_it():
    found = measures.equal_width(np.array([0, 0.5, 0.5 + 1e-9, 1]), 2)
    assert list(found) == [0, 0, 1, 1]


def test_bins_of_equal_mass_differ_by_one_image_at_most():
    found = measures.equal_mass(np.random.default_rng(0).uniform(size=100), 15)
    counts = np.bincount(found)
    assert len(counts) == 15 and counts.max() - counts.min() == 1


@pytest.mark.parametrize("bins", [5, 15])
def test_classwise_ece_agrees_with_loops(bins):
    _, p, labels = probabilities(0)
    errors = []
    for c in range(4):
        error = 0
        for place in range(bins):
            low, high = place / bins, (place + 1) / bins
            inside = (p[:, c] > low) & (p[:, c] <= high)
            if inside.any():
                gap = abs(p[inside, c].mean() - (labels[inside] == c).mean())
                error += inside.mean() * gap
        errors.append(error)
    assert measures.classwise_ece(p, labels, bins) == pytest.approx(np.mean(errors))


def test_losses_agree_with_scikit_learn():
    logits, p, labels = probabilities(1)
    assert measures.nll(logits, labels).mean() == pytest.approx(log_loss(labels, p))
    one_hot = np.eye(4)[labels]
    expected = sum(brier_score_loss(one_hot[:, c], p[:, c]) for c in range(4))
    assert measures.brier(p, labels).mean() == pytest.approx(expected)


def test_the_loss_of_large_logits_is_finite():
    assert measures.nll(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx([1e4])


def test_a_calibrated_classifier_has_a_small_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 50_000)
    right = rng.uniform(size=50_000) < confidence
    assert measures.ece(confidence, right) < 0.01
    assert measures.ece_equal_mass(confidence, right) < 0.01


# ---- of the ROC curve ----------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_the_partial_auroc_is_scikit_learns(largest, decimals):
    rng = np.random.default_rng(3)
    inside, outside = rng.normal(1, 1, 80).round(decimals), rng.normal(0, 1, 120).round(decimals)
    is_id = np.arange(200) < 80
    expected = roc_auc_score(is_id, np.concatenate([inside, outside]), max_fpr=largest)
    assert metrics.partial_auroc(inside, outside, largest) == pytest.approx(expected)
    assert metrics.partial_auroc(inside + 99, outside, largest) == pytest.approx(1)


def test_autc_is_the_mean_of_both_errors_over_even_thresholds():
    rng = np.random.default_rng(4)
    inside, outside = rng.normal(1, 1, 80), rng.normal(0, 1, 120)
    together = np.concatenate([inside, outside])
    thresholds = np.linspace(together.min(), together.max(), 20_001)
    fpr = [(outside >= t).mean() for t in thresholds]
    fnr = [(inside < t).mean() for t in thresholds]
    expected = (np.mean(fpr) + np.mean(fnr)) / 2
    assert metrics.autc(inside, outside) == pytest.approx(expected, abs=1e-3)
    assert metrics.autc([1.0, 1.0], [0.0]) == 0 and metrics.autc([0.0], [1.0]) == 1
    assert metrics.autc([2.0], [2.0]) == 0.5
    assert np.isnan(metrics.autc([np.inf], [0.0]))


def test_more_shares_add_pairs_of_columns():
    rng = np.random.default_rng(5)
    inside, outside = rng.normal(1, 1, 80), rng.normal(0, 1, 120)
    found = metrics.evaluate(inside, outside, 0.95, (0.8, 0.995))
    assert list(found) == metrics.columns_at((0.8, 0.995))
    for share, name in ((0.8, "fpr80"), (0.995, "fpr99.5"), (0.95, "fpr95")):
        assert found[name] == metrics.fpr_at_tpr(inside, outside, share)
        expected = metrics.fpr_at_tpr_ood_positive(inside, outside, share)
        assert found[f"{name}_ood_positive"] == expected
