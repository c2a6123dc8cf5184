"""What the families of scores share: the fitted state, warnings, and small functions of rows."""

import warnings
from collections.abc import Callable, Sized
from types import SimpleNamespace
from typing import Any

import numpy as np

from arrays import SMALLEST

# A percentile or a temperature needs no more training rows; beyond that, rows are evenly spaced.
FEW_ROWS = 50_000
ZERO = "the features of all training images are 0, and have no direction"


class Fitted(SimpleNamespace):
    """What a fitted method keeps: these three, and arrays of its own.

    parameters    as the fit resolved them, {name: value}
    note          why the score has no value at all, or what to know of it; empty if nothing
    alike         why it would be the same for all images, where the fit knows; empty if nothing
    undefined     True if the training set leaves the score of every image without a value
    """

    parameters: dict[str, Any]
    note: str = ""
    alike: str = ""
    undefined: bool = False


# (features (N, D), logits (N, C), state) -> (N,)
Score = Callable[[np.ndarray, np.ndarray, Fitted], np.ndarray]
# (projected (N, k), features (N, D), logits (N, C), state) -> (N,)
LinearFinish = Callable[[np.ndarray, np.ndarray, np.ndarray, Fitted], np.ndarray]
# (the k largest similarities (N, k), or all, logits (N, C), state) -> (N,)
NeighbourFinish = Callable[[np.ndarray, np.ndarray, Fitted], np.ndarray]


class Noted(UserWarning):
    """A warning whose text stands in the state's `note` too."""


def warn(method: str, text: str) -> None:
    """Warn in the name of a method.

    Python shows a text once per place in the code, so leave counts of a single block out of it.
    """
    warnings.warn(f"{method}: {text}", UserWarning, stacklevel=2)


def noted(method: str, text: str, state: Fitted) -> Fitted:
    """Warn in the name of a method, and keep the text in its state."""
    state.note = text
    warnings.warn(f"{method}: {text}", Noted, stacklevel=2)
    return state


def few_images(n: int, width: int) -> str:
    """Why a method that goes by a covariance has little to go by, in words; "" where it has
    enough."""
    if n >= width:
        return ""
    return (
        f"{n:,} training images are fewer than the {width:,} features: some directions hold none of"
        " them, and a distance by their covariance is rough; more images help, and"
        " --methods Mahalanobis-LW RelativeMahalanobis-LW shrink the covariance (docs/methods.md)"
    )


def undefined(method: str, text: str, parameters: dict[str, Any]) -> Fitted:
    """The state of a method that the training set leaves without a value: the score of every image
    is NaN."""
    return noted(method, text, Fitted(parameters=parameters, undefined=True))


def sound(compute: Callable[..., np.ndarray], *given: Any) -> np.ndarray:
    """compute(*given) -> (N,), with NaN for what is not a finite number."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = compute(*given)
    return np.where(np.isfinite(values), values, np.nan)


def row_max(rows: np.ndarray) -> np.ndarray:
    """(N, C) -> (N,) float64."""
    return rows.max(axis=1).astype(np.float64)


def row_norm(rows: np.ndarray) -> np.ndarray:
    """(N, D) -> (N,) float64, Euclidean."""
    squares = np.einsum("nd,nd->n", rows, rows)
    return np.sqrt(squares).astype(np.float64)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, D), each row at length 1; NaN where it is 0, or nearly so, and has no
    direction."""
    lengths = row_norm(rows)
    lengths[lengths <= SMALLEST] = np.nan
    return rows / lengths[:, None].astype(rows.dtype)


def logsumexp(logits: np.ndarray) -> np.ndarray:
    """(N, C) -> (N,) float64, shifted by the maximum."""
    logits = np.asarray(logits, dtype=np.float64)
    top = logits.max(axis=1)
    shifted = np.exp(logits - top[:, None])
    return top + np.log(shifted.sum(axis=1))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(N, C) -> (N, C) float64."""
    return logits - logsumexp(logits)[:, None]


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, C) -> (N, C) float64."""
    return np.exp(log_softmax(logits))


def max_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(N, C) -> (N,) float64 largest softmax probability at a temperature, as exp(max -
    logsumexp)."""
    logits = np.asarray(logits, dtype=np.float64) / temperature
    return np.exp(row_max(logits) - logsumexp(logits))


def compute_logits(features: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, D), (C, D), (C,) -> (N, C)."""
    return features @ W.T + b


def project(features: np.ndarray, state: Fitted) -> np.ndarray:
    """(N, D) -> (N, k): the product that a linear method needs."""
    centre = state.centre.astype(np.float32)
    offset = state.offset.astype(np.float32)
    return (features - centre) @ state.matrix + offset


def class_sums(
    rows: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """(n, D), (n,) -> (classes, D) float64: the sum of the rows of each class, each row times its
    weight (n,). A sparse product, as fast as memory."""
    from scipy.sparse import csr_matrix  # half the time of a start, and for a fit alone

    n = len(labels)
    if weights is None:
        weights = np.ones(n)
    one_hot = csr_matrix((weights, (labels, np.arange(n))), (classes, n))
    return one_hot @ rows


def spaced_rows(rows: Sized) -> slice:
    """At most FEW_ROWS of the rows, evenly spaced: all of them at CIFAR's size."""
    step = -(-len(rows) // FEW_ROWS)
    return slice(None, None, step)
