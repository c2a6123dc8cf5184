"""figures/comparison.py: several runs, read back from the drawn artists."""

import numpy as np
import pandas as pd
from figure_cases import history, png, words

import figures


def solid(axes):
    """The curves of an Axes: lines of more than a point."""
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


def test_each_training_has_a_curve_of_its_own_that_its_number_names():
    one, two = history(20, fitted=15), history(8, validation=False)
    figure = figures.curves_together({"a": one, "b": two}, {"a": 1, "b": 2})
    accuracy, loss = figure.axes
    first, second = solid(accuracy)
    np.testing.assert_array_equal(first.get_ydata(), one["val_acc"])
    np.testing.assert_array_equal(second.get_ydata(), two["train_acc"])
    assert first.get_linestyle() == "-" and second.get_linestyle() != "-", "training, and dashed"
    np.testing.assert_array_equal(solid(loss)[1].get_ydata(), two["train_loss"])
    for axes in (accuracy, loss):
        assert {text.get_text() for text in axes.texts} == {"1", "2"}
        assert axes.get_xlabel() == "epoch"
    png(figure)


def test_a_loss_that_falls_far_stands_on_a_logarithmic_axis_and_says_so():
    steep, flat = history(4), history(4)
    steep["train_loss"], flat["train_loss"] = [2.0, 1.0, 0.1, 0.01], [2.0, 1.0, 0.8, 0.7]
    figure = figures.curves_together({"a": steep}, {"a": 1})
    assert figure.axes[1].get_yscale() == "log" and "logarithmic" in words(figure)
    figure = figures.curves_together({"a": flat}, {"a": 1})
    assert figure.axes[1].get_yscale() == "linear" and "logarithmic" not in words(figure)


def test_runs_without_a_value_have_no_point():
    collapse = pd.DataFrame(
        {"a": [0.1, 5.0], "b": [0.2, np.nan], "c": [0.3, 7.0]}, index=["NC1", "a measure"]
    )
    auroc = pd.Series({"a": 0.9, "b": 0.8, "c": np.nan})
    figure = figures.collapse_against_auroc(collapse, auroc, "ViM")
    nc1, other = figure.axes[:2]
    points = {
        axes: [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]
        for axes in (nc1, other)
    }
    assert points[nc1] == [(0.1, 0.9), (0.2, 0.8)] and points[other] == [(5.0, 0.9)]
    assert [text.get_text() for text in nc1.texts] == ["1", "2"]
    assert "Collapse, and mean AUROC by ViM" in words(figure)
    png(figure)
