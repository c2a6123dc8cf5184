"""The ID training set as the scores see it: each statistic is computed once, on first use."""

from functools import cached_property

import numpy as np

from arrays import all_zero, checked_labels, places_of_labels, scorable_features, scorable_head
from scores import geometry
from scores.bank import Bank
from scores.blocks import blocks, side_by_side
from scores.common import class_sums

CONSTANT = 1e-9  # of the mean: float64 sums of equal numbers differ by less


class Training:
    """The ID training set: features (N, D), labels (N,), and the last layer's W (C, D), b (C,),
    where there is one.

    Without a head, the classes are those that the labels name; the scores that need a head cannot
    be fitted.

    `validation`, ID images that trained nothing, as (features (n, D), labels (n,)), serves the
    scores that calibrate. Statistics are computed on first use, once, with float64 sums. Raises
    ValueError for shapes that do not fit, values that are not finite, and labels outside the
    classes."""

    def __init__(self, features, labels, W=None, b=None, validation=None):
        self.W = self.b = self.validation = None
        if W is not None:
            self.W, self.b = scorable_head(W, b)
        self.features = scorable_features(features, None if W is None else self.W.shape[1])
        self.zero = all_zero(self.features)
        if W is None:
            self.labels, self.classes = places_of_labels(labels, len(self.features))
        else:
            self.labels, self.classes = (
                checked_labels(labels, len(self.features), len(self.W)),
                len(self.W),
            )
        if validation is not None:
            held = scorable_features(validation[0], self.width)
            self.validation = held, checked_labels(validation[1], len(held), self.classes)
        self.counts = np.bincount(self.labels, minlength=self.classes)
        # classes with a training row; class means and counts use only these
        self.present = np.flatnonzero(self.counts)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """D."""
        return self.features.shape[1]

    def passes(self, function):
        """function(features (n, D), labels (n,)) of each block of rows, in order; the blocks are
        worked on side by side."""
        return side_by_side(
            lambda rows: function(self.features[rows], self.labels[rows]), blocks(len(self))
        )

    @cached_property
    def class_means(self) -> np.ndarray:
        """(C, D) float64; a row of NaN for a class without training rows."""
        sums = sum(self.passes(lambda features, labels: class_sums(features, labels, self.classes)))
        means = np.full_like(sums, np.nan)
        means[self.present] = sums[self.present] / self.counts[self.present, None]
        return means

    @cached_property
    def mean(self) -> np.ndarray:
        """(D,) float64, over images."""
        return self.counts[self.present] @ self.class_means[self.present] / len(self)

    @cached_property
    def covariance_within(self) -> np.ndarray:
        """(D, D) float64, tied over classes, each about its own mean, divided by N.

        Rows are centred before the float32 product, so that neither a common offset nor the spread
        of the classes drowns it."""
        means = self.class_means.astype(np.float32)

        def scatter(features, labels):
            centred = features - means[labels]
            return (centred.T @ centred).astype(np.float64)

        return sum(self.passes(scatter)) / len(self)

    @cached_property
    def covariance(self) -> np.ndarray:
        """(D, D) float64, about the mean, divided by N: within plus between, which adds without
        cancellation."""
        between = self.class_means[self.present] - self.mean
        return self.covariance_within + (between.T * self.counts[self.present]) @ between / len(
            self
        )

    @cached_property
    def spectrum_within(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (D,), least first, and eigenvectors (D, D) of the within-class covariance."""
        return np.linalg.eigh(self.covariance_within)

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the covariance."""
        return np.linalg.eigh(self.covariance)

    @cached_property
    def scale(self) -> np.ndarray:
        """(D,) float64, the standard deviations, with 1 for a feature that is constant in
        training."""
        return np.where(self.varies, self.std, 1.0)

    @cached_property
    def spectrum_standardised(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the covariance of the features over `scale`."""
        return np.linalg.eigh(self.covariance / np.outer(self.scale, self.scale))

    @cached_property
    def whitener(self) -> np.ndarray:
        """(D, r) float64, the root of the pseudo-inverse of the within-class covariance."""
        return geometry.inverse_root(self.spectrum_within)

    @cached_property
    def vim_origin(self) -> np.ndarray:
        """(D,) float64, the point where all logits are 0."""
        return geometry.vim_origin(self.W, self.b)

    @cached_property
    def vim_axes(self) -> np.ndarray:
        """(D, D) eigenvectors of the second moment about ViM's origin, least first."""
        away = self.mean - self.vim_origin
        return np.linalg.eigh(self.covariance + np.outer(away, away))[1]

    @cached_property
    def std(self) -> np.ndarray:
        """(D,) float64."""
        return np.sqrt(np.diag(self.covariance).clip(0))

    @cached_property
    def varies(self) -> np.ndarray:
        """(D,) bool: where a feature's deviation is above float32's rounding of the largest one.

        NECO divides by the deviation. A unit that is zero except for one image in 4,000 at 1e-6
        would be divided by almost nothing; it dropped NECO's AUROC from 83% to 22%.
        """
        return self.std > geometry.CUTOFF * self.std.max()

    @cached_property
    def constant(self) -> bool:
        """True if all rows are the same, up to the rounding of float64 sums."""
        return bool(self.std.max() <= CONSTANT * np.abs(self.mean).max())

    @cached_property
    def dead_units(self) -> int:
        """Number of features that are constant in training."""
        return int(np.count_nonzero(~self.varies))

    @cached_property
    def smallest(self) -> float:
        """The least activation."""
        return float(self.features.min())

    @cached_property
    def axes(self) -> np.ndarray:
        """(D, D) eigenvectors of the second moment, greatest first."""
        return np.linalg.eigh(self.covariance + np.outer(self.mean, self.mean))[1][:, ::-1]

    @cached_property
    def bank(self) -> Bank:
        """The training features as the neighbour methods share them."""
        return Bank(self.features, self.labels, self.classes, self.axes)
