"""Figures of neural collapse over checkpoints and layers, and beside OOD detection; `figures` holds
them all.

Tables are tidy: one row per value, with `metric` and `split` as in nc_metrics.csv. `labels` =
{(metric, split): title} says what is drawn, in which order."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from figures.style import (
    DASHES,
    FAINT,
    ID_COLOUR,
    INK,
    OOD_COLOURS,
    QUIET,
    WIDTH,
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

COLUMNS = 3  # panels side by side


@captioned(
    epoch=(
        "Each metric over training. Dashed: the first checkpoint with every clean training "
        "image right."
    ),
    depth=("Each metric against depth, with a least-squares probe in place of the head."),
)
def collapse_curves(table, labels, along="epoch"):
    """One panel per metric over `along`: "epoch", or "depth" with the names of the layers (column
    `layer`) as ticks.

    table: metric, split, value and the column `along`. Over epochs a dashed line stands at the
    first one after which the classifier has every training image right (nc4_head_accuracy of split
    train is 1), if there is one."""
    title = "Neural collapse " + ("during training" if along == "epoch" else "through the layers")
    rows = -(-len(labels) // COLUMNS)
    figure, grid = canvas(rows, COLUMNS, 0.9 + 1.75 * rows, title, sharex=True)
    fitted = _first_fitted(table) if along == "epoch" else None
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


def few_decades(axis, values):
    """Name 1, 2 and 5 of each decade on a logarithmic axis whose values span fewer than two: one
    power of ten is no scale."""
    if values.max() < 100 * values.min():
        for subs, locate, word in (
            ((1,), axis.set_major_locator, axis.set_major_formatter),
            ((2, 5), axis.set_minor_locator, axis.set_minor_formatter),
        ):
            locate(LogLocator(subs=subs))
            word(FuncFormatter(lambda value, _: f"{value:g}"))


@captioned(
    epoch=("NC5 of each OOD set over training; dashed blue: the ID test images, the null."),
    depth=("NC5 of each OOD set against depth; dashed blue: the ID test images, the null."),
)
def nc5_curves(table, along="epoch"):
    """NC5 of every OOD set over epochs, or layers, uncentred and centred; the ID test images, the
    null, dashed in blue."""
    title = "NC5 of each OOD set " + (
        "during training" if along == "epoch" else "through the layers"
    )
    figure, grid = canvas(1, 2, 3.4, title, sharex=True)
    sets = dict.fromkeys(split for split in table["split"] if split.startswith("ood:"))
    fitted = _first_fitted(table) if along == "epoch" else None
    for axes, metric, name in zip(
        grid[0], ("nc5", "nc5_centred"), ("uncentred, as published", "centred"), strict=True
    ):
        ends = []
        for position, split in enumerate(["test", *sets]):
            x, values = _series(table, (metric, split), along)
            colour = ID_COLOUR if split == "test" else ood_colour(position - 1)
            axes.plot(
                x,
                values,
                color=colour,
                lw=1.5,
                marker="o",
                ms=3.5,
                ls=DASHES if split == "test" else "-",
            )
            if len(values):
                ends.append(
                    (
                        x[-1],
                        values[-1],
                        shorten(split.removeprefix("ood:"), 14) if split != "test" else "ID test",
                        colour,
                    )
                )
        axes.set_ylim(0, 1.05 * max([0.05, *finite(table.loc[table["metric"] == metric, "value"])]))
        axes.grid(axis="y", color=FAINT, lw=0.6)
        panel_title(axes, name)
        if fitted is not None:
            axes.axvline(fitted, color=QUIET, ls=DASHES, lw=1)
        _ticks(axes, table, along)
        label_ends(axes, ends)
    grid[0, 0].set_ylabel("mean |cosine|; 0 is orthogonal")
    _say_axis(figure, along, fitted)
    return figure


def _series(table, key, along):
    """The values of one (metric, split) -> where they stand (K,) and what they are (K,), in
    order."""
    rows = table[(table["metric"] == key[0]) & (table["split"] == key[1])].sort_values(along)
    return rows[along].to_numpy(), rows["value"].to_numpy(dtype=np.float64)


def _first_fitted(table):
    """The first epoch whose checkpoint classifies every clean training image right, or None."""
    epochs, accuracy = _series(table, ("nc4_head_accuracy", "train"), "epoch")
    return epochs[accuracy == 1][0] if (accuracy == 1).any() else None


def _ticks(axes, table, along):
    if along == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        names = table.drop_duplicates("depth").sort_values("depth")
        axes.set_xticks(
            names["depth"],
            [shorten(name, 12) for name in names["layer"]],
            rotation=90 if len(names) > 4 else 0,
        )


def _say_axis(figure, along, fitted):
    note = (
        ""
        if fitted is None
        else f"      ┆ first checkpoint with every training image right: epoch {fitted:g}"
    )
    figure.supxlabel(
        ("epoch" if along == "epoch" else "layer, from the image to the classifier") + note,
        fontsize=9,
        color=INK,
    )


@captioned("Layer by epoch: where and when collapse happens.")
def layer_epoch_maps(table, labels):
    """A heat map a metric: layers upwards in depth, epochs to the right. table: epoch, depth,
    layer, metric, split, value."""
    rows = -(-len(labels) // COLUMNS)
    layers = table.drop_duplicates("depth").sort_values("depth")
    height = 0.9 + rows * (0.75 + 0.2 * max(len(layers), 4))
    figure, grid = canvas(rows, COLUMNS, height, "Neural collapse through layers and training")
    for axes, ((metric, split), name) in zip(grid.flat, labels.items(), strict=False):
        found = table[(table["metric"] == metric) & (table["split"] == split)]
        wide = found.pivot(index="depth", columns="epoch", values="value").sort_index()
        values = wide.to_numpy(dtype=np.float64)
        known = finite(values)
        wide_range = known.size and known.min() > 0 and known.max() > 10 * known.min()
        image = axes.imshow(
            values,
            aspect="auto",
            origin="lower",
            cmap="viridis",
            interpolation="nearest",
            norm=LogNorm() if wide_range else None,
        )
        names = layers.set_index("depth")["layer"].loc[wide.index]
        axes.set_yticks(range(len(names)), [shorten(layer, 12) for layer in names])
        shown = np.unique(
            np.linspace(0, wide.shape[1] - 1, min(5, wide.shape[1])).round().astype(int)
        )
        axes.set_xticks(shown, [f"{epoch:g}" for epoch in wide.columns[shown]])
        panel_title(axes, shorten(name, 34))
        bar = figure.colorbar(image, ax=axes)
        bar.outline.set_visible(False)
        bar.ax.tick_params(which="both", colors=QUIET, labelsize=7.5)
        if wide_range:
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
            few_decades(bar.ax.yaxis, known)
    close_grid(grid, len(labels))
    figure.supxlabel("epoch", fontsize=9, color=INK)
    return figure


@captioned(
    "Spearman correlation over checkpoints of each metric with each method's AUROC; red: less "
    "of the metric, better detection."
)
def correlation_maps(table, labels):
    """Spearman correlation over checkpoints of collapse metrics (rows) and AUROC (columns:
    methods), one panel per OOD set.

    table: nc_ood_correlation.csv with metric, split, ood, method, spearman, n. A metric of split
    "ood:<name>" stands in labels under the split "ood". Grey: undefined, as where one side is
    constant."""
    sets, methods = (list(dict.fromkeys(table[column])) for column in ("ood", "method"))
    panel = 0.5 + 0.17 * len(labels)
    width = min(WIDTH, max(5.5, 3.2 + 0.3 * len(methods)))
    figure, grid = canvas(
        len(sets),
        1,
        1.9 + panel * len(sets),
        "Does collapse go with better detection?",
        width=width,
        sharex=True,
    )
    table = table.assign(split=table["split"].str.replace("^ood:.*", "ood", regex=True))
    for position, (axes, name) in enumerate(zip(grid[:, 0], sets, strict=True)):
        wide = table[table["ood"] == name].pivot(
            index=["metric", "split"], columns="method", values="spearman"
        )
        values = wide.reindex(index=list(labels), columns=methods).to_numpy(dtype=np.float64)
        axes.set_facecolor(FAINT)
        image = axes.imshow(
            values, aspect="auto", cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest"
        )
        axes.set_yticks(
            range(len(labels)), [shorten(label, 34) for label in labels.values()], fontsize=7
        )
        axes.set_xticks(
            range(len(methods)),
            [shorten(method, 18) for method in methods],
            rotation=90,
            fontsize=7.5,
        )
        panel_title(axes, shorten(name, 40), OOD_COLOURS[position % len(OOD_COLOURS)])
    bar = figure.colorbar(
        image, ax=grid[:, 0].tolist(), shrink=min(1, 2.5 / panel / len(sets)), pad=0.01
    )
    bar.outline.set_visible(False)
    bar.set_label("Spearman correlation", color=QUIET, fontsize=8.5)
    bar.ax.tick_params(colors=QUIET, labelsize=8)
    figure.supxlabel(
        f"AUROC and metric over {table['n'].max()} checkpoints; blue: higher metric, higher AUROC",
        fontsize=9,
        color=QUIET,
    )
    return figure
