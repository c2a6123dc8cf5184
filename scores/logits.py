"""Scores from the logits alone: the softmax, energy and entropy families, and GradNorm.

Each is a pair `fit(train, **parameters) -> Fitted` and `score(features, logits, fitted) -> (N,)`
float64, higher = more in-distribution; `scores.registry.METHODS` has them as rows.
"""

import numpy as np

from scores.blocks import blocks, side_by_side, summed
from scores.common import (
    Fitted,
    class_sums,
    compute_logits,
    log_softmax,
    logsumexp,
    max_softmax,
    noted,
    positive,
    row_max,
    spaced_rows,
    undefined,
    warn,
)


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


def energy_fit(train, temperature: float = 1.0) -> Fitted:
    """The authors use T = 1 for all post-hoc results."""
    return Fitted(parameters={"temperature": positive("Energy", "temperature", temperature)})


def energy_score(features, logits, state) -> np.ndarray:
    """T logsumexp(logits / T), the negative free energy (eq. 4)."""
    temperature = state.parameters["temperature"]
    return temperature * logsumexp(np.asarray(logits, dtype=np.float64) / temperature)


def entropy_score(features, logits, state) -> np.ndarray:
    """Negative entropy of the softmax, in nats, unclipped (pytorch-ood clips probabilities at
    1e-7)."""
    logarithms = log_softmax(logits)
    return np.einsum("nc,nc->n", np.exp(logarithms), logarithms)


def gen_fit(train, gamma: float = 0.1, top: int = 100) -> Fitted:
    """gamma = 0.1 and the 100 largest of ImageNet's classes (authors, OpenOOD); with fewer classes,
    all of them."""
    if top < 1:
        raise ValueError(f"GEN: the number of probabilities is {top}; expected at least 1")
    return Fitted(
        parameters={
            "gamma": positive("GEN", "exponent gamma", gamma),
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


def temperature_fit(train, temperature: float | None = None) -> Fitted:
    """The temperature that minimises the likelihood loss of ID validation images, found where its
    slope in 1/T is zero.

    Without validation images the training set stands in. Where every image is right the loss falls
    all the way to T = 0, and no such temperature exists: the one at the bound then stands, and the
    state's note says so."""
    if temperature is not None:
        return Fitted(
            parameters={"temperature": positive("TempScaling", "temperature", temperature)}
        )
    rows = spaced_rows(train)
    features, labels = train.validation or (train.features[rows], train.labels[rows])
    slope = _slope_of_loss(compute_logits(features, train.W, train.b), labels)
    cold, hot = slope(1 / COLDEST), slope(1 / HOTTEST)
    if cold > 0 > hot:
        from scipy.optimize import brentq  # slow to import, and for this method alone

        return Fitted(
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
        Fitted(parameters={"temperature": bound, "at_bound": True}),
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


def kl_matching_fit(train) -> Fitted:
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
    return Fitted(parameters={}, log_typical=np.log(typical.clip(np.finfo(np.float64).tiny)))


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
