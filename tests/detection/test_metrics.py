"""metrics: hand-computed cases, slow definitions, scikit-learn, and invariants."""

import doctest

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from detection import metrics


def draw(seed=0, n=300, m=500, decimals=1):
    """ID and OOD scores with many ties."""
    rng = np.random.default_rng(seed)
    return rng.normal(1, 1, n).round(decimals), rng.normal(0, 1.5, m).round(decimals)


def pairs(id_scores, ood_scores):
    """(n, m): 1 where the ID image scores above, 0.5 where equal."""
    difference = np.subtract.outer(id_scores, ood_scores)
    return (difference > 0) + 0.5 * (difference == 0)


def test_every_column_of_a_hand_computed_case():
    found = metrics.evaluate([3.0, 2.0], [1.0, 2.0])
    expected = {
        "auroc": 0.875,  # pairs 3>1, 3>2, 2>1, 2=2
        "fpr95": 0.5,  # both ID are kept from 2 on, and so is one OOD
        "fpr95_ood_positive": 0.5,  # both OOD are caught up to 2, and so is one ID
        "aupr_in": 0.5 * 1 + 0.5 * 2 / 3,
        "aupr_out": 0.5 * 1 + 0.5 * 2 / 3,
        "id_share": 0.5,
        "detection_error": 0.25,
        "n_id": 2,
        "n_ood": 2,
        "ties": 1,
    }
    assert {column: found[column] for column in expected} == pytest.approx(expected)
    assert tuple(found) == metrics.COLUMNS
    assert doctest.testmod(metrics).failed == 0 < doctest.testmod(metrics).attempted


def test_hand_computed_delong():
    # placements of ID: 0.75 (beats one of two, ties the other) and 1; of OOD: 1 and 0.75
    found = metrics.delong([2.0, 3.0], [1.0, 2.0])
    error = np.sqrt(np.var([0.75, 1.0], ddof=1) / 2 * 2)
    assert (found.auroc, found.standard_error) == pytest.approx((0.875, error))


@pytest.mark.parametrize(
    ("n", "m", "decimals"), [(300, 500, 1), (40, 9, 0), (1000, 1000, 8), (5, 400, 2)]
)
def test_agrees_with_scikit_learn(n, m, decimals):
    id_scores, ood_scores = draw(3, n, m, decimals)
    scores, is_id = np.concatenate([id_scores, ood_scores]), np.arange(n + m) < n
    assert metrics.auroc(id_scores, ood_scores) == pytest.approx(
        roc_auc_score(is_id, scores), abs=1e-12
    )
    assert metrics.aupr_in(id_scores, ood_scores) == pytest.approx(
        average_precision_score(is_id, scores), abs=1e-12
    )
    assert metrics.aupr_out(id_scores, ood_scores) == pytest.approx(
        average_precision_score(~is_id, -scores), abs=1e-12
    )
    fpr, tpr, _ = roc_curve(is_id, scores, drop_intermediate=False)
    assert metrics.fpr_at_tpr(id_scores, ood_scores, 0.9) == pytest.approx(
        fpr[tpr >= 0.9 - 1e-12][0]
    )
    fpr, tpr, _ = roc_curve(~is_id, -scores, drop_intermediate=False)
    assert metrics.fpr_at_tpr_ood_positive(id_scores, ood_scores, 0.9) == pytest.approx(
        fpr[tpr >= 0.9 - 1e-12][0]
    )


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_delong_agrees_with_the_placements_of_all_pairs(decimals):
    id_scores, ood_scores = draw(1, 80, 120, decimals)
    wins = pairs(id_scores, ood_scores)
    variance = wins.mean(axis=1).var(ddof=1) / 80 + wins.mean(axis=0).var(ddof=1) / 120
    found = metrics.delong(id_scores, ood_scores)
    assert found.auroc == pytest.approx(wins.mean(), abs=1e-14)
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-10)


def test_delong_error_is_that_of_the_bootstrap():
    rng = np.random.default_rng(5)
    id_scores, ood_scores = draw(2, 400, 600)
    repeats = [
        metrics.auroc(rng.choice(id_scores, 400), rng.choice(ood_scores, 600)) for _ in range(500)
    ]
    assert metrics.delong(id_scores, ood_scores).standard_error == pytest.approx(
        np.std(repeats), rel=0.15
    )


def test_paired_delong_agrees_with_the_covariance_form():
    rng = np.random.default_rng(7)
    (id_a, ood_a), noise = draw(4, 90, 130), rng.normal(0, 0.7, 220)
    id_b, ood_b = (id_a + noise[:90]).round(1), (ood_a + noise[90:]).round(1)
    wins_a, wins_b = pairs(id_a, ood_a), pairs(id_b, ood_b)
    id_part = np.cov(wins_a.mean(axis=1), wins_b.mean(axis=1)) / 90
    ood_part = np.cov(wins_a.mean(axis=0), wins_b.mean(axis=0)) / 130
    variance = np.array([1, -1]) @ (id_part + ood_part) @ np.array([1, -1])
    found = metrics.paired_delong(id_a, ood_a, id_b, ood_b)
    assert found.difference == pytest.approx(wins_a.mean() - wins_b.mean(), abs=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-10)
    assert 0 < found.p_value < 1
    back = metrics.paired_delong(id_b, ood_b, id_a, ood_a)
    assert back == pytest.approx((-found.difference, found.standard_error, found.p_value))


def test_paired_delong_of_scores_that_order_alike_is_no_difference():
    id_scores, ood_scores = draw()
    assert metrics.paired_delong(id_scores, ood_scores, np.exp(id_scores), np.exp(ood_scores)) == (
        0.0,
        0.0,
        1.0,
    )
    assert metrics.paired_delong([2, 3], [0, 1], [0, 1], [2, 3]) == (1.0, 0.0, 0.0)


def test_paired_delong_rejects_at_its_level_where_methods_are_equal():
    rng = np.random.default_rng(11)
    rejected = 0
    for _ in range(300):
        shared = np.concatenate([rng.normal(1, 1, 60), rng.normal(0, 1, 80)])
        a, b = (shared + rng.normal(0, 1, 140) for _ in range(2))
        rejected += metrics.paired_delong(a[:60], a[60:], b[:60], b[60:]).p_value < 0.05
    assert 2 <= rejected <= 32  # 15 expected; the binomial lies outside once in 10,000


@pytest.mark.parametrize("seed", range(5))
def test_rates_agree_with_a_search_over_all_thresholds(seed):
    id_scores, ood_scores = draw(seed, 60, 70, 1)
    thresholds = np.append(np.unique(np.concatenate([id_scores, ood_scores])), np.inf)
    kept = np.array([(id_scores >= threshold).mean() for threshold in thresholds])
    accepted = np.array([(ood_scores >= threshold).mean() for threshold in thresholds])
    assert metrics.detection_error(id_scores, ood_scores) == pytest.approx(
        ((1 - kept + accepted) / 2).min()
    )
    assert metrics.fpr_at_tpr(id_scores, ood_scores) == pytest.approx(
        accepted[kept >= 0.95 - 1e-12].min()
    )
    assert metrics.fpr_at_tpr_ood_positive(id_scores, ood_scores) == pytest.approx(
        (1 - kept)[1 - accepted >= 0.95 - 1e-12].min()
    )
    threshold = metrics.threshold_at_tpr(id_scores)
    assert threshold == max(
        t for t, share in zip(thresholds, kept, strict=True) if share >= 0.95 - 1e-12
    )
    assert metrics.ties(id_scores, ood_scores) == np.equal.outer(id_scores, ood_scores).sum()


def test_threshold_keeps_the_share_under_ties_and_rounding():
    assert metrics.threshold_at_tpr(np.zeros(10)) == 0
    assert metrics.threshold_at_tpr([1, 1, 1, 0], 0.5) == 1
    assert (
        np.arange(100) >= metrics.threshold_at_tpr(np.arange(100), 0.55)
    ).sum() == 55  # 0.55 * 100 > 55 in floats
    assert metrics.threshold_at_tpr(np.arange(20)) == 1
    assert metrics.threshold_at_tpr(np.arange(19)) == 0  # 18 of 19 are only 94.7%
    assert metrics.threshold_at_tpr(np.arange(7), 1.0) == 0


def test_evaluate_equals_the_single_functions():
    id_scores, ood_scores = draw(9)
    found = metrics.evaluate(id_scores, ood_scores, tpr=0.9)
    assert found["auroc"] == metrics.auroc(id_scores, ood_scores)
    assert (found["auroc_low"], found["auroc_high"]) == metrics.delong(id_scores, ood_scores)[2:]
    assert found["fpr95"] == metrics.fpr_at_tpr(id_scores, ood_scores, 0.9)
    assert found["fpr95_ood_positive"] == metrics.fpr_at_tpr_ood_positive(
        id_scores, ood_scores, 0.9
    )
    for column in ("aupr_in", "aupr_out", "detection_error", "ties"):
        assert found[column] == getattr(metrics, column)(id_scores, ood_scores)
    assert found["id_share"] == 300 / 800


def test_swapping_or_negating_turns_every_metric_round():
    id_scores, ood_scores = draw(6)
    plain, swapped = (
        metrics.evaluate(id_scores, ood_scores),
        metrics.evaluate(ood_scores, id_scores),
    )
    negated = metrics.evaluate(-ood_scores, -id_scores)
    assert swapped["auroc"] == pytest.approx(1 - plain["auroc"], abs=1e-15)
    assert negated["auroc"] == pytest.approx(plain["auroc"], abs=1e-15)
    assert negated["fpr95"] == pytest.approx(plain["fpr95_ood_positive"])
    assert negated["aupr_in"] == pytest.approx(plain["aupr_out"])
    assert negated["detection_error"] == pytest.approx(plain["detection_error"])


def test_order_of_images_and_monotone_maps_change_nothing():
    id_scores, ood_scores = draw(8)
    shuffled = metrics.evaluate(np.random.default_rng(1).permutation(id_scores), ood_scores[::-1])
    plain = metrics.evaluate(id_scores, ood_scores)
    assert shuffled == plain
    cubed = metrics.evaluate(id_scores**3, ood_scores**3)
    assert cubed.pop("autc") != plain.pop("autc")  # of the scores themselves
    assert cubed == plain


def test_perfect_and_useless_scores():
    perfect = metrics.evaluate([2.0, 3.0], [0.0, -np.inf])
    assert perfect["auroc"] == perfect["aupr_in"] == perfect["aupr_out"] == 1
    assert perfect["auroc_low"] < perfect["auroc_high"] == 1
    assert perfect["fpr95"] == perfect["detection_error"] == 0
    constant = metrics.evaluate(np.ones(30), np.ones(10))
    assert constant["auroc"] == constant["detection_error"] == 0.5
    assert (constant["fpr95"], constant["aupr_in"], constant["ties"]) == (1, 0.75, 300)
    assert metrics.evaluate([0.0, 1.0], [2.0, 3.0])["detection_error"] == 0.5


def test_undefined_scores_give_undefined_metrics_and_keep_the_counts():
    found = metrics.evaluate([1.0, np.nan], [0.0])
    assert np.isnan(
        [found[column] for column in ("auroc", "auroc_low", "fpr95", "aupr_out", "ties")]
    ).all()
    assert (found["n_id"], found["n_ood"]) == (2, 1)
    assert np.isnan(metrics.threshold_at_tpr([1.0, np.nan]))
    assert np.isnan(metrics.delong([1.0], [0.0]).standard_error)
    assert np.isnan(metrics.paired_delong([1.0, 2.0], [np.nan, 0.0], [1.0, 2.0], [0.0, 0.0])).all()


def test_accuracy_at_coverage():
    correct, scores = np.array([True, True, False, False]), np.array([4.0, 3.0, 2.0, 1.0])
    assert metrics.accuracy_at_coverage(correct, scores, 0.5) == 1
    assert metrics.accuracy_at_coverage(correct, scores, 0.75) == pytest.approx(2 / 3)
    assert metrics.accuracy_at_coverage(correct, scores, 1.0) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.auroc([], [1.0]), "at least one"),
        (lambda: metrics.evaluate([1.0], []), "at least one"),
        (lambda: metrics.auroc([[1.0]], [1.0]), "shape"),
        (lambda: metrics.fpr_at_tpr([1.0], [0.0], 95), "0.95"),
        (lambda: metrics.paired_delong([1.0], [0.0], [1.0, 2.0], [0.0]), "same images"),
        (lambda: metrics.accuracy_at_coverage([True], [1.0, 2.0]), "one each"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_order_serves_any_images_as_positive_ones():
    """What the tables take from it is what the arrays give, to the bit, also with ties."""
    rng = np.random.default_rng(4)
    inside, outside = rng.integers(3, 12, 60) / 7, rng.integers(0, 9, 40) / 7
    right = rng.random(60) < 0.7
    order = metrics.order_of(inside, outside)
    is_id = np.arange(100) < 60
    kept_right = np.concatenate([right, np.zeros(40, dtype=bool)])
    failures = np.concatenate([inside[~right], outside])
    assert metrics.evaluate(inside, outside, order=order) == metrics.evaluate(inside, outside)
    assert metrics.delong_of(order, kept_right) == metrics.delong(inside[right], failures)
    rate = metrics.fpr_at_tpr(inside[right], failures, 0.9)
    assert metrics.fpr_of(order, kept_right, 0.9) == rate
    ood_below, id_above = metrics.placements(inside, outside)
    _, right_above = metrics.placements(inside[right], outside)
    below, above = metrics.placements_of(order, is_id)
    np.testing.assert_array_equal(below[:60], ood_below)
    np.testing.assert_array_equal(above[60:], id_above)
    np.testing.assert_array_equal(metrics.placements_of(order, kept_right)[1][60:], right_above)
    assert metrics.order_of([1.0, np.nan], [0.0]) is None
