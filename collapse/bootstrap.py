"""Percentile intervals of the metrics, by resampling images (the percentile method; Efron and
Tibshirani 1993, chapter 13): {metric: (low, high)}, None where a resample has no value.

The intervals cover the choice of images, not that of seeds. Every function takes the number of
resamples, the level of the interval and the seed."""

import warnings
from collections.abc import Iterator

import numpy as np

from arrays import measurable
from collapse import etf, metrics
from collapse.etf import Values, plain
from moments import Accumulator, Moments

Interval = tuple[float | None, float | None]


def nc1_to_nc3(
    features: np.ndarray,
    labels: np.ndarray,
    W: np.ndarray | None,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
    exact: bool = False,
    classes: int | None = None,
) -> dict[str, Interval]:
    """Intervals of NC1, NC2 of the means and NC3; W (C, D) stays fixed.

    Without a head, W None and `classes` given, NC3 is left out.

    Resamples the images (n, D), labels (n,), within each class; each resample costs a pass.
    Repeated images shrink the scatter by 1/n_c and jitter the means: deviations from a simplex
    rise, and an interval may lie beside its metric. ValueError without W and `classes`."""
    width = features.shape[1]
    if W is not None:
        classes, width = W.shape
    if classes is None:
        raise ValueError("bootstrap: expected W (C, D), or the number of classes; found neither")
    features, labels = measurable(features, labels, classes, width)
    found = []
    for drawn in draws(labels, resamples, seed):
        accumulator = Accumulator(classes, width, exact=exact)
        accumulator.update(features[drawn], labels[drawn])
        with warnings.catch_warnings():
            # of absent classes: the measurement itself has warned
            warnings.simplefilter("ignore", UserWarning)
            moments = accumulator.finish()
        values = metrics.nc1(moments)
        for name, value in etf.nc2(moments.centred).items():
            values[f"nc2_means_{name}"] = value
        if W is not None:
            values |= metrics.nc3(moments, W)
        found.append(values)
    return quantiles(found, level)


def nc4(
    decisions: metrics.Decisions, resamples: int = 100, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of the shares in NC4, the images resampled within classes; class means stay fixed.

    No pass is needed: how often an image with a property is drawn is binomial in each class."""
    images = decisions.images
    generator = np.random.default_rng(seed)
    drawn: dict[str, np.ndarray] = {}
    for name, hits in decisions.hits.items():
        counts = np.bincount(decisions.labels[hits], minlength=len(images))
        probability = counts / np.maximum(images, 1)
        hits_drawn = generator.binomial(images, probability, (resamples, len(images)))
        if images.any():
            drawn[f"nc4_{name}"] = hits_drawn.sum(axis=1) / images.sum()
        else:
            drawn[f"nc4_{name}"] = np.full(resamples, np.nan)
    return {name: quantile(values, level) for name, values in drawn.items()}


def nc5(
    moments: Moments,
    other: np.ndarray,
    labels: np.ndarray | None = None,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of NC5, the images of the other set (n, D) resampled, within classes where `labels`
    (n,) are given.

    The class means stay fixed: those of the training images are known far better than the mean of a
    small set."""
    other = np.asarray(other)
    labels = np.zeros(len(other), np.int64) if labels is None else np.asarray(labels)
    dtype = np.result_type(other, np.float32)  # its own type: no copy per resample
    found = []
    for drawn in draws(labels, resamples, seed):
        weights = np.bincount(drawn, minlength=len(other)) / len(other)
        mean = weights.astype(dtype) @ other
        found.append(metrics.nc5(moments, mean).values)
    return quantiles(found, level)


def draws(labels: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows (n,) of each resample of images with labels (n,): as many of each class, with
    replacement."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    first = np.repeat(starts, counts)  # (n,) of the image's class
    size = np.repeat(counts, counts)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield by_class[first + generator.integers(size)]


def quantiles(found: list[Values], level: float) -> dict[str, Interval]:
    """{metric: value} of each resample -> {metric: (low, high)}."""
    intervals = {}
    for name in found[0]:
        values = np.array([values[name] for values in found], np.float64)  # None: NaN
        intervals[name] = quantile(values, level)
    return intervals


def quantile(values: np.ndarray, level: float) -> Interval:
    """Values (resamples,) -> the bounds that leave half of 1 - level on either side; None where one
    is NaN."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, (1 + level) / 2])
    return plain(low), plain(high)
