"""What the families of scores share: the fitted state, warnings, and small functions of rows."""

import warnings
from types import SimpleNamespace

import numpy as np
from scipy.sparse import csr_matrix

# A percentile or a temperature needs no more training rows; beyond that, rows are evenly spaced.
FEW_ROWS = 50_000


class Fitted(SimpleNamespace):
    """What a fitted method keeps: `parameters`, as resolved by the fit, its own arrays, and `note`,
    where there is one: why the score has no value at all, or what to know of it."""


class Noted(UserWarning):
    """A warning whose text stands in the state's `note` too."""


def warn(method: str, text: str):
    """Warn in the name of a method.

    Python shows a text once per place in the code, so leave counts of a single block out of it.
    """
    warnings.warn(f"{method}: {text}", UserWarning, stacklevel=2)


def noted(method: str, text: str, state: Fitted) -> Fitted:
    """Warn in the name of a method, and keep the text in its state."""
    state.note = text
    warnings.warn(f"{method}: {text}", Noted, stacklevel=2)
    return state


def undefined(method: str, text: str, parameters: dict) -> Fitted:
    """The state of a method that the training set leaves without a value: of any image its score is
    NaN."""
    return noted(method, text, Fitted(parameters=parameters, undefined=True))


def row_max(rows) -> np.ndarray:
    """(N, C) -> (N,) float64."""
    return rows.max(axis=1).astype(np.float64)


def row_norm(rows) -> np.ndarray:
    """(N, D) -> (N,) float64, Euclidean."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows)).astype(np.float64)


def logsumexp(logits) -> np.ndarray:
    """(N, C) -> (N,) float64, shifted by the maximum."""
    logits = np.asarray(logits, dtype=np.float64)
    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))


def log_softmax(logits) -> np.ndarray:
    """(N, C) -> (N, C) float64."""
    return logits - logsumexp(logits)[:, None]


def max_softmax(logits, temperature: float = 1.0) -> np.ndarray:
    """(N, C) -> (N,) float64 largest softmax probability at a temperature, as exp(max -
    logsumexp)."""
    logits = np.asarray(logits, dtype=np.float64) / temperature
    return np.exp(row_max(logits) - logsumexp(logits))


def compute_logits(features, W, b) -> np.ndarray:
    """(N, D), (C, D), (C,) -> (N, C)."""
    return features @ W.T + b


def class_sums(rows, labels, classes: int, weights=None) -> np.ndarray:
    """(n, D), (n,) -> (classes, D) float64 sums of the rows of each class; a sparse product, as
    fast as memory."""
    weights = np.ones(len(labels)) if weights is None else weights
    return csr_matrix((weights, (labels, np.arange(len(labels)))), (classes, len(labels))) @ rows


def spaced_rows(train) -> slice:
    """At most FEW_ROWS training rows, evenly spaced: all of them at CIFAR's size."""
    return slice(None, None, -(-len(train) // FEW_ROWS))


def no_fit(train) -> Fitted:
    """For scores that need nothing from the training set."""
    return Fitted(parameters={})


def positive(method: str, what: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{method}: the {what} is {value}; expected a number above 0")
    return float(value)


def checked_percentile(method: str, value: float) -> float:
    if not 0 <= value < 100:
        raise ValueError(
            f"{method}: the percentile is {value}; expected a number from 0 to below 100, such"
            " as 90"
        )
    return float(value)
