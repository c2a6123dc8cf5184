"""Figures of training, of OOD scores, and of ID and OOD images side by side; `figures` holds them
all."""

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.style import (
    DASHES,
    FAINT,
    ID_COLOUR,
    INK,
    LONG,
    PAPER,
    QUIET,
    bar_rows,
    beyond,
    canvas,
    captioned,
    close_grid,
    density,
    finite,
    grid_shape,
    label_ends,
    logarithmic,
    ood_colour,
    panel_title,
    percent,
    shorten,
    thin,
    window,
)


@captioned(
    "Accuracy and loss by epoch on training images, and on validation images where some were "
    "kept. A dot marks the best validation accuracy, a dashed line the first epoch with every "
    "training image right."
)
def training_curves(history):
    """Accuracy and loss by epoch, training and validation.

    history: DataFrame with epoch, train_loss, train_acc, val_loss, val_acc (accuracies in [0, 1];
    NaN: not measured). Marks the epoch with the best validation accuracy and the first at which
    every training image was classified right."""
    epoch = history["epoch"].to_numpy(dtype=np.float64)
    figure, ((accuracy, loss),) = canvas(1, 2, 3.5, "Accuracy and loss during training")
    series = (("train", QUIET), ("validation", ID_COLOUR))
    for axes, quantity in ((accuracy, "acc"), (loss, "loss")):
        columns = [
            history[f"{split}_{quantity}"].to_numpy(dtype=np.float64) for split in ("train", "val")
        ]
        for values, (_, colour) in zip(columns, series, strict=True):
            axes.plot(
                epoch, values, color=colour, lw=1.6, marker="o" if len(epoch) < 3 else "", ms=4
            )
        known = finite(np.concatenate(columns))
        positive = quantity == "loss" and known.size and known.min() > 0
        if positive and known.max() > 20 * known.min():
            logarithmic(axes)
        ends = [
            (epoch[-1], values[-1], name, colour)
            for values, (name, colour) in zip(columns, series, strict=True)
            if len(epoch)
        ]
        label_ends(axes, ends)
        axes.grid(axis="y", color=FAINT, lw=0.6)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(epoch) == 1:
            axes.set_xlim(epoch[0] - 1, epoch[0] + 1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    panel_title(accuracy, "Images classified right")
    panel_title(
        loss,
        "Cross-entropy loss" + (", logarithmic" if loss.get_yscale() == "log" else "") + " (nats)",
    )
    _mark_epochs(figure, accuracy, loss, epoch, history)
    return figure


def _mark_epochs(figure, accuracy, loss, epoch, history):
    """Dot at the best validation accuracy, dashed line at the first epoch with all training images
    right, and words."""
    notes = []
    validation = history["val_acc"].to_numpy(dtype=np.float64)
    if np.isfinite(validation).any():
        best = int(np.nanargmax(validation))
        accuracy.plot(
            epoch[best],
            validation[best],
            "o",
            color=ID_COLOUR,
            ms=7,
            mec="white",
            mew=1.2,
            zorder=5,
        )
        notes.append(
            f"● best validation accuracy: {percent(validation[best], 2)}% at epoch {epoch[best]:g}"
        )
    fitted = np.flatnonzero(history["train_acc"].to_numpy(dtype=np.float64) == 1)
    if fitted.size:
        for axes in (accuracy, loss):
            axes.axvline(epoch[fitted[0]], color=QUIET, ls=DASHES, lw=1)
        notes.append(f"┆ every training image right for the first time: epoch {epoch[fitted[0]]:g}")
    if notes:
        figure.supxlabel("      ".join(notes), fontsize=9, color=INK)


@captioned(
    "Densities of the score of ID (blue) and OOD images. The less they overlap, the better "
    "the score tells them apart."
)
def score_histograms(id_scores, ood_scores, method, threshold=None, auroc=None):
    """Densities of one method's score, one row per OOD set, each beside the same ID density.

    id_scores (N,); ood_scores: name -> (M,); threshold: the score from which an image is accepted;
    auroc: name -> AUROC in [0, 1], written beside the name where given; that of a single image has
    no interval and is left out. The axis is cut at percentiles (`window`); what lies beyond is
    counted in words."""
    known = {
        name: area
        for name, area in (auroc or {}).items()
        if np.isfinite(area) and len(ood_scores[name]) > 1
    }
    notes = {name: f"   AUROC {percent(area)}%" for name, area in known.items()}
    line = "" if threshold is None else f"      ┆ threshold {threshold:.4g}: accepted to its right"
    return _density_panels(
        id_scores,
        ood_scores,
        f"{shorten(method)}: scores of ID and OOD images",
        f"{shorten(method)} score, higher = more in-distribution; vertical: density",
        line,
        threshold,
        notes,
    )


@captioned("Distance of ID and OOD images to the nearest class mean.")
def centre_distances(id_distances, ood_distances):
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


def _density_panels(id_values, ood_values, title, quantity, line="", threshold=None, notes=None):
    """One panel per OOD set with its density beside ID's; notes: name -> what follows the name in
    the panel's title."""
    inside = finite(id_values)
    outside = {name: finite(values) for name, values in ood_values.items()}
    start, stop = window(inside, list(outside.values()))
    bins = np.linspace(start, stop, 81)
    height = 1.0 + (
        2.6 if len(outside) < 2 else max(0.95, 1.5 - 0.07 * len(outside)) * len(outside)
    )
    figure, grid = canvas(max(len(outside), 1), 1, height, title, sharex=True)
    for position, (axes, (name, values)) in enumerate(
        zip(grid[:, 0], (outside or {"": inside[:0]}).items(), strict=True)
    ):
        colour = ood_colour(position)
        peaks = [
            density(axes, inside, bins, ID_COLOUR, 0.25),
            density(axes, values, bins, colour, 0.35),
        ]
        # A spike may leave the panel; the other density must stay legible beneath it.
        top = min(max(peaks), 5 * min((peak for peak in peaks if peak > 0), default=1)) or 1
        axes.set(ylim=(0, 1.1 * top), yticks=[], xlim=(start, stop))
        axes.spines["left"].set_visible(False)
        text = shorten(name, 40) + (notes or {}).get(name, "")
        panel_title(axes, text + ("   (spike cut off)" if max(peaks) > top else ""), colour)
        if name:
            axes.set_title(
                beyond(inside, values, start, stop), loc="right", fontsize=8, color=QUIET, pad=5
            )
        if threshold is not None:
            axes.axvline(threshold, color=INK, lw=1, ls=DASHES)
    grid[-1, 0].set_xlabel(f"{quantity}\nblue: ID      coloured: the OOD set{line}")
    return figure


@captioned(
    "AUROC of each method on each OOD set, methods sorted by their mean, the best of each set "
    "dark; bars start at 50%, which is chance."
)
def auroc_bars(metrics):
    """AUROC of every method, one panel per OOD set, bars from chance (50%) with 95% DeLong
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
        values = [wide[column].loc[methods, name].to_numpy(dtype=np.float64) for column in wide]
        scored = np.isin(methods, table.loc[table["ood"] == name, "method"])
        _interval_bars(axes, *values, scored, ood_colour(position))
        axes.set_yticks(range(len(methods)), [shorten(method) for method in methods])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        bar_rows(axes, len(methods))
        ticks = [tick for tick in (0.0, 0.25, 0.5, 0.75, 1.0) if tick >= low]
        axes.set(xlim=(low - 0.02, 1 + 0.24 * (1 - low)), xticks=ticks)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    close_grid(grid, len(sets))
    figure.supxlabel(
        "AUROC; bars start at chance, whiskers: 95% DeLong interval", fontsize=9, color=QUIET
    )
    return figure


def method_labels(metrics):
    """Names of the rows of ood_metrics.csv: the method, with its parameters where one set has
    several rows of it."""
    if "parameters" not in metrics:
        return metrics["method"]
    several = (
        metrics.groupby("method")["ood"]
        .transform(lambda sets: sets.duplicated().any())
        .astype(bool)
    )
    parameters = metrics["parameters"].astype(object).fillna("").astype(str)
    return metrics["method"].where(~several, metrics["method"] + " " + parameters)


def _interval_bars(axes, values, lows, highs, scored, colour):
    """Horizontal bars from 0.5 to the values (K,), the best dark, whiskers to lows and highs,
    numbers beside them."""
    rows = np.arange(len(values))
    drawn = np.isfinite(values) & np.isfinite(lows) & np.isfinite(highs)
    best = drawn & (values == np.max(values[drawn], initial=-np.inf))
    for row in rows[drawn]:
        axes.barh(
            row,
            values[row] - 0.5,
            left=0.5,
            height=0.68,
            color=colour,
            alpha=0.85 if best[row] else 0.4,
        )
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
    for row in rows:
        text = percent(values[row]) if drawn[row] else _why_no_bar(values[row], scored[row])
        place = max(values[row], highs[row], 0.5) if drawn[row] else 0.5
        axes.annotate(
            text,
            (place, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=INK if drawn[row] else QUIET,
            fontweight="bold" if best[row] else "normal",
        )


def _why_no_bar(value, scored):
    if not scored:
        return "not scored"
    return "no interval" if np.isfinite(value) else "undefined"


@captioned(
    "Features on the two directions in which ID features vary most. Two of many directions: "
    "sets that overlap here may be apart in others."
)
def principal_components(id_points, ood_points, explained=(np.nan, np.nan), id_labels=None):
    """ID and OOD features on the two leading principal components, one panel per OOD set over the
    same ID points.

    id_points (N, 2); ood_points: name -> (M, 2); explained: shares of variance in [0, 1] of the two
    components; id_labels (N,): where given and at most LONG classes, each label is written at the
    median of its points. At most 2,000 points of a group are drawn, evenly spaced in file order.
    """
    shares = [
        f" ({100 * share:.1f}% of the variance)" if np.isfinite(share) else ""
        for share in explained
    ]
    return _scatter_panels(
        id_points,
        ood_points,
        id_labels,
        "ID and OOD features on two principal components",
        f"across: first component{shares[0]}, up: second{shares[1]}; feature units",
    )


PAIRS = ((0, 1), (0, 2), (1, 2))  # of three components: across, up


@captioned(
    "The same with a third direction, each pair of the three in a panel of its own: a set "
    "that hides behind ID in one view may stand apart in another."
)
def three_components(id_points, ood_points, explained=(np.nan, np.nan, np.nan), id_labels=None):
    """ID and OOD features on the three leading principal components, a row of panels an OOD set, a
    pair a panel.

    id_points (N, 3); ood_points: name -> (M, 3); explained: shares of variance in [0, 1]; id_labels
    as in `principal_components`. Three flat views and no perspective: on paper a cloud drawn in
    depth hides what is behind it, and no coordinate can be read off. One unit is as long in every
    panel."""
    rows = max(len(ood_points), 1)
    figure, grid = canvas(
        rows,
        3,
        0.9 + 2.75 * rows,
        "ID and OOD features on three principal components",
        layout="compressed",
    )
    inside, outside = (
        thin(id_points, width=3),
        [thin(points, width=3) for points in ood_points.values()],
    )
    limits = [
        window(inside[:, axis], [points[:, axis] for points in outside], 0.2) for axis in range(3)
    ]
    centre, half = np.mean(limits, axis=1), np.ptp(limits, axis=1).max() / 2
    names = [
        f"component {axis + 1}" + (f" ({100 * share:.1f}%)" if np.isfinite(share) else "")
        for axis, share in enumerate(explained)
    ]
    for position, (panels, name) in enumerate(zip(grid, ood_points or [""], strict=True)):
        panel_title(panels[0], shorten(name), ood_colour(position))
        for axes, pair in zip(panels, map(list, PAIRS), strict=True):
            axes.scatter(*inside[:, pair].T, s=3, color=ID_COLOUR, alpha=0.35, lw=0)
            if outside:
                axes.scatter(
                    *outside[position][:, pair].T, s=3, color=ood_colour(position), alpha=0.5, lw=0
                )
                _count_beyond(axes, outside[position][:, pair], centre[pair], half)
            across, up = ((centre[axis] - half, centre[axis] + half) for axis in pair)
            axes.set(xlim=across, ylim=up, aspect="equal", ylabel=names[pair[1]])
            if position == rows - 1:
                axes.set_xlabel(names[pair[0]])
            axes.locator_params(nbins=4)
            _write_labels(axes, np.asarray(id_points, dtype=np.float64)[:, pair], id_labels, 6)
    note = (
        "; in brackets: share of the variance of the training features"
        if np.isfinite(explained).all()
        else ""
    )
    figure.supxlabel(
        f"feature units{note}\nblue: ID      coloured: the OOD set", fontsize=9, color=QUIET
    )
    return figure


@captioned("A t-SNE of a sample; distances between groups mean nothing.")
def embedding(id_points, ood_points, id_labels=None):
    """t-SNE of ID and OOD features, embedded together: id_points (N, 2), ood_points: name -> (M,
    2), id_labels (N,)."""
    figure = _scatter_panels(
        id_points,
        ood_points,
        id_labels,
        "t-SNE of ID and OOD features",
        "neighbours are meant to stay neighbours; distances between groups and their sizes mean"
        " nothing",
    )
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
    return figure


def _scatter_panels(id_points, ood_points, id_labels, title, note):
    rows, columns = grid_shape(len(ood_points))
    side = {1: 5.2, 2: 3.85, 3: 2.55, 4: 1.9}[columns]
    figure, grid = canvas(
        rows,
        columns,
        0.8 + rows * (side + 0.3),
        title,
        layout="compressed",
        sharex=True,
        sharey=True,
    )
    inside, outside = thin(id_points), [thin(points) for points in ood_points.values()]
    limits = [
        window(inside[:, axis], [points[:, axis] for points in outside], 0.2) for axis in (0, 1)
    ]
    # one unit is as long on both axes
    centre, half = (
        np.mean(limits, axis=1),
        np.ptp(limits, axis=1).max() / 2,
    )
    for position, (axes, name) in enumerate(zip(grid.flat, ood_points or [""], strict=False)):
        panel_title(axes, shorten(name), ood_colour(position))
        size = 7 if columns < 3 else 3
        axes.scatter(*inside.T, s=size, color=ID_COLOUR, alpha=0.35, lw=0)
        if outside:
            axes.scatter(*outside[position].T, s=size, color=ood_colour(position), alpha=0.5, lw=0)
            _count_beyond(axes, outside[position], centre, half)
        axes.set(
            xlim=(centre[0] - half, centre[0] + half),
            ylim=(centre[1] - half, centre[1] + half),
            aspect="equal",
        )
        axes.locator_params(nbins=4)
        _write_labels(
            axes, np.asarray(id_points, dtype=np.float64), id_labels, 8 if columns < 3 else 6
        )
    close_grid(grid, max(len(ood_points), 1))
    figure.supxlabel(f"{note}\nblue: ID      coloured: the OOD set", fontsize=9, color=QUIET)
    return figure


@captioned("NECO's share against the largest logit, image by image.")
def neco_shares(inside, outside):
    """NECO's share, of a feature's norm in the first d components, against the largest logit; a
    panel an OOD set.

    inside: (share (N,) in [0, 1], largest logit (N,)) of ID test images; outside: name -> the same.
    At most 2,000 images of a group are drawn, those without a share (a feature at the training
    mean) left out."""
    rows, columns = grid_shape(len(outside))
    figure, grid = canvas(
        rows,
        columns,
        1.0 + rows * (3.4 if columns < 3 else 2.3),
        "NECO's share and the largest logit: do they see the same images?",
        sharex=True,
        sharey=True,
    )
    known = thin(np.column_stack(inside))
    for position, (axes, name) in enumerate(zip(grid.flat, outside or [""], strict=False)):
        panel_title(axes, shorten(name), ood_colour(position))
        axes.scatter(*known.T, s=5, color=ID_COLOUR, alpha=0.35, lw=0)
        if outside:
            axes.scatter(
                *thin(np.column_stack(outside[name])).T,
                s=5,
                color=ood_colour(position),
                alpha=0.5,
                lw=0,
            )
        axes.locator_params(nbins=4)
    close_grid(grid, max(len(outside), 1))
    grid[0, 0].set_xlim(right=1.0)
    figure.supxlabel(
        "across: share of the standardised feature's norm in the first d components, up: largest"
        " logit\nblue: ID      coloured: the OOD set",
        fontsize=9,
        color=QUIET,
    )
    return figure


def _count_beyond(axes, points, centre, half):
    """In a corner, the share of the points (M, 2) that the panel's square does not show."""
    share = (np.abs(points - centre) > half).any(axis=1).mean() if len(points) else 0
    if share >= 0.01:
        axes.annotate(
            f"{100 * share:.0f}% beyond",
            (0.99, 0.01),
            xycoords="axes fraction",
            ha="right",
            fontsize=7.5,
            color=QUIET,
            bbox=PAPER,
        )


def _write_labels(axes, points, labels, size):
    """Each class's label at the median of its points (N, 2), where there are few enough to read."""
    classes = [] if labels is None else np.unique(labels)
    for label in classes if len(classes) <= LONG else []:
        place = np.nanmedian(points[np.asarray(labels) == label], axis=0)
        axes.annotate(
            shorten(label, 10),
            place,
            ha="center",
            va="center",
            fontsize=size,
            fontweight="bold",
            color=INK,
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "alpha": 0.7, "lw": 0},
        )
