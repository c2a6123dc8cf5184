"""Scores from the logits: worked out by hand, and where floating point ends."""

import numpy as np
import pytest
from scipy import optimize, special
from score_cases import CASES, score_one, tiny

from scores import registry


def test_softmax_family_by_hand():
    train = tiny([[0, 0]], [0], np.eye(2))
    logits = [0, np.log(3)]
    assert score_one("MSP", train, logits) == pytest.approx(0.75)
    assert score_one("MaxLogit", train, logits) == pytest.approx(np.log(3))
    assert score_one("Energy", train, logits) == pytest.approx(np.log(4))
    assert score_one("Energy", train, logits, temperature=2) == pytest.approx(
        2 * np.log(1 + np.sqrt(3))
    )
    assert score_one("Entropy", train, logits) == pytest.approx(
        0.25 * np.log(0.25) + 0.75 * np.log(0.75)
    )
    assert score_one("GEN", train, logits, gamma=0.5) == pytest.approx(-2 * np.sqrt(0.1875))
    assert score_one("GEN", train, logits, gamma=0.5, top=1) == pytest.approx(-np.sqrt(0.1875))
    assert score_one("TempScaling", train, logits, temperature=0.5) == pytest.approx(0.9)
    assert score_one("GradNorm", train, logits) == pytest.approx(0.5 * np.log(3))


def test_the_margin_of_a_larger_head_by_hand():
    """Logits 0 and log 3 of the data's classes, log 2 and log 10 of the others: 4 against 12."""
    rest = np.zeros((2, 2)), np.log([2, 10])
    train = registry.Training([[1, 0], [0, 1]], [0, 1], np.eye(2), np.zeros(2), rest=rest)
    states = registry.fit_all(train, ["EnergyMargin", "Energy-FullHead"])
    assert states["EnergyMargin"].parameters == {"other_classes": 2}
    found = registry.score_all([[0, np.log(3)]], states, np.eye(2), np.zeros(2))
    assert found["EnergyMargin"] == pytest.approx(np.log(4 / 12), abs=1e-6)
    assert special.expit(found["EnergyMargin"]) == pytest.approx(0.25, abs=1e-6)
    assert found["Energy-FullHead"] == pytest.approx(np.log(16), abs=1e-6)


def test_the_margin_does_not_saturate_where_the_share_is_1():
    rest = np.zeros((1, 2)), np.zeros(1)
    train = registry.Training([[1, 0], [0, 1]], [0, 1], np.eye(2), np.zeros(2), rest=rest)
    states = registry.fit_all(train, ["EnergyMargin"])
    sure = [[100, 0], [200, 0], [300, 0]]
    found = registry.score_all(sure, states, np.eye(2), np.zeros(2))["EnergyMargin"]
    assert list(special.expit(found)) == [1, 1, 1]
    assert (np.diff(found) > 99).all()


def test_msp_keeps_the_order_where_float32_saturates():
    logits = np.zeros((4, 10), np.float32)
    logits[:, 0] = [20, 24, 28, 32]
    assert (np.exp(logits[:, 0]) / np.exp(logits).sum(axis=1) == 1).all()  # in float32 all four tie
    values = registry.METHODS["MSP"].score(logits, logits, registry.Fitted())
    assert (np.diff(values) > 0).all()
    with pytest.warns(UserWarning, match="MSP"):
        values = registry.METHODS["MSP"].score(logits, logits * 10, registry.Fitted())
    assert (values == 1).all()


def test_logit_scores_survive_huge_logits():
    logits = np.array([[1e5, 0, -1e5], [3e4, 3e4, 0]], np.float32)
    for name in ("Energy", "Entropy", "GEN", "GradNorm", "KLMatching"):
        state = registry.METHODS[name].fit(tiny(logits, [0, 1], np.eye(3)))
        assert np.isfinite(registry.METHODS[name].score(logits, logits, state)).all(), name


def test_temperature_minimises_the_likelihood_loss():
    case = CASES["random"]
    # a fifth mislabelled
    labels = np.where(np.arange(600) % 5 == 0, (case.labels + 1) % 7, case.labels)
    train = registry.Training(case.features, labels, case.W, case.b)
    logits = (case.features @ case.W.T + case.b).astype(np.float64)

    def loss(temperature):
        return -special.log_softmax(logits / temperature, axis=1)[np.arange(600), labels].mean()

    best = optimize.minimize_scalar(
        loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}
    ).x
    assert registry.METHODS["TempScaling"].fit(train).parameters["temperature"] == pytest.approx(
        best, rel=1e-4
    )


@pytest.mark.parametrize(("labels", "bound"), [("right", 0.05), ("wrong", 20.0)])
def test_a_temperature_without_optimum_stays_at_its_bound_and_says_so(labels, bound):
    case = CASES["random"]
    logits = case.features @ case.W.T + case.b
    found = logits.argmax(axis=1) if labels == "right" else logits.argmin(axis=1)
    with pytest.warns(
        registry.Noted,
        match=f"TempScaling: the loss of 600 ID training images falls all the way to T = {bound:g}",
    ):
        state = registry.METHODS["TempScaling"].fit(
            registry.Training(case.features, found, case.W, case.b)
        )
    assert (
        state.parameters == {"temperature": bound, "at_bound": True}
        and f"T = {bound:g}" in state.note
    )
    expected = special.softmax(case.logits.astype(np.float64) / bound, axis=1).max(axis=1)
    np.testing.assert_allclose(
        registry.METHODS["TempScaling"].score(case.test, case.logits, state), expected, rtol=1e-6
    )


def test_a_loss_that_no_temperature_changes_has_none():
    case = CASES["random"]
    train = registry.Training(case.features, case.labels, case.W * 0, case.b * 0)
    with pytest.warns(registry.Noted, match="TempScaling: .* is the same at every temperature"):
        state = registry.METHODS["TempScaling"].fit(train)
    assert np.isnan(registry.METHODS["TempScaling"].score(case.test, case.logits, state)).all()
