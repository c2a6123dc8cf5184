"""Figures of neural collapse over checkpoints and layers, and beside OOD detection; `figures` holds
them all.

Tables are tidy: one row per value, with `metric` and `split` as in nc_metrics.csv. `labels` =
{(metric, split): title} says what is drawn, in which order."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from figures.style import (
    DASHES,
    FAINT,
    ID_COLOUR,
    INK,
    QUIET,
    WIDTH,
    Array,
    canvas,
    captioned,
    close_grid,
    finite,
    label_ends,
    logarithmic,
    ood_colour,
    panel_title,
    shorten,
)

Labels = Mapping[tuple[str, str], str]

COLUMNS = 3  # panels side by side
TIMES = ("epoch", "step")  # what the metrics of a series of checkpoints run along


@captioned(
    epoch=(
        "Each metric over training. Dashed: the first checkpoint with every clean training "
        "image right."
    ),
    step=(
        "Each metric over the steps of training. Dashed: the first checkpoint with every clean "
        "training image right."
    ),
    depth=("Each metric against depth, with a least-squares probe in place of the head."),
)
def collapse_curves(table: pd.DataFrame, labels: Labels, along: str = "epoch") -> Figure:
    """One panel per metric over `along`: "epoch", "step", or "depth" with the names of the layers
    (column `layer`) as ticks.

    table: metric, split, value and the column `along`. Over epochs a dashed line stands at the
    first one after which the classifier has every training image right (nc4_head_accuracy of split
    train is 1), if there is one."""
    title = f"Neural collapse {_through(along)}"
    rows = math.ceil(len(labels) / COLUMNS)
    figure, grid = canvas(rows, COLUMNS, 0.9 + 1.75 * rows, title, sharex=True)
    fitted = _first_fitted(table, along) if along in TIMES else None
    for axes, (key, name) in zip(grid.flat, labels.items(), strict=False):
        x, values = _series(table, key, along)
        axes.plot(x, values, color=ID_COLOUR, lw=1.5, marker="o", ms=3.5)
        known = finite(values)
        if known.size and known.min() > 0 and known.max() > 10 * known.min():
            logarithmic(axes)
            few_decades(axes.yaxis, known)
        elif not known.size:
            axes.annotate(
                "undefined",
                (0.5, 0.5),
                xycoords="axes fraction",
                ha="center",
                fontsize=9,
                color=QUIET,
            )
            axes.set_yticks([])
        axes.grid(axis="y", color=FAINT, lw=0.6)
        panel_title(axes, shorten(name, 34) + (", log." if axes.get_yscale() == "log" else ""))
        if fitted is not None:
            axes.axvline(fitted, color=QUIET, ls=DASHES, lw=1)
        _ticks(axes, table, along)
    close_grid(grid, len(labels))
    _say_axis(figure, along, fitted)
    return figure


def _through(along: str) -> str:
    return "during training" if along in TIMES else "through the layers"


def few_decades(axis: Axis, values: Array) -> None:
    """Name 1, 2 and 5 of each decade on a logarithmic axis whose values span fewer than two: one
    power of ten is no scale."""
    if values.max() >= 100 * values.min():
        return
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_locator(LogLocator(subs=(1,)))
    axis.set_major_formatter(plain)
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter(plain)


@captioned(
    epoch=("NC5 of each OOD set over training; dashed blue: the ID test images, the null."),
    step=("NC5 of each OOD set over training steps; dashed blue: the ID test images, the null."),
    depth=("NC5 of each OOD set against depth; dashed blue: the ID test images, the null."),
)
def nc5_curves(table: pd.DataFrame, along: str = "epoch") -> Figure:
    """NC5 of every OOD set over epochs, steps, or layers, uncentred and centred; the ID test
    images, the null, dashed in blue."""
    figure, grid = canvas(1, 2, 3.4, f"NC5 of each OOD set {_through(along)}", sharex=True)
    fitted = _first_fitted(table, along) if along in TIMES else None
    panels = (("nc5", "uncentred, as published"), ("nc5_centred", "centred"))
    for axes, (metric, name) in zip(grid[0], panels, strict=True):
        ends = _nc5_lines(axes, table, metric, along)
        values = finite(table.loc[table["metric"] == metric, "value"])
        axes.set_ylim(0, 1.05 * max([0.05, *values]))
        axes.grid(axis="y", color=FAINT, lw=0.6)
        panel_title(axes, name)
        if fitted is not None:
            axes.axvline(fitted, color=QUIET, ls=DASHES, lw=1)
        _ticks(axes, table, along)
        label_ends(axes, ends)
    grid[0, 0].set_ylabel("mean |cosine|; 0 is orthogonal")
    _say_axis(figure, along, fitted)
    return figure


def _nc5_lines(
    axes: Axes, table: pd.DataFrame, metric: str, along: str
) -> list[tuple[float, float, str, str]]:
    """Draw the null and each OOD set; return the ends of the lines for `label_ends`."""
    sets = dict.fromkeys(split for split in table["split"] if split.startswith("ood:"))
    lines: list[tuple[str, str, str, Any]] = [("test", "ID test", ID_COLOUR, DASHES)]
    for position, split in enumerate(sets):
        name = shorten(split.removeprefix("ood:"), 14)
        lines.append((split, name, ood_colour(position), "-"))
    ends: list[tuple[float, float, str, str]] = []
    for split, name, colour, style in lines:
        x, values = _series(table, (metric, split), along)
        axes.plot(x, values, color=colour, lw=1.5, marker="o", ms=3.5, ls=style)
        if len(values):
            ends.append((x[-1], values[-1], name, colour))
    return ends


def _series(table: pd.DataFrame, key: tuple[str, str], along: str) -> tuple[Array, Array]:
    """The values of one (metric, split) -> where they stand (K,) and what they are (K,), in
    order."""
    metric, split = key
    chosen = (table["metric"] == metric) & (table["split"] == split)
    rows = table[chosen].sort_values(along)
    return rows[along].to_numpy(), rows["value"].to_numpy(dtype=np.float64)


def _first_fitted(table: pd.DataFrame, along: str) -> float | None:
    """The first epoch, or step, whose checkpoint classifies every clean training image right, or
    None."""
    epochs, accuracy = _series(table, ("nc4_head_accuracy", "train"), along)
    fitted = epochs[accuracy == 1]
    return fitted[0] if len(fitted) else None


def _ticks(axes: Axes, table: pd.DataFrame, along: str) -> None:
    """Whole epochs or steps, or the names of the layers, along the horizontal axis."""
    if along in TIMES:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return
    layers = table.drop_duplicates("depth").sort_values("depth")
    names = [shorten(name, 12) for name in layers["layer"]]
    axes.set_xticks(layers["depth"], names, rotation=90 if len(names) > 4 else 0)


def _say_axis(figure: Figure, along: str, fitted: float | None) -> None:
    """What runs along the horizontal axis, and what its dashed line is."""
    text = along if along in TIMES else "layer, from the image to the classifier"
    if fitted is not None:
        text += f"      ┆ first checkpoint with every training image right: {along} {fitted:g}"
    figure.supxlabel(text, fontsize=9, color=INK)


@captioned(
    epoch="Layer by epoch: where and when collapse happens.",
    step="Layer by training step: where and when collapse happens.",
)
def layer_epoch_maps(table: pd.DataFrame, labels: Labels, along: str = "epoch") -> Figure:
    """One heat map per metric: layers upwards in depth, epochs (or steps) to the right. table: the
    column `along`, depth, layer, metric, split, value."""
    rows = math.ceil(len(labels) / COLUMNS)
    layers = table.drop_duplicates("depth").set_index("depth")["layer"]
    height = 0.9 + rows * (0.75 + 0.2 * max(len(layers), 4))
    figure, grid = canvas(rows, COLUMNS, height, "Neural collapse through layers and training")
    for axes, ((metric, split), name) in zip(grid.flat, labels.items(), strict=False):
        found = table[(table["metric"] == metric) & (table["split"] == split)]
        wide = found.pivot(index="depth", columns=along, values="value").sort_index()
        _layer_epoch_map(figure, axes, wide, layers)
        panel_title(axes, shorten(name, 34))
    close_grid(grid, len(labels))
    figure.supxlabel(along, fontsize=9, color=INK)
    return figure


def _layer_epoch_map(figure: Figure, axes: Axes, wide: pd.DataFrame, layers: pd.Series) -> None:
    """One heat map of a table with a row per depth and a column per epoch, with its colour bar;
    layers: the name at each depth. Positive values of more than one decade stand on a logarithmic
    scale."""
    values = wide.to_numpy(dtype=np.float64)
    known = finite(values)
    decades = known.size and known.max() > 10 * known.min() > 0
    image = axes.imshow(
        values,
        aspect="auto",
        origin="lower",
        cmap="viridis",
        interpolation="nearest",
        norm=LogNorm() if decades else None,
    )
    names = [shorten(layer, 12) for layer in layers.loc[wide.index]]
    axes.set_yticks(range(len(names)), names)
    epochs = len(wide.columns)
    even = np.linspace(0, epochs - 1, min(5, epochs))
    shown = np.unique(even.round().astype(int))
    axes.set_xticks(shown, [f"{epoch:g}" for epoch in wide.columns[shown]])
    bar = figure.colorbar(image, ax=axes)
    bar.outline.set_visible(False)
    bar.ax.tick_params(which="both", colors=QUIET, labelsize=7.5)
    if decades:
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        few_decades(bar.ax.yaxis, known)


@captioned(
    "Spearman correlation over checkpoints of each metric with each method's AUROC; red: less "
    "of the metric, better detection."
)
def correlation_maps(table: pd.DataFrame, labels: Labels) -> Figure:
    """Spearman correlation over checkpoints of collapse metrics (rows) and AUROC (columns:
    methods), one panel per OOD set.

    table: nc_ood_correlation.csv with metric, split, ood, method, spearman, n. A metric of split
    "ood:<name>" stands in labels under the split "ood". Grey: undefined, as where one side is
    constant."""
    sets, methods = list(dict.fromkeys(table["ood"])), list(dict.fromkeys(table["method"]))
    panel = 0.5 + 0.17 * len(labels)  # inches
    height = 1.9 + panel * len(sets)
    width = min(WIDTH, max(5.5, 3.2 + 0.3 * len(methods)))
    title = "Does collapse go with better detection?"
    figure, grid = canvas(len(sets), 1, height, title, width=width, sharex=True)
    rows, columns = list(labels.values()), [shorten(method, 18) for method in methods]
    table = table.assign(split=table["split"].str.replace("^ood:.*", "ood", regex=True))
    for position, (axes, name) in enumerate(zip(grid[:, 0], sets, strict=True)):
        own = table[table["ood"] == name]
        wide = own.pivot(index=["metric", "split"], columns="method", values="spearman")
        values = wide.reindex(index=list(labels), columns=methods).to_numpy(dtype=np.float64)
        axes.set_facecolor(FAINT)
        image = axes.imshow(
            values, aspect="auto", cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest"
        )
        axes.set_yticks(range(len(rows)), [shorten(row, 34) for row in rows], fontsize=7)
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7.5)
        panel_title(axes, shorten(name, 40), ood_colour(position))
    shrink = min(1, 2.5 / panel / len(sets))
    bar = figure.colorbar(image, ax=grid[:, 0].tolist(), shrink=shrink, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label("Spearman correlation", color=QUIET, fontsize=8.5)
    bar.ax.tick_params(colors=QUIET, labelsize=8)
    over = f"AUROC and metric over {table['n'].max()} checkpoints"
    figure.supxlabel(
        f"{over}; blue: higher metric, higher AUROC",
        fontsize=9,
        color=QUIET,
    )
    return figure
