"""The ID training set as the scores see it: each statistic is computed once, on first use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from arrays import all_zero, checked_labels, places_of_labels, scorable_features, scorable_head
from scores import spectra
from scores.bank import Bank
from scores.blocks import blocks, side_by_side, summed
from scores.common import class_sums, compute_logits, logsumexp, unit_rows
from scores.statistics import Result, Statistics


@dataclass(frozen=True, eq=False)
class ByPrediction:
    """The training set by the classes that the head predicts.

    counts         (C,) images predicted as each class
    means          (C, D) float64; a row of NaN for a class that no image is predicted as
    mean_energy    over all images, of logsumexp of the logits
    """

    counts: np.ndarray
    means: np.ndarray
    mean_energy: float


class Training(Statistics):
    """The ID training set: features (N, D), labels (N,), and the last layer's W (C, D), b (C,),
    where there is one.

    Without a head, the classes are those that the labels name; the scores that need a head cannot
    be fitted. Without labels (None) all images count as of one class, and the scores that need
    labels cannot be fitted.

    `validation`, ID images that trained nothing, as (features (n, D), labels (n,)), serves the
    scores that calibrate. `rest`, where the classifier has more classes than W, is W (R, D) and
    b (R,) of the others, for the scores that take these as evidence. Statistics are computed on
    first use, once, with float64 sums. Raises ValueError for shapes that do not fit, values that
    are not finite, and labels outside the
    classes."""

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray | None,
        W: np.ndarray | None = None,
        b: np.ndarray | None = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        rest: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        self.W: np.ndarray | None = None
        self.b: np.ndarray | None = None
        self.validation: tuple[np.ndarray, np.ndarray] | None = None
        self.rest: tuple[np.ndarray, np.ndarray] | None = None
        width = None
        if W is not None:
            self.W, self.b = scorable_head(W, b)
            width = self.W.shape[1]
        self.features = scorable_features(features, width)
        self.zero = all_zero(self.features)
        self.labelled = labels is not None
        if labels is None:
            labels = np.zeros(len(self.features), np.int64)
        if self.W is None:
            self.labels, self.classes = places_of_labels(labels, len(self.features))
        else:
            self.classes = len(self.W)
            self.labels = checked_labels(labels, len(self.features), self.classes)
        if validation is not None:
            held = scorable_features(validation[0], self.width)
            held_labels = checked_labels(validation[1], len(held), self.classes)
            self.validation = held, held_labels
        if rest is not None:
            self.rest = scorable_head(*rest)
            if self.rest[0].shape[1] != self.width:
                raise ValueError(
                    f"the rest of the head has {self.rest[0].shape[1]} weights per class; expected"
                    f" {self.width}, as the features have"
                )
        self.counts = np.bincount(self.labels, minlength=self.classes)
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

    @property
    def other_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """W (R, D) and b (R,) of the classes that the data has not. `registry.fit_all` refuses a
        method that needs what is not there."""
        assert self.rest is not None
        return self.rest

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, C) by the last layer."""
        return compute_logits(features, *self.last_layer)

    def passes(self, function: Callable[[np.ndarray, np.ndarray], Result]) -> Iterator[Result]:
        """function(features (n, D), labels (n,)) of each block of rows, in order; the blocks are
        worked on side by side."""

        def part(rows: slice) -> Result:
            return function(self.features[rows], self.labels[rows])

        return side_by_side(part, blocks(len(self)))

    @cached_property
    def unit(self) -> "UnitRows":
        """The same images by the direction of their features."""
        return UnitRows(self)

    @cached_property
    def by_prediction(self) -> ByPrediction:
        """What follows from the predictions of the head, in one pass."""

        def part(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
            logits = self.logits(features)
            predictions = logits.argmax(axis=1)
            counts = np.bincount(predictions, minlength=self.classes)
            sums = class_sums(features, predictions, self.classes)
            return counts, sums, logsumexp(logits).sum()

        counts, sums, energy = summed(self.passes(part))
        with np.errstate(invalid="ignore"):
            means = sums / counts[:, None]
        return ByPrediction(counts, means, float(energy / len(self)))

    @cached_property
    def smallest(self) -> float:
        """The smallest activation."""
        return float(self.features.min())

    @cached_property
    def vim_origin(self) -> np.ndarray:
        """(D,) float64, the point where all logits are 0; the mean without a head."""
        if self.W is None:
            return self.mean
        return spectra.vim_origin(*self.last_layer)

    @cached_property
    def vim_axes(self) -> np.ndarray:
        """(D, D) eigenvectors of the second moment about ViM's origin, smallest eigenvalue
        first."""
        _, vectors = spectra.spectrum(self.second_moment(self.vim_origin))
        return vectors

    @cached_property
    def bank(self) -> Bank:
        """The training features as the neighbour methods share them."""
        return Bank(self.features, self.labels, self.classes, self.axes)


class UnitRows(Statistics):
    """The training rows at length 1; a row of zeros has no direction and is left out."""

    called = "directions of features"

    def __init__(self, train: Training):
        self.train = train
        self.classes = train.classes

        def counted(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return np.bincount(labels, minlength=self.classes)

        self.counts = self.sum_of(counted)
        self.present = np.flatnonzero(self.counts)

    @property
    def width(self) -> int:
        """D."""
        return self.train.width

    def passes(self, function: Callable[[np.ndarray, np.ndarray], Result]) -> Iterator[Result]:
        """function(rows (n, D) of length 1, labels (n,)) of each block."""

        def part(features: np.ndarray, labels: np.ndarray) -> Result:
            rows = unit_rows(features)
            has_direction = ~np.isnan(rows[:, 0])
            return function(rows[has_direction], labels[has_direction])

        return self.train.passes(part)
