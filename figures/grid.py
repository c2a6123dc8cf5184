"""How the temperature and epsilon of a perturbation change an ensemble's scores."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import (
    FAINT,
    INK,
    QUIET,
    Array,
    canvas,
    captioned,
    ood_colour,
    score_bins,
    two_densities,
    window,
)

Place = tuple[float, float]  # temperature, epsilon


@captioned(
    "AUROC of the ensemble on validation images, by temperature and epsilon. The frame marks the"
    " pair that was chosen."
)
def grid_map(table: pd.DataFrame, val_ood: str, chosen: Place) -> Figure:
    """Heat map of AUROC: temperatures are rows, epsilons are columns.

    table: ensemble_grid.csv with temperature, odin_epsilon, auroc in [0, 1]. Cells of pairs that
    were not extracted are empty."""
    wide = table.pivot(index="temperature", columns="odin_epsilon", values="auroc")
    values = 100 * wide.to_numpy(dtype=np.float64)
    height = 1.9 + 0.45 * len(wide)
    figure, axes_grid = canvas(1, 1, height, f"Temperature and epsilon, chosen on {val_ood}")
    axes = axes_grid[0, 0]
    axes.set_facecolor(FAINT)
    image = axes.imshow(values, aspect="auto", cmap="Blues", interpolation="nearest")
    axes.set_xticks(range(wide.shape[1]), [f"{value:g}" for value in wide.columns])
    axes.set_yticks(range(wide.shape[0]), [f"{value:g}" for value in wide.index])
    axes.set_xlabel("epsilon, of pixels in [0, 1]", color=QUIET)
    axes.set_ylabel("temperature", color=QUIET)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > middle else INK
            text = f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5)
    mark(axes, wide, chosen)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label("AUROC in %", color=QUIET, fontsize=8.5)
    bar.ax.tick_params(colors=QUIET, labelsize=8)
    return figure


def mark(axes: Axes, wide: pd.DataFrame, chosen: Place) -> None:
    """Frame the cell of a temperature and an epsilon."""
    row = list(wide.index).index(chosen[0])
    column = list(wide.columns).index(chosen[1])
    corners_x = [column - 0.5, column + 0.5, column + 0.5, column - 0.5, column - 0.5]
    corners_y = [row - 0.5, row - 0.5, row + 0.5, row + 0.5, row - 0.5]
    axes.plot(corners_x, corners_y, color=ood_colour(0), linewidth=2.5, clip_on=False)


@captioned(
    "Densities of the ensemble's score of ID (blue) and OOD validation images, by temperature"
    " (rows) and epsilon (columns). Each panel has its own axis: scores at different temperatures"
    " are of different sizes."
)
def grid_scores(scores: Mapping[Place, tuple[Array, Array]], val_ood: str, chosen: Place) -> Figure:
    """Small multiples of score densities; scores: (temperature, epsilon) -> ID (N,), OOD (M,)."""
    temperatures = sorted({temperature for temperature, _ in scores})
    epsilons = sorted({epsilon for _, epsilon in scores})
    height = 1.4 + 1.1 * len(temperatures)
    title = f"Scores of validation images: ID and {val_ood}"
    figure, axes_grid = canvas(len(temperatures), len(epsilons), height, title)
    for (row, column), axes in np.ndenumerate(axes_grid):
        place = (temperatures[row], epsilons[column])
        axes.set_yticks([])
        axes.set_xticks([])
        if place not in scores:
            axes.text(0.5, 0.5, "not extracted", ha="center", color=QUIET, fontsize=7.5)
            continue
        inside, outside = scores[place]
        bins = score_bins(*window(inside, [outside]), min(len(inside), len(outside)))
        two_densities(axes, inside, outside, bins, ood_colour(0))
        weight = "bold" if place == chosen else "normal"
        words = f"T {place[0]:g}, epsilon {place[1]:g}"
        axes.set_title(words, fontsize=7.5, color=INK, loc="left", fontweight=weight)
    figure.supxlabel(
        "score, higher = more in-distribution; bold: the chosen pair", fontsize=9, color=QUIET
    )
    return figure
