"""Measures of a classifier together with a score: which predictions to trust (selective
classification), misclassified and OOD images rejected together (SCOD), open sets, and calibration.

`id_metrics.csv` has one row of each; one function per formula, with its source. `right (n,)` says
whether each ID image is classified right, scores are higher for images to be kept, and rates are in
[0, 1]. Where scores tie, the images among them stand in random order, and a measure is its mean
over these orders, so that it does not depend on the order of the files."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from detection import intervals
from detection.intervals import LEVEL, UNKNOWN, Interval
from detection.metrics import Order
from scores import common

BINS = 15  # of a calibration error (Guo et al. 2017)


# ---- rates ---------------------------------------------------------------------------------------


def wilson(count: float, n: int, level: float = LEVEL) -> Interval:
    """The interval of a share, `count` of n images (Wilson 1927)."""
    if n < 1:
        return UNKNOWN
    z = intervals.normal_quantile(level)
    share = count / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if count == 0 else max(0.0, centre - reach)
    high = 1.0 if count == n else min(1.0, centre + reach)
    return Interval(low, high)


def clopper_pearson(count: int, n: int, level: float = LEVEL) -> Interval:
    """The exact interval of a share, `count` of n images (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2
    low = float(betaincinv(count, n - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return Interval(low, high)


def mean_interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """The normal interval of a mean over images (n,), as of a loss; NaN for one image."""
    variance = intervals.spread(np.asarray(values, dtype=np.float64)).variance
    reach = intervals.normal_quantile(level) * math.sqrt(variance)
    mean = float(np.mean(values))
    return Interval(mean - reach, mean + reach)


# ---- selective classification --------------------------------------------------------------------


class RiskCoverage(NamedTuple):
    """The share kept, (n,) from 1/n to 1, and the share of errors among those kept."""

    coverage: np.ndarray
    risk: np.ndarray


def risk_coverage(right: np.ndarray, scores: np.ndarray) -> RiskCoverage:
    """The selective risk when the i best scores are kept, for each i (El-Yaniv and Wiener 2010)."""
    return risk_coverage_of(Order.of(scores), right)


def risk_coverage_of(order: Order, right: np.ndarray) -> RiskCoverage:
    """The same from the order of the scores."""
    n = len(right)
    wrong = np.concatenate([[0.0], np.cumsum(~right[order.places])])
    ends = np.concatenate([[0], order.last + 1])
    kept = np.arange(1, n + 1)
    # in mean over the orders of equal scores, errors among them come evenly
    errors = np.interp(kept, ends, wrong[ends])
    return RiskCoverage(kept / n, errors / kept)


def aurc(curve: RiskCoverage) -> float:
    """The mean of the selective risk over all numbers of images kept (Geifman, Uziel and El-Yaniv
    2019, eq. 1)."""
    return float(curve.risk.mean())


def excess_aurc(curve: RiskCoverage) -> float:
    """The AURC less that of the best possible order of the same predictions: all right ones first
    (e-AURC: Geifman, Uziel and El-Yaniv 2019, section 3). They approximate the latter by
    r + (1 - r) log(1 - r); here it is exact."""
    n = len(curve.risk)
    wrong = round(curve.risk[-1] * n)
    kept = np.arange(n - wrong + 1, n + 1)
    best = np.sum((kept - (n - wrong)) / kept) / n
    return aurc(curve) - float(best)


def risk_at(curve: RiskCoverage, coverage: float) -> tuple[float, Interval]:
    """The selective risk where the share `coverage` is kept, rounded up to whole images, and its
    interval (Wilson's, of the images kept)."""
    n = len(curve.risk)
    kept = max(1, math.ceil(coverage * n - 1e-9))
    risk = float(curve.risk[kept - 1])
    return risk, wilson(risk * kept, kept)


# ---- open sets -----------------------------------------------------------------------------------


def oscr(right: np.ndarray, ood_below: np.ndarray, id_above: np.ndarray) -> tuple[float, Interval]:
    """The area under the share of ID images that are classified right and kept (CCR), over the
    share of OOD images that are kept (Dhamija, Günther and Boult 2018, section 3.3, with any score
    for the softmax): the share of pairs in which a right ID image outscores an OOD one.

    ood_below (n,): the share of OOD images below each ID image; id_above (m,): the share of *right*
    ID images, among all ID images, above each OOD image; ties half. The interval is DeLong's on the
    logit scale, as that of the AUROC."""
    beaten = right * ood_below
    area = float(beaten.mean())
    moved = intervals.spread(beaten) + intervals.spread(id_above)
    if not 0 < area < 1 or not moved.variance > 0:
        return area, UNKNOWN
    return area, intervals.on_logit_scale(area, moved.variance, moved.df, LEVEL)


def ccr_at_fpr(
    right: np.ndarray, id_scores: np.ndarray, ood_ordered: np.ndarray, fpr: float
) -> tuple[float, Interval]:
    """The share of ID images that are classified right and kept by the lowest threshold that keeps
    at most the share `fpr` of OOD images (Dhamija et al. 2018, CCR at FPR), and its interval for
    that threshold. ood_ordered (m,): OOD scores, ascending."""
    m = len(ood_ordered)
    allowed = math.floor(fpr * m + 1e-9)
    kept = right
    if allowed < m:  # the image below which the threshold must not fall
        kept = right & (id_scores > ood_ordered[m - 1 - allowed])
    count = int(kept.sum())
    return count / len(right), wilson(count, len(right))


# ---- calibration ---------------------------------------------------------------------------------


class Reliability(NamedTuple):
    """Bins of confidence, (B,) each: how many images, their mean confidence, the share that is
    right; NaN in empty bins."""

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Bins of equal width, each open at its lower end (Guo et al. 2017, section 2)."""
    return binned(equal_width(confidence, bins), confidence, right, bins)


def equal_width(values: np.ndarray, bins: int) -> np.ndarray:
    """(n,) in [0, 1] -> the number of the bin ((i - 1)/bins, i/bins] of each; 0 is in the first."""
    return np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)


def equal_mass(values: np.ndarray, bins: int) -> np.ndarray:
    """(n,) -> the number of each one's bin, of bins with as many images each as can be; equal
    values stand in the order of the files."""
    n = len(values)
    places = np.empty(n, dtype=np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(n)
    return places * bins // n


def binned(bin_of: np.ndarray, confidence: np.ndarray, right: np.ndarray, bins: int) -> Reliability:
    """Means over the images of each bin; bin_of (n,) numbers them."""
    images = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(bin_of, confidence, bins) / images
        accuracy = np.bincount(bin_of, right.astype(np.float64), bins) / images
    return Reliability(images, means, accuracy)


def calibration_error(found: Reliability) -> float:
    """The mean over images of |share right - mean confidence| of their bin (ECE: Naeini et al.
    2015; Guo et al. 2017, eq. 3)."""
    there = found.images > 0
    gaps = np.abs(found.accuracy - found.confidence)[there]
    return float(np.dot(gaps, found.images[there]) / found.images.sum())


def ece(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The calibration error over bins of equal width."""
    return calibration_error(reliability(confidence, right, bins))


def ece_equal_mass(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The calibration error over bins of equally many images (Nguyen and O'Connor 2015)."""
    return calibration_error(binned(equal_mass(confidence, bins), confidence, right, bins))


def classwise_ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """The mean over classes of the calibration error of p_c as the chance of class c (Kull et al.
    2019, eq. 3), over bins of equal width; probabilities (n, C), labels (n,)."""
    errors = [ece(probabilities[:, c], labels == c, bins) for c in range(probabilities.shape[1])]
    return float(np.mean(errors))


def brier(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) sum_c (p_c - [c = label])^2 of each image, from 0 to 2 (Brier 1950, eq. 2)."""
    of_label = probabilities[np.arange(len(labels)), labels]
    squares = np.einsum("nc,nc->n", probabilities, probabilities)
    return squares - 2 * of_label + 1


def nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) -log p_label of each image in nats, p the softmax of the logits (n, C)."""
    return common.logsumexp(logits) - logits[np.arange(len(labels)), labels]
