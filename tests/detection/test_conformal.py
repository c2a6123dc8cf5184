"""Conformal p-values and thresholds: slow definitions, guarantees by simulation, and the tables."""

import numpy as np
import pytest
from helpers import read_csv, score
from scipy.stats import beta

from detection import conformal, conformal_table

LEVEL, DOUBT = 0.1, 0.05


def draw(rng, n, shift=0.0, ties=False):
    values = rng.normal(shift, 1, n)
    return values.round() if ties else values


# ---- definitions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_are_the_share_that_scores_no_higher(ties):
    rng = np.random.default_rng(0)
    scores, held_out = draw(rng, 50, ties=ties), draw(rng, 30, ties=ties)
    expected = [(1 + sum(held_out <= s)) / 31 for s in scores]
    assert conformal.p_values(scores, held_out) == pytest.approx(expected)


def test_an_undefined_score_has_no_p_value():
    found = conformal.p_values(np.array([np.nan, 1.0]), np.array([0.0]))
    assert np.isnan(found[0]) and found[1] == 1
    assert np.isnan(conformal.p_values(np.array([1.0]), np.array([0.0, np.nan]))).all()
    assert np.isnan(conformal.marginal_threshold(np.array([0.0, np.nan]), 0.5).value)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("level", [0.03, 0.1, 0.5])
def test_the_marginal_threshold_accepts_where_p_is_above_the_level(level, ties):
    rng = np.random.default_rng(1)
    scores, held_out = draw(rng, 400, ties=ties), draw(rng, 99, ties=ties)
    threshold = conformal.marginal_threshold(held_out, level)
    accepted = conformal.p_values(scores, held_out) > level + 1e-12
    assert list(scores >= threshold.value) == list(accepted)


@pytest.mark.parametrize("n", [30, 96, 500])
def test_the_conditional_threshold_is_the_highest_whose_beta_variable_passes(n):
    held_out = np.arange(n, dtype=float)
    found = conformal.conditional_threshold(held_out, LEVEL, DOUBT).value
    fits = [k for k in range(1, n + 1) if beta.sf(LEVEL, k, n + 1 - k) <= DOUBT]
    assert found == (max(fits) - 1 if fits else -np.inf)
    assert found <= conformal.marginal_threshold(held_out, LEVEL).value


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1, 0.3])
def test_the_images_needed_are_just_enough(level):
    for images, threshold in (
        (conformal.marginal_images(level), lambda x: conformal.marginal_threshold(x, level)),
        (
            conformal.conditional_images(level, DOUBT),
            lambda x: conformal.conditional_threshold(x, level, DOUBT),
        ),
    ):
        enough, too_few = np.arange(images), np.arange(images - 1)
        assert np.isfinite(threshold(enough).value)
        assert threshold(too_few).value == -np.inf
        assert threshold(too_few).images_needed == images


def test_selection_is_that_of_a_loop():
    rng = np.random.default_rng(2)
    for _ in range(20):
        p = rng.uniform(size=40) ** 2
        passing = [k for k in range(1, 41) if sorted(p)[k - 1] <= 0.2 * k / 40]
        expected = p <= sorted(p)[max(passing) - 1] if passing else np.zeros(40, dtype=bool)
        assert list(conformal.select(p, 0.2)) == list(expected)


def test_selection_takes_as_many_held_out_images_as_it_says():
    needed = conformal.selection_images(0.1, 150, 50)
    for images, any_selected in ((needed, True), (needed - 1, False)):
        p = np.concatenate([np.ones(100), np.full(50, 1 / (images + 1))])
        assert conformal.select(p, 0.1).any() == any_selected


# ---- guarantees ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [19, 150])
def test_false_rejections_are_at_most_the_level_on_average(n, ties):
    rng = np.random.default_rng(3)
    rejected = []
    for _ in range(1500):
        threshold = conformal.marginal_threshold(draw(rng, n, ties=ties), LEVEL)
        rejected.append(np.mean(draw(rng, 40, ties=ties) < threshold.value))
    assert np.mean(rejected) <= LEVEL + 3 * np.std(rejected) / np.sqrt(1500)
    if not ties:  # and not much lower
        assert np.mean(rejected) >= LEVEL * n / (n + 1) - 0.01


def test_a_conditional_threshold_holds_for_95_percent_of_held_out_sets():
    rng = np.random.default_rng(4)
    exceeded = 0
    for _ in range(1500):
        held_out = rng.uniform(size=150)
        # the threshold is the share of ID that it rejects
        exceeded += conformal.conditional_threshold(held_out, LEVEL, DOUBT).value > LEVEL
    assert 0.01 <= exceeded / 1500 <= DOUBT + 3 * np.sqrt(DOUBT * 0.95 / 1500)


def test_the_false_discovery_rate_is_at_most_its_level():
    rng = np.random.default_rng(5)
    false, found = [], []
    for _ in range(600):
        held_out = draw(rng, 300)
        inside, outside = draw(rng, 100), draw(rng, 60, -3.0)
        p = conformal.p_values(np.concatenate([inside, outside]), held_out)
        chosen = conformal_table.selected(p, 100, 0.1)
        false.append(chosen["false_discoveries"])
        found.append(chosen["rejected_ood"])
    assert np.mean(false) <= 0.1 + 3 * np.std(false) / np.sqrt(600)
    assert np.mean(found) > 0.5


# ---- the tables ----------------------------------------------------------------------------------


def test_the_columns_and_the_table_are_those_of_the_validation_scores(folder):
    score(folder, "--methods", "MSP", "KNN")
    held_out = read_csv(folder / "scores_val_toy.csv")
    assert list(held_out.columns) == ["label", "MSP", "KNN"] and len(held_out) == 40
    table = read_csv(folder / "conformal.csv")
    inside = read_csv(folder / "scores_ID_toy.csv")
    outside = read_csv(folder / "scores_OOD_near.csv")
    for method in ("MSP", "KNN"):
        for scores in (inside, outside):
            expected = conformal.p_values(scores[method].to_numpy(), held_out[method].to_numpy())
            assert scores[f"{method}_p"].to_numpy() == pytest.approx(expected, rel=1e-6)
        part = table[(table["method"] == method) & (table["ood"] == "near")]
        marginal = part[(part["guarantee"] == "marginal") & (part["level"] == 0.1)].iloc[0]
        assert marginal["threshold"] == np.sort(held_out[method])[3]  # floor(0.1 * 41) = 4
        assert marginal["rejected_ood"] == (outside[method] < marginal["threshold"]).mean()
        assert marginal["rejected_id"] == (inside[method] < marginal["threshold"]).mean()


def test_too_few_held_out_images_are_said_with_how_many_it_takes(folder):
    _, printed = score(folder, "--methods", "MSP")
    table = read_csv(folder / "conformal.csv")
    short = table[table["images_needed"] > 40]
    assert len(short) and short["note"].str.contains("it takes").all()
    assert short["threshold"].isna().all() and (short["rejected_ood"] == 0).all()
    assert "of 40 held-out ID images, a level of 0.05 or less takes more" in printed


def test_without_validation_images_there_are_no_p_values_and_it_is_said(folder):
    for path in folder.glob("ID_toy_val.*"):
        path.unlink()
    _, printed = score(folder, "--methods", "MSP")
    assert "no p-values" in printed and "ID_toy_val.csv" in printed
    assert not (folder / "conformal.csv").exists()
    assert not (folder / "scores_val_toy.csv").exists()
    assert "MSP_p" not in read_csv(folder / "scores_ID_toy.csv")


def test_a_method_that_joins_keeps_the_p_values_of_the_earlier_ones(folder):
    score(folder, "--methods", "MSP")
    before = read_csv(folder / "scores_OOD_near.csv")["MSP_p"]
    score(folder, "--methods", "KNN", "--combine", "MSP,KNN")
    after = read_csv(folder / "scores_OOD_near.csv")
    assert after["MSP_p"].equals(before)
    assert {"KNN_p", "mean(MSP,KNN)_p"} <= set(after.columns)
    assert set(read_csv(folder / "conformal.csv")["method"]) == {"MSP", "KNN", "mean(MSP,KNN)"}
