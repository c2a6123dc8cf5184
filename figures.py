"""Figures of the pipeline: one function a figure, arrays or pandas tables in, a matplotlib Figure out.

Only `matplotlib.figure.Figure` is used, never pyplot: no global state, no backend, safe in threads. Save with
`figure.savefig(path)`; each figure carries its own resolution. One style throughout: ID has one fixed colour, OOD sets
take theirs by position, many sets become small multiples with the name beside the data, and shares are drawn as
percent. Cells that are NaN are left out and said to be in words; nothing is drawn as zero because it is missing.
"""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

ID_COLOUR = "#0072B2"
# Mostly Okabe and Ito (2008), without its blue, which is ID's, and its yellow, which vanishes on white. Colour is never
# the only sign: each set's name stands beside its data.
OOD_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#6A3D9A", "#56B4E9", "#8A6D3B", "#4D4D4D")
INK, QUIET, FAINT = "#222222", "#666666", "#D9D9D9"
WIDTH = 8.6  # inches; at 150 dots per inch sharp on a page about 900 pixels wide
DASHES = (0, (4, 3))
PAPER = {"boxstyle": "square,pad=0.1", "fc": "white", "lw": 0}  # behind small text that may cross a line
LONG = 20  # more classes than this are drawn sorted, with only the extremes named


def ood_colour(position: int) -> str:
    """Colour of the OOD set at this position in the list of sets; repeats after eight."""
    return OOD_COLOURS[position % len(OOD_COLOURS)]


def percent(share, digits=1) -> str:
    """A share in percent, without the sign; only what is exactly all or nothing reads 100 or 0."""
    text, least = f"{100 * share:.{digits}f}", 10.0**-digits
    if 0 < share < 1 and float(text) in (0, 100):
        return f"<{least:.{digits}f}" if float(text) == 0 else f">{100 - least:.{digits}f}"
    return text


def _canvas(rows, columns, height, title, width=WIDTH, layout="constrained", **options):
    """Figure (width, height inches) with a left-aligned title, and its (rows, columns) array of quiet axes."""
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    figure.suptitle(title, x=0.012, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        _quieten(axes)
    return figure, grid


def _quieten(axes):
    """Only the axes that carry a scale keep a line; everything that is not data turns grey."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=QUIET, labelsize=8.5, length=3, color=FAINT)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=QUIET, fontsize=9)


def _panel_title(axes, text, colour=INK):
    """Title of one panel, in a darker shade of its data's colour: orange letters would be too pale to read."""
    axes.set_title(text, loc="left", fontsize=9.5, color=0.75 * np.array(to_rgb(colour)), fontweight="bold", pad=5)


def _shorten(text, length=22) -> str:
    text = " ".join(str(text).split())
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.replace("$", r"\$")  # two dollar signs would be taken for mathematics


def _window(reference, others, share=0.5):
    """Axis range for scores (N,) and a list of (M,): within percentiles, never so wide that the reference is flattened.

    From the `share`-th percentile to its complement, over the groups whose median lies within reach of the reference:
    ten times the larger of its interquartile range and the median one. Neither one far set nor a long tail may squeeze
    all others into a single bar.
    """
    groups = [np.percentile(group, [share, 25, 50, 75, 100 - share]) for group in [reference, *others] if len(group)]
    if not groups:
        return 0.0, 1.0
    low, quarter, middle, three_quarters, high = np.array(groups).T
    spread = three_quarters - quarter
    reach = 10 * max(spread[0], np.median(spread)) or np.inf
    bounds = low[0] - reach, high[0] + reach
    near = (middle >= bounds[0]) & (middle <= bounds[1])
    start, stop = max(low[near].min(), bounds[0]), min(high[near].max(), bounds[1])
    margin = 0.02 * (stop - start) or 0.5 * max(abs(start), 1e-3)
    return start - margin, stop + margin


def _finite(values):
    values = np.asarray(values, dtype=np.float64).ravel()
    return values[np.isfinite(values)]


def _label_ends(axes, ends):
    """Write each (x, y, text, colour) just right of its point, moved apart where two would overlap."""
    low, high = (np.log(axes.get_ylim()) if axes.get_yscale() == "log" else np.array(axes.get_ylim()))
    ends = sorted((end for end in ends if np.isfinite(end[1])), key=lambda end: end[1])
    previous = -np.inf
    for x, y, text, colour in ends:
        place = ((np.log(y) if axes.get_yscale() == "log" else y) - low) / (high - low)
        place = previous = max(place, previous + 0.075)
        axes.annotate(text, (x, place), xycoords=("data", "axes fraction"), xytext=(6, 0), textcoords="offset points",
                      color=colour, fontsize=9, fontweight="bold", va="center", annotation_clip=False)


def training_curves(history) -> Figure:
    """Accuracy and loss by epoch, training and validation.

    history: DataFrame with epoch, train_loss, train_acc, val_loss, val_acc (accuracies in [0, 1]; NaN: not measured).
    Marks the epoch with the best validation accuracy and the first at which every training image was classified right.
    """
    epoch = history["epoch"].to_numpy(dtype=np.float64)
    figure, ((accuracy, loss),) = _canvas(1, 2, 3.5, "Accuracy and loss during training")
    series = (("train", QUIET), ("validation", ID_COLOUR))
    for axes, quantity in ((accuracy, "acc"), (loss, "loss")):
        columns = [history[f"{split}_{quantity}"].to_numpy(dtype=np.float64) for split in ("train", "val")]
        for values, (_, colour) in zip(columns, series, strict=True):
            axes.plot(epoch, values, color=colour, lw=1.6, marker="o" if len(epoch) < 3 else "", ms=4)
        known = _finite(np.concatenate(columns))
        positive = quantity == "loss" and known.size and known.min() > 0
        if positive and known.max() > 20 * known.min():
            axes.set_yscale("log")
        ends = [(epoch[-1], values[-1], name, colour)
                for values, (name, colour) in zip(columns, series, strict=True) if len(epoch)]
        _label_ends(axes, ends)
        axes.grid(axis="y", color=FAINT, lw=0.6)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(epoch) == 1:
            axes.set_xlim(epoch[0] - 1, epoch[0] + 1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    _panel_title(accuracy, "Images classified right")
    _panel_title(loss, "Cross-entropy loss" + (", logarithmic" if loss.get_yscale() == "log" else "") + " (nats)")
    _mark_epochs(figure, accuracy, loss, epoch, history)
    return figure


def _mark_epochs(figure, accuracy, loss, epoch, history):
    """Dot at the best validation accuracy, dashed line at the first epoch with all training images right, and words."""
    notes = []
    validation = history["val_acc"].to_numpy(dtype=np.float64)
    if np.isfinite(validation).any():
        best = int(np.nanargmax(validation))
        accuracy.plot(epoch[best], validation[best], "o", color=ID_COLOUR, ms=7, mec="white", mew=1.2, zorder=5)
        notes.append(f"● best validation accuracy: {percent(validation[best], 2)}% at epoch {epoch[best]:g}")
    fitted = np.flatnonzero(history["train_acc"].to_numpy(dtype=np.float64) == 1)
    if fitted.size:
        for axes in (accuracy, loss):
            axes.axvline(epoch[fitted[0]], color=QUIET, ls=DASHES, lw=1)
        notes.append(f"┆ every training image right for the first time: epoch {epoch[fitted[0]]:g}")
    if notes:
        figure.supxlabel("      ".join(notes), fontsize=9, color=INK)


def score_histograms(id_scores, ood_scores, method, threshold=None, auroc=None) -> Figure:
    """Densities of one method's score, a row an OOD set, each beside the same ID density.

    id_scores (N,); ood_scores: name -> (M,); threshold: the score from which an image is accepted; auroc: name -> AUROC
    in [0, 1], written beside the name where given. The axis is cut at percentiles (`_window`); what lies beyond is
    counted in words.
    """
    inside = _finite(id_scores)
    outside = {name: _finite(scores) for name, scores in ood_scores.items()}
    start, stop = _window(inside, list(outside.values()))
    bins = np.linspace(start, stop, 81)
    height = 1.0 + (2.6 if len(outside) < 2 else max(0.95, 1.5 - 0.07 * len(outside)) * len(outside))
    title = f"{_shorten(method)}: scores of ID and OOD images"
    figure, grid = _canvas(max(len(outside), 1), 1, height, title, sharex=True)
    for position, (axes, (name, scores)) in enumerate(zip(grid[:, 0], outside.items(), strict=False)):
        colour = ood_colour(position)
        peaks = [_density(axes, inside, bins, ID_COLOUR, 0.25), _density(axes, scores, bins, colour, 0.35)]
        # A spike may leave the panel; the other density must stay legible beneath it.
        top = min(max(peaks), 5 * min((peak for peak in peaks if peak > 0), default=1)) or 1
        axes.set(ylim=(0, 1.1 * top), yticks=[], xlim=(start, stop))
        axes.spines["left"].set_visible(False)
        area = (auroc or {}).get(name, np.nan)
        text = _shorten(name, 40) + (f"   AUROC {percent(area)}%" if np.isfinite(area) else "")
        _panel_title(axes, text + ("   (spike cut off)" if max(peaks) > top else ""), colour)
        axes.set_title(_beyond(inside, scores, start, stop), loc="right", fontsize=8, color=QUIET, pad=5)
        if threshold is not None:
            axes.axvline(threshold, color=INK, lw=1, ls=DASHES)
    line = "" if threshold is None else f"      ┆ threshold {threshold:.4g}: accepted to its right"
    grid[-1, 0].set_xlabel(f"{_shorten(method)} score, higher = more in-distribution; vertical: density\n"
                           f"blue: ID      coloured: the OOD set{line}")
    return figure


def _density(axes, values, bins, colour, alpha):
    """Filled density of the values over the bins, normalised by all values; returns the peak."""
    counts = np.histogram(values, bins)[0] / max(len(values), 1) / (bins[1] - bins[0])
    axes.stairs(counts, bins, fill=True, color=colour, alpha=alpha, lw=0)
    axes.stairs(counts, bins, color=colour, lw=1.2)
    return counts.max()


def _beyond(inside, outside, start, stop) -> str:
    """In words, how much of either group the axis does not show."""
    parts = []
    for name, values in (("ID", inside), ("OOD", outside)):
        if not len(values):
            parts.append(f"no finite {name} score")
            continue
        for share, side in ((np.mean(values < start), "left"), (np.mean(values > stop), "right")):
            if share >= 0.01:
                parts.append(f"{100 * share:.0f}% of {name} further {side}")
    return ", ".join(parts)


def auroc_bars(metrics) -> Figure:
    """AUROC of every method, a panel an OOD set, bars from chance (50%) with 95% DeLong intervals.

    metrics: the table ood_metrics.csv with method, ood, auroc, auroc_low, auroc_high (and parameters, which tell two
    rows of one method apart). Methods are sorted by their mean over the sets, the same order in every panel.
    """
    table = metrics.assign(method=method_labels(metrics))
    # pivot_table would drop methods that are NaN everywhere; they keep their row and are called undefined.
    wide = {column: table.pivot(index="method", columns="ood", values=column)
            for column in ("auroc", "auroc_low", "auroc_high")}
    methods = wide["auroc"].mean(axis=1).sort_values(na_position="first", kind="stable").index
    sets = list(dict.fromkeys(table["ood"]))
    columns = min(len(sets), 4)
    rows = -(-len(sets) // columns)
    height = 0.9 + rows * (0.55 + 0.23 * max(len(methods), 3))
    figure, grid = _canvas(rows, columns, height, "AUROC by method and OOD set", sharex=True, sharey=True)
    low = np.nanmin([0.45, wide["auroc_low"].min().min(), wide["auroc"].min().min()])
    for position, (axes, name) in enumerate(zip(grid.flat, sets, strict=False)):
        _panel_title(axes, _shorten(name), ood_colour(position))
        values = [wide[column].loc[methods, name].to_numpy(dtype=np.float64) for column in wide]
        _interval_bars(axes, *values, ood_colour(position))
        axes.set_yticks(range(len(methods)), [_shorten(method) for method in methods])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        _rows(axes, len(methods))
        ticks = [tick for tick in (0.0, 0.25, 0.5, 0.75, 1.0) if tick >= low]
        axes.set(xlim=(low - 0.02, 1 + 0.24 * (1 - low)), xticks=ticks)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in grid.flat[len(sets):]:
        axes.set_visible(False)
    figure.supxlabel("AUROC; bars start at chance, whiskers: 95% DeLong interval", fontsize=9, color=QUIET)
    return figure


def method_labels(metrics):
    """Names of the rows of ood_metrics.csv: the method, with its parameters where one set has several rows of it."""
    several = metrics.groupby("method")["ood"].transform(lambda sets: sets.duplicated().any()).astype(bool)
    return metrics["method"].where(~several, metrics["method"] + " " + metrics["parameters"].astype(str))


def _rows(axes, count):
    """Room for `count` horizontal bars without a margin above and below; one or two bars stay as thin as three."""
    spare = max(3 - count, 0) / 2
    axes.set_ylim(-0.6 - spare, count - 0.4 + spare)


def _interval_bars(axes, values, lows, highs, colour):
    """Horizontal bars from 0.5 to the values (K,), the best dark, whiskers to lows and highs, numbers beside them."""
    rows = np.arange(len(values))
    best = values == np.nanmax(values) if np.isfinite(values).any() else np.zeros(len(values), bool)
    for row in rows[np.isfinite(values)]:
        axes.barh(row, values[row] - 0.5, left=0.5, height=0.68, color=colour, alpha=0.85 if best[row] else 0.4)
    whiskers = np.abs(np.nan_to_num(np.array([values - lows, highs - values])))
    axes.errorbar(values, rows, xerr=whiskers, fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.5)
    axes.axvline(0.5, color=QUIET, lw=0.8)
    for row, value in zip(rows, values, strict=True):
        text = percent(value) if np.isfinite(value) else "undefined"
        place = np.nanmax([value, highs[row], 0.5]) if np.isfinite(value) else 0.5
        axes.annotate(text, (place, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5,
                      color=INK if np.isfinite(value) else QUIET, fontweight="bold" if best[row] else "normal")


def within_class_variance(per_class) -> Figure:
    """NC1 by class: mean squared distance of a class's training features from their mean (squared feature units).

    per_class: the table nc_per_class.csv with class_name and within_class_variance.
    """
    return _per_class(per_class["class_name"], per_class["within_class_variance"], "NC1: variance within each class",
                      "within-class variance (squared feature units); 0 when fully collapsed", start=0.0)


def weight_mean_alignment(per_class) -> Figure:
    """NC3 by class: cosine between the class's row of the classifier and its centred mean; 1 under full collapse.

    per_class: the table nc_per_class.csv with class_name and cosine_weight_mean.
    """
    return _per_class(per_class["class_name"], per_class["cosine_weight_mean"],
                      "NC3: do the classifier's weights point at the class means?",
                      "cosine of weight row and centred class mean; 1 when fully collapsed", start=0.0, target=1.0)


def _per_class(names, values, title, quantity, start, target=None) -> Figure:
    """A number a class: named bars, or beyond LONG classes all of them sorted with the extremes named."""
    names, values = np.asarray(names, dtype=object), np.asarray(values, dtype=np.float64)
    missing = int((~np.isfinite(values)).sum())
    order = np.argsort(values, kind="stable")[: len(values) - missing]  # NaN sorts last
    names, values = names[order], values[order]
    short = len(values) <= LONG
    figure, ((axes,),) = _canvas(1, 1, 1.3 + 0.25 * max(len(values), 3) if short else 3.8, title)
    if short:
        _named_bars(axes, names, values, start)
    else:
        _sorted_bars(axes, names, values, start)
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
        notes = f"mean {values.mean():.4g}, lowest {values.min():.4g}, highest {values.max():.4g}"
        axes.set_title(notes + (f"; undefined for {missing} of {missing + len(values)} classes" if missing else ""),
                       loc="left", fontsize=9, color=QUIET)
    else:
        axes.set_title("undefined for every class", loc="left", fontsize=9, color=QUIET)
    return figure


def _named_bars(axes, names, values, start):
    """Horizontal bars (C,), each with its class name and number."""
    axes.barh(range(len(values)), values - start, left=start, height=0.68, color=ID_COLOUR, alpha=0.75)
    axes.set_yticks(range(len(values)), [_shorten(name) for name in names])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    _rows(axes, len(values))
    for row, value in enumerate(values):
        axes.annotate(f"{value:.3g}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8,
                      color=INK, annotation_clip=False)


def _sorted_bars(axes, names, values, start):
    """Thin vertical bars (C,) in ascending order, the three lowest and three highest named."""
    axes.bar(range(len(values)), values - start, bottom=start, width=0.85, color=ID_COLOUR, alpha=0.75)
    axes.set_xlim(-1, len(values))
    axes.set_xticks([])
    axes.margins(y=0.25)
    low, high = ", ".join(map(_shorten, names[:3])), ", ".join(map(_shorten, names[:-4:-1]))
    axes.annotate(f"lowest: {low}", (0.01, 0.97), xycoords="axes fraction", va="top", fontsize=8.5, color=INK)
    axes.annotate(f"highest: {high}", (0.01, 0.885), xycoords="axes fraction", va="top", fontsize=8.5, color=INK)


def _cosines(vectors):
    """Cosines of all pairs of rows: (C, D) -> (C(C-1)/2,); rows that are not finite or zero are left out."""
    vectors = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    unit = vectors[usable] / norms[usable]
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def cosine_histogram(means, weights=None) -> Figure:
    """NC2: cosines between all pairs of centred class means, and of weight rows, beside the simplex ETF's -1/(C-1).

    means (C, D) are centred here at their own mean (nothing changes where they already are); weights (C, D) are taken
    as they are, as Papyan et al. 2020 do. Where D < C - 1 no simplex ETF exists, which the figure then says.
    """
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
    figure, grid = _canvas(len(groups), 1, 1.1 + 1.6 * len(groups), title, sharex=True)
    for axes, (name, cosines, colour) in zip(grid[:, 0], groups, strict=True):
        axes.hist(cosines, bins, color=colour, alpha=0.7)
        axes.axvline(target, color=INK, lw=1.2, ls=DASHES)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.set_ylabel("pairs")
        spread = f"mean {cosines.mean():.3f}, standard deviation {cosines.std():.3f}" if len(cosines) else "undefined"
        _panel_title(axes, f"{name}: {len(cosines):,} pair{'s' * (len(cosines) != 1)}, {spread}", colour)
    meaning = "equal angles"
    if width < classes - 1:
        meaning = f"no simplex ETF of {classes} classes exists in {width} dimensions"
    grid[-1, 0].set_xlabel(f"cosine      ┆ -1/(C-1) = {target:.4f}: {meaning}")
    return figure


def class_mean_distances(means, class_names) -> Figure:
    """Heat map of the Euclidean distances between class means (C, D), in feature units.

    More than LONG classes are ordered by average-linkage clustering, so that groups of like classes stand as blocks.
    Classes without a finite mean are left out and counted.
    """
    means = np.asarray(means, dtype=np.float64)
    present = np.flatnonzero(np.isfinite(means).all(axis=1))
    distances = _distances(means[present])
    order = np.arange(len(present))
    if len(present) > LONG:
        from scipy.cluster.hierarchy import leaves_list, linkage  # slow to import, and for this figure alone

        pairs = distances[np.triu_indices(len(present), 1)]
        order = leaves_list(linkage(pairs, "average", optimal_ordering=len(present) <= 300))
    shown = distances[np.ix_(order, order)]
    np.fill_diagonal(shown, np.nan)
    height = min(WIDTH - 0.8, 2.2 + 0.42 * len(present))
    title = "Distances between class means" + (", classes ordered by likeness" if len(present) > LONG else "")
    figure, ((axes,),) = _canvas(1, 1, height, title, width=max(height + 0.8, 4.5), layout="compressed")
    image = axes.imshow(shown, cmap="viridis", interpolation="nearest")
    _name_cells(axes, [_shorten(class_names[present[row]], 18) for row in order], shown)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=QUIET, labelsize=8.5)
    bar.set_label("Euclidean distance (feature units)", color=QUIET, fontsize=9)
    if len(present) < len(means):
        axes.set_xlabel(f"{len(means) - len(present)} classes without a mean left out")
    return figure


def _distances(points):
    """Euclidean distances (C, C) between points (C, D), by differences row by row: a Gram matrix would cancel."""
    return np.array([np.linalg.norm(points - point, axis=1) for point in points]).reshape(len(points), len(points))


def _name_cells(axes, names, values):
    """Class names on two sides of a heat map (C, C), as small as C asks, none beyond 120; numbers in it up to 12."""
    count = len(names)
    axes.spines[:].set_visible(False)
    size = 8.5 if count <= LONG else min(8.5, 440 / count)
    names = names if count <= 120 else []
    axes.set_xticks(range(len(names)), names, rotation=90 if count > 8 else 0, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0, labelcolor=INK)
    if count <= 12:
        middle = np.nanmean([np.nanmin(values), np.nanmax(values)]) if np.isfinite(values).any() else 0
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=8,
                          color="white" if value <= middle else INK)


def nc5_bars(table) -> Figure:
    """NC5: mean |cosine| of the class means and each OOD set's mean, uncentred (Ammar et al. 2023) and centred at mu_G.

    table: DataFrame with name, uncentred, centred. The row whose name begins with "ID test" is the null, the ID test
    images treated as if they were an OOD set; its value is drawn through the panel in ID's colour.
    """
    null = table["name"].str.startswith("ID test").to_numpy(dtype=bool)
    rows = np.arange(len(table))[::-1]  # the first row on top
    position = np.cumsum(~null) - 1
    title = "NC5: is the mean of each OOD set orthogonal to the class means?"
    figure, grid = _canvas(1, 2, 1.5 + 0.3 * max(len(table), 3), title, sharey=True)
    for axes, column in zip(grid[0], ("uncentred", "centred"), strict=True):
        values = table[column].to_numpy(dtype=np.float64)
        for row, value, is_null, place in zip(rows, values, null, position, strict=True):
            known = np.isfinite(value)
            axes.barh(row, value, height=0.68, color=ID_COLOUR if is_null else ood_colour(place), alpha=0.8)
            axes.annotate(f"{value:.3f}" if known else "undefined", (value if known else 0, row), xytext=(4, 0),
                          textcoords="offset points", va="center", fontsize=8, bbox=PAPER,
                          color=INK if known else QUIET)
            if is_null and known:
                axes.axvline(value, color=ID_COLOUR, lw=1, ls=DASHES, zorder=0.5)
        axes.set_xlim(0, 1.18 * max([0.05, *_finite(values)]))
        axes.set_xlabel("mean |cosine|; 0 is orthogonal")
        _rows(axes, len(table))
        axes.set_yticks(rows, [_shorten(name) for name in table["name"]])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    _panel_title(grid[0, 0], "uncentred, as published")
    _panel_title(grid[0, 1], "centred at the mean of class means")
    return figure


def principal_components(id_points, ood_points, explained=(np.nan, np.nan), id_labels=None) -> Figure:
    """ID and OOD features on the two leading principal components, a panel an OOD set over the same ID points.

    id_points (N, 2); ood_points: name -> (M, 2); explained: shares of variance in [0, 1] of the two components;
    id_labels (N,): where given and at most LONG classes, each label is written at the median of its points. At most
    2,000 points of a group are drawn, evenly spaced in file order.
    """
    columns = min(max(len(ood_points), 1), 4)
    rows = max(-(-len(ood_points) // columns), 1)
    side = {1: 5.2, 2: 3.85, 3: 2.55, 4: 1.9}[columns]
    figure, grid = _canvas(rows, columns, 0.8 + rows * (side + 0.3), "ID and OOD features on two principal components",
                           layout="compressed", sharex=True, sharey=True)
    inside, outside = _thin(id_points), [_thin(points) for points in ood_points.values()]
    limits = [_window(inside[:, axis], [points[:, axis] for points in outside], 0.2) for axis in (0, 1)]
    centre, half = np.mean(limits, axis=1), np.ptp(limits, axis=1).max() / 2  # one unit is as long on both axes
    for position, (axes, name) in enumerate(zip(grid.flat, ood_points or [""], strict=False)):
        _panel_title(axes, _shorten(name), ood_colour(position))
        size = 7 if columns < 3 else 3
        axes.scatter(*inside.T, s=size, color=ID_COLOUR, alpha=0.35, lw=0)
        if outside:
            axes.scatter(*outside[position].T, s=size, color=ood_colour(position), alpha=0.5, lw=0)
            _count_beyond(axes, outside[position], centre, half)
        axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half), aspect="equal")
        axes.locator_params(nbins=4)
        _write_labels(axes, np.asarray(id_points, dtype=np.float64), id_labels, 8 if columns < 3 else 6)
    for axes in grid.flat[max(len(ood_points), 1):]:
        axes.set_visible(False)
    shares = [f" ({100 * share:.1f}% of the variance)" if np.isfinite(share) else "" for share in explained]
    figure.supxlabel(f"across: first component{shares[0]}, up: second{shares[1]}; feature units\n"
                     "blue: ID      coloured: the OOD set", fontsize=9, color=QUIET)
    return figure


def _count_beyond(axes, points, centre, half):
    """In a corner, the share of the points (M, 2) that the panel's square does not show."""
    share = (np.abs(points - centre) > half).any(axis=1).mean() if len(points) else 0
    if share >= 0.01:
        axes.annotate(f"{100 * share:.0f}% beyond", (0.99, 0.01), xycoords="axes fraction", ha="right", fontsize=7.5,
                      color=QUIET, bbox=PAPER)


def _thin(points, limit=2000):
    """At most `limit` finite points (N, 2), evenly spaced in their order."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[np.linspace(0, len(points) - 1, min(limit, len(points))).astype(int)]


def _write_labels(axes, points, labels, size):
    """Each class's label at the median of its points (N, 2), where there are few enough to read."""
    classes = [] if labels is None else np.unique(labels)
    for label in classes if len(classes) <= LONG else []:
        place = np.nanmedian(points[np.asarray(labels) == label], axis=0)
        axes.annotate(_shorten(label, 10), place, ha="center", va="center", fontsize=size, fontweight="bold", color=INK,
                      bbox={"boxstyle": "round,pad=0.1", "fc": "white", "alpha": 0.7, "lw": 0})
