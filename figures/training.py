"""The figure of a training: accuracy and loss by epoch; `figures` holds them all."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.style import (
    DASHES,
    FAINT,
    ID_COLOUR,
    INK,
    QUIET,
    Array,
    canvas,
    captioned,
    finite,
    label_ends,
    logarithmic,
    panel_title,
    percent,
)


@captioned(
    "Accuracy and loss by epoch on training images, and on validation images where some were "
    "kept. A dot marks the best validation accuracy, a dashed line the first epoch with every "
    "training image right."
)
def training_curves(history: pd.DataFrame) -> Figure:
    """Accuracy and loss by epoch, training and validation; by step where there is such a column.

    history: DataFrame with epoch, train_loss, train_acc, val_loss, val_acc (accuracies in [0, 1];
    NaN: not measured). Marks the epoch with the best validation accuracy and the first at which
    every training image was classified right."""
    unit = "step" if "step" in history else "epoch"
    epoch = _column(history, unit)
    figure, ((accuracy, loss),) = canvas(1, 2, 3.5, "Accuracy and loss during training")
    shares = _column(history, "train_acc"), _column(history, "val_acc")
    _draw_curves(accuracy, epoch, *shares, unit)
    losses = _column(history, "train_loss"), _column(history, "val_loss")
    _draw_curves(loss, epoch, *losses, unit, may_be_logarithmic=True)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    panel_title(accuracy, "Images classified right")
    scale = ", logarithmic" if loss.get_yscale() == "log" else ""
    panel_title(loss, f"Cross-entropy loss{scale} (nats)")
    _mark_epochs(figure, accuracy, loss, epoch, history, unit)
    return figure


def _column(history: pd.DataFrame, name: str) -> Array:
    return history[name].to_numpy(dtype=np.float64)


def _draw_curves(
    axes: Axes,
    epoch: Array,
    train: Array,
    validation: Array,
    unit: str,
    may_be_logarithmic: bool = False,
) -> None:
    """One quantity by epoch on both splits, each (E,), with their names at the ends of the lines.

    A positive quantity that spans more than a factor of 20 may stand on a logarithmic axis.
    """
    curves = (("train", train, QUIET), ("validation", validation, ID_COLOUR))
    marker = "o" if len(epoch) < 3 else ""
    for _, values, colour in curves:
        axes.plot(epoch, values, color=colour, lw=1.6, marker=marker, ms=4)
    known = finite(np.concatenate([train, validation]))
    if may_be_logarithmic and known.size and known.max() > 20 * known.min() > 0:
        logarithmic(axes)
    if len(epoch):
        label_ends(axes, [(epoch[-1], values[-1], name, colour) for name, values, colour in curves])
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(epoch) == 1:
        axes.set_xlim(epoch[0] - 1, epoch[0] + 1)


def _mark_epochs(
    figure: Figure,
    accuracy: Axes,
    loss: Axes,
    epoch: Array,
    history: pd.DataFrame,
    unit: str,
) -> None:
    """A dot at the best validation accuracy, a dashed line at the first epoch with every training
    image right, and both in words."""
    notes = []
    validation = _column(history, "val_acc")
    if np.isfinite(validation).any():
        best = int(np.nanargmax(validation))
        place = epoch[best], validation[best]
        accuracy.plot(*place, "o", color=ID_COLOUR, ms=7, mec="white", mew=1.2, zorder=5)
        share = percent(validation[best], 2)
        notes.append(f"● best validation accuracy: {share}% at {unit} {epoch[best]:g}")
    fitted = np.flatnonzero(_column(history, "train_acc") == 1)
    if fitted.size:
        first = epoch[fitted[0]]
        for axes in (accuracy, loss):
            axes.axvline(first, color=QUIET, ls=DASHES, lw=1)
        notes.append(f"┆ every training image right for the first time: {unit} {first:g}")
    if notes:
        figure.supxlabel("      ".join(notes), fontsize=9, color=INK)
