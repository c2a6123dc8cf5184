"""Neural collapse, NC1 to NC5, from features and the last layer; NumPy only.

    moments = Accumulator(classes=C, width=D).update(features, labels).finish()
    rows = measure(moments, W, b) + nc4_rows(nc4(features, labels, W, b, moments.means), "train")

One pass gathers counts, class means and within-class scatter; NC1, NC2 and NC3 are closed forms of
these. NC4 reads the features again. A metric that is undefined is None, never 0. Formulas, sources,
hazards: docs/neural_collapse.md."""

import warnings

import numpy as np

from arrays import measurable, measurable_head
from collapse.etf import GENERALISED, NC2, SIMPLEX, nc2, plain, rank_bound
from collapse.rows import ROWS
from moments import BLOCK, EPSILON, Accumulator, Moments

__all__ = [
    "Accumulator",
    "Moments",
    "all_rows",
    "bootstrap",
    "bootstrap_nc4",
    "bootstrap_nc5",
    "centre_distances",
    "least_squares_head",
    "measure",
    "nc1",
    "nc2",
    "nc3",
    "nc4",
    "nc4_rows",
    "nc5",
    "nc5_rows",
    "per_class",
    "spread",
    "total",
]

# squared distance of two class means, over the largest squared norm, at which they count as one
# point
COINCIDE = 1e-12

UNDEFINED = {"nc1": "class means coincide, or no class has two images", "nc4": "no images"}
NO_HEAD = "needs the classifier, head.csv"
OF_HEAD = ("nc4_mismatch", "nc4_head_accuracy")


def nc1(moments: Moments) -> dict:
    """Tr(Sigma_W Sigma_B^+)/C with its rank and condition number, and the ratios of `spread`.

    Sigma_B^+ comes from the singular values of the centred class means, cut at rank min(C-1, D,
    numerical rank): its C-th direction is rounding alone, and inverting it has put values of a
    million in print."""
    centred = moments.centred
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    rank = min(rank_bound(centred), int((singular > moments.rounding).sum()))
    values: dict[str, float | None] = {"nc1": None, "nc1_rank": rank, "nc1_condition": None}
    if rank:
        values["nc1_condition"] = float((singular[0] / singular[rank - 1]) ** 2)
    if rank and moments.counts.max() > 1:  # one image per class has no scatter: unknown, not zero
        kept = directions[:rank]
        within = np.einsum("rd,rd->r", kept @ moments.within, kept)
        within = np.maximum(within, 0)  # a variance, but for rounding
        # The 1/C of Sigma_B and that of NC1 cancel.
        values["nc1"] = float((within / singular[:rank] ** 2).sum())
    return values | spread(moments)


def spread(moments: Moments) -> dict:
    """Tr(Sigma_W)/Tr(Sigma_B), and CDNV: mean over pairs of (v_c + v_c')/(2 |mu_c - mu_c'|^2), v
    the class variances.

    None without two images in a class, and for CDNV also where two class means coincide.
    """
    values = dict.fromkeys(("nc1_trace_ratio", "nc1_cdnv"))
    centred, variance = moments.centred, moments.within_class_variance[moments.present]
    squared, pairs = (centred**2).sum(axis=1), np.triu_indices(len(centred), 1)
    if moments.counts.max() > 1 and squared.max() > 0:
        trace = variance @ moments.counts[moments.present] / moments.counts.sum()
        values["nc1_trace_ratio"] = float(trace / squared.mean())
        distance = (squared[:, None] + squared - 2 * centred @ centred.T)[pairs]
        if distance.min() > COINCIDE * squared.max():
            values["nc1_cdnv"] = float(
                ((variance[:, None] + variance)[pairs] / (2 * distance)).mean()
            )
    return values


def nc3(moments: Moments, W: np.ndarray) -> dict:
    """Self-duality of the last layer W (C, D) and the centred class means, of the present
    classes."""
    weights, centred = W[moments.present], moments.centred
    values = dict.fromkeys(("nc3_self_duality", "nc3_cosine_mean", "nc3_cosine_min"))
    if np.any(weights) and np.any(centred):
        difference = weights / np.linalg.norm(weights) - centred / np.linalg.norm(centred)
        values["nc3_self_duality"] = float((difference**2).sum())
    cosines = cosine(weights, centred)
    if np.isfinite(cosines).all():
        values |= {"nc3_cosine_mean": float(cosines.mean()), "nc3_cosine_min": float(cosines.min())}
    return values


def nc4(features, labels, W, b, means, exact: bool = False) -> dict:
    """Where the nearest class mean and argmax(W h + b) disagree: features (n, D), labels (n,),
    means (C, D).

    One product a block holds the logits and the distances, both with the origin moved to mu_G, so
    that a common offset of the features costs no digits; float32 features are multiplied in float32
    unless `exact`. Classes whose mean is NaN (no training images) are nearest to nothing. Equal
    distances and equal logits go to the lower class. Returns mismatch, nearest_mean_accuracy and
    head_accuracy (shares, None for n = 0); images and mismatches (C,), counts that add up over
    chunks and workers; nearest and predicted (n,). Without a head, W and b None, what takes one is
    None."""
    classes, width = means.shape
    features, labels = measurable(features, labels, classes, width)
    if W is None:
        return nearest_alone(features, labels, means, exact)
    W, b = measurable_head(W, b, classes, width)
    dtype = np.float64 if exact else np.result_type(features, np.float32)
    present = np.flatnonzero(np.isfinite(means).all(axis=1))
    origin = means[present].mean(axis=0).astype(dtype).astype(np.float64)  # as the rows will see it
    centred = means[present] - origin
    directions = np.concatenate([centred, W]).T.astype(dtype)
    offsets = np.concatenate([-0.5 * (centred**2).sum(axis=1), b + W @ origin]).astype(dtype)
    nearest, predicted = np.empty(len(features), np.int64), np.empty(len(features), np.int64)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        scores = (features[rows] - origin.astype(dtype)) @ directions + offsets
        nearest[rows] = present[scores[:, : len(present)].argmax(axis=1)]
        predicted[rows] = scores[:, len(present) :].argmax(axis=1)
    wrong, images = nearest != predicted, np.bincount(labels, minlength=classes)
    shares = {
        "mismatch": wrong,
        "nearest_mean_accuracy": nearest == labels,
        "head_accuracy": predicted == labels,
    }
    return {
        **{name: float(hits.mean()) if len(labels) else None for name, hits in shares.items()},
        "images": images,
        "mismatches": np.bincount(labels[wrong], minlength=classes),
        "nearest": nearest,
        "predicted": predicted,
    }


def nearest_alone(features, labels, means, exact: bool) -> dict:
    """What nc4 returns of bare features, which no head classifies: a head of zeros stands in, and
    what it says is dropped."""
    found = nc4(features, labels, np.zeros(means.shape), np.zeros(len(means)), means, exact)
    return found | dict.fromkeys(("mismatch", "head_accuracy", "mismatches", "predicted"))


def nc5(moments: Moments, other: np.ndarray) -> dict:
    """Orthogonality of the class means and the mean of another set's features, `other` (n, D) or
    their mean (D,).

    Returns nc5 and nc5_centred (mean |cos|), nc5_shift, and the signed cosines by class (C,), NaN
    for absent classes: cosines, cosines_centred. The ID test set's own values are the null:
    centred, its mean is near zero and its direction noise, which nc5_shift shows."""
    other = np.asarray(other)
    mean = other.mean(axis=0, dtype=np.float64) if other.ndim == 2 and len(other) else other
    fits = mean.shape == moments.global_mean.shape
    if not fits or not np.isfinite(mean).all():
        fault = "with NaN or infinity" if fits else "of another shape"
        raise ValueError(
            f"NC5 needs finite features of width {len(moments.global_mean)}, found an array"
            f" {other.shape} {fault}"
        )
    shifted = mean - moments.global_mean
    cosines, cosines_centred = cosine(moments.means, mean), cosine(moments.deviations, shifted)
    radius = np.linalg.norm(moments.centred, axis=1).mean()
    seen = moments.present
    shift = float(np.linalg.norm(shifted) / radius) if radius > 0 else None
    return {
        "nc5": plain(np.abs(cosines[seen]).mean()),
        "nc5_centred": plain(np.abs(cosines_centred[seen]).mean()),
        "nc5_shift": shift,
        "cosines": cosines,
        "cosines_centred": cosines_centred,
    }


def centre_distances(features, means) -> np.ndarray:
    """Euclidean distance of each row of features (n, D) to the nearest class mean (C, D), NaN means
    passed over -> (n,)."""
    present = means[np.isfinite(means).all(axis=1)]
    origin = present.mean(axis=0)
    centred = present - origin
    half, distances = 0.5 * (centred**2).sum(axis=1), np.empty(len(features))
    for start in range(0, len(features), BLOCK):
        # float64: under collapse the squares nearly cancel
        rows = features[start : start + BLOCK] - origin
        squared = (rows**2).sum(axis=1) - 2 * (rows @ centred.T - half).max(axis=1)
        distances[start : start + BLOCK] = np.sqrt(np.maximum(squared, 0))
    return distances


def total(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of all images, classes weighed by their images: Sigma_W and
    what lies between."""
    present = moments.present
    share = moments.counts[present] / moments.counts.sum()
    mean = share @ moments.means[present]
    deviations = (moments.means[present] - mean) * np.sqrt(share)[:, None]
    return mean, moments.within + deviations.T @ deviations


def least_squares_head(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """W (C, D) and b (C,) that come nearest, in squared error over the images, to one-hot targets:
    a layer's probe.

    The normal equations need nothing but the moments; those of exact=True, since a covariance from
    float32 products has noise where the features hardly vary. No ridge: directions without variance
    get no weight (the least norm)."""
    classes, width = moments.means.shape
    present = moments.present
    mean, covariance = total(moments)
    share = moments.counts[present] / moments.counts.sum()
    W, b = np.zeros((classes, width)), np.zeros(classes)
    inverse = np.linalg.pinv(covariance, rcond=width * EPSILON, hermitian=True)
    W[present] = share[:, None] * (moments.means[present] - mean) @ inverse
    b[present] = share - W[present] @ mean
    return W, b


def measure(moments: Moments, W: np.ndarray, b: np.ndarray, split: str = "train") -> list[dict]:
    """NC1, NC2 and NC3 as rows {metric, value, split, centring, source, note}; those of W alone
    have split "head".

    Without a head, W and b None, the rows that take one are undefined, and their note says so.
    """
    classes, width = moments.means.shape
    W, b = (None, None) if W is None else measurable_head(W, b, classes, width)
    found, first = len(moments.present), nc1(moments)
    absent = "" if found == classes else f"means of {found} of {classes} classes"
    rank = f"rank {first['nc1_rank']} of {rank_bound(moments.centred)}"
    rows = []
    for name, value in first.items():
        note = rank if name == "nc1" and value is not None else ""
        rows.append(row(name, value, split, note, absent))
    for kind, vectors, where, gap in (
        ("means", moments.centred, split, absent),
        ("weights", W, "head", ""),
    ):
        if vectors is None:
            continue
        note = ""
        if rank_bound(vectors) < len(vectors) - 1:
            note = f"no simplex ETF of {len(vectors)} classes exists in {width} dimensions"
            warnings.warn(
                f"NC2 of the {kind}: {note}; the generalised metrics stand in",
                UserWarning,
                stacklevel=2,
            )
        for name, value in nc2(vectors).items():
            said = note if name in (*SIMPLEX, *GENERALISED) else ""
            rows.append(row(f"nc2_{kind}_{name}", value, where, said, gap))
    if W is None:
        return rows + rows_without_head(split)
    rows += [row(name, value, split, "", absent) for name, value in nc3(moments, W).items()]
    return [*rows, row("head_bias_std", float(b.std()), "head", "in units of the logits")]


def rows_without_head(split: str) -> list[dict]:
    """The rows of NC2 of the weights, NC3 and the bias, undefined, as `measure` names and orders
    them."""
    second = [row(f"nc2_weights_{name}", None, "head", NO_HEAD) for name in NC2]
    third = [
        row(name, None, split, NO_HEAD)
        for name in ("nc3_self_duality", "nc3_cosine_mean", "nc3_cosine_min")
    ]
    return [*second, *third, row("head_bias_std", None, "head", NO_HEAD)]


def nc4_rows(result: dict, split: str) -> list[dict]:
    """The rows of nc4's result; split is "train" or "test"."""
    if result["mismatches"] is None:
        return [
            row(f"nc4_{name}", result[name], split, NO_HEAD if f"nc4_{name}" in OF_HEAD else "")
            for name in ("mismatch", "nearest_mean_accuracy", "head_accuracy")
        ]
    note = f"{result['mismatches'].sum()} of {result['images'].sum()} images"
    return [
        row(f"nc4_{name}", result[name], split, note if name == "mismatch" else "")
        for name in ("mismatch", "nearest_mean_accuracy", "head_accuracy")
    ]


def nc5_rows(result: dict, split: str) -> list[dict]:
    """The rows of nc5's result; split is "ood:<name>", or "test" for the ID test set, the null."""
    note = "null: the ID set's own mean" if split in ("train", "test") else ""
    return [row(name, result[name], split, note) for name in ("nc5", "nc5_centred", "nc5_shift")]


def all_rows(rows: list, nc4: dict, nc5: dict) -> list[dict]:
    """The rows of `measure` and those of the results of nc4 and nc5, each {split: result}: one
    table."""
    table = list(rows)
    for split, result in nc4.items():
        table += nc4_rows(result, split)
    for split, result in nc5.items():
        table += nc5_rows(result, split)
    return table


def per_class(
    moments: Moments, W, class_names=None, train: dict | None = None, test: dict | None = None
):
    """Columns of nc_per_class.csv, lists of C entries, None where undefined; train and test are
    results of nc4."""
    classes, width = moments.means.shape
    if W is None:
        W = np.full((classes, width), np.nan)
    else:
        W, _ = measurable_head(W, np.zeros(classes), classes, width)
    if class_names is None:
        class_names = [str(number) for number in range(classes)]
    centred = moments.deviations
    norms = np.linalg.norm(centred, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / norms[:, None]
    cosines = np.where(np.eye(classes, dtype=bool), np.nan, unit @ unit.T)
    nearest = np.where(np.isnan(cosines), -np.inf, cosines).argmax(axis=1)
    closest = cosines[np.arange(classes), nearest]
    columns = {
        "class": np.arange(classes),
        "class_name": class_names,
        "images": moments.counts,
        "within_class_variance": moments.within_class_variance,
        "mean_norm": norms,
        "weight_norm": np.linalg.norm(W, axis=1),
        "cosine_weight_mean": cosine(W, centred),
        "nearest_class_cosine": closest,
        "nearest_class": np.where(np.isnan(closest), None, nearest),
    }
    for split, result in (("train", train), ("test", test)):
        share = np.full(classes, np.nan)
        if result is not None and result["mismatches"] is not None:
            seen = result["images"] > 0
            share[seen] = result["mismatches"][seen] / result["images"][seen]
        columns[f"{split}_mismatch"] = share
    return {name: [plain(value) for value in column] for name, column in columns.items()}


def bootstrap(
    features,
    labels,
    W,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
    exact: bool = False,
    classes: int | None = None,
) -> dict:
    """Percentile intervals {metric: (low, high)} of NC1, NC2 of the means and NC3, None where a
    resample has no value.

    Without a head, W None and `classes` given, NC3 is left out.

    Resamples the images (n, D), labels (n,), within each class; each resample costs a pass.
    Repeated images shrink the scatter by 1/n_c and jitter the means: deviations from a simplex
    rise, and an interval may lie beside its metric."""
    width = features.shape[1]
    if W is not None:
        classes, width = W.shape
    if classes is None:
        raise ValueError("bootstrap: expected W (C, D), or the number of classes; found neither")
    features, labels = measurable(features, labels, classes, width)
    found = []
    for drawn in draws(labels, resamples, seed):
        with warnings.catch_warnings():
            # of absent classes: the measurement itself has warned
            warnings.simplefilter("ignore", UserWarning)
            moments = (
                Accumulator(classes, width, exact=exact)
                .update(features[drawn], labels[drawn])
                .finish()
            )
        second = {f"nc2_means_{name}": value for name, value in nc2(moments.centred).items()}
        found.append(nc1(moments) | second | ({} if W is None else nc3(moments, W)))
    return quantiles(found, level)


def bootstrap_nc4(
    result: dict, labels, resamples: int = 100, level: float = 0.95, seed: int = 0
) -> dict:
    """Intervals of the shares in a result of nc4, its images of labels (n,) resampled within
    classes; class means stay fixed."""
    nearest, predicted, images = result["nearest"], result["predicted"], result["images"]
    hits = {"nearest_mean_accuracy": nearest == labels}
    if predicted is not None:
        hits = {"mismatch": nearest != predicted, **hits, "head_accuracy": predicted == labels}
    shares = {}
    for name, hit in hits.items():
        shares[name] = np.bincount(labels[hit], minlength=len(images)) / np.maximum(images, 1)
    # how often an image with the property is drawn is binomial in each class
    generator = np.random.default_rng(seed)
    size = (resamples, len(images))
    drawn = {}
    for name, share in shares.items():
        counts = generator.binomial(images, share, size).sum(axis=1)
        drawn[f"nc4_{name}"] = counts / images.sum() if images.any() else [None] * resamples
    return quantiles(
        [{name: values[i] for name, values in drawn.items()} for i in range(resamples)], level
    )


def bootstrap_nc5(
    moments: Moments, other, labels=None, resamples: int = 100, level: float = 0.95, seed: int = 0
) -> dict:
    """Intervals of nc5's metrics, the images of the other set (n, D) resampled, within classes
    where `labels` (n,) are given.

    The class means stay fixed: those of the training images are known far better than the mean of a
    small set."""
    other, found = np.asarray(other), []
    labels = np.zeros(len(other), np.int64) if labels is None else np.asarray(labels)
    for drawn in draws(labels, resamples, seed):
        weights = np.bincount(drawn, minlength=len(other)) / len(other)
        # in its own type: no copy a resample
        values = nc5(moments, weights.astype(np.result_type(other, np.float32)) @ other)
        found.append({name: values[name] for name in ("nc5", "nc5_centred", "nc5_shift")})
    return quantiles(found, level)


def draws(labels, resamples, seed):
    """Yield the rows (n,) of each resample of images with labels (n,): as many of each class, with
    replacement."""
    order, counts = np.argsort(labels, kind="stable"), np.bincount(labels)
    first, size = np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield order[first + generator.integers(size)]


def quantiles(found: list, level: float) -> dict:
    """[{metric: value} of each resample] -> {metric: (low, high)}, None where a resample has no
    value."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    # None: NaN
    columns = {name: np.array([values[name] for values in found], np.float64) for name in found[0]}
    return {name: tuple(map(plain, np.quantile(column, tails))) for name, column in columns.items()}


def row(metric: str, value, split: str, note: str = "", absent: str = "") -> dict:
    """One line of nc_metrics.csv."""
    if value is None and not note:
        note = "undefined: " + UNDEFINED.get(metric[:3], "a vector of length zero")
    known = ROWS[metric]
    return {
        "metric": metric,
        "value": value,
        "split": split,
        "centring": known.centring,
        "source": known.source,
        "note": "; ".join(filter(None, (note, absent))),
    }


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(C, D), (C, D) or (D,) -> (C,), NaN where either vector is zero or absent."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / norms
