"""OOD scores from an image's own logits and activations: the softmax, energy and shaping families.

Rows of `scores.registry.METHODS`. Each is a pair `fit(train, **parameters) -> State` and
`score(features, logits, state) -> (N,) float64`, higher = more in-distribution, where `train` is a
`scores.registry.Training`. The small helpers on top serve `scores.geometry` and `scores.registry`
too."""

import warnings
from types import SimpleNamespace

import numpy as np
from scipy.sparse import csr_matrix

from scores.blocks import blocks, side_by_side, summed

LARGEST = 1e15  # of a feature or weight: beyond, float32 sums of squares overflow
SMALLEST = 1e-15  # of a set's largest feature: below, they vanish
FEW_ROWS = (
    50_000  # a percentile or a temperature needs no more training rows; evenly spaced beyond that
)


class State(SimpleNamespace):
    """What a fitted method keeps: `parameters`, as resolved by the fit, its own arrays, and `note`,
    where there is one: why the score has no value at all, or what to know of it."""


class Noted(UserWarning):
    """A warning whose text stands in the state's `note` too."""


def warn(method: str, text: str):
    """Warn in the name of a method. Python shows a text once a place, so it must not hold a count
    of the block."""
    warnings.warn(f"{method}: {text}", UserWarning, stacklevel=2)


def noted(method: str, text: str, state: State) -> State:
    """Warn in the name of a method, and keep the text in its state."""
    state.note = text
    warnings.warn(f"{method}: {text}", Noted, stacklevel=2)
    return state


def undefined(method: str, text: str, parameters: dict) -> State:
    """The state of a method that the training set leaves without a value: of any image its score is
    NaN."""
    return noted(method, text, State(parameters=parameters, undefined=True))


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


def no_fit(train) -> State:
    """For scores that need nothing from the training set."""
    return State(parameters={})


def _positive(method: str, what: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{method}: the {what} is {value}; expected a number above 0")
    return float(value)


def _percentile(method: str, value: float) -> float:
    if not 0 <= value < 100:
        raise ValueError(
            f"{method}: the percentile is {value}; expected a number from 0 to below 100, such"
            " as 90"
        )
    return float(value)


# ---- from the logits ----


def msp_score(features, logits, state) -> np.ndarray:
    """Largest softmax probability (eq. 1); in float64 as exp(max - logsumexp), for in float32 it
    saturates at 1."""
    values = max_softmax(logits)
    if np.count_nonzero(values == 1) > 0.01 * len(values):
        warn(
            "MSP",
            "more than 1% of the images have a softmax of exactly 1 and tie; MaxLogit keeps their"
            " order",
        )
    return values


def max_logit_score(features, logits, state) -> np.ndarray:
    """Largest logit."""
    return row_max(logits)


def energy_fit(train, temperature: float = 1.0) -> State:
    """The authors use T = 1 for all post-hoc results."""
    return State(parameters={"temperature": _positive("Energy", "temperature", temperature)})


def energy_score(features, logits, state) -> np.ndarray:
    """T logsumexp(logits / T), the negative free energy (eq. 4)."""
    temperature = state.parameters["temperature"]
    return temperature * logsumexp(np.asarray(logits, dtype=np.float64) / temperature)


def entropy_score(features, logits, state) -> np.ndarray:
    """Negative entropy of the softmax, in nats, unclipped (pytorch-ood clips probabilities at
    1e-7)."""
    logarithms = log_softmax(logits)
    return np.einsum("nc,nc->n", np.exp(logarithms), logarithms)


def gen_fit(train, gamma: float = 0.1, top: int = 100) -> State:
    """gamma = 0.1 and the 100 largest of ImageNet's classes (authors, OpenOOD); with fewer classes,
    all of them."""
    if top < 1:
        raise ValueError(f"GEN: the number of probabilities is {top}; expected at least 1")
    return State(
        parameters={
            "gamma": _positive("GEN", "exponent gamma", gamma),
            "top": int(min(top, len(train.W))),
        }
    )


def gen_score(features, logits, state) -> np.ndarray:
    """Negative generalised entropy, -sum p^gamma (1 - p)^gamma over the largest p; pytorch-ood
    takes the mean."""
    gamma, top = state.parameters["gamma"], state.parameters["top"]
    logarithms = np.partition(log_softmax(logits), -top, axis=1)[:, -top:]
    return -((np.exp(logarithms) * -np.expm1(logarithms)) ** gamma).sum(axis=1)


COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are tried


def temperature_fit(train, temperature: float | None = None) -> State:
    """The temperature that minimises the likelihood loss of ID validation images, found where its
    slope in 1/T is zero.

    Without validation images the training set stands in. Where every image is right the loss falls
    all the way to T = 0, and no such temperature exists: the one at the bound then stands, and the
    state's note says so."""
    if temperature is not None:
        return State(
            parameters={"temperature": _positive("TempScaling", "temperature", temperature)}
        )
    rows = spaced_rows(train)
    features, labels = train.validation or (train.features[rows], train.labels[rows])
    slope = _slope_of_loss(compute_logits(features, train.W, train.b), labels)
    cold, hot = slope(1 / COLDEST), slope(1 / HOTTEST)
    if cold > 0 > hot:
        from scipy.optimize import brentq  # slow to import, and for this method alone

        return State(
            parameters={"temperature": 1 / brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-6)}
        )
    images = f"{len(labels)} ID {'validation' if train.validation else 'training'} images"
    if cold == hot == 0:
        return undefined(
            "TempScaling",
            f"the loss of {images} is the same at every temperature; give one",
            {"temperature": None},
        )
    bound = COLDEST if cold <= 0 else HOTTEST
    why = (
        "every one is classified right, or nearly so"
        if bound == COLDEST
        else "the logits say less than a guess"
    )
    return noted(
        "TempScaling",
        f"the loss of {images} falls all the way to T = {bound:g}, the last that is tried, and T"
        f" stays there ({why})",
        State(parameters={"temperature": bound, "at_bound": True}),
    )


def _slope_of_loss(logits, labels):
    """logits (n, C), labels (n,) -> the slope in 1/T of their mean likelihood loss, a function of
    1/T."""
    margins = logits - logits[np.arange(len(logits)), labels, None]
    logits = logits - row_max(logits)[:, None].astype(logits.dtype)

    def slope(inverse):
        def part(rows):
            weights = np.exp(inverse * logits[rows].astype(np.float64))
            return (np.einsum("nc,nc->n", weights, margins[rows]) / weights.sum(axis=1)).sum()

        return float(sum(side_by_side(part, blocks(len(logits)))) / len(logits))

    return slope


def temperature_score(features, logits, state) -> np.ndarray:
    """Largest softmax probability at the fitted temperature."""
    return max_softmax(logits, state.parameters["temperature"])


def kl_matching_fit(train) -> State:
    """Mean softmax of the training images predicted as each class; the authors use a held-out ID
    set. No labels."""
    classes = len(train.W)

    def part(features, labels):
        logits = compute_logits(features, train.W, train.b)
        predictions = logits.argmax(axis=1)
        return class_sums(np.exp(log_softmax(logits)), predictions, classes), np.bincount(
            predictions, minlength=classes
        )

    sums, counts = summed(train.passes(part))
    typical = sums[counts > 0] / counts[counts > 0, None]
    return State(parameters={}, log_typical=np.log(typical.clip(np.finfo(np.float64).tiny)))


def kl_matching_score(features, logits, state) -> np.ndarray:
    """-min_k KL(softmax || typical softmax of class k) (section 4.2)."""
    logarithms = log_softmax(logits)
    probabilities = np.exp(logarithms)
    negative_entropy = np.einsum("nc,nc->n", probabilities, logarithms)
    return (probabilities @ state.log_typical.T).max(axis=1) - negative_entropy


def gradnorm_score(features, logits, state) -> np.ndarray:
    """L1 norm of the gradient of KL(uniform || softmax) by the last layer's weights, at T = 1 (eq.
    6-8).

    That gradient is the outer product of (softmax - 1/C) and the features, so its norm is the
    product of theirs: no backward pass. The authors' code sums over classes where the paper means:
    C times as much, in the same order."""
    gap = np.abs(np.exp(log_softmax(logits)) - 1 / logits.shape[1]).sum(axis=1)
    return gap * np.abs(features).sum(axis=1, dtype=np.float64)


# ---- from shaped activations, through the last layer, to the energy at T = 1 ----


def _keep_head(train, method: str, parameters: dict) -> State:
    if train.smallest < 0:
        warn(
            method,
            f"some features are negative, down to {train.smallest:.3g}; it is made for those after"
            " a ReLU",
        )
    return State(parameters=parameters, W=train.W, b=train.b)


def react_fit(train, percentile: float = 90.0) -> State:
    """Clips at the 90th percentile of all ID activations (authors, on training data; OpenOOD on
    validation data)."""
    state = _keep_head(train, "ReAct", {"percentile": _percentile("ReAct", percentile)})
    state.threshold = np.float32(np.percentile(train.features[spaced_rows(train)], percentile))
    return state


def react_score(features, logits, state) -> np.ndarray:
    """Energy of the clipped features (eq. 3)."""
    return logsumexp(compute_logits(np.minimum(features, state.threshold), state.W, state.b))


def ash_p_fit(train, percentile: float = 65.0) -> State:
    """65 is the authors' function's own default; OpenOOD tunes it from 65 to 95."""
    return _keep_head(train, "ASH-P", {"percentile": _percentile("ASH-P", percentile)})


def ash_b_fit(train, percentile: float = 65.0) -> State:
    """65 is the authors' function's own default; OpenOOD has 90."""
    return _keep_head(train, "ASH-B", {"percentile": _percentile("ASH-B", percentile)})


def ash_s_fit(train, percentile: float = 90.0) -> State:
    """90 is what the authors' configurations set for CIFAR-100 and ImageNet; their function's own
    default is 65."""
    return _keep_head(train, "ASH-S", {"percentile": _percentile("ASH-S", percentile)})


def scale_fit(train, percentile: float = 85.0) -> State:
    """85 as the authors and OpenOOD have it for ImageNet; pytorch-ood has 65."""
    return _keep_head(train, "SCALE", {"percentile": _percentile("SCALE", percentile)})


def _kept(features, state) -> int:
    """How many of an image's D activations survive; rounded as the authors do."""
    width = features.shape[1]
    return max(1, width - int(np.round(width * state.parameters["percentile"] / 100)))


def _largest_columns(features, state) -> np.ndarray:
    """(N, k): where each image's k largest activations stand; exactly k as the authors, so of ties
    some are left out.

    In half precision ties are common: keeping them all changed the scores of 4 to 6% of the images
    of a bfloat16 extraction."""
    kept = _kept(features, state)
    return np.argpartition(features, -kept, axis=1)[:, -kept:]


def _prune(features, state) -> np.ndarray:
    """Zero all but each image's k largest activations."""
    columns, pruned = _largest_columns(features, state), np.zeros_like(features)
    np.put_along_axis(pruned, columns, np.take_along_axis(features, columns, axis=1), axis=1)
    return pruned


def _sharpening(features, kept) -> np.ndarray:
    """(N, 1) exp(sum of all activations / sum of the kept ones); NaN where nothing is kept but
    zeros."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.exp(features.sum(axis=1, dtype=np.float64) / kept.sum(axis=1, dtype=np.float64))[
            :, None
        ]


def ash_p_score(features, logits, state) -> np.ndarray:
    """Energy of the pruned features."""
    return logsumexp(compute_logits(_prune(features, state), state.W, state.b))


def ash_b_score(features, logits, state) -> np.ndarray:
    """Energy of features whose kept entries all equal (sum of all) / (number kept)."""
    columns, binary = _largest_columns(features, state), np.zeros_like(features)
    np.put_along_axis(
        binary, columns, features.sum(axis=1, keepdims=True) / columns.shape[1], axis=1
    )
    return logsumexp(compute_logits(binary, state.W, state.b))


def ash_s_score(features, logits, state) -> np.ndarray:
    """Energy of the pruned features times exp(sum of all / sum of kept)."""
    pruned = _prune(features, state)
    return logsumexp((pruned @ state.W.T) * _sharpening(features, pruned) + state.b)


def scale_score(features, logits, state) -> np.ndarray:
    """Energy of all features times the factor of ASH-S (eq. 5); the scaled logits follow from the
    plain ones."""
    kept = _kept(features, state)
    largest = np.partition(features, -kept, axis=1)[:, -kept:]
    return logsumexp((logits - state.b) * _sharpening(features, largest) + state.b)


def dice_fit(train, percentile: float = 90.0) -> State:
    """Drops the 90% of weights that contribute least, W times the mean ID feature (authors,
    OpenOOD; eq. 3-4)."""
    percentile = _percentile("DICE", percentile)
    contributions = train.W * train.mean
    sparse = np.where(
        contributions > np.percentile(contributions, percentile), train.W, np.float32(0)
    )
    offset = train.b + sparse @ train.mean
    return State(
        parameters={"percentile": percentile}, centre=train.mean, matrix=sparse.T, offset=offset
    )


def dice_finish(sparse_logits, features, logits, state) -> np.ndarray:
    """Energy of the logits of the sparsified head."""
    return logsumexp(sparse_logits)
