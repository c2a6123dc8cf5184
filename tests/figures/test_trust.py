"""figures/trust.py: numbers are read back from the drawn artists."""

import numpy as np
import pandas as pd
from figure_cases import png, words

import figures

BINS = figures.Bins(1.0, np.array([0.3, np.nan, 0.9]), np.array([0.5, np.nan, 0.8]), 0.12)
CURVE = (np.arange(1, 2001) / 2000, np.linspace(0, 0.25, 2000))


def test_bins_and_curves_are_drawn_where_they_lie():
    figure = figures.trust([BINS, BINS._replace(temperature=2.5)], {"MSP": CURVE, "KNN": CURVE})
    reliability, risk = figure.axes
    _, before, after = reliability.lines
    np.testing.assert_allclose(before.get_xydata(), [[0.3, 0.5], [0.9, 0.8]])
    assert "T = 2.5, error 12.0%" in words(figure) and len(after.get_xdata()) == 2
    first, _ = risk.lines
    np.testing.assert_allclose(first.get_xydata()[[0, -1]], [[1 / 2000, 0], [1, 0.25]])
    assert len(first.get_xdata()) <= 400 and "KNN" in words(figure)
    png(figure)


def test_an_ensemble_has_risk_alone():
    figure = figures.trust([], {"EnsembleMSP": CURVE})
    assert len(figure.axes) == 1
    png(figure)


def test_without_any_score_it_is_still_drawn():
    png(figures.trust([BINS], {}))


def shares(rows, columns, seed=0):
    values = np.random.default_rng(seed).dirichlet(np.ones(columns), rows)
    return pd.DataFrame(values, [f"set{r}" for r in range(rows)], [f"c{c}" for c in range(columns)])


def test_shares_are_drawn_in_percent_of_all_and_of_accepted_images():
    taken = shares(3, 5)
    figure = figures.swallowed(taken, taken / 4, "KNN")
    above, below = figure.axes
    np.testing.assert_allclose(above.images[0].get_array(), 100 * taken)
    np.testing.assert_allclose(below.images[0].get_array(), 25 * taken)
    assert "and accepted by KNN" in words(figure) and "set2" in words(figure)
    png(figure)


def test_of_many_classes_the_largest_are_drawn_and_the_title_says_so():
    taken = shares(2, 100)
    figure = figures.swallowed(taken, None, "")
    (axes,) = figure.axes
    drawn = [text.get_text() for text in axes.get_xticklabels()]
    assert set(drawn) == set(taken.max().nlargest(30).index) and drawn == sorted(
        drawn, key=lambda name: int(name[1:])
    )
    assert "(30 of 100 classes)" in words(figure)
    png(figure)
