"""How well a score tells in-distribution (ID) from out-of-distribution (OOD) images: exact, right
under ties.

Every function takes two one-dimensional arrays, `id_scores (n,)` and `ood_scores (m,)`, higher =
more in-distribution. ID is the positive class, and an image is accepted as ID where `score >=
threshold`. Rates are in [0, 1].

    >>> evaluate([3.0, 2.0], [1.0, 2.0])["auroc"]
    0.875

A NaN score is an undefined one: every metric of that set is then NaN, because to leave the image
out, or to count it as rejected, would each be a choice that the table does not show."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# The normal distribution and its inverse: scipy.stats takes as long to import as all else.
from numpy.typing import ArrayLike
from scipy.special import ndtr

from arrays import checked_scores
from detection import intervals
from detection.intervals import Interval, Spread

COLUMNS = (
    "auroc",
    "auroc_low",
    "auroc_high",
    "fpr95",
    "fpr95_low",
    "fpr95_high",
    "fpr95_ood_positive",
    "fpr95_ood_positive_low",
    "fpr95_ood_positive_high",
    "aupr_in",
    "aupr_in_low",
    "aupr_in_high",
    "aupr_out",
    "aupr_out_low",
    "aupr_out_high",
    "id_share",
    "detection_error",
    "autc",
    "partial_auroc",
    "n_id",
    "n_ood",
    "ties",
)


class Delong(NamedTuple):
    """AUROC with DeLong's standard error and a confidence interval (`intervals.auroc`)."""

    auroc: float
    standard_error: float
    low: float
    high: float


class PairedDelong(NamedTuple):
    """AUROC of method a minus that of method b on the same images, its standard error, and the
    two-sided p-value."""

    difference: float
    standard_error: float
    p_value: float


# What is told of each class of an OOD set.
BY_CLASS = ("auroc", "auroc_low", "auroc_high", "fpr95", "fpr95_ood_positive")
PARTIAL = 0.05  # largest FPR of the partial AUROC


@dataclass(frozen=True)
class _Curve:
    """Counts at each distinct score, from the highest down; one sort serves every metric.

    `id_here`, `ood_here` are the images with exactly that score; `id_kept`, `ood_kept` those with
    that score or more."""

    id_here: np.ndarray
    ood_here: np.ndarray
    id_kept: np.ndarray
    ood_kept: np.ndarray

    @property
    def n(self) -> int:
        return int(self.id_kept[-1])

    @property
    def m(self) -> int:
        return int(self.ood_kept[-1])


@dataclass(frozen=True, eq=False)
class Order:
    """Scores in order, from the highest down: one sort for every measure of the same images.

    places   whose score stands where, numbers of images; equal scores in no order
    last     where each distinct score ends
    """

    places: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray) -> "Order":
        """Of scores (N,), none of them NaN."""
        order = np.argsort(scores)[::-1]
        ordered = scores[order]
        last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), scores.size - 1)
        return cls(order.astype(np.int32), last.astype(np.int32))

    def curve(self, positive: np.ndarray) -> "_Curve":
        """Counts where these images (N,) bool are the positive ones."""
        id_kept = np.cumsum(positive[self.places])[self.last]
        ood_kept = self.last + 1 - id_kept
        return _Curve(
            id_here=np.diff(id_kept, prepend=0),
            ood_here=np.diff(ood_kept, prepend=0),
            id_kept=id_kept,
            ood_kept=ood_kept,
        )

    def by_image(self, values: np.ndarray) -> np.ndarray:
        """A value of each distinct score -> that of each image (N,)."""
        found = np.empty(len(self.places))
        found[self.places] = np.repeat(values, np.diff(self.last, prepend=-1))
        return found


def order_of(id_scores: ArrayLike, ood_scores: ArrayLike) -> Order | None:
    """ID images, then OOD images, in the order of their scores; None where a score is NaN, for then
    no metric is defined."""
    inside = checked_scores(id_scores, "ID")
    outside = checked_scores(ood_scores, "OOD")
    scores = np.concatenate([inside, outside])
    return None if np.isnan(scores).any() else Order.of(scores)


def _share(tpr: float) -> float:
    if not 0 < tpr <= 1:
        raise ValueError(
            f"the share to keep is {tpr}; expected a fraction above 0 and at most 1, such as 0.95"
        )
    return float(tpr)


def _curve(id_scores: ArrayLike, ood_scores: ArrayLike) -> _Curve | None:
    """Sort once and count; None where a score is NaN."""
    order = order_of(id_scores, ood_scores)
    if order is None:
        return None
    return order.curve(np.arange(len(order.places)) < np.size(id_scores))


def _auroc(curve: _Curve) -> float:
    """Share of (ID, OOD) pairs in the right order, a tie counting half; counted in whole numbers,
    so exact."""
    twice_above = 2 * curve.id_kept - curve.id_here
    doubled = np.sum(curve.ood_here * twice_above)
    pairs = curve.n * curve.m
    return float(doubled / 2 / pairs)


def _delong(curve: _Curve, level: float) -> Delong:
    area = _auroc(curve)
    moved = _auroc_spread(curve)
    interval = intervals.auroc(area, moved, curve.n, curve.m, level)
    return Delong(area, float(np.sqrt(moved.variance)), *interval)


def _auroc_spread(curve: _Curve) -> Spread:
    """From the share of OOD that an ID image beats, and of ID that beats an OOD image; ties
    half."""
    ood_below = (curve.m - curve.ood_kept + curve.ood_here / 2) / curve.m
    id_above = (curve.id_kept - curve.id_here / 2) / curve.n
    by_id = intervals.spread(ood_below, curve.id_here)
    return by_id + intervals.spread(id_above, curve.ood_here)


def _false_positives(curve: _Curve, tpr: float) -> float:
    kept = np.searchsorted(curve.id_kept, needed(tpr, curve.n))
    return float(curve.ood_kept[kept] / curve.m)


def _false_positives_interval(curve: _Curve, tpr: float) -> Interval:
    return intervals.rate(curve.id_kept, curve.ood_kept, tpr, needed(tpr, curve.n))


def _from_below(curve: _Curve) -> _Curve:
    """The same counts with the roles exchanged: from the lowest score up, OOD first."""
    ood_here, id_here = curve.ood_here[::-1], curve.id_here[::-1]
    return _Curve(ood_here, id_here, np.cumsum(ood_here), np.cumsum(id_here))


def _average_precision(hits: np.ndarray, others: np.ndarray) -> float:
    """Mean over positives of the precision at their own score (a step sum, no interpolation), as
    scikit-learn's."""
    hits_kept = np.cumsum(hits)
    kept = hits_kept + np.cumsum(others)
    precision = hits_kept / kept
    return float(np.dot(hits, precision) / hits_kept[-1])


def _detection_error(curve: _Curve) -> float:
    """Least (FNR + FPR)/2 over thresholds; 0.5 at most, for the last threshold accepts all."""
    rejected_id = 1 - curve.id_kept / curve.n
    accepted_ood = curve.ood_kept / curve.m
    return float(np.min(rejected_id + accepted_ood) / 2)


def _partial_auroc(curve: _Curve, largest: float) -> float:
    """The area left of the FPR `largest`, 1 where perfect and 0.5 at chance."""
    accepted = np.concatenate([[0], curve.ood_kept]) / curve.m
    kept = np.concatenate([[0], curve.id_kept]) / curve.n
    until = np.searchsorted(accepted, largest, "right")
    edge = np.interp(largest, accepted, kept)
    x, y = np.append(accepted[:until], largest), np.append(kept[:until], edge)
    area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]))) / 2
    chance = largest**2 / 2
    return (1 + (area - chance) / (largest - chance)) / 2


def _ties(curve: _Curve) -> int:
    return int(np.dot(curve.id_here, curve.ood_here))


def needed(tpr: float, n: int) -> int:
    """Least number of images that is at least the share `tpr` of n; 1e-9 absorbs 0.55 * 100 =
    55.00000000000001."""
    least = np.ceil(_share(tpr) * n - 1e-9)
    return max(1, int(least))


def _measure(
    id_scores: ArrayLike, ood_scores: ArrayLike, measure: Callable[[_Curve], float]
) -> float:
    """A metric of the two sets of scores; NaN where a score is NaN."""
    curve = _curve(id_scores, ood_scores)
    if curve is None:
        return float("nan")
    return measure(curve)


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an ID image outscores an OOD one, ties half (Mann,
    Whitney 1947)."""
    return _measure(id_scores, ood_scores, _auroc)


def delong_of(order: Order, positive: np.ndarray, level: float = intervals.LEVEL) -> Delong:
    """`delong` of these images (N,) bool against all others, from their order."""
    return _delong(order.curve(positive), level)


def fpr_of(order: Order, positive: np.ndarray, tpr: float) -> float:
    """`fpr_at_tpr` of these images (N,) bool against all others, from their order."""
    return _false_positives(order.curve(positive), tpr)


def placements_of(order: Order, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each image (N,): the share of the other images below it, and the share of these images
    above it; ties half."""
    curve = order.curve(positive)
    others_below = (2 * (curve.m - curve.ood_kept) + curve.ood_here) / (2 * curve.m)
    not_above = (2 * (curve.n - curve.id_kept) + curve.id_here) / (2 * curve.n)
    return order.by_image(others_below), order.by_image(1 - not_above)


def delong(id_scores: ArrayLike, ood_scores: ArrayLike, level: float = 0.95) -> Delong:
    """AUROC with its standard error and confidence interval (DeLong et al., 1988, from ranks as Sun
    and Xu, 2014).

    The standard error is 0 for perfect separation and NaN for a single image; the interval is
    `intervals.auroc`, which is wider than 0 there."""
    curve = _curve(id_scores, ood_scores)
    if curve is None:
        return Delong(*[float("nan")] * 4)
    return _delong(curve, level)


def paired_delong(
    id_a: ArrayLike, ood_a: ArrayLike, id_b: ArrayLike, ood_b: ArrayLike
) -> PairedDelong:
    """Test that two methods have the same AUROC on the same images (DeLong et al., 1988, eq. 5-7).

    Raises ValueError where the two methods were not scored on the same number of images. The
    p-value of two scores that order all images alike is 1."""
    id_a = checked_scores(id_a, "ID")
    ood_a = checked_scores(ood_a, "OOD")
    id_b = checked_scores(id_b, "ID")
    ood_b = checked_scores(ood_b, "OOD")
    if id_a.shape != id_b.shape or ood_a.shape != ood_b.shape:
        raise ValueError(
            f"paired methods need the same images; found {id_a.size} and {id_b.size} ID scores, "
            f"{ood_a.size} and {ood_b.size} OOD scores"
        )
    if any(np.isnan(scores).any() for scores in (id_a, ood_a, id_b, ood_b)):
        return PairedDelong(*[float("nan")] * 3)
    ood_below_a, id_above_a = placements(id_a, ood_a)
    ood_below_b, id_above_b = placements(id_b, ood_b)
    difference = float(np.mean(ood_below_a - ood_below_b))
    id_part = _sample_variance(ood_below_a - ood_below_b) / id_a.size
    ood_part = _sample_variance(id_above_a - id_above_b) / ood_a.size
    error = float(np.sqrt(id_part + ood_part))
    if error == 0:
        return PairedDelong(difference, 0.0, 1.0 if difference == 0 else 0.0)
    return PairedDelong(difference, error, float(2 * ndtr(-abs(difference) / error)))


def placements(id_scores: np.ndarray, ood_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) share of OOD below each ID image, and (m,) share of ID above each OOD image; ties
    half."""
    ood_below = rank_among(np.sort(ood_scores), id_scores)
    id_not_above = rank_among(np.sort(id_scores), ood_scores)
    return ood_below, 1 - id_not_above


def rank_among(ordered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The share (n,) of ascending scores (m,) that lie below each of the scores (n,), ties half."""
    below = np.searchsorted(ordered, scores, "left")
    not_above = np.searchsorted(ordered, scores, "right")
    return (below + not_above) / (2 * ordered.size)


def _sample_variance(values: np.ndarray) -> float:
    """Unbiased; NaN for a single image."""
    if values.size < 2:
        return float("nan")
    return float(np.var(values, ddof=1))


def threshold_at_tpr(id_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Highest threshold for which `score >= threshold` keeps at least the share `tpr` of ID; ties
    may keep more.

    NaN where an ID score is NaN: no threshold is then honest.
    """
    scores = checked_scores(id_scores, "ID")
    if np.isnan(scores).any():
        return float("nan")
    rank = scores.size - needed(tpr, scores.size)
    return float(np.partition(scores, rank)[rank])


def fpr_at_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Share of OOD accepted by the threshold that keeps `tpr` of ID: FPR@95 of the ViM and NECO
    papers."""
    return _measure(id_scores, ood_scores, lambda curve: _false_positives(curve, tpr))


def fpr_at_tpr_ood_positive(
    id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95
) -> float:
    """Share of ID rejected by the threshold that rejects `tpr` of OOD: FPR@95 with OOD as the
    positive class (OpenOOD).

    scikit-learn's `roc_curve`, which OpenOOD calls, drops collinear points first and so may return
    a later corner."""
    return _measure(id_scores, ood_scores, lambda curve: _false_positives(_from_below(curve), tpr))


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with ID as the positive class; chance is n / (n + m), not 0.5."""
    return _measure(
        id_scores, ood_scores, lambda curve: _average_precision(curve.id_here, curve.ood_here)
    )


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Average precision with OOD as the positive class and the score negated; chance is m / (n +
    m)."""
    return _measure(
        id_scores,
        ood_scores,
        lambda curve: _average_precision(curve.ood_here[::-1], curve.id_here[::-1]),
    )


def detection_error(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Least mean of the two error rates over all thresholds, min (FNR + FPR)/2 (Liang et al.,
    2018), at most 0.5."""
    return _measure(id_scores, ood_scores, _detection_error)


def partial_auroc(id_scores: ArrayLike, ood_scores: ArrayLike, largest: float = PARTIAL) -> float:
    """The area under the ROC curve where at most the share `largest` of OOD is accepted, scaled to
    0.5 at chance and 1 where perfect (McClish 1989, eq. 5)."""
    if not 0 < largest <= 1:
        raise ValueError(f"the largest FPR is {largest}; expected one above 0 and at most 1")
    return _measure(id_scores, ood_scores, lambda curve: _partial_auroc(curve, largest))


def autc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Mean of FPR and FNR over all thresholds from the lowest to the highest score, evenly spaced
    (AUTC: Humblot-Renaux et al. 2023, eq. 3): 0 where each set has one score and they differ.

    Only the mean scores count, once all are scaled to [0, 1]. Unlike every other metric here it
    changes with a monotone map of the scores. Scores that are all the same have 0.5, and infinite
    ones none."""
    inside, outside = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    low = min(inside.min(), outside.min())
    high = max(inside.max(), outside.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        return float("nan")
    if low == high:
        return 0.5
    # exact sums, so that the order of the images changes nothing
    apart = math.fsum(inside) / inside.size - math.fsum(outside) / outside.size
    return float((1 - apart / (high - low)) / 2)


def ties(id_scores: ArrayLike, ood_scores: ArrayLike) -> int | float:
    """Number of (ID, OOD) pairs with equal scores; each counts half in the AUROC. Many mean a
    saturated score."""
    return _measure(id_scores, ood_scores, _ties)


def accuracy_at_coverage(correct: ArrayLike, id_scores: ArrayLike, coverage: float = 0.95) -> float:
    """Accuracy over the ID images that the threshold for `coverage` keeps; `correct (n,)`, bool, in
    the same order."""
    right = np.asarray(correct, dtype=bool)
    scores = checked_scores(id_scores, "ID")
    if right.shape != scores.shape:
        raise ValueError(
            f"found {right.size} predictions for {scores.size} ID scores; expected one each"
        )
    threshold = threshold_at_tpr(scores, coverage)
    if np.isnan(threshold):
        return float("nan")
    return float(right[scores >= threshold].mean())


def evaluate(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    tpr: float = 0.95,
    more: Sequence[float] = (),
    order: Order | None = None,
) -> dict[str, float]:
    """All metric columns of ood_metrics.csv, from one sort; `fpr95` and `fpr95_ood_positive` are
    taken at `tpr`, and at each share in `more` another pair, without an interval.

    order: that of `order_of`, where it is known already."""
    order = order or order_of(id_scores, ood_scores)
    curve = order.curve(np.arange(len(order.places)) < np.size(id_scores)) if order else None
    measured = _all_metrics(curve, tpr, more) if curve else {}
    if curve:
        measured["autc"] = autc(id_scores, ood_scores)
    n, m = np.size(id_scores), np.size(ood_scores)
    measured |= {"id_share": n / (n + m), "n_id": n, "n_ood": m}
    return {column: measured.get(column, float("nan")) for column in columns_at(more)}


def columns_at(more: Sequence[float]) -> list[str]:
    """COLUMNS with a pair of FPR columns for each of these shares, after those of `fpr95`."""
    place = COLUMNS.index("aupr_in")
    pairs = [name for share in more for name in fpr_names(share)]
    return [*COLUMNS[:place], *pairs, *COLUMNS[place:]]


def fpr_names(share: float) -> tuple[str, str]:
    """0.8 -> "fpr80" and "fpr80_ood_positive"."""
    name = f"fpr{100 * share:.10g}"
    return name, f"{name}_ood_positive"


def _all_metrics(curve: _Curve, tpr: float, more: Sequence[float]) -> dict[str, float]:
    area, _, low, high = _delong(curve, intervals.LEVEL)
    below = _from_below(curve)
    return {
        "auroc": area,
        "auroc_low": low,
        "auroc_high": high,
        **_with_interval(
            "fpr95", _false_positives(curve, tpr), _false_positives_interval(curve, tpr)
        ),
        **_with_interval(
            "fpr95_ood_positive",
            _false_positives(below, tpr),
            _false_positives_interval(below, tpr),
        ),
        **_with_interval("aupr_in", *_precision(curve)),
        **_with_interval("aupr_out", *_precision(below)),
        "detection_error": _detection_error(curve),
        "partial_auroc": _partial_auroc(curve, PARTIAL),
        "ties": _ties(curve),
        **_more_rates(curve, below, more),
    }


def _more_rates(curve: _Curve, below: _Curve, more: Sequence[float]) -> dict[str, float]:
    found = {}
    for share in more:
        plain, ood_positive = fpr_names(share)
        found[plain] = _false_positives(curve, share)
        found[ood_positive] = _false_positives(below, share)
    return found


def _precision(curve: _Curve) -> tuple[float, Interval]:
    """The average precision of the curve's first role, and its interval."""
    value = _average_precision(curve.id_here, curve.ood_here)
    return value, intervals.average_precision(curve.id_here, curve.ood_here)


def _with_interval(name: str, value: float, interval: Interval) -> dict[str, float]:
    return {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}
