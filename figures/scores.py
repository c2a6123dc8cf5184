"""Figures of OOD scores: their densities, and AUROC by method and set; `figures` holds them all."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from figures.style import (
    DASHES,
    FAINT,
    INK,
    QUIET,
    Array,
    bar_rows,
    beside_bar,
    beyond,
    canvas,
    captioned,
    close_grid,
    finite,
    grid_shape,
    label_ends,
    ood_colour,
    panel_title,
    percent,
    rug,
    score_bins,
    shorten,
    two_densities,
    window,
)

NAME = 30  # letters of a method's name beside its bar: ranks(RelativeMahalanobis++) has 28


@captioned(
    "Densities of the score of ID (blue) and OOD images. The less they overlap, the better "
    "the score tells them apart."
)
def score_histograms(
    id_scores: Array,
    ood_scores: Mapping[str, Array],
    method: str,
    threshold: float | None = None,
    auroc: Mapping[str, float] | None = None,
) -> Figure:
    """Densities of one method's score, one row per OOD set, each beside the same ID density.

    id_scores (N,); ood_scores: name -> (M,); threshold: the score from which an image is accepted;
    auroc: name -> AUROC in [0, 1], written beside the name where given; that of a single image has
    no interval and is left out. The axis is cut at percentiles (`window`); what lies beyond is
    counted in words."""
    notes = {}
    for name, area in (auroc or {}).items():
        if np.isfinite(area) and len(ood_scores[name]) > 1:
            notes[name] = f"   AUROC {percent(area)}%"
    return _density_panels(
        id_scores,
        ood_scores,
        f"{shorten(method)}: scores of ID and OOD images",
        f"{shorten(method)} score, higher = more in-distribution; vertical: density",
        threshold,
        notes,
    )


@captioned("Distance of ID and OOD images to the nearest class mean.")
def centre_distances(id_distances: Array, ood_distances: Mapping[str, Array]) -> Figure:
    """Densities of each image's distance to the nearest class mean (feature units), one row per OOD
    set.

    id_distances (N,) of ID test images; ood_distances: name -> (M,).
    """
    return _density_panels(
        id_distances,
        ood_distances,
        "How far are ID and OOD images from the nearest class mean?",
        "Euclidean distance to the nearest class mean (feature units); vertical: density",
    )


def _density_panels(
    id_values: Array,
    ood_values: Mapping[str, Array],
    title: str,
    quantity: str,
    threshold: float | None = None,
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """One panel per OOD set with its density beside ID's; notes: name -> what follows the name in
    the panel's title."""
    inside = finite(id_values)
    outside = {name: finite(values) for name, values in ood_values.items()}
    start, stop = window(inside, list(outside.values()))
    rows = max(len(outside), 1)
    figure, grid = canvas(rows, 1, _panels_height(len(outside)), title, sharex=True)
    nothing = inside[:0]
    names = list(outside) or [""]  # without an OOD set, ID's density alone
    for position, (axes, name) in enumerate(zip(grid[:, 0], names, strict=True)):
        colour = ood_colour(position)
        values = outside.get(name, nothing)
        fewest = min(len(inside), len(values)) if len(values) else len(inside)
        bins = score_bins(start, stop, fewest)
        cut = two_densities(axes, inside, values, bins, colour)
        rug(axes, values, colour)
        text = shorten(name, 40) + (notes or {}).get(name, "")
        panel_title(axes, f"{text}   (spike cut off)" if cut else text, colour)
        if name:
            unseen = beyond(inside, values, start, stop)
            axes.set_title(unseen, loc="right", fontsize=8, color=QUIET, pad=5)
        if threshold is not None:
            axes.axvline(threshold, color=INK, lw=1, ls=DASHES)
    line = "" if threshold is None else f"      ┆ threshold {threshold:.4g}: accepted to its right"
    grid[-1, 0].set_xlabel(f"{quantity}\nblue: ID      coloured: the OOD set{line}")
    return figure


def _panels_height(count: int) -> float:
    """Inches of a figure of so many rows: the more rows, the lower each."""
    if count < 2:
        return 3.6
    return 1.0 + max(0.95, 1.5 - 0.07 * count) * count


@captioned(
    "AUROC of each method on each OOD set, methods sorted by their mean, the best of each set "
    "dark; bars start at 50%, which is chance."
)
def auroc_bars(metrics: pd.DataFrame) -> Figure:
    """AUROC of every method, one panel per OOD set, bars from chance (50%) with 95%
    intervals.

    metrics: the table ood_metrics.csv with method, ood, auroc, auroc_low, auroc_high (and
    parameters, which tell two rows of one method apart). Methods are sorted by their mean over the
    sets, the same order in every panel. What is undefined, has no interval (a single image), or was
    not scored is said in words in place of its bar."""
    table = metrics.assign(method=method_labels(metrics))
    # pivot_table would drop methods that are NaN everywhere; they keep their row and are called
    # undefined.
    wide = {
        column: table.pivot(index="method", columns="ood", values=column)
        for column in ("auroc", "auroc_low", "auroc_high")
    }
    methods = wide["auroc"].mean(axis=1).sort_values(na_position="first", kind="stable").index
    sets = list(dict.fromkeys(table["ood"]))
    rows, columns = grid_shape(len(sets))
    height = 0.9 + rows * (0.55 + 0.23 * max(len(methods), 3))
    figure, grid = canvas(
        rows, columns, height, "AUROC by method and OOD set", sharex=True, sharey=True
    )
    low = np.nanmin([0.45, wide["auroc_low"].min().min(), wide["auroc"].min().min()])
    for position, (axes, name) in enumerate(zip(grid.flat, sets, strict=False)):
        panel_title(axes, shorten(name), ood_colour(position))
        values, lows, highs = (
            cells.loc[methods, name].to_numpy(dtype=np.float64) for cells in wide.values()
        )
        scored = np.isin(methods, table.loc[table["ood"] == name, "method"])
        _interval_bars(axes, values, lows, highs, scored, ood_colour(position))
        axes.set_yticks(range(len(methods)), [shorten(method, NAME) for method in methods])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        bar_rows(axes, len(methods))
        ticks = [tick for tick in (0.0, 0.25, 0.5, 0.75, 1.0) if tick >= low]
        axes.set(xlim=(low - 0.02, 1 + 0.24 * (1 - low)), xticks=ticks)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    close_grid(grid, len(sets))
    figure.supxlabel("AUROC; bars start at chance, whiskers: 95% interval", fontsize=9, color=QUIET)
    return figure


def method_labels(metrics: pd.DataFrame) -> pd.Series:
    """Names of the rows of ood_metrics.csv: the method, with its parameters where one set has
    several rows of it."""
    if "parameters" not in metrics:
        return metrics["method"]
    sets = metrics.groupby("method")["ood"]
    several = sets.transform(lambda names: names.duplicated().any()).astype(bool)
    parameters = metrics["parameters"].astype(object).fillna("").astype(str)
    return metrics["method"].where(~several, metrics["method"] + " " + parameters)


def _interval_bars(
    axes: Axes, values: Array, lows: Array, highs: Array, scored: Array, colour: str
) -> None:
    """Horizontal bars from 0.5 to the values (K,), the best dark, whiskers to lows and highs,
    numbers beside them."""
    rows = np.arange(len(values))
    drawn = np.isfinite(values) & np.isfinite(lows) & np.isfinite(highs)
    best = drawn & (values == np.max(values[drawn], initial=-np.inf))
    shades = [to_rgba(colour, 0.85 if one else 0.4) for one in best[drawn]]
    axes.barh(rows[drawn], values[drawn] - 0.5, left=0.5, height=0.68, color=shades)
    whiskers = np.abs(np.array([values - lows, highs - values]))[:, drawn]
    axes.errorbar(
        values[drawn],
        rows[drawn],
        xerr=whiskers,
        fmt="none",
        ecolor=INK,
        elinewidth=0.9,
        capsize=1.5,
    )
    axes.axvline(0.5, color=QUIET, lw=0.8)
    for row in range(len(values)):
        if drawn[row]:
            place = max(values[row], highs[row], 0.5)
            weight = "bold" if best[row] else "normal"
            beside_bar(axes, percent(values[row]), place, row, INK, fontsize=7.5, fontweight=weight)
        else:
            beside_bar(axes, _why_no_bar(values[row], scored[row]), 0.5, row, QUIET, fontsize=7.5)


def _why_no_bar(value: float, scored: bool) -> str:
    if not scored:
        return "not scored"
    return "no interval" if np.isfinite(value) else "undefined"


# ---- a parameter ---------------------------------------------------------------------------------


@captioned(
    "NECO's AUROC over the number of components, seen with OOD data: it shows how much the number "
    "matters, and chooses nothing. Dashed: the number in the table, which the ID training images "
    "chose unless it was given."
)
def neco_dimensions(
    dims: Sequence[int], areas: Mapping[str, Sequence[float]], chosen: int, method: str = "NECO"
) -> Figure:
    """AUROC at each of K numbers of components, one line per OOD set.

    dims (K,): ascending; areas: name -> (K,) in [0, 1]; chosen: the number that the table has."""
    title = f"{method} over its number of components, seen with OOD data"
    figure, grid = canvas(1, 1, 3.6, title)
    axes = grid[0, 0]
    axes.set_xscale("log")
    ends = []
    for position, (name, values) in enumerate(areas.items()):
        colour = ood_colour(position)
        axes.plot(dims, values, color=colour, lw=1.5, marker="o", ms=2.5)
        ends.append((float(dims[-1]), float(values[-1]), shorten(name, 14), colour))
    axes.axvline(chosen, color=QUIET, ls=DASHES, lw=1)
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"components; dashed: {chosen}, as in the table")
    axes.set_ylabel("AUROC")
    label_ends(axes, ends)
    return figure
