"""The scatter of one score against another: which images it shows, where, and what it counts."""

import numpy as np

from figures.style import window
from reporting import score_pairs
from reporting.scored import ScoredSet


def test_a_sample_is_evenly_spaced_with_both_ends():
    assert score_pairs.evenly(3).tolist() == [0, 1, 2]
    assert score_pairs.evenly(0).tolist() == []
    rows = score_pairs.evenly(10_000)
    assert (len(rows), rows[0], rows[-1]) == (250, 0, 9999)
    assert set(np.diff(rows)) == {40, 41}


def test_places_are_thousandths_of_the_axis():
    scores = np.array([0.0, 5.0, 10.0, -99.0, 99.0, np.nan, 0.0149])
    assert score_pairs.places(scores, 0.0, 10.0) == [0, 500, 1000, 0, 1000, None, 1]


def test_both_samples_lie_on_the_axis_of_the_histogram():
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=300), generator.normal(size=40) - 2
    start, stop = window(inside, [outside])
    own, other = score_pairs.sampled_places(inside, outside)
    assert len(own) == 250 and len(other) == 40
    expected = 1000 * (np.clip(outside, start, stop) - start) / (stop - start)
    np.testing.assert_allclose(other, expected, atol=0.5)


def test_who_accepts_together_is_counted_over_all_images():
    scores = {
        "A": np.array([1.0, 2.0, 3.0, 4.0]),
        "B": np.array([4.0, 3.0, np.nan, 1.0]),
        "C": np.zeros(4),
    }
    part = ScoredSet("svhn", scores, None, np.full(4, -1), None, {})
    thresholds = {"A": 2.0, "B": 1.0}  # C has none, as NaN or by its absence
    assert score_pairs.together(part, ["A", "B", "C", "D"], thresholds) == [
        [3, 2, 0, 0],
        [2, 3, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
