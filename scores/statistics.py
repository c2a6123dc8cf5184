"""Class means, covariances and spectra of labelled rows, each computed once, on first use."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

import numpy as np

from scores import spectra
from scores.common import class_sums, row_norm

CONSTANT = 1e-9  # of the mean: float64 sums of equal numbers differ by less

Result = TypeVar("Result")


class Statistics(ABC):
    """The statistics of N labelled rows of width D, which `passes` hands on block by block; all
    with float64 sums.

    classes    C
    counts     (C,) rows of each class
    present    the classes with a row; class means and counts use only these
    called     what the rows are, in a message
    """

    classes: int
    counts: np.ndarray
    present: np.ndarray
    called = "features"

    @abstractmethod
    def passes(self, function: Callable[[np.ndarray, np.ndarray], Result]) -> Iterator[Result]:
        """function(rows (n, D), labels (n,)) of each block of rows, in order; the blocks are worked
        on side by side."""

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    @abstractmethod
    def width(self) -> int:
        """D."""

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

    @cached_property
    def shrinkage_within(self) -> float:
        """Ledoit and Wolf's share for the rows about their class means."""
        means = self.class_means.astype(np.float32)

        def fourth(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return (row_norm(rows - means[labels]) ** 4).sum()

        values, _ = self.spectrum_within
        return spectra.ledoit_wolf(values, float(self.sum_of(fourth)), len(self))

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
    def axes(self) -> np.ndarray:
        """(D, D) eigenvectors of the second moment about zero, largest eigenvalue first."""
        zero = np.zeros(self.width)
        _, vectors = spectra.spectrum(self.second_moment(zero))
        return vectors[:, ::-1]
