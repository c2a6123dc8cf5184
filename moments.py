"""Counts, class means and within-class scatter of labelled features, in one pass over chunks of any
size."""

import warnings
from dataclasses import dataclass

import numpy as np

from arrays import measurable

# Rows per matrix product: enough that the per-class steps cost little, few enough to bound memory
# and the rounding of float32 sums.
BLOCK = 16384
EPSILON = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Moments:
    """The statistics of N labelled features that NC1 to NC3 are computed from.

    The rows of classes without images are NaN.
    """

    counts: np.ndarray  # (C,) images per class
    means: np.ndarray  # (C, D)
    global_mean: np.ndarray  # (D,) mean of the class means, not of the images
    within: np.ndarray  # (D, D) Sigma_W: average over images of (h - mu_c)(h - mu_c)'
    within_class_variance: np.ndarray  # (C,) trace of each class's covariance

    @property
    def present(self) -> np.ndarray:
        """(P,) indices of the classes that have images."""
        return np.flatnonzero(self.counts)

    @property
    def rounding(self) -> float:
        """The length below which a difference of class means is rounding noise.

        It is relative to the uncentred means, so a common offset of the features raises it.
        """
        length = np.linalg.norm(self.means[self.present])
        return float(max(self.means.shape) * EPSILON * length)

    @property
    def deviations(self) -> np.ndarray:
        """(C, D) mu_c - mu_G; exactly zero for a class whose difference is only rounding."""
        deviations = self.means - self.global_mean
        is_noise = np.linalg.norm(deviations, axis=1) <= self.rounding
        deviations[is_noise] = 0
        return deviations

    @property
    def centred(self) -> np.ndarray:
        """(P, D) deviations of the present classes: Sigma_B = centred' centred / P."""
        return self.deviations[self.present]


@dataclass(frozen=True, eq=False)
class Summary:
    """The sums over some rows of features, of k classes: what `Accumulator` adds up."""

    classes: np.ndarray  # (k,) the classes that occur
    counts: np.ndarray  # (k,) images per class
    means: np.ndarray  # (k, D)
    scatter: np.ndarray  # (D, D) sum over images of (h - mu_c)(h - mu_c)'
    squares: np.ndarray  # (k,) its trace by class


class Accumulator:
    """One pass over features in chunks of any size and order. Accumulators of several workers can
    be merged.

    Each block of rows is centred on its own class means and joined to the rest by the pairwise
    update of Chan, Golub and LeVeque (1983). It subtracts no two large numbers from each other, so
    neither a common offset of the features nor strong collapse costs digits. By default the
    residuals are multiplied in float32 and everything else is float64 (1e-7 relative error of
    Sigma_W). With exact=True all is float64, and chunk sizes and order change no result by more
    than 1e-12.
    """

    def __init__(self, classes: int, width: int, exact: bool = False) -> None:
        self.classes = classes
        self.width = width
        self.exact = exact
        self.counts = np.zeros(classes, np.int64)
        self.means = np.zeros((classes, width))
        self.scatter = np.zeros((width, width))  # sum over images of (h - mu_c)(h - mu_c)'
        self.squares = np.zeros(classes)  # its trace, by class

    def update(self, features: np.ndarray, labels: np.ndarray) -> "Accumulator":
        """Add features (n, D) with labels (n,).

        ValueError for a non-finite value or a wrong label; nothing is added then.
        """
        features, labels = measurable(features, labels, self.classes, self.width)
        for start in range(0, len(features), BLOCK):
            block = slice(start, start + BLOCK)
            self._join(self._summarise(features[block], labels[block]))
        return self

    def merge(self, other: "Accumulator") -> "Accumulator":
        """Add everything that another accumulator of the same classes and width has seen."""
        if (other.classes, other.width) != (self.classes, self.width):
            raise ValueError(
                f"cannot merge {other.classes} classes x {other.width} features into {self.classes}"
                f" x {self.width}; build both accumulators for one head"
            )
        seen = np.flatnonzero(other.counts)
        self._join(
            Summary(
                classes=seen,
                counts=other.counts[seen],
                means=other.means[seen],
                scatter=other.scatter,
                squares=other.squares[seen],
            )
        )
        return self

    def finish(self) -> Moments:
        """The moments of all features added so far.

        Warns about classes without images. ValueError if fewer than two classes have images, or the
        scatter overflowed float32.
        """
        present = np.flatnonzero(self.counts)
        if len(present) < 2:
            raise ValueError(
                f"{len(present)} of {self.classes} classes has images; collapse needs at least two"
            )
        if not np.isfinite(self.scatter).all():
            raise ValueError(
                "the scatter of the features overflows float32; use exact=True, or scale the"
                " features"
            )
        self._warn_of_absent_classes()
        means = np.where(self.counts[:, None] > 0, self.means, np.nan)
        variance = np.where(self.counts > 0, self.squares / np.maximum(self.counts, 1), np.nan)
        within = self.scatter / self.counts.sum()
        return Moments(self.counts.copy(), means, means[present].mean(axis=0), within, variance)

    def _warn_of_absent_classes(self) -> None:
        absent = np.flatnonzero(self.counts == 0)
        if not len(absent):
            return
        names = ", ".join(map(str, absent[:8]))
        if len(absent) > 8:
            names += ", ..."
        warnings.warn(
            f"neural collapse: {len(absent)} of {self.classes} classes have no images"
            f" ({names}); means and metrics are of the others",
            UserWarning,
            stacklevel=3,  # the caller of finish()
        )

    def _summarise(self, rows: np.ndarray, labels: np.ndarray) -> Summary:
        """The sums over rows (n, D) with labels (n,)."""
        order = np.argsort(labels, kind="stable")
        classes, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        kind = np.float64 if self.exact else np.result_type(rows, np.float32)
        rows = rows[order].astype(kind, copy=False)
        means = np.empty((len(classes), self.width))
        for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
            own = rows[start : start + count]
            means[i] = own.sum(axis=0, dtype=np.float64) / count
            own -= means[i].astype(rows.dtype)
        # The rows were centred on means rounded to the type of the rows. The rounding error is
        # subtracted from the scatter below.
        left = (means - means.astype(rows.dtype)) * np.sqrt(counts)[:, None]
        if not self.exact:
            rows = rows.astype(np.float32, copy=False)
        with np.errstate(over="ignore"):  # finish() reports an overflow
            scatter = (rows.T @ rows).astype(np.float64) - left.T @ left
            lengths = np.einsum("nd,nd->n", rows, rows)
            squares = np.add.reduceat(lengths, starts, dtype=np.float64)
        squares = squares - np.einsum("cd,cd->c", left, left)
        return Summary(classes, counts, means, scatter, squares)

    def _join(self, rows: Summary) -> None:
        """Add the sums over some rows to those held here.

        For a class with n images here and m there, whose means differ by delta, the joint scatter
        is the sum of both scatters and n m / (n + m) delta delta'.
        """
        classes = rows.classes
        total = self.counts[classes] + rows.counts
        share = rows.counts / total
        delta = rows.means - self.means[classes]
        weighted = delta * np.sqrt(self.counts[classes] * share)[:, None]
        self.scatter += rows.scatter + weighted.T @ weighted
        self.squares[classes] += rows.squares + np.einsum("cd,cd->c", weighted, weighted)
        self.means[classes] += delta * share[:, None]
        self.counts[classes] = total
