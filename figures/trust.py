"""Figures of a classifier's predictions: how far to trust them, and which OOD images each class
takes in."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures.style import (
    DASHES,
    ID_COLOUR,
    INK,
    QUIET,
    Array,
    canvas,
    captioned,
    ood_colour,
    panel_title,
    shorten,
)

POINTS = 400  # of a curve that are drawn
CLASSES = 30  # columns of the heat map
Curve = tuple[Array, Array]  # coverage and risk, (n,) each


class Bins(NamedTuple):
    """A softmax at one temperature: the mean confidence and the share right of each bin of
    confidence, (B,) each, NaN in empty bins, and the calibration error over them."""

    temperature: float
    confidence: Array
    accuracy: Array
    error: float


@captioned(
    "Left: of test images with the same confidence, the share that is right, before and after "
    "temperature scaling; on the dashed line the confidence is right on average. Right: the share "
    "of errors among the test images that a score keeps; the lower, the better it finds them."
)
def trust(bins: list[Bins], curves: Mapping[str, Curve]) -> Figure:
    """Reliability diagram, and selective risk by coverage of each method.

    bins: one or two temperatures, none of an ensemble; curves: method -> (coverage, risk)."""
    columns = 2 if bins else 1
    figure, grid = canvas(1, columns, 3.6, "Which predictions can be trusted?")
    if bins:
        _reliability(grid[0, 0], bins)
    _risk_coverage(grid[0, -1], curves)
    for axes in grid.flat:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


@captioned(
    "Which class OOD images are taken for, in percent of each set's images: above of all, below of "
    "those that pass the threshold of the score with the highest mean AUROC."
)
def swallowed(taken: pd.DataFrame, accepted: pd.DataFrame | None, method: str) -> Figure:
    """Heat maps of the share of each OOD set (rows) that is predicted as each class (columns), and,
    where a method is named, of the share that it accepts as well.

    Both tables have the same rows and columns, shares in [0, 1]. Of more than CLASSES classes those
    with the largest shares are drawn, and the title says so."""
    classes = list(taken.columns)
    title = "Which class swallows which OOD set?"
    if len(classes) > CLASSES:
        largest = taken.max().sort_values(ascending=False, kind="stable").index[:CLASSES]
        classes = [name for name in classes if name in set(largest)]
        title += f"   ({CLASSES} of {taken.shape[1]} classes)"
    panels = {"taken for the class": taken}
    if accepted is not None:
        panels[f"and accepted by {shorten(method)}"] = accepted
    height = 1.3 + len(panels) * (0.5 + 0.3 * len(taken))
    figure, grid = canvas(len(panels), 1, height, title, sharex=True)
    top = max(100 * taken[classes].to_numpy().max(), 1.0)
    for axes, (text, table) in zip(grid[:, 0], panels.items(), strict=True):
        panel_title(axes, text)
        _shares(axes, 100 * table[classes].to_numpy(), top)
        axes.set_yticks(range(len(taken)), [shorten(name) for name in taken.index])
    turned = 0 if len(classes) <= 12 else 90
    grid[-1, 0].set_xticks(
        range(len(classes)), [shorten(name) for name in classes], rotation=turned
    )
    return figure


def _shares(axes: Axes, values: Array, top: float) -> None:
    """A heat map of percents, with numbers from 1 up where there is room for them."""
    axes.imshow(values, aspect="auto", cmap="Blues", interpolation="nearest", vmin=0, vmax=top)
    axes.spines[["left", "bottom"]].set_visible(False)
    if values.shape[1] > 12:
        return
    for (row, column), value in np.ndenumerate(values):
        if value < 0.5:
            continue
        colour = "white" if value > 0.6 * top else INK
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)


def _reliability(axes: Axes, bins: list[Bins]) -> None:
    panel_title(axes, "Reliability")
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=DASHES)
    for position, one in enumerate(bins):
        there = np.isfinite(one.confidence)
        colour = ID_COLOUR if position == 0 else ood_colour(0)
        text = f"T = {one.temperature:.3g}, error {100 * one.error:.1f}%"
        x, y = one.confidence[there], one.accuracy[there]
        axes.plot(x, y, "o-", color=colour, lw=1.4, ms=4, label=text)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_xlabel("mean confidence of a bin", color=QUIET)
    axes.set_ylabel("classified right", color=QUIET)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _risk_coverage(axes: Axes, curves: Mapping[str, Curve]) -> None:
    panel_title(axes, "Risk and coverage")
    for position, (method, (coverage, risk)) in enumerate(curves.items()):
        chosen = np.unique(np.linspace(0, len(risk) - 1, POINTS).astype(int))
        colour = ood_colour(position)
        axes.plot(coverage[chosen], risk[chosen], color=colour, lw=1.3, label=shorten(method))
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.set_xlabel("coverage, the share of test images kept", color=QUIET)
    axes.set_ylabel("errors among those kept", color=QUIET)
    if curves:
        axes.legend(frameon=False, fontsize=8, loc="upper left")
