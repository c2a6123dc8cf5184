"""Figures of a classifier's predictions: how far to trust them, and which OOD images each class
takes in."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures.style import (
    DASHES,
    ID_COLOUR,
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
    axes.legend(frameon=False, fontsize=8, loc="upper left")


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
        axes.legend(frameon=False, fontsize=8)
