"""One pass over labelled features: counts, class means and within-class scatter, for any chunking;
`collapse` holds it."""

import warnings
from dataclasses import dataclass

import numpy as np

from arrays import measurable

# rows a product: enough that the steps by class cost little, few enough to bound memory and float32
# sums
BLOCK = 16384
EPSILON = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Moments:
    """What NC1 to NC3 need to know of N labelled features. Rows of classes without images are
    NaN."""

    counts: np.ndarray  # (C,) images
    means: np.ndarray  # (C, D)
    global_mean: np.ndarray  # (D,) mean of the class means, not of the images
    within: np.ndarray  # (D, D) Sigma_W: average over images of (h - mu_c)(h - mu_c)'
    within_class_variance: np.ndarray  # (C,) trace of each class's covariance

    @property
    def present(self) -> np.ndarray:
        """(P,) the classes that have images."""
        return np.flatnonzero(self.counts)

    @property
    def rounding(self) -> float:
        """Length below which a difference of class means is noise: relative to the means, offset
        included."""
        return max(self.means.shape) * EPSILON * np.linalg.norm(self.means[self.present])

    @property
    def deviations(self) -> np.ndarray:
        """(C, D) mu_c - mu_G, exactly zero where it is rounding alone."""
        deviations = self.means - self.global_mean
        deviations[np.linalg.norm(deviations, axis=1) <= self.rounding] = 0
        return deviations

    @property
    def centred(self) -> np.ndarray:
        """(P, D) deviations of the present classes, the factor of Sigma_B = centred' centred /
        P."""
        return self.deviations[self.present]


class Accumulator:
    """One pass over features in chunks of any size and order; accumulators of several workers
    merge.

    Each block of rows is centred on its own class means and joined to the rest by the pairwise
    update of Chan, Golub and LeVeque (1983): nothing large is subtracted from anything large, so
    that neither a common offset of the features nor strong collapse costs digits. By default the
    residuals are multiplied in float32 and all else is float64 (1e-7 relative on Sigma_W).
    exact=True: float64 throughout, and chunking and order move no result by more than 1e-12."""

    def __init__(self, classes: int, width: int, exact: bool = False):
        self.classes, self.width, self.exact = classes, width, exact
        self.counts = np.zeros(classes, np.int64)
        self.means = np.zeros((classes, width))
        self.scatter = np.zeros((width, width))  # sum over images of (h - mu_c)(h - mu_c)'
        self.squares = np.zeros(classes)  # its trace, by class

    def update(self, features: np.ndarray, labels: np.ndarray) -> "Accumulator":
        """Add features (n, D) of labels (n,). ValueError, and nothing added, on a non-finite value
        or a wrong label."""
        features, labels = measurable(features, labels, self.classes, self.width)
        for start in range(0, len(features), BLOCK):
            self._join(
                *self._summarise(features[start : start + BLOCK], labels[start : start + BLOCK])
            )
        return self

    def merge(self, other: "Accumulator") -> "Accumulator":
        """Add what another accumulator of the same classes and width has seen."""
        if (other.classes, other.width) != (self.classes, self.width):
            raise ValueError(
                f"cannot merge {other.classes} classes x {other.width} features into {self.classes}"
                f" x {self.width}; build both accumulators for one head"
            )
        seen = np.flatnonzero(other.counts)
        self._join(seen, other.counts[seen], other.means[seen], other.scatter, other.squares[seen])
        return self

    def finish(self) -> Moments:
        """The moments so far; warns of classes without images. ValueError where fewer than two
        classes have any."""
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
        absent = np.flatnonzero(self.counts == 0)
        if len(absent):
            names = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
            warnings.warn(
                f"neural collapse: {len(absent)} of {self.classes} classes have no images"
                f" ({names}); means and metrics are of the others",
                UserWarning,
                stacklevel=2,
            )
        means = np.where(self.counts[:, None] > 0, self.means, np.nan)
        variance = np.where(self.counts > 0, self.squares / np.maximum(self.counts, 1), np.nan)
        within = self.scatter / self.counts.sum()
        return Moments(self.counts.copy(), means, means[present].mean(axis=0), within, variance)

    def _summarise(self, rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Rows (n, D) -> their classes (k,), counts (k,), means (k, D), scatter (D, D) and its
        trace by class (k,)."""
        order = np.argsort(labels, kind="stable")
        classes, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        rows = rows[order].astype(
            np.float64 if self.exact else np.result_type(rows, np.float32), copy=False
        )
        means = np.empty((len(classes), self.width))
        for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
            own = rows[start : start + count]
            means[i] = own.sum(axis=0, dtype=np.float64) / count
            own -= means[i].astype(rows.dtype)
        # Rows were centred on means rounded to their own type; what the rounding left is taken off
        # below.
        left = (means - means.astype(rows.dtype)) * np.sqrt(counts)[:, None]
        rows = rows if self.exact else rows.astype(np.float32, copy=False)
        with np.errstate(over="ignore"):  # finish() reports an overflow
            scatter = (rows.T @ rows).astype(np.float64) - left.T @ left
            squares = np.add.reduceat(np.einsum("nd,nd->n", rows, rows), starts, dtype=np.float64)
        return classes, counts, means, scatter, squares - np.einsum("cd,cd->c", left, left)

    def _join(self, classes, counts, means, scatter, squares) -> None:
        """Join a summary to this one: scatters add, with n m / (n + m) delta delta' for each
        class's two means."""
        total = self.counts[classes] + counts
        delta = means - self.means[classes]
        weighted = delta * np.sqrt(self.counts[classes] * (counts / total))[:, None]
        self.scatter += scatter + weighted.T @ weighted
        self.squares[classes] += squares + np.einsum("cd,cd->c", weighted, weighted)
        self.means[classes] += delta * (counts / total)[:, None]
        self.counts[classes] = total
