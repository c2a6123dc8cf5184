"""Scores from shaped activations: which activations stay."""

import numpy as np
import pytest
from scipy import special
from score_cases import score_one, tiny


def test_exactly_k_activations_stay_where_several_tie_for_the_last_place():
    """As half-precision features have them. Which of them stays is arbitrary: here their weights
    are alike."""
    train = tiny([[5, 1, 1, 1, 0]], [0], [[1, 2, 2, 2, 1], [0, 1, 1, 1, 0]])
    x, everything, kept = np.array([5, 1, 1, 1, 0]), 8, 6  # two of five stay at the 60th percentile
    logits = np.array([5 + 2, 1])  # of 5 and one 1
    assert score_one("ASH-P", train, x, percentile=60) == pytest.approx(special.logsumexp(logits))
    assert score_one("ASH-S", train, x, percentile=60) == pytest.approx(
        special.logsumexp(logits * np.exp(everything / kept))
    )
    assert score_one("ASH-B", train, x, percentile=60) == pytest.approx(
        special.logsumexp([4 * 3, 4])
    )
    scaled = np.array([11, 3]) * np.exp(everything / kept)
    assert score_one("SCALE", train, x, percentile=60) == pytest.approx(special.logsumexp(scaled))
