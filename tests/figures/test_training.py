"""figures/training.py: numbers are read back from the drawn artists."""

import numpy as np
from figure_cases import history, png, words

import figures


def test_curves_mark_the_best_and_the_first_fitted_epoch():
    table = history(20, fitted=15)
    figure = figures.training_curves(table)
    accuracy, loss = figure.axes
    dot = next(
        line for line in accuracy.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1
    )
    best = table["val_acc"].idxmax()
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (
        table["epoch"][best],
        table["val_acc"][best],
    )
    for axes in (accuracy, loss):
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [15]
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), table["train_acc"])
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), table["val_loss"])
    assert f"{100 * table['val_acc'][best]:.2f}% at epoch {table['epoch'][best]}" in words(figure)
    assert loss.get_yscale() == "log"
    png(figure)


def test_curves_claim_nothing_that_did_not_happen():
    figure = figures.training_curves(history(5, validation=False))
    assert "best validation" not in words(figure) and "every training image" not in words(figure)
    assert not [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    png(figure)


def test_curves_of_one_epoch_and_of_none_values():
    table = history(1)
    table["val_acc"] = [None]  # as train.py's history has it without validation images
    table["val_loss"] = [None]
    png(figures.training_curves(table))
