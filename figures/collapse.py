"""Figures of neural collapse, one checkpoint: within classes, class means, classifier, decisions;
`figures` holds them all."""

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.style import (
    DASHES,
    ID_COLOUR,
    INK,
    LONG,
    OOD_COLOURS,
    PAPER,
    QUIET,
    WIDTH,
    bar_rows,
    canvas,
    captioned,
    finite,
    logarithmic,
    ood_colour,
    panel_title,
    shorten,
)


@captioned("NC1 by class: mean squared distance of a class's training features from their mean.")
def within_class_variance(per_class):
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
def weight_mean_alignment(per_class):
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


def _per_class(names, values, title, quantity, start, target=None):
    """A number a class: named bars, or beyond LONG classes all of them sorted with the extremes
    named."""
    names, values = np.asarray(names, dtype=object), np.asarray(values, dtype=np.float64)
    missing = int((~np.isfinite(values)).sum())
    order = np.argsort(values, kind="stable")[: len(values) - missing]  # NaN sorts last
    names, values = names[order], values[order]
    short = len(values) <= LONG
    figure, ((axes,),) = canvas(1, 1, 1.3 + 0.25 * max(len(values), 3) if short else 3.8, title)
    if short:
        _named_bars(axes, names, values, start)
    else:
        _sorted_bars(axes, values, start)
    line, limit = (axes.axvline, axes.set_xlabel) if short else (axes.axhline, axes.set_ylabel)
    if target is not None:
        line(target, color=INK, lw=1, ls=DASHES)
    if short:
        limit(quantity)
    else:
        head, _, tail = quantity.partition("; ")
        limit(head.replace(" (", "\n(").replace(" and ", "\nand "))
        axes.set_xlabel(f"{len(values)} classes, sorted" + (f"; {tail}" if tail else ""))
    if len(values):
        ends = (
            ["", ""]
            if short
            else [f" ({', '.join(map(shorten, some))})" for some in (names[:3], names[:-4:-1])]
        )
        notes = (
            f"mean {values.mean():.4g}, lowest {values[0]:.4g}{ends[0]}, highest"
            f" {values[-1]:.4g}{ends[1]}"
        )
        notes = notes if short else notes.replace(", highest", ",\nhighest", 1)
        axes.set_title(
            notes
            + (f"; undefined for {missing} of {missing + len(values)} classes" if missing else ""),
            loc="left",
            fontsize=9,
            color=QUIET,
        )
    else:
        axes.set_title("undefined for every class", loc="left", fontsize=9, color=QUIET)
    return figure


def _named_bars(axes, names, values, start):
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


def _sorted_bars(axes, values, start):
    """Thin vertical bars (C,) in ascending order."""
    axes.bar(
        range(len(values)), values - start, bottom=start, width=0.85, color=ID_COLOUR, alpha=0.75
    )
    axes.set_xlim(-1, len(values))
    axes.set_xticks([])


def _cosines(vectors):
    """Cosines of all pairs of rows: (C, D) -> (C(C-1)/2,); rows that are not finite or zero are
    left out."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    unit = vectors[usable] / norms[usable]
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


@captioned(
    "NC2: cosines between all pairs of classes. Under collapse all stand at the dashed line."
)
def cosine_histogram(means, weights=None):
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
        spread = (
            f"mean {cosines.mean():.3f}, standard deviation {cosines.std():.3f}"
            if len(cosines)
            else "undefined"
        )
        panel_title(
            axes, f"{name}: {len(cosines):,} pair{'s' * (len(cosines) != 1)}, {spread}", colour
        )
    meaning = "equal angles"
    if width < classes - 1:
        meaning = f"no simplex ETF of {classes} classes exists in {width} dimensions"
    grid[-1, 0].set_xlabel(f"cosine      ┆ -1/(C-1) = {target:.4f}: {meaning}")
    return figure


@captioned(
    "Distance between each pair of class means. Under collapse all are equal; dark cells are "
    "classes that lie close together."
)
def class_mean_distances(means, class_names):
    """Heat map of the Euclidean distances between class means (C, D), in feature units.

    More than LONG classes are ordered by average-linkage clustering, so that groups of like classes
    stand as blocks. Classes without a finite mean are left out and counted."""
    means = np.asarray(means, dtype=np.float64)
    present = np.flatnonzero(np.isfinite(means).all(axis=1))
    distances = _distances(means[present])
    order = np.arange(len(present))
    if len(present) > LONG:
        # slow to import, and for this figure alone
        from scipy.cluster.hierarchy import (
            leaves_list,
            linkage,
        )

        pairs = distances[np.triu_indices(len(present), 1)]
        order = leaves_list(linkage(pairs, "average", optimal_ordering=len(present) <= 300))
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


def _distances(points):
    """Euclidean distances (C, C) between points (C, D), by differences row by row: a Gram matrix
    would cancel."""
    return np.array([np.linalg.norm(points - point, axis=1) for point in points]).reshape(
        len(points), len(points)
    )


def _name_cells(axes, names, values, dark_low=True):
    """Class names on two sides of a heat map (C, C), as small as C asks, none beyond 120; numbers
    in it up to 12."""
    count = len(names)
    axes.spines[:].set_visible(False)
    size = 8.5 if count <= LONG else min(8.5, 440 / count)
    names = names if count <= 120 else []
    axes.set_xticks(range(len(names)), names, rotation=90 if count > 8 else 0, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0, labelcolor=INK)
    if count <= 12:
        middle = (
            np.nanmean([np.nanmin(values), np.nanmax(values)]) if np.isfinite(values).any() else 0
        )
        # counts; else zeros at the end stay: 6.30
        form = ".0f" if (values[np.isfinite(values)] % 1 == 0).all() else "#.3g"
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(
                    column,
                    row,
                    f"{value:{form}}".rstrip("."),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if (value <= middle if dark_low else value > middle) else INK,
                )


@captioned(
    "NC5: mean |cosine| between the class means and each OOD set's mean, beside the ID test "
    "images as the null (dashed)."
)
def nc5_bars(table):
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
            known = np.isfinite(value)
            axes.barh(
                row,
                value,
                height=0.68,
                color=ID_COLOUR if is_null else ood_colour(place),
                alpha=0.8,
            )
            axes.annotate(
                f"{value:.3f}" if known else "undefined",
                (value if known else 0, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox=PAPER,
                color=INK if known else QUIET,
            )
            if is_null and known:
                axes.axvline(value, color=ID_COLOUR, lw=1, ls=DASHES, zorder=0.5)
        axes.set_xlim(0, 1.18 * max([0.05, *finite(values)]))
        axes.set_xlabel("mean |cosine|; 0 is orthogonal")
        bar_rows(axes, len(table))
        axes.set_yticks(rows, [shorten(name) for name in table["name"]])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    panel_title(grid[0, 0], "uncentred, as published")
    panel_title(grid[0, 1], "centred at the mean of class means")
    return figure


@captioned("NC4 by class: share of test images on which nearest class mean and classifier agree.")
def nearest_mean_agreement(per_class):
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
def mismatch_map(nearest, predicted, class_names):
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
    shown = np.where(counts[np.ix_(chosen, chosen)] > 0, counts[np.ix_(chosen, chosen)], np.nan)
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
    left_out = (
        f"; the {len(chosen)} classes with most, of {all_involved}"
        if all_involved > len(chosen)
        else ""
    )
    axes.set_title(
        f"{wrong.sum():,} of {len(wrong):,} images{left_out}", loc="left", fontsize=9, color=QUIET
    )
    if not len(chosen):
        axes.set(xticks=[], yticks=[])
        axes.annotate("no mismatch", (0.5, 0.5), xycoords="axes fraction", ha="center", color=QUIET)
        return figure
    image = axes.imshow(shown, cmap="viridis_r", interpolation="nearest")
    _name_cells(axes, [shorten(class_names[index], 18) for index in chosen], shown, dark_low=False)
    axes.set(xlabel="class that the classifier says", ylabel="class of the nearest mean")
    _bar(figure, image, axes, "images").locator = MaxNLocator(6, integer=True)
    return figure


@captioned(
    "Angles of pairs of class means and of weight rows, and of each weight row and its class mean."
)
def angle_histogram(means, weights):
    """NC2 and NC3 in degrees: angles of pairs of centred class means, of weight rows, and of each
    weight row and its mean.

    means, weights (C, D), means centred here at their own mean. Dashed: arccos(-1/(C-1)) for pairs,
    0 for NC3."""
    means, weights = np.asarray(means, np.float64), np.asarray(weights, np.float64)
    centred = means - np.nanmean(means, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = (
            (centred * weights).sum(axis=1)
            / np.linalg.norm(centred, axis=1)
            / np.linalg.norm(weights, axis=1)
        )
    target = np.degrees(np.arccos(-1 / (len(means) - 1)))
    groups = [
        ("pairs of class means", _cosines(centred), ID_COLOUR, target),
        ("pairs of weight rows", _cosines(weights), OOD_COLOURS[0], target),
        ("each weight row and its class mean", finite(own), OOD_COLOURS[1], 0.0),
    ]
    figure, grid = canvas(3, 1, 5.4, "Angles of class means and classifier", sharex=True)
    for axes, (name, cosines, colour, goal) in zip(grid[:, 0], groups, strict=True):
        angles = np.degrees(np.arccos(cosines.clip(-1, 1)))
        axes.hist(angles, np.linspace(0, 180, 91), color=colour, alpha=0.7)
        axes.axvline(goal, color=INK, lw=1.2, ls=DASHES)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        spread = (
            f"mean {angles.mean():.1f}°, standard deviation {angles.std():.1f}°"
            if len(angles)
            else "undefined"
        )
        panel_title(axes, f"{name}: {len(angles):,}, {spread}", colour)
    grid[-1, 0].set(xlim=(-2, 182), xticks=range(0, 181, 30))
    grid[-1, 0].set_xlabel(
        f"angle in degrees      ┆ under collapse: {target:.2f} between pairs, 0 between weight row"
        " and mean"
    )
    return figure


@captioned("Cosines of class means and of weight rows, and the eigenvalues of both Gram matrices.")
def gram_matrices(means, weights, class_names):
    """NC2: cosines of centred class means and of weight rows (C, C), and the eigenvalues of both
    Gram matrices.

    means, weights (C, D), class_names [C]. Under collapse every cosine off the diagonal is
    -1/(C-1), and C - 1 eigenvalues are equal and one is 0: drawn as shares of their sum beside that
    line."""
    means, weights = np.asarray(means, np.float64), np.asarray(weights, np.float64)
    figure, grid = canvas(1, 3, 3.5, "NC2: Gram matrices of class means and classifier", width=11)
    groups = (
        ("class means", means - means.mean(axis=0), ID_COLOUR),
        ("weight rows", weights, OOD_COLOURS[0]),
    )
    for axes, (name, vectors, colour) in zip(grid[0], groups, strict=False):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(norms > 0, norms, np.nan)
        image = axes.imshow(unit @ unit.T, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        panel_title(axes, f"cosines of {name}", colour)
        names = [shorten(text, 10) for text in class_names] if len(class_names) <= LONG else []
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks([])
        values = np.linalg.svd(vectors, compute_uv=False) ** 2
        if values.sum() > 0:
            grid[0, 2].plot(
                range(1, len(values) + 1),
                values / values.sum(),
                color=colour,
                lw=1.4,
                marker="o",
                ms=3,
                label=name,
            )
    _bar(figure, image, grid[0, :2].tolist(), "cosine")
    rank = min(len(means) - 1, means.shape[1])
    grid[0, 2].plot(
        [1, rank, rank, len(means)],
        [1 / rank, 1 / rank, 0, 0],
        color=INK,
        lw=1,
        ls=DASHES,
        label=f"equal on {rank}",
    )
    grid[0, 2].legend(frameon=False, fontsize=8, labelcolor=QUIET)
    panel_title(grid[0, 2], "eigenvalues, shares of their sum")
    grid[0, 2].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


@captioned("Variance by principal component; collapsed features end at C - 1.")
def pca_spectrum(variances, dim, classes):
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
    for axes in (each, running):
        axes.axvline(dim, color=ID_COLOUR, lw=1, ls=DASHES)
        axes.axvline(classes - 1, color=QUIET, lw=1, ls=DASHES)
        axes.set_xlabel("component")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    running.set_ylim(0, 1.03)
    running.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel_title(each, "Share of the variance, logarithmic")
    panel_title(running, "Running sum")
    figure.supxlabel(
        f"blue ┆ NECO's default d = {dim}, the least with 90% of the variance      grey ┆ C - 1 ="
        f" {classes - 1}",
        fontsize=9,
        color=INK,
    )
    return figure


def _bar(figure, image, axes, label):
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=QUIET, labelsize=8.5)
    bar.set_label(label, color=QUIET, fontsize=9)
    return bar
