"""Scores from class means, by hand."""

import numpy as np
import pytest
from score_cases import CASES, Case, score_one, tiny

from scores import registry

# (1, 0) and (3, 0) are predicted as class 0, (0, 2) as class 1
TRAIN = ([[1, 0], [3, 0], [0, 2]], [0, 0, 1], [[1, 0], [0, 1]])


def test_scores_by_hand():
    train = tiny(*TRAIN)
    # the mean of class 0 is (2, 0): |(1, 1)|_1 over |(3, 1)|_1
    assert score_one("CARef", train, [3, 1]) == pytest.approx(-2 / 4)
    energies = np.logaddexp([1, 3, 0], [0, 0, 2])
    # sign(w_0) = (1, 0): only the first feature counts, and its error is along it
    expected = -1 / np.logaddexp(3, 1) / 4
    assert score_one("CADRef", train, [3, 1]) == pytest.approx(expected)
    expected = -1 / energies.mean() / 2
    assert score_one("CADRef", train, [1, 1e-9]) == pytest.approx(2 * expected)
    assert score_one("Cosine", train, [3, 4]) == pytest.approx(4 / 5)
    assert score_one("CTM", train, [4, 3]) == pytest.approx(4 / 5)
    # mu_G = (1, 1); the boundary is x = y, and (3, 1) is seen half a right angle away from it
    assert score_one("ORA", train, [3, 1]) == pytest.approx(np.pi / 4)
    assert score_one("LogitGap", train, [3, 1]) == pytest.approx(2)


def test_caref_goes_by_predictions_and_not_by_labels():
    features, _, W = TRAIN
    other = tiny(features, [1, 1, 0], W)
    assert score_one("CARef", other, [3, 1]) == score_one("CARef", tiny(*TRAIN), [3, 1])


def test_an_energy_of_0_or_less_divides_nothing():
    train = tiny(*TRAIN, b=np.array([0, -1.0]))
    assert np.isnan(score_one("CADRef", train, [-5, -5]))
    with pytest.warns(UserWarning, match="CADRef: the mean energy of the training images"):
        assert np.isnan(score_one("CADRef", tiny(*TRAIN, b=np.full(2, -9.0)), [3, 1]))


def test_ora_of_a_tiny_angle_loses_no_digit():
    train = tiny([[1e3, 0], [0, 1e3]], [0, 1], [[1, 0], [0, 1]])
    step = 1 / 64  # exact in float32, and 1e-5 of the distance that it is seen from
    seen, projected = np.array([500 + step, 500]), np.full(2, 500 + step / 2)
    cross = seen[1] * projected[0] - seen[0] * projected[1]
    expected = np.arctan2(abs(cross), seen @ projected)
    assert score_one("ORA", train, [1000 + step, 1000]) == pytest.approx(expected, rel=1e-5)


def test_core_of_the_span_needs_more_features_than_the_weights_span():
    case = CASES["random"]
    square = Case(case.features[:, :5], case.labels, case.W[:, :5], case.b, case.test[:, :5])
    with pytest.warns(UserWarning, match="CORE: the weights span all 5 features"):
        assert np.isnan(square.score("CORE", span=True)).all()
    assert np.isfinite(square.score("CORE")).all()


def test_core_does_not_see_what_moves_along_the_weights_alone():
    case = CASES["random"]
    state = registry.METHODS["CORE"].fit(case.train, span=True)
    moved = case.test + np.float32(0.5) * case.W[0]
    plain, other = (
        registry.METHODS["CORE"].score(rows, case.logits, state) for rows in (case.test, moved)
    )
    np.testing.assert_allclose(other, plain, atol=2e-4)
