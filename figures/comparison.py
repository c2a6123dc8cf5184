"""Figures of several runs: their trainings in one frame, and collapse beside OOD detection;
`figures` holds them all."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.style import (
    DASHES,
    FAINT,
    INK,
    OOD_COLOURS,
    QUIET,
    canvas,
    captioned,
    close_grid,
    grid_shape,
    label_ends,
    logarithmic,
    panel_title,
    shorten,
)

AROUND = ((8, 6), (-8, 6), (8, -7), (-8, -7))  # points from a run's point to its number
STEEP = 20  # a loss that falls by more than this factor stands on a logarithmic axis


def run_colour(number: int) -> str:
    """The colour of a run by its number, from 1; colour is never the only sign."""
    return OOD_COLOURS[(number - 1) % len(OOD_COLOURS)]


@captioned(
    "Validation accuracy and training loss of each run, which its number names, by epoch. A run "
    "without validation images has its training accuracy there, dashed."
)
def curves_together(histories: Mapping[str, pd.DataFrame], numbers: Mapping[str, int]) -> Figure:
    """Accuracy and loss of several trainings by epoch; by step where all of them count steps.

    histories: {run: DataFrame with epoch, train_loss, train_acc, val_acc}, accuracies in [0, 1];
    numbers: {run: what its lines are called}, counted from 1."""
    by_step = all("step" in history for history in histories.values())
    unit = "step" if by_step else "epoch"
    figure, ((accuracy, loss),) = canvas(1, 2, 3.6, "Trainings")
    ends: dict[str, list[tuple[float, float, str, str]]] = {"accuracy": [], "loss": []}
    for name, history in histories.items():
        colour, when = run_colour(numbers[name]), history[unit].to_numpy(float)
        marker = "o" if len(when) < 3 else ""
        validated = history["val_acc"].notna().any()
        shares = history["val_acc" if validated else "train_acc"].to_numpy(float)
        losses = history["train_loss"].to_numpy(float)
        style = "-" if validated else DASHES
        accuracy.plot(when, shares, color=colour, ls=style, lw=1.5, marker=marker, ms=4)
        loss.plot(when, losses, color=colour, lw=1.5, marker=marker, ms=4)
        ends["accuracy"].append((when[-1], shares[-1], str(numbers[name]), colour))
        ends["loss"].append((when[-1], losses[-1], str(numbers[name]), colour))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    panel_title(accuracy, "Validation images classified right")
    panel_title(loss, f"Training loss{scaled(loss)} (nats)")
    for axes, labels in ((accuracy, ends["accuracy"]), (loss, ends["loss"])):
        axes.set_xlabel(unit)
        axes.grid(axis="y", color=FAINT, lw=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        label_ends(axes, labels)
    return figure


def scaled(axes: Axes) -> str:
    """Let a loss that falls far stand on a logarithmic axis, and say so."""
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    values = values[np.isfinite(values)]
    if not values.size or not values.max() > STEEP * values.min() > 0:
        return ""
    logarithmic(axes)
    return ", logarithmic"


@captioned(
    "Each point is a run, which its number names: a measure of neural collapse across, the mean "
    "AUROC over the shared OOD sets upwards. With few runs, and runs that differ in more than one "
    "thing, a trend is a question and not an answer."
)
def collapse_against_auroc(collapse: pd.DataFrame, auroc: pd.Series, method: str) -> Figure:
    """Small multiples, one for each measure of collapse.

    collapse: measures by runs; auroc: {run: mean AUROC in [0, 1]} of `method`."""
    count = len(collapse)
    rows, columns = grid_shape(count, 3)
    figure, grid = canvas(rows, columns, 0.5 + 2.3 * rows, f"Collapse, and mean AUROC by {method}")
    for axes, (label, values) in zip(grid.flat, collapse.iterrows(), strict=False):
        draw_runs(axes, values, auroc.reindex(collapse.columns))
        panel_title(axes, "\n".join(textwrap.wrap(shorten(label, 60), 24)))
    for axes in grid[:, 0]:
        axes.set_ylabel("mean AUROC")
    close_grid(grid, count)
    return figure


def draw_runs(axes: Axes, across: pd.Series, upwards: pd.Series) -> None:
    """A point for each run in which both are defined, with its name."""
    for number, name in enumerate(across.index, 1):
        x, y = float(across[name]), float(upwards[name])
        if not np.isfinite([x, y]).all():
            continue
        axes.plot(x, y, "o", color=run_colour(number), ms=6, mec="white")
        axes.annotate(
            str(number),
            (x, y),
            xytext=AROUND[number % len(AROUND)],
            textcoords="offset points",
            fontsize=8,
            color=INK,
            ha="center",
            va="center",
        )
    axes.margins(0.18)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(color=FAINT, lw=0.6)
    axes.tick_params(labelcolor=QUIET)
