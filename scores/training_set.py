"""The ID training set as the scores see it: each statistic is computed once, on first use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from arrays import all_zero, checked_labels, places_of_labels, scorable_features, scorable_head
from disk_rows import DiskRows
from scores import spectra
from scores.bank import Bank
from scores.blocks import blocks, side_by_side, summed
from scores.common import class_sums, compute_logits, logsumexp, unit_rows
from scores.statistics import Result, Statistics

BANK_SIZE = 200_000  # training images that are searched; of more, a sample


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

    Features that lie on a disk (disk_rows.DiskRows) are read block by block, with the same results.
    `validation`, ID images that trained nothing, as (features (n, D), labels (n,)), serves the
    scores that calibrate. `rest`, where the classifier has more classes than W, is W (R, D) and
    b (R,) of the others, for the scores that take these as evidence. `bank_size` is how many images
    the scores that search them take at most.

    Statistics are computed on first use, once, with float64 sums. Raises ValueError for shapes that
    do not fit, values that are not finite, and labels outside the classes."""

    def __init__(
        self,
        features: np.ndarray | DiskRows,
        labels: np.ndarray | None,
        W: np.ndarray | None = None,
        b: np.ndarray | None = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        rest: tuple[np.ndarray, np.ndarray] | None = None,
        bank_size: int = BANK_SIZE,
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
        self.bank_size = bank_size
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
    def bank_rows(self) -> np.ndarray:
        """The numbers of the images that the neighbour methods search: all, or a seeded sample of
        `bank_size` with as many of each class as there are."""
        if len(self) <= self.bank_size:
            return np.arange(len(self))
        return balanced_rows(self.labels, self.counts, self.bank_size)

    @property
    def bank_features(self) -> np.ndarray:
        """(n, D), of these images."""
        if len(self.bank_rows) == len(self):
            return np.asarray(self.features)
        return self.features[self.bank_rows]

    @property
    def bank_note(self) -> str:
        """What a table has to say where not all images are searched; "" where all are."""
        if len(self.bank_rows) == len(self):
            return ""
        return (
            f"it searched {len(self.bank_rows):,} of {len(self):,} training images, a seeded sample"
            " with as many of each class as there are; --bank-size changes their number"
        )

    @cached_property
    def bank(self) -> Bank:
        """The training features as the neighbour methods share them."""
        return Bank(self.bank_features, self.labels[self.bank_rows], self.classes, self.axes)


def balanced_rows(labels: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """Ascending numbers of rows, by lot: as many of each class as there are, up to the largest
    number with which all together are at most `size`; one of each where that is fewer."""
    quota = largest_quota(counts, size)
    generator = np.random.default_rng(0)
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(counts)
    chosen = [
        generator.permutation(order[end - count : end])[:quota]
        for count, end in zip(counts, ends, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def largest_quota(counts: np.ndarray, size: int) -> int:
    """The largest number q, at least 1, with sum(min(counts, q)) at most `size`."""
    quotas = np.arange(1, counts.max() + 1)
    ordered = np.sort(counts)
    below = np.searchsorted(ordered, quotas, side="right")  # classes that have q images or fewer
    whole = np.concatenate([[0], np.cumsum(ordered)])[below]
    totals = whole + (len(counts) - below) * quotas
    fitting = np.flatnonzero(totals <= size)
    return int(quotas[fitting[-1]]) if len(fitting) else 1


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
