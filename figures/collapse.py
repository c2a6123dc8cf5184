"""Figures of neural collapse, one checkpoint: within classes, class means, classifier, decisions;
`figures` holds them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.style import (
    DASHES,
    DOTS,
    ID_COLOUR,
    INK,
    LONG,
    OOD_COLOURS,
    PAPER,
    QUIET,
    WIDTH,
    Array,
    bar_rows,
    beside_bar,
    canvas,
    captioned,
    finite,
    logarithmic,
    ood_colour,
    panel_title,
    quieten,
    shorten,
)

NAMED = 40  # classes that have their names beside a heat map of half a page


@captioned("NC1 by class: mean squared distance of a class's training features from their mean.")
def within_class_variance(per_class: pd.DataFrame) -> Figure:
    """NC1 by class: mean squared distance of a class's training features from their mean (squared
    feature units).

    per_class: the table nc_per_class.csv with class_name and within_class_variance.
    """
    return _per_class(
        per_class["class_name"],
        per_class["within_class_variance"],
        "NC1: variance within each class",
        "within-class variance (squared feature units); 0 when fully collapsed",
        start=0.0,
    )


@captioned("NC3 by class: cosine between the classifier's weight row and the centred class mean.")
def weight_mean_alignment(per_class: pd.DataFrame) -> Figure:
    """NC3 by class: cosine between the class's row of the classifier and its centred mean; 1 under
    full collapse.

    per_class: the table nc_per_class.csv with class_name and cosine_weight_mean.
    """
    return _per_class(
        per_class["class_name"],
        per_class["cosine_weight_mean"],
        "NC3: do the classifier's weights point at the class means?",
        "cosine of weight row and centred class mean; 1 when fully collapsed",
        start=0.0,
        target=1.0,
    )


def _per_class(
    names: Any, values: Any, title: str, quantity: str, start: float, target: float | None = None
) -> Figure:
    """One number per class: named bars, or beyond LONG classes all of them sorted with the extremes
    named."""
    names, values = np.asarray(names, dtype=object), np.asarray(values, dtype=np.float64)
    missing = int((~np.isfinite(values)).sum())
    order = np.argsort(values, kind="stable")[: len(values) - missing]  # NaN sorts last
    names, values = names[order], values[order]
    if len(values) <= LONG:
        height = 1.3 + 0.25 * max(len(values), 3)
        figure, ((axes,),) = canvas(1, 1, height, title)
        _named_bars(axes, names, values, start)
        axes.set_xlabel(quantity)
        draw_target = axes.axvline
    else:
        figure, ((axes,),) = canvas(1, 1, 3.8, title)
        _sorted_bars(axes, values, start)
        _label_sorted(axes, quantity, len(values))
        draw_target = axes.axhline
    if target is not None:
        draw_target(target, color=INK, lw=1, ls=DASHES)
    notes = _extremes(names, values, missing)
    axes.set_title(notes, loc="left", fontsize=9, color=QUIET)
    return figure


def _label_sorted(axes: Axes, quantity: str, classes: int) -> None:
    """The quantity up the side of sorted bars, in short lines; what follows its semicolon below."""
    head, _, tail = quantity.partition("; ")
    axes.set_ylabel(head.replace(" (", "\n(").replace(" and ", "\nand "))
    below = f"{classes} classes, sorted"
    axes.set_xlabel(f"{below}; {tail}" if tail else below)


def _extremes(names: Array, values: Array, missing: int) -> str:
    """Mean, lowest and highest of ascending values (C,), those of many classes with the names of
    the three at each end; and how many further ones are undefined."""
    if not len(values):
        return "undefined for every class"
    lowest, highest, line_end = f"{values[0]:.4g}", f"{values[-1]:.4g}", " "
    if len(values) > LONG:
        lowest += f" ({', '.join(map(shorten, names[:3]))})"
        highest += f" ({', '.join(map(shorten, names[:-4:-1]))})"
        line_end = "\n"
    text = f"mean {values.mean():.4g}, lowest {lowest},{line_end}highest {highest}"
    if missing:
        text += f"; undefined for {missing} of {missing + len(values)} classes"
    return text


def _named_bars(axes: Axes, names: Array, values: Array, start: float) -> None:
    """Horizontal bars (C,), each with its class name and number."""
    axes.barh(
        range(len(values)), values - start, left=start, height=0.68, color=ID_COLOUR, alpha=0.75
    )
    axes.set_yticks(range(len(values)), [shorten(name) for name in names])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    bar_rows(axes, len(values))
    for row, value in enumerate(values):
        axes.annotate(
            f"{value:.3g}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color=INK,
            annotation_clip=False,
        )


def _sorted_bars(axes: Axes, values: Array, start: float) -> None:
    """Thin vertical bars (C,) in ascending order."""
    axes.bar(
        range(len(values)), values - start, bottom=start, width=0.85, color=ID_COLOUR, alpha=0.75
    )
    axes.set_xlim(-1, len(values))
    axes.set_xticks([])


def _cosines(vectors: Array) -> Array:
    """Cosines of all pairs of rows: (C, D) -> (C(C-1)/2,); rows that are not finite or zero are
    left out."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    unit = vectors[usable] / norms[usable]
    above_diagonal = np.triu_indices(len(unit), 1)
    return (unit @ unit.T)[above_diagonal]


@captioned(
    "NC2: cosines between all pairs of classes. Under collapse all stand at the dashed line."
)
def cosine_histogram(means: Array, weights: Array | None = None) -> Figure:
    """NC2: cosines between all pairs of centred class means, and of weight rows, beside the simplex
    ETF's -1/(C-1).

    means (C, D) are centred here at their own mean (nothing changes where they already are);
    weights (C, D) are taken as they are, as Papyan et al. 2020 do. Where D < C - 1 no simplex ETF
    exists, which the figure then says."""
    means = np.asarray(means, dtype=np.float64)
    classes, width = means.shape
    groups = [("class means", _cosines(means - np.nanmean(means, axis=0)), ID_COLOUR)]
    if weights is not None:
        groups.append(("weight rows", _cosines(weights), OOD_COLOURS[0]))
    target = -1 / (classes - 1)
    known = np.concatenate([[target], *(cosines for _, cosines, _ in groups)])
    margin = 0.05 * (known.max() - known.min()) or 0.05
    bins = np.linspace(known.min() - margin, known.max() + margin, 61)
    title = "NC2: are the classes at equal angles?"
    figure, grid = canvas(len(groups), 1, 1.1 + 1.6 * len(groups), title, sharex=True)
    for axes, (name, cosines, colour) in zip(grid[:, 0], groups, strict=True):
        axes.hist(cosines, bins, color=colour, alpha=0.7)
        axes.axvline(target, color=INK, lw=1.2, ls=DASHES)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.set_ylabel("pairs")
        spread = "undefined"
        if len(cosines):
            spread = f"mean {cosines.mean():.3f}, standard deviation {cosines.std():.3f}"
        pairs = "1 pair" if len(cosines) == 1 else f"{len(cosines):,} pairs"
        panel_title(axes, f"{name}: {pairs}, {spread}", colour)
    meaning = "equal angles"
    if width < classes - 1:
        meaning = f"no simplex ETF of {classes} classes exists in {width} dimensions"
    grid[-1, 0].set_xlabel(f"cosine      ┆ -1/(C-1) = {target:.4f}: {meaning}")
    return figure


@captioned(
    "Distance between each pair of class means. Under collapse all are equal; dark cells are "
    "classes that lie close together."
)
def class_mean_distances(means: Array, class_names: Sequence[str]) -> Figure:
    """Heat map of the Euclidean distances between class means (C, D), in feature units.

    More than LONG classes are ordered by average-linkage clustering, so that groups of like classes
    stand as blocks. Classes without a finite mean are left out and counted."""
    means = np.asarray(means, dtype=np.float64)
    present = np.flatnonzero(np.isfinite(means).all(axis=1))
    distances = _distances(means[present])
    order = _by_likeness(distances)
    shown = distances[np.ix_(order, order)]
    np.fill_diagonal(shown, np.nan)
    height = min(WIDTH - 0.8, 2.2 + 0.42 * len(present))
    title = "Distances between class means" + (
        ", classes ordered by likeness" if len(present) > LONG else ""
    )
    figure, ((axes,),) = canvas(
        1, 1, height, title, width=max(height + 0.8, 4.5), layout="compressed"
    )
    image = axes.imshow(shown, cmap="viridis", interpolation="nearest")
    _name_cells(axes, [shorten(class_names[present[row]], 18) for row in order], shown)
    _bar(figure, image, axes, "Euclidean distance (feature units)")
    if len(present) < len(means):
        axes.set_xlabel(f"{len(means) - len(present)} classes without a mean left out")
    return figure


def _distances(points: Array) -> Array:
    """Euclidean distances (C, C) between points (C, D), by differences row by row: a Gram matrix
    would cancel."""
    return np.array([np.linalg.norm(points - point, axis=1) for point in points]).reshape(
        len(points), len(points)
    )


def _by_likeness(distances: Array) -> Array:
    """The order (C,) of points by their distances (C, C): more than LONG of them by average-linkage
    clustering, fewer as they are."""
    count = len(distances)
    if count <= LONG:
        return np.arange(count)
    # slow to import, and for many classes alone
    from scipy.cluster.hierarchy import leaves_list, linkage

    pairs = distances[np.triu_indices(count, 1)]
    return leaves_list(linkage(pairs, "average", optimal_ordering=count <= 300))


def _name_cells(axes: Axes, names: Sequence[str], values: Array, dark_low: bool = True) -> None:
    """Class names on two sides of a heat map (C, C), as small as C asks, none beyond 120; numbers
    in it up to 12."""
    count = len(names)
    _name_sides(axes, names if count <= 120 else [], rotated=count > 8)
    if count <= 12:
        _write_cells(axes, values, dark_low)


def _name_sides(axes: Axes, names: Sequence[str], rotated: bool) -> None:
    """Class names on two sides of a heat map (C, C), as small as C asks; those below it upright
    where they are rotated."""
    axes.spines[:].set_visible(False)
    size = 8.5 if len(names) <= LONG else min(8.5, 440 / len(names))
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90 if rotated else 0, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)
    axes.tick_params(length=0, labelcolor=INK)


def _write_cells(axes: Axes, values: Array, dark_low: bool) -> None:
    """The finite numbers of a heat map (C, C) in its cells, white on the dark half of the
    colours."""
    known = values[np.isfinite(values)]
    if not len(known):
        return
    middle = (known.min() + known.max()) / 2
    whole = (known % 1 == 0).all()
    form = ".0f" if whole else "#.3g"  # counts; else zeros at the end stay: 6.30
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        dark = value <= middle if dark_low else value > middle
        text, colour = f"{value:{form}}".rstrip("."), "white" if dark else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)


@captioned(
    "NC5: mean |cosine| between the class means and each OOD set's mean, beside the ID test "
    "images as the null (dashed)."
)
def nc5_bars(table: pd.DataFrame) -> Figure:
    """NC5: mean |cosine| of the class means and each OOD set's mean, uncentred (Ammar et al. 2023)
    and centred at mu_G.

    table: DataFrame with name, uncentred, centred. The row whose name begins with "ID test" is the
    null, the ID test images treated as if they were an OOD set; its value is drawn through the
    panel in ID's colour."""
    null = table["name"].str.startswith("ID test").to_numpy(dtype=bool)
    rows = np.arange(len(table))[::-1]  # the first row on top
    position = np.cumsum(~null) - 1
    title = "NC5: is the mean of each OOD set orthogonal to the class means?"
    figure, grid = canvas(1, 2, 1.5 + 0.3 * max(len(table), 3), title, sharey=True)
    for axes, column in zip(grid[0], ("uncentred", "centred"), strict=True):
        values = table[column].to_numpy(dtype=np.float64)
        for row, value, is_null, place in zip(rows, values, null, position, strict=True):
            colour = ID_COLOUR if is_null else ood_colour(place)
            axes.barh(row, value, height=0.68, color=colour, alpha=0.8)
            _beside_bar(axes, row, value)
            if is_null and np.isfinite(value):
                axes.axvline(value, color=ID_COLOUR, lw=1, ls=DASHES, zorder=0.5)
        axes.set_xlim(0, 1.18 * max([0.05, *finite(values)]))
        axes.set_xlabel("mean |cosine|; 0 is orthogonal")
        bar_rows(axes, len(table))
        axes.set_yticks(rows, [shorten(name) for name in table["name"]])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    panel_title(grid[0, 0], "uncentred, as published")
    panel_title(grid[0, 1], "centred at the mean of class means")
    return figure


def _beside_bar(axes: Axes, row: float, value: float) -> None:
    """A bar's number just right of its end, or that it is undefined."""
    text, place, colour = f"{value:.3f}", value, INK
    if not np.isfinite(value):
        text, place, colour = "undefined", 0.0, QUIET
    beside_bar(axes, text, place, row, colour, fontsize=8, bbox=PAPER)


@captioned("NC4 by class: share of test images on which nearest class mean and classifier agree.")
def nearest_mean_agreement(per_class: pd.DataFrame) -> Figure:
    """NC4 by class: share of its test images on which the nearest class mean and the classifier
    agree.

    per_class: the table nc_per_class.csv with class_name and test_mismatch.
    """
    return _per_class(
        per_class["class_name"],
        1 - per_class["test_mismatch"].astype(float),
        "NC4: where do nearest class mean and classifier agree?",
        "share of the class's test images on which they agree; 1 when fully collapsed",
        start=0.0,
        target=1.0,
    )


@captioned("Which class each of the two says where they differ, in test images.")
def mismatch_map(nearest: Array, predicted: Array, class_names: Sequence[str]) -> Figure:
    """NC4: how often the nearest class mean says one class (row) and the classifier another
    (column), in images.

    nearest, predicted (n,) class indices. Only the classes that take part in a mismatch are drawn,
    of more than 40 those with the most."""
    nearest, predicted = np.asarray(nearest), np.asarray(predicted)
    wrong = nearest != predicted
    counts = np.zeros((len(class_names), len(class_names)))
    np.add.at(counts, (nearest[wrong], predicted[wrong]), 1)
    involved = counts.sum(axis=0) + counts.sum(axis=1)
    chosen = np.sort(np.argsort(-involved, kind="stable")[: min(40, np.count_nonzero(involved))])
    among_chosen = counts[np.ix_(chosen, chosen)]
    shown = np.where(among_chosen > 0, among_chosen, np.nan)
    if not len(chosen):
        return _nothing_differs(len(wrong))
    height = min(WIDTH - 0.8, 2.4 + 0.42 * len(chosen))
    figure, ((axes,),) = canvas(
        1,
        1,
        height,
        "NC4: images on which nearest mean and classifier differ",
        width=max(height + 0.8, 5.5),
        layout="compressed",
    )
    all_involved = np.count_nonzero(involved)
    counted = f"{wrong.sum():,} of {len(wrong):,} images"
    if all_involved > len(chosen):
        counted += f"; the {len(chosen)} classes with most, of {all_involved}"
    axes.set_title(counted, loc="left", fontsize=9, color=QUIET)
    image = axes.imshow(shown, cmap="viridis_r", interpolation="nearest")
    _name_cells(axes, [shorten(class_names[index], 18) for index in chosen], shown, dark_low=False)
    axes.set(xlabel="class that the classifier says", ylabel="class of the nearest mean")
    _bar(figure, image, axes, "images").locator = MaxNLocator(6, integer=True)
    return figure


def _nothing_differs(images: int) -> Figure:
    """One line in place of an empty map."""
    title = "NC4: images on which nearest mean and classifier differ"
    figure, ((axes,),) = canvas(1, 1, 0.75, title)
    axes.set_axis_off()
    text = f"none of {images:,} images"
    axes.annotate(text, (0, 0), xycoords="axes fraction", fontsize=9, color=QUIET)
    return figure


@dataclass(frozen=True)
class Angles:
    """Angles of one kind, by their cosines, and where they stand under collapse."""

    name: str
    cosines: Array
    colour: str
    target: float  # degrees


@captioned(
    "Angles of pairs of class means and of weight rows, and of each weight row and its class mean."
)
def angle_histogram(means: Array, weights: Array) -> Figure:
    """NC2 and NC3 in degrees: angles of pairs of centred class means, of weight rows, and of each
    weight row and its mean.

    means, weights (C, D), means centred here at their own mean. Dashed: arccos(-1/(C-1)) for pairs,
    0 for NC3."""
    means, weights = np.asarray(means, np.float64), np.asarray(weights, np.float64)
    centred = means - np.nanmean(means, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(centred, axis=1), np.linalg.norm(weights, axis=1)
        own = (centred * weights).sum(axis=1) / lengths[0] / lengths[1]
    target = np.degrees(np.arccos(-1 / (len(means) - 1)))
    groups = [
        Angles("pairs of class means", _cosines(centred), ID_COLOUR, target),
        Angles("pairs of weight rows", _cosines(weights), OOD_COLOURS[0], target),
        Angles("each weight row and its class mean", finite(own), OOD_COLOURS[1], 0.0),
    ]
    figure, grid = canvas(3, 1, 5.4, "Angles of class means and classifier", sharex=True)
    for axes, group in zip(grid[:, 0], groups, strict=True):
        angles = np.degrees(np.arccos(group.cosines.clip(-1, 1)))
        axes.hist(angles, np.linspace(0, 180, 91), color=group.colour, alpha=0.7)
        axes.axvline(group.target, color=INK, lw=1.2, ls=DASHES)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        spread = "undefined"
        if len(angles):
            spread = f"mean {angles.mean():.1f}°, standard deviation {angles.std():.1f}°"
        panel_title(axes, f"{group.name}: {len(angles):,}, {spread}", group.colour)
    grid[-1, 0].set(xlim=(-2, 182), xticks=range(0, 181, 30))
    grid[-1, 0].set_xlabel(
        f"angle in degrees      ┆ under collapse: {target:.2f} between pairs, 0 between weight row"
        " and mean"
    )
    return figure


@captioned("Cosines of class means and of weight rows, and the eigenvalues of both Gram matrices.")
def gram_matrices(means: Array, weights: Array, class_names: Sequence[str]) -> Figure:
    """NC2: cosines of centred class means and of weight rows (C, C), and the eigenvalues of both
    Gram matrices.

    means, weights (C, D), class_names [C]. Under collapse every cosine off the diagonal is
    -1/(C-1), and C - 1 eigenvalues are equal and one is 0: drawn as shares of their sum beside that
    line."""
    means, weights = np.asarray(means, np.float64), np.asarray(weights, np.float64)
    groups = (
        ("class means", means - means.mean(axis=0), ID_COLOUR),
        ("weight rows", weights, OOD_COLOURS[0]),
    )
    order = _by_likeness(_distances(means))
    names = [shorten(class_names[row], 14) for row in order] if len(order) <= NAMED else []
    ordered = ", classes ordered by likeness" if len(order) > LONG else ""
    title = f"NC2: Gram matrices of class means and classifier{ordered}"
    figure, (upper, lower) = canvas(2, 2, 8.0, title, height_ratios=(3, 2))
    cosines = [_cosine_matrix(vectors[order]) for _, vectors, _ in groups]
    reach = max([1e-3, *(np.abs(finite(matrix)).max(initial=0) for matrix in cosines)])
    for axes, (name, _, colour), matrix in zip(upper, groups, cosines, strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")
        panel_title(axes, f"cosines of {name}", colour)
        _name_sides(axes, names, rotated=True)
    upper[1].set_yticks([])
    _bar(figure, image, upper.tolist(), "cosine of two classes")
    grid = lower[0].get_gridspec()
    for axes in lower:
        axes.remove()
    spectrum = figure.add_subplot(grid[1, :])
    quieten(spectrum)
    for name, vectors, colour in groups:
        _draw_spectrum(spectrum, vectors, colour, name)
    rank = min(len(means) - 1, means.shape[1])
    steps, equal = [1, rank, rank, len(means)], [1 / rank, 1 / rank, 0, 0]
    spectrum.plot(steps, equal, color=INK, lw=1, ls=DASHES, label=f"equal on {rank}")
    spectrum.legend(frameon=False, fontsize=8, labelcolor=QUIET)
    spectrum.set(xlabel="eigenvalue, by size", ylabel="share of their sum")
    spectrum.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    return figure


def _cosine_matrix(vectors: Array) -> Array:
    """(C, D) -> (C, C) cosines of all pairs of rows; NaN on the diagonal, which says nothing, and
    for rows of length 0."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, np.nan)
    matrix = unit @ unit.T
    np.fill_diagonal(matrix, np.nan)
    return matrix


def _draw_spectrum(axes: Axes, vectors: Array, colour: str, name: str) -> None:
    """The eigenvalues of the Gram matrix of rows (C, D), as shares of their sum."""
    values = np.linalg.svd(vectors, compute_uv=False) ** 2
    if values.sum() == 0:
        return
    shares = values / values.sum()
    axes.plot(range(1, len(values) + 1), shares, color=colour, lw=1.4, marker="o", ms=3, label=name)


@captioned("Variance by principal component; collapsed features end at C - 1.")
def pca_spectrum(variances: Array, dim: int, classes: int) -> Figure:
    """Variance by principal component of the standardised training features, and its running sum;
    NECO's d marked.

    variances (D,) descending; dim: d; classes: C, for the line at C - 1, where the spectrum of
    collapsed features ends."""
    shares = np.asarray(variances, np.float64) / np.sum(variances)
    component = np.arange(1, len(shares) + 1)
    figure, ((each, running),) = canvas(1, 2, 3.3, "How many directions do the features use?")
    known = shares > 1e-12  # rounding below
    each.plot(component[known], shares[known], color=ID_COLOUR, lw=1.5, marker="o", ms=2.5)
    logarithmic(each)
    running.plot(component, np.cumsum(shares), color=ID_COLOUR, lw=1.5)
    running.plot(
        dim, np.cumsum(shares)[dim - 1], "o", color=ID_COLOUR, ms=7, mec="white", mew=1.2, zorder=5
    )
    marks = [(dim, f"d = {dim}", ID_COLOUR, DASHES)]
    ends_inside = classes - 1 <= len(shares)
    if ends_inside:
        marks.append((classes - 1, f"C - 1 = {classes - 1}", INK, DOTS))
    for axes in (each, running):
        for place, _, colour, style in marks:
            axes.axvline(place, color=colour, lw=1.2, ls=style)
        axes.set_xlabel("component")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _name_lines(running, marks)
    running.set_ylim(0, 1.03)
    for axes in (each, running):
        axes.set_ylabel("share of the variance")
    running.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel_title(each, "Each component, logarithmic")
    panel_title(running, "Running sum")
    note = "d: NECO's default, the least with 90% of the variance"
    if not ends_inside:
        note += f"; C - 1 = {classes - 1} is more than all {len(shares)} components"
    figure.supxlabel(note, fontsize=9, color=QUIET)
    return figure


def _name_lines(axes: Axes, marks: Sequence[tuple[int, str, str, Any]]) -> None:
    """The name of each vertical line (place, name, colour, style) beside it, low in the panel."""
    for row, (place, name, colour, _) in enumerate(marks):
        axes.annotate(
            name,
            (place, 0.06 + 0.09 * row),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=colour,
            bbox=PAPER,
        )


def _bar(figure: Figure, image: AxesImage, axes: Any, label: str) -> Colorbar:
    """A quiet colour bar beside one panel or several."""
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=QUIET, labelsize=8.5)
    bar.set_label(label, color=QUIET, fontsize=9)
    return bar
