"""Conformal p-values, thresholds with a guarantee, and selection at a false discovery rate, from
scores of held-out ID images (n,) that no fit has seen.

The guarantees hold for any score and any network, as long as the held-out and the new ID images are
exchangeable; they say nothing of OOD images. An image is accepted where `score >= threshold`."""

import math
from typing import NamedTuple

import numpy as np


class Threshold(NamedTuple):
    """A threshold, minus infinity where no image can be rejected at this level, and the number of
    held-out images that it takes to reject any."""

    value: float
    images_needed: int


def p_values(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """(N,) scores -> (N,): (1 + held-out images that score no higher) / (n + 1) (Vovk, Gammerman
    and Shafer 2005, section 2.2; Bates et al. 2023, eq. 2). Of ID images they are at most uniform:
    P(p <= a) <= a. NaN where the score is NaN, or where any held-out score is."""
    if np.isnan(held_out).any():
        return np.full(len(scores), np.nan)
    below = np.searchsorted(np.sort(held_out), scores, "right")
    found = (1 + below) / (len(held_out) + 1)
    return np.where(np.isnan(scores), np.nan, found)


def marginal_threshold(held_out: np.ndarray, level: float) -> Threshold:
    """The highest threshold that rejects a new ID image with at most the chance `level`, over the
    draw of both the held-out images and the new one: the k-th lowest score, k the whole part of
    level (n + 1). It accepts exactly where p > level."""
    places = math.floor(level * (len(held_out) + 1) + 1e-9)
    return _lowest(held_out, places, marginal_images(level))


def marginal_images(level: float) -> int:
    """The least n with level (n + 1) >= 1."""
    return math.ceil(1 / level - 1 - 1e-9)


def conditional_threshold(held_out: np.ndarray, level: float, doubt: float) -> Threshold:
    """The highest threshold that rejects at most the share `level` of ID images, for all but the
    share `doubt` of draws of the held-out images (Vovk 2012, proposition 2a).

    The share that the k-th lowest score rejects is at most a beta variable (k, n + 1 - k), which
    exceeds `level` with the chance that fewer than k of n uniform variables lie below it."""
    from scipy.special import bdtr  # slow to import, and for this threshold alone

    n = len(held_out)
    places = np.arange(1, n + 1)
    chances = bdtr(places - 1, n, level)
    return _lowest(held_out, int(np.sum(chances <= doubt)), conditional_images(level, doubt))


def conditional_images(level: float, doubt: float) -> int:
    """The least n with (1 - level)^n <= doubt."""
    return math.ceil(math.log(doubt) / math.log1p(-level) - 1e-9)


def _lowest(held_out: np.ndarray, place: int, images_needed: int) -> Threshold:
    """The place-th lowest score, from 1; minus infinity for 0, NaN where a score is NaN."""
    if np.isnan(held_out).any():
        return Threshold(math.nan, images_needed)
    if place < 1:
        return Threshold(-math.inf, images_needed)
    return Threshold(float(np.partition(held_out, place - 1)[place - 1]), images_needed)


def select(p: np.ndarray, level: float) -> np.ndarray:
    """(N,) p-values -> (N,) which images are called OOD, so that among those called so the expected
    share of ID images is at most `level` (Benjamini and Hochberg 1995). The p-values share their
    held-out images; that they depend so does no harm (Bates et al. 2023, theorem 2)."""
    ordered = np.sort(p)
    allowed = level * np.arange(1, len(p) + 1) / len(p)
    passing = np.flatnonzero(ordered <= allowed + 1e-12)
    if not len(passing):
        return np.zeros(len(p), dtype=bool)
    return p <= ordered[passing[-1]]


def selection_images(level: float, tested: int, outliers: int) -> int:
    """The least n for which the smallest p-value, 1 / (n + 1), can be selected among `tested`
    images where all `outliers` have it."""
    return math.ceil(tested / (level * outliers) - 1 - 1e-9)
