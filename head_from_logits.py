"""The last layer, found again from features and the logits that it made of them.

    found = solve(lambda: zip(features_in_blocks, logits_in_blocks))
    found.W, found.b        # (C, D), (C,) float32: logits = features @ W.T + b
    found.residual          # largest difference on these rows, as a share of the largest logit

Least squares in float64, by the normal equations of the centred features, with one step of
refinement. Directions in which the features hardly vary (CUTOFF) say nothing about W and stay 0:
of all solutions it is then the one of least norm. Its logits agree on the given rows; on images
that leave the span of these rows they need not be those of the network."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

Pairs = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]  # blocks of (n, D), (n, C)

# Least variance of a direction that counts, as a share of the largest: the square of 1e-6, where
# the rounding of float32 logits would decide.
CUTOFF = 1e-12
# Largest difference of the logits, as a share of the largest logit: above what float16 rounds.
TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Found:
    """A last layer, and how well it makes the logits that it was found from."""

    W: np.ndarray  # (C, D) float32
    b: np.ndarray  # (C,) float32
    residual: float  # largest difference / largest logit, by W and b as they stand
    rank: int  # directions of the features that count
    rows: int  # N

    @property
    def is_unique(self) -> bool:
        """True where the features span all of their D dimensions."""
        return self.rank == self.W.shape[1]

    @property
    def words(self) -> str:
        """What to know of it, in a line."""
        text = (
            f"recovered by least squares from {self.rows:,} rows of logits; they differ by at most"
            f" {self.residual:.1e} of the largest logit"
        )
        if self.is_unique:
            return text
        return (
            f"{text}; the features span {self.rank:,} of {self.W.shape[1]:,} dimensions, so that"
            " this is the solution of least norm: its logits agree on these rows, and need not on"
            " images outside of their span"
        )


def solve(pairs: Pairs) -> Found:
    """The last layer behind rows of features (N, D) and logits (N, C).

    ValueError where too few rows could show that logits are an affine function of the features, and
    where they are none: the largest difference is above TOLERANCE of the largest logit."""
    count, mean_features, mean_logits = means(pairs)
    products, mixed = cross_products(pairs, mean_features, mean_logits)
    variances, directions = np.linalg.eigh(products)
    kept = variances > CUTOFF * max(variances[-1], 0)
    inverse = directions[:, kept] / variances[kept]
    rank = int(kept.sum())
    if rank + 1 >= count:
        raise ValueError(
            f"{count:,} rows of logits are too few to recover a head: any numbers are an affine"
            f" function of features that span {rank:,} dimensions; expected more than"
            f" {rank + 1:,} rows"
        )
    W = (inverse @ (directions[:, kept].T @ mixed)).T
    left = remainder(pairs, W, mean_features, mean_logits)
    W += (inverse @ (directions[:, kept].T @ left)).T
    b = (mean_logits - W @ mean_features).astype(np.float32)
    found = Found(W.astype(np.float32), b, 0.0, rank, count)
    residual = largest_difference(pairs, found.W, found.b)
    if not residual <= TOLERANCE:
        raise ValueError(
            "the logits are not an affine function of the features, features @ W.T + b: the best W"
            f" and b differ from them by {residual:.3g} of the largest logit, expected at most"
            f" {TOLERANCE:g}; are they of the same images in the same order, before the softmax,"
            " and of the layer right before the classifier?"
        )
    return Found(found.W, found.b, residual, rank, count)


def means(pairs: Pairs) -> tuple[int, np.ndarray, np.ndarray]:
    """N, and the means (D,), (C,) of features and logits."""
    count, features_sum, logits_sum = 0, np.zeros(1), np.zeros(1)
    for features, logits in pairs():
        count += len(features)
        features_sum = features_sum + features.sum(axis=0, dtype=np.float64)
        logits_sum = logits_sum + logits.sum(axis=0, dtype=np.float64)
    if not count:
        raise ValueError("no rows of logits: expected one per row of features")
    return count, features_sum / count, logits_sum / count


def cross_products(
    pairs: Pairs, mean_features: np.ndarray, mean_logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of the centred features with themselves (D, D), and with the centred logits (D, C)."""
    width = len(mean_features)
    products, mixed = np.zeros((width, width)), np.zeros((width, len(mean_logits)))
    for features, logits in pairs():
        centred = features - mean_features
        products += centred.T @ centred
        mixed += centred.T @ (logits - mean_logits)
    return products, mixed


def remainder(
    pairs: Pairs, W: np.ndarray, mean_features: np.ndarray, mean_logits: np.ndarray
) -> np.ndarray:
    """(D, C) products of the centred features with what W leaves of the centred logits."""
    left = np.zeros((len(mean_features), len(mean_logits)))
    for features, logits in pairs():
        centred = features - mean_features
        left += centred.T @ (logits - mean_logits - centred @ W.T)
    return left


def largest_difference(pairs: Pairs, W: np.ndarray, b: np.ndarray) -> float:
    """Between the logits and those of W and b, as a share of the largest logit."""
    difference, largest = 0.0, 0.0
    weights, bias = W.astype(np.float64), b.astype(np.float64)
    for features, logits in pairs():
        made = features.astype(np.float64) @ weights.T + bias
        difference = max(difference, float(np.abs(made - logits).max()))
        largest = max(largest, float(np.abs(logits).max()))
    return difference / largest if largest else difference
