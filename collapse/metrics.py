"""Neural collapse, NC1, NC3, NC4 and NC5, from features and the last layer; NumPy only.

    moments = Accumulator(classes=C, width=D).update(features, labels).finish()
    nc1(moments), nc3(moments, W)
    nc4(features, labels, W, b, moments.means)
    nc5(moments, other)

One pass gathers counts, class means and within-class scatter (`moments`); NC1, NC2 (`etf`) and NC3
are closed forms of these. NC4 reads the features again. A metric that is undefined is None, never
0. Formulas, sources, hazards: docs/neural_collapse.md."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from arrays import measurable, measurable_head
from collapse.etf import Values, plain, rank_bound
from moments import BLOCK, Moments

# squared distance of two class means, over the largest squared norm, at which they count as one
# point
COINCIDE = 1e-12
NC3 = ("nc3_self_duality", "nc3_cosine_mean", "nc3_cosine_min")  # the order of the rows


# ---- NC1 -----------------------------------------------------------------------------------------


def nc1(moments: Moments) -> Values:
    """NC1 = Tr(Sigma_W Sigma_B^+) / C (Papyan, Han and Donoho 2020, figure 6), and what stands
    beside it.

    nc1_rank         rank at which the pseudo-inverse was cut
    nc1_condition    largest over smallest eigenvalue of Sigma_B kept
    nc1_trace_ratio  see `trace_ratio`
    nc1_cdnv         see `cdnv`

    Sigma_B^+ comes from the singular values of the centred class means (P, D), cut at rank min(C-1,
    D, numerical rank): its C-th direction is rounding alone, and inverting it has put values of a
    million in print. None where all class means coincide or no class has two images."""
    centred = moments.centred
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    numerical_rank = int((singular > moments.rounding).sum())
    rank = min(rank_bound(centred), numerical_rank)
    values: Values = {"nc1": None, "nc1_rank": rank, "nc1_condition": None}
    if rank:
        ratio = singular[0] / singular[rank - 1]
        values["nc1_condition"] = float(ratio**2)
    if rank and has_scatter(moments):
        kept = directions[:rank]
        within = np.einsum("rd,rd->r", kept @ moments.within, kept)
        within = np.maximum(within, 0)  # a variance, but for rounding
        # The 1/C of Sigma_B and that of NC1 cancel.
        ratios = within / singular[:rank] ** 2
        values["nc1"] = float(ratios.sum())
    values["nc1_trace_ratio"] = trace_ratio(moments)
    values["nc1_cdnv"] = cdnv(moments)
    return values


def has_scatter(moments: Moments) -> bool:
    """False where each class has one image: its scatter is unknown, not zero."""
    return bool(moments.counts.max() > 1)


def trace_ratio(moments: Moments) -> float | None:
    """Tr(Sigma_W) / Tr(Sigma_B) (Tirer, Huang and Niles-Weed 2023).

    None where all class means coincide or no class has two images.
    """
    squared = (moments.centred**2).sum(axis=1)
    if not has_scatter(moments) or squared.max() <= 0:
        return None
    present = moments.present
    summed = moments.within_class_variance[present] @ moments.counts[present]
    trace_within = summed / moments.counts.sum()
    return float(trace_within / squared.mean())


def cdnv(moments: Moments) -> float | None:
    """Class-distance normalised variance (Galanti, Gyorgy and Hutter 2022): mean over pairs of
    classes of (v_c + v_c') / (2 |mu_c - mu_c'|^2), v_c the trace of a class's covariance.

    None where two class means coincide or no class has two images."""
    centred = moments.centred
    squared = (centred**2).sum(axis=1)
    if not has_scatter(moments) or squared.max() <= 0:
        return None
    pairs = np.triu_indices(len(centred), 1)
    distance = (squared[:, None] + squared - 2 * centred @ centred.T)[pairs]
    if distance.min() <= COINCIDE * squared.max():
        return None
    variance = moments.within_class_variance[moments.present]
    summed = (variance[:, None] + variance)[pairs]
    return float((summed / (2 * distance)).mean())


# ---- NC3 -----------------------------------------------------------------------------------------


def nc3(moments: Moments, W: np.ndarray) -> Values:
    """NC3, self-duality of the last layer W (C, D) and the centred class means M (C, D), of the
    present classes.

    nc3_self_duality   || W/|W|_F - M/|M|_F ||_F^2 (Papyan, Han and Donoho 2020, figure 5); None
                       where W or M is zero
    nc3_cosine_mean    mean over classes of cos(w_c, mu_c - mu_G), and the least; None where a row
    nc3_cosine_min     of either is zero
    """
    weights = W[moments.present]
    centred = moments.centred
    values: Values = dict.fromkeys(NC3)
    if np.any(weights) and np.any(centred):
        difference = weights / np.linalg.norm(weights) - centred / np.linalg.norm(centred)
        values["nc3_self_duality"] = float((difference**2).sum())
    cosines = cosine(weights, centred)
    if np.isfinite(cosines).all():
        values["nc3_cosine_mean"] = float(cosines.mean())
        values["nc3_cosine_min"] = float(cosines.min())
    return values


# ---- NC4 -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """NC4 of a set of images, as shares of them; None without images, or where it takes a head and
    there is none."""

    mismatch: float | None  # the two rules disagree
    nearest_mean_accuracy: float | None
    head_accuracy: float | None
    images: int
    mismatches: int | None  # images on which the two rules disagree


@dataclass(frozen=True, eq=False)
class Decisions:
    """What two rules say of n images: the nearest class mean, and the classifier."""

    classes: int
    labels: np.ndarray  # (n,)
    nearest: np.ndarray  # (n,) class of the nearest mean
    predicted: np.ndarray | None  # (n,) argmax(W h + b); None without a head

    @property
    def images(self) -> np.ndarray:
        """(C,) images of each class; adds up over chunks and workers."""
        return np.bincount(self.labels, minlength=self.classes)

    @property
    def mismatches(self) -> np.ndarray | None:
        """(C,) images of each class on which the rules disagree; adds up over chunks and workers.
        None without a head."""
        if self.predicted is None:
            return None
        wrong = self.nearest != self.predicted
        return np.bincount(self.labels[wrong], minlength=self.classes)

    @property
    def hits(self) -> dict[str, np.ndarray]:
        """{field of Agreement: (n,) true where the image counts in it}, without those that take a
        missing head."""
        nearest_is_right = self.nearest == self.labels
        if self.predicted is None:
            return {"nearest_mean_accuracy": nearest_is_right}
        return {
            "mismatch": self.nearest != self.predicted,
            "nearest_mean_accuracy": nearest_is_right,
            "head_accuracy": self.predicted == self.labels,
        }

    @property
    def agreement(self) -> Agreement:
        """The shares of all images."""
        shares: dict[str, float | None] = {}
        for name, hits in self.hits.items():
            shares[name] = float(hits.mean()) if len(hits) else None
        mismatches = self.mismatches
        return Agreement(
            mismatch=shares.get("mismatch"),
            nearest_mean_accuracy=shares["nearest_mean_accuracy"],
            head_accuracy=shares.get("head_accuracy"),
            images=len(self.labels),
            mismatches=None if mismatches is None else int(mismatches.sum()),
        )


def nc4(
    features: np.ndarray,
    labels: np.ndarray,
    W: np.ndarray | None,
    b: np.ndarray | None,
    means: np.ndarray,
    exact: bool = False,
) -> Decisions:
    """NC4 (Papyan, Han and Donoho 2020, figure 7): the share of images h with argmin_c |h - mu_c|
    other than argmax_c (w_c'h + b_c), the bias included.

    features (n, D), labels (n,), W (C, D), b (C,), means (C, D); W and b are None without a head.
    float32 features are multiplied in float32 unless `exact`. Classes whose mean is NaN (no
    training images) are nearest to nothing. Equal distances and equal logits go to the lower class.
    ValueError on a non-finite value, a wrong label or shapes that do not fit."""
    classes, width = means.shape
    features, labels = measurable(features, labels, classes, width)
    if W is None:
        # A head of zeros stands in, and what it says is dropped: the products keep their shape, and
        # so their last digit.
        nearest, _ = decide(features, np.zeros(means.shape), np.zeros(classes), means, exact)
        return Decisions(classes, labels, nearest, predicted=None)
    W, b = measurable_head(W, b, classes, width)
    nearest, predicted = decide(features, W, b, means, exact)
    return Decisions(classes, labels, nearest, predicted)


def decide(
    features: np.ndarray, W: np.ndarray, b: np.ndarray, means: np.ndarray, exact: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) -> (class of the nearest mean (n,), argmax(W h + b) (n,)).

    One product per block holds the scores of both rules."""
    dtype = np.float64 if exact else np.result_type(features, np.float32)
    present = np.flatnonzero(np.isfinite(means).all(axis=1))
    rules = both_rules(W, b, means[present], dtype)
    nearest = np.empty(len(features), np.int64)
    predicted = np.empty(len(features), np.int64)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        scores = (features[rows] - rules.origin) @ rules.directions + rules.offsets
        to_means, logits = np.split(scores, [len(present)], axis=1)
        nearest[rows] = present[to_means.argmax(axis=1)]
        predicted[rows] = logits.argmax(axis=1)
    return nearest, predicted


@dataclass(frozen=True, eq=False)
class Rules:
    """Scores (h - origin) @ directions + offsets of the P class means, then of the C logits."""

    origin: np.ndarray  # (D,)
    directions: np.ndarray  # (D, P + C)
    offsets: np.ndarray  # (P + C,)


def both_rules(W: np.ndarray, b: np.ndarray, means: np.ndarray, dtype: DTypeLike) -> Rules:
    """The nearest of the means (P, D), as the largest h'mu - |mu|^2 / 2, and the logits W h + b.

    Both have the origin moved to mu_G, so that a common offset of the features costs no digits."""
    origin = means.mean(axis=0).astype(dtype)
    seen_origin = origin.astype(np.float64)  # as the rows will see it
    centred = means - seen_origin
    half_norms = 0.5 * (centred**2).sum(axis=1)
    moved_bias = b + W @ seen_origin
    directions = np.concatenate([centred, W]).T
    offsets = np.concatenate([-half_norms, moved_bias])
    return Rules(origin, directions.astype(dtype), offsets.astype(dtype))


def centre_distances(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Features (n, D) -> (n,): each row's Euclidean distance to the nearest class mean (C, D); NaN
    means are passed over."""
    present = means[np.isfinite(means).all(axis=1)]
    origin = present.mean(axis=0)
    centred = present - origin
    half_norms = 0.5 * (centred**2).sum(axis=1)
    distances = np.empty(len(features))
    for start in range(0, len(features), BLOCK):
        # float64: under collapse the squares nearly cancel
        rows = features[start : start + BLOCK] - origin
        likeness = (rows @ centred.T - half_norms).max(axis=1)
        squared = (rows**2).sum(axis=1) - 2 * likeness
        distances[start : start + BLOCK] = np.sqrt(np.maximum(squared, 0))
    return distances


# ---- NC5 -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Alignment:
    """NC5 of one set: how the class means lie to the mean of its features."""

    uncentred: float | None  # mean |cosine| over classes
    centred: float | None  # the same with mu_G as the origin
    shift: float | None  # |mu_OOD - mu_G| / mean |mu_c - mu_G|
    cosines: np.ndarray  # (C,) signed, NaN for absent classes
    cosines_centred: np.ndarray  # (C,)

    @property
    def values(self) -> Values:
        """{metric: value} in the order of the rows."""
        return {"nc5": self.uncentred, "nc5_centred": self.centred, "nc5_shift": self.shift}


def nc5(moments: Moments, other: np.ndarray) -> Alignment:
    """NC5, orthogonality of the class means and the mean mu_OOD of another set, whose features
    (n, D) or mean (D,) is `other`.

    uncentred   mean over classes of |cos(mu_c, mu_OOD)| (Ammar et al. 2023, NECO)
    centred     mean over classes of |cos(mu_c - mu_G, mu_OOD - mu_G)|
    shift       |mu_OOD - mu_G| / mean |mu_c - mu_G|

    The ID test set's own values are the null: centred, its mean is near zero and its direction
    noise, which `shift` shows. ValueError on NaN, infinity or another width."""
    mean = mean_of_set(other, len(moments.global_mean))
    shifted = mean - moments.global_mean
    cosines = cosine(moments.means, mean)
    cosines_centred = cosine(moments.deviations, shifted)
    radius = np.linalg.norm(moments.centred, axis=1).mean()
    present = moments.present
    return Alignment(
        uncentred=plain(np.abs(cosines[present]).mean()),
        centred=plain(np.abs(cosines_centred[present]).mean()),
        shift=float(np.linalg.norm(shifted) / radius) if radius > 0 else None,
        cosines=cosines,
        cosines_centred=cosines_centred,
    )


def mean_of_set(other: np.ndarray, width: int) -> np.ndarray:
    """Features (n, D) or their mean (D,) -> the mean (D,); ValueError unless it is finite and of
    this width."""
    other = np.asarray(other)
    mean = other
    if other.ndim == 2 and len(other):
        mean = sum_of_rows(other) / len(other)
    fits = mean.shape == (width,)
    if fits and np.isfinite(mean).all():
        return mean
    fault = "with NaN or infinity" if fits else "of another shape"
    raise ValueError(
        f"NC5 needs finite features of width {width}, found an array {other.shape} {fault}"
    )


def sum_of_rows(features: np.ndarray) -> np.ndarray:
    """(n, D) -> (D,) float64, summed by blocks: the same bits where features come block by
    block."""
    total = np.zeros(features.shape[1])
    for start in range(0, len(features), BLOCK):
        total += features[start : start + BLOCK].sum(axis=0, dtype=np.float64)
    return total


def joined(parts: Sequence[Decisions]) -> Decisions:
    """The decisions on the blocks of a set as those on the whole."""
    predicted = [part.predicted for part in parts if part.predicted is not None]
    return Decisions(
        parts[0].classes,
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.nearest for part in parts]),
        np.concatenate(predicted) if predicted else None,
    )


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(C, D), (C, D) or (D,) -> (C,), NaN where either vector is zero or absent."""
    products = (a * b).sum(axis=-1)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return products / norms
