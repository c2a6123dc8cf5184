"""The ID training set as the scores see it: each statistic is computed once, on first use."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

import numpy as np

from arrays import all_zero, checked_labels, places_of_labels, scorable_features, scorable_head
from scores import spectra
from scores.bank import Bank
from scores.blocks import blocks, side_by_side
from scores.common import class_sums, compute_logits

CONSTANT = 1e-9  # of the mean: float64 sums of equal numbers differ by less

Result = TypeVar("Result")


class Training:
    """The ID training set: features (N, D), labels (N,), and the last layer's W (C, D), b (C,),
    where there is one.

    Without a head, the classes are those that the labels name; the scores that need a head cannot
    be fitted.

    `validation`, ID images that trained nothing, as (features (n, D), labels (n,)), serves the
    scores that calibrate. Statistics are computed on first use, once, with float64 sums. Raises
    ValueError for shapes that do not fit, values that are not finite, and labels outside the
    classes."""

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        W: np.ndarray | None = None,
        b: np.ndarray | None = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        self.W: np.ndarray | None = None
        self.b: np.ndarray | None = None
        self.validation: tuple[np.ndarray, np.ndarray] | None = None
        width = None
        if W is not None:
            self.W, self.b = scorable_head(W, b)
            width = self.W.shape[1]
        self.features = scorable_features(features, width)
        self.zero = all_zero(self.features)
        if self.W is None:
            self.labels, self.classes = places_of_labels(labels, len(self.features))
        else:
            self.classes = len(self.W)
            self.labels = checked_labels(labels, len(self.features), self.classes)
        if validation is not None:
            held = scorable_features(validation[0], self.width)
            held_labels = checked_labels(validation[1], len(held), self.classes)
            self.validation = held, held_labels
        self.counts = np.bincount(self.labels, minlength=self.classes)
        # classes with a training row; class means and counts use only these
        self.present = np.flatnonzero(self.counts)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """D."""
        return self.features.shape[1]

    @property
    def last_layer(self) -> tuple[np.ndarray, np.ndarray]:
        """W (C, D) and b (C,). `registry.fit_all` refuses a method that needs what is not there."""
        assert self.W is not None
        assert self.b is not None
        return self.W, self.b

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, C) by the last layer."""
        return compute_logits(features, *self.last_layer)

    def passes(self, function: Callable[[np.ndarray, np.ndarray], Result]) -> Iterator[Result]:
        """function(features (n, D), labels (n,)) of each block of rows, in order; the blocks are
        worked on side by side."""

        def part(rows: slice) -> Result:
            return function(self.features[rows], self.labels[rows])

        return side_by_side(part, blocks(len(self)))

    def sum_of(self, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """The sum of function(features (n, D), labels (n,)) over the blocks."""
        return np.asarray(sum(self.passes(function)))

    # ---- class means and covariances -------------------------------------------------------------

    @cached_property
    def class_means(self) -> np.ndarray:
        """(C, D) float64; a row of NaN for a class without training rows."""

        def sums_of_block(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return class_sums(features, labels, self.classes)

        sums = self.sum_of(sums_of_block)
        means = np.full_like(sums, np.nan)
        means[self.present] = sums[self.present] / self.counts[self.present, None]
        return means

    @cached_property
    def mean(self) -> np.ndarray:
        """(D,) float64, over images."""
        total = self.counts[self.present] @ self.class_means[self.present]
        return total / len(self)

    @cached_property
    def covariance_within(self) -> np.ndarray:
        """(D, D) float64, tied over classes, each about its own mean, divided by N.

        Rows are centred before the float32 product, so that neither a common offset nor the spread
        of the classes drowns it."""
        means = self.class_means.astype(np.float32)

        def scatter(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
            centred = features - means[labels]
            return (centred.T @ centred).astype(np.float64)

        return self.sum_of(scatter) / len(self)

    @cached_property
    def covariance(self) -> np.ndarray:
        """(D, D) float64, about the mean, divided by N: within plus between, which adds without
        cancellation."""
        offsets = self.class_means[self.present] - self.mean
        between = (offsets.T * self.counts[self.present]) @ offsets
        return self.covariance_within + between / len(self)

    def second_moment(self, origin: np.ndarray) -> np.ndarray:
        """(D, D) float64: the mean of (h - origin)(h - origin)' over images, origin (D,)."""
        away = self.mean - origin
        return self.covariance + np.outer(away, away)

    # ---- spreads of single features --------------------------------------------------------------

    @cached_property
    def std(self) -> np.ndarray:
        """(D,) float64."""
        variances = np.diag(self.covariance).clip(0)
        return np.sqrt(variances)

    @cached_property
    def varies(self) -> np.ndarray:
        """(D,) bool: where a feature's deviation is above float32's rounding of the largest one.

        NECO divides by the deviation. A unit that is zero except for one image in 4,000 at 1e-6
        would be divided by almost nothing; it dropped NECO's AUROC from 83% to 22%.
        """
        return self.std > spectra.CUTOFF * self.std.max()

    @cached_property
    def scale(self) -> np.ndarray:
        """(D,) float64, the standard deviations, with 1 for a feature that is constant in
        training."""
        return np.where(self.varies, self.std, 1.0)

    @cached_property
    def constant(self) -> bool:
        """True if all rows are the same, up to the rounding of float64 sums."""
        largest_mean = np.abs(self.mean).max()
        return bool(self.std.max() <= CONSTANT * largest_mean)

    @cached_property
    def dead_units(self) -> int:
        """Number of features that are constant in training."""
        return int(np.count_nonzero(~self.varies))

    @cached_property
    def smallest(self) -> float:
        """The smallest activation."""
        return float(self.features.min())

    # ---- spectra ---------------------------------------------------------------------------------

    @cached_property
    def spectrum_within(self) -> spectra.Spectrum:
        """Of the within-class covariance."""
        return spectra.spectrum(self.covariance_within)

    @cached_property
    def spectrum(self) -> spectra.Spectrum:
        """Of the covariance."""
        return spectra.spectrum(self.covariance)

    @cached_property
    def spectrum_standardised(self) -> spectra.Spectrum:
        """Of the covariance of the features over `scale`."""
        scales = np.outer(self.scale, self.scale)
        return spectra.spectrum(self.covariance / scales)

    @cached_property
    def whitener(self) -> np.ndarray:
        """(D, r) float64, the root of the pseudo-inverse of the within-class covariance."""
        return spectra.inverse_root(self.spectrum_within)

    @cached_property
    def vim_origin(self) -> np.ndarray:
        """(D,) float64, the point where all logits are 0."""
        return spectra.vim_origin(*self.last_layer)

    @cached_property
    def vim_axes(self) -> np.ndarray:
        """(D, D) eigenvectors of the second moment about ViM's origin, smallest eigenvalue
        first."""
        _, vectors = spectra.spectrum(self.second_moment(self.vim_origin))
        return vectors

    @cached_property
    def axes(self) -> np.ndarray:
        """(D, D) eigenvectors of the second moment about zero, largest eigenvalue first."""
        zero = np.zeros(self.width)
        _, vectors = spectra.spectrum(self.second_moment(zero))
        return vectors[:, ::-1]

    @cached_property
    def bank(self) -> Bank:
        """The training features as the neighbour methods share them."""
        return Bank(self.features, self.labels, self.classes, self.axes)
