"""Intervals: slow restatements, the bootstrap, symmetry, perfect separation, coverage by
simulation."""

import numpy as np
import pytest
from scipy.stats import norm, t

from detection import group_means, intervals, metrics
from detection.scored import Scored, ScoredSet

NAMES = ("auroc", "fpr95", "fpr95_ood_positive", "aupr_in", "aupr_out")


def draw(seed, n, m, shift=1.5, decimals=8):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, n).round(decimals), rng.normal(0, 1, m).round(decimals)


def average_precision(id_scores, ood_scores):
    """Mean over ID images of the share of ID among all that score at least as high."""
    found = []
    for score in id_scores:
        above = (id_scores >= score).sum()
        found.append(above / (above + (ood_scores >= score).sum()))
    return np.mean(found)


# ---- spread --------------------------------------------------------------------------------------


def test_spread_is_that_of_repeated_values():
    values, counts = np.array([0.1, 0.7, 0.9]), np.array([2, 5, 3])
    repeated = np.repeat(values, counts)
    away = repeated - repeated.mean()
    square = repeated.var(ddof=1)
    found = intervals.spread(values, counts)
    assert found.variance == pytest.approx(square / 10)
    assert found.third == pytest.approx((away**3).mean() / 100)
    of_square = ((away**4).mean() - square**2 * 7 / 9) / 10
    assert found.of_variance == pytest.approx(of_square / 100)
    assert intervals.spread(repeated).variance == pytest.approx(found.variance)
    twice = found.scaled(2)
    assert twice.variance == pytest.approx(4 * found.variance)
    assert twice.df == pytest.approx(found.df)


def test_a_normal_sample_has_the_degrees_of_freedom_of_its_size():
    values = np.random.default_rng(0).normal(size=200_000)
    assert intervals.spread(values).df == pytest.approx(200_000, rel=0.05)


# ---- AUROC ---------------------------------------------------------------------------------------


def test_the_interval_tends_to_the_symmetric_one_with_many_images():
    id_scores, ood_scores = draw(0, 20_000, 20_000)
    found = metrics.delong(id_scores, ood_scores)
    reach = 1.959964 * found.standard_error
    expected = (found.auroc - reach, found.auroc + reach)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.05 * reach)


def test_a_slow_restatement():
    id_scores, ood_scores = draw(3, 50, 30, shift=2.2)
    n, m, z = 50, 30, norm.ppf(0.975)
    wins = np.subtract.outer(id_scores, ood_scores) > 0
    area, v, u = wins.mean(), wins.mean(axis=1), wins.mean(axis=0)
    variance = v.var(ddof=1) / n + u.var(ddof=1) / m
    third = ((v - area) ** 3).mean() / n**2 + ((u - area) ** 3).mean() / m**2
    of_variance = 0
    for x, size in ((v, n), (u, m)):
        fourth, square = ((x - area) ** 4).mean(), x.var(ddof=1)
        of_variance += (fourth - square**2 * (size - 3) / (size - 1)) / size**3
    df = 2 * variance**2 / of_variance
    model = area * (1 - area) / (n * m)
    model *= 1 + ((n + m) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
    pooled = (df * variance + 0.4 * model) / (df + 0.4)
    bent = np.sqrt(pooled) * (2 * area - 1) / (area * (1 - area))
    shift = np.clip(-third / variance**1.5 * (2 * z**2 + 1) / 6 - bent * z**2 / 4, 0, 1)
    quantile = t.ppf(0.975, df + 0.4)
    error = np.sqrt(pooled) / (area * (1 - area))
    logit = np.log(area / (1 - area))
    ends = [logit - (quantile + shift) * error, logit + (quantile - shift) * error]
    found = metrics.delong(id_scores, ood_scores)
    assert (found.low, found.high) == pytest.approx(tuple(1 / (1 + np.exp(-np.array(ends)))))


@pytest.mark.parametrize(("n", "m", "shift"), [(50, 30, 3.0), (400, 100, 1.0), (10, 8, 9.0)])
def test_exchanging_id_and_ood_mirrors_the_interval(n, m, shift):
    id_scores, ood_scores = draw(1, n, m, shift)
    plain = metrics.delong(id_scores, ood_scores)
    swapped = metrics.delong(ood_scores, id_scores)
    assert (swapped.low, swapped.high) == pytest.approx((1 - plain.high, 1 - plain.low))


def test_newcombe_limits_are_z_of_their_own_errors_away():
    low, high = intervals.newcombe(0.9, 60, 40)
    for limit in (low, high):
        error = np.sqrt(intervals.newcombe_variance(limit, 60, 40))
        assert abs(limit - 0.9) == pytest.approx(1.959964 * error, rel=1e-6)
    # of equally many images it is the variance of Hanley and McNeil (1982)
    q1, q2 = 0.9 / 1.1, 2 * 0.81 / 1.9
    expected = (0.9 * 0.1 + 49 * (q1 - 0.81) + 49 * (q2 - 0.81)) / 2500
    assert intervals.newcombe_variance(0.9, 50, 50) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (60, 40), (481, 118), (10_000, 100)])
def test_perfect_separation_has_an_interval_that_narrows(n, m):
    found = metrics.evaluate(np.arange(n) + 10.0, -np.arange(m) - 1.0)
    more = metrics.evaluate(np.arange(2 * n) + 10.0, -np.arange(2 * m) - 1.0)
    for name in ("auroc", "aupr_in", "aupr_out"):
        assert found[name] == found[f"{name}_high"] == 1
        assert 0 < found[f"{name}_low"] < more[f"{name}_low"] < 1
    for name in ("fpr95", "fpr95_ood_positive"):
        assert found[name] == found[f"{name}_low"] == 0
        assert 0 < more[f"{name}_high"] < found[f"{name}_high"] or n == 2  # 2 images: up to 1


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0, 3.0])
def test_an_interval_holds_its_estimate(shift, decimals):
    found = metrics.evaluate(*draw(2, 30, 20, shift, decimals))
    for name in NAMES:
        assert 0 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] <= 1
        assert found[f"{name}_low"] < found[f"{name}_high"]


def test_one_image_has_no_interval():
    found = metrics.evaluate([1.0, 2.0], [0.0])
    assert np.isnan([found[f"{name}_low"] for name in NAMES]).all()


# ---- FPR and AUPR beside the bootstrap -----------------------------------------------------------


def test_the_place_of_the_threshold_is_that_of_a_known_threshold_among_samples():
    rng, n = np.random.default_rng(0), 40
    kept = (rng.uniform(size=(20_000, n)) >= 0.05).sum(axis=1)
    places = intervals._threshold_places(n, 0.95)
    assert places.mean() == pytest.approx(kept.mean() + 0.5, abs=0.15)  # between two images
    assert places.var() == pytest.approx(kept.var() + 0.25, rel=0.15)


def test_the_fpr_interval_is_that_of_the_stratified_bootstrap():
    id_scores, ood_scores = draw(5, 300, 400)
    rng = np.random.default_rng(1)
    rates = [
        metrics.fpr_at_tpr(rng.choice(id_scores, 300), rng.choice(ood_scores, 400))
        for _ in range(2000)
    ]
    found = metrics.evaluate(id_scores, ood_scores)
    expected = np.quantile(rates, [0.025, 0.975])
    assert (found["fpr95_low"], found["fpr95_high"]) == pytest.approx(tuple(expected), abs=0.02)


@pytest.mark.parametrize(("n", "m"), [(300, 400), (400, 100)])
def test_the_error_of_an_average_precision_is_that_of_the_bootstrap(n, m):
    id_scores, ood_scores = draw(6, n, m, decimals=1)
    rng = np.random.default_rng(2)
    repeats = [
        average_precision(rng.choice(id_scores, n), rng.choice(ood_scores, m)) for _ in range(400)
    ]
    found = metrics.evaluate(id_scores, ood_scores)
    value = found["aupr_in"]
    assert value == pytest.approx(average_precision(id_scores, ood_scores))
    error = np.std(repeats) / (value * (1 - value))
    low, high = (np.log(x / (1 - x)) for x in (found["aupr_in_low"], found["aupr_in_high"]))
    assert (high - low) / 2 / 1.96 == pytest.approx(error, rel=0.15)


def test_the_same_scores_give_the_same_intervals():
    assert metrics.evaluate(*draw(4, 70, 90)) == metrics.evaluate(*draw(4, 70, 90))


@pytest.mark.parametrize(
    ("n", "m", "area", "least"),
    [(481, 118, 0.97, 0.92), (60, 40, 0.99, 0.9), (120, 100, 0.9, 0.92)],
)
def test_coverage_of_the_auroc(n, m, area, least):
    rng = np.random.default_rng(7)
    mean = norm.ppf(area) * np.sqrt(2)
    held = 0
    for _ in range(400):
        found = metrics.delong(rng.normal(mean, 1, n), rng.normal(0, 1, m))
        held += found.low <= area <= found.high
    assert least <= held / 400  # benchmarks/coverage.py has the whole table


# ---- differences ---------------------------------------------------------------------------------


def test_the_difference_of_independent_estimates_adds_squares():
    of_first, of_second = intervals.Interval(0.7, 0.85), intervals.Interval(0.5, 0.65)
    found = intervals.difference(0.8, of_first, 0.6, of_second, 0.0)
    assert found == pytest.approx((0.2 - np.hypot(0.1, 0.05), 0.2 + np.hypot(0.05, 0.1)))
    same = intervals.difference(0.8, of_first, 0.8, of_first, 1.0)
    assert same.low < 0 < same.high


def group(seed, n=150, sizes=(60, 90), noise=0.7):
    """Scored images of two methods on two sets; B is A with noise."""
    rng = np.random.default_rng(seed)
    inside = rng.normal(1.5, 1, n)
    sets = [rng.normal(0, 1, m) for m in sizes]

    def part(name, values):
        other = values + rng.normal(0, noise, len(values))
        return ScoredSet(name, None, {"A": values, "B": other})

    outside = [part(f"set{place}", values) for place, values in enumerate(sets)]
    return Scored(part("ID", inside), outside, {})


def test_a_group_of_one_set_has_the_interval_of_that_set():
    scored = group(0)
    found = group_means.columns(scored, ["set0"]).loc["A"]
    alone = metrics.delong(scored.id.scores["A"], scored.ood[0].scores["A"])
    assert (found["auroc_low"], found["auroc_high"]) == pytest.approx((alone.low, alone.high))
    test = metrics.paired_delong(
        scored.id.scores["A"],
        scored.ood[0].scores["A"],
        scored.id.scores["B"],
        scored.ood[0].scores["B"],
    )
    behind = group_means.columns(scored, ["set0"]).loc["B"]
    assert (behind["behind"], behind["behind_p"]) == pytest.approx((test.difference, test.p_value))
    assert behind["behind_low"] < behind["behind"] < behind["behind_high"]


def test_a_group_mean_and_its_difference_move_as_the_bootstrap_says():
    scored = group(1)
    rng = np.random.default_rng(3)
    means = []
    for _ in range(500):
        rows = rng.integers(0, 150, 150)
        places = [rng.integers(0, len(p.scores["A"]), len(p.scores["A"])) for p in scored.ood]
        mean = {}
        for method in "AB":
            inside = scored.id.scores[method][rows]
            areas = [
                metrics.auroc(inside, part.scores[method][place])
                for part, place in zip(scored.ood, places, strict=True)
            ]
            mean[method] = np.mean(areas)
        means.append((mean["A"], mean["A"] - mean["B"]))
    of_mean, of_difference = np.std(means, axis=0)
    found = group_means.columns(scored, ["set0", "set1"])
    width = found.loc["A", "auroc_high"] - found.loc["A", "auroc_low"]
    assert width / 2 / 1.96 == pytest.approx(of_mean, rel=0.15)
    width = found.loc["B", "behind_high"] - found.loc["B", "behind_low"]
    assert width / 2 / 1.96 == pytest.approx(of_difference, rel=0.15)
    assert np.isnan(found.loc["A", "behind"])


def test_a_method_that_is_undefined_somewhere_has_no_interval_and_leads_nothing():
    scored = group(2)
    scored.ood[1].scores["A"][3] = np.nan
    found = group_means.columns(scored, ["set0", "set1"])
    assert found.loc["A"].isna().all()
    assert found.loc["B", "auroc_low"] > 0 and np.isnan(found.loc["B", "behind"])
    del scored.ood[0].scores["B"]
    assert group_means.columns(scored, ["set0", "set1"]).isna().all(axis=None)
