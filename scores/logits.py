"""Scores from the logits alone: the softmax, energy and entropy families, and GradNorm.

Each is a pair `fit(train, **parameters) -> Fitted` and `score(features (N, D), logits (N, C),
fitted) -> (N,)` float64, higher = more in-distribution; `scores.rows` has them as rows, with a link
to each paper. The letters of the formulas are those of docs/methods.md. An equation number is given
where the paper's text could be checked.
"""

from collections.abc import Callable

import numpy as np

from scores import limits
from scores.blocks import blocks, side_by_side, summed
from scores.common import (
    Fitted,
    class_sums,
    log_softmax,
    logsumexp,
    max_softmax,
    noted,
    row_max,
    softmax,
    spaced_rows,
    undefined,
    warn,
)
from scores.training_set import Training

COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are tried


def no_fit(train: Training) -> Fitted:
    """For MSP, MaxLogit, Entropy and GradNorm, which need nothing from the training set: their
    scores show the formulas."""
    return Fitted(parameters={})


# ---- softmax, logit and energy -------------------------------------------------------------------


def msp_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """max p, the largest softmax probability (Hendrycks and Gimpel, ICLR 2017, eq. 1).

    In float64 as exp(max l - lse(l)), since in float32 it saturates at 1."""
    values = max_softmax(logits)
    saturated = np.count_nonzero(values == 1)
    if saturated > 0.01 * len(values):
        warn(
            "MSP",
            "more than 1% of the images have a softmax of exactly 1 and tie; MaxLogit keeps their"
            " order",
        )
    return values


def max_logit_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """max l, the largest logit (Hendrycks et al., ICML 2022)."""
    return row_max(logits)


def energy_fit(train: Training, temperature: float = 1.0) -> Fitted:
    """T lse(l / T), the negative free energy (Liu et al., NeurIPS 2020, eq. 4).

    The authors use T = 1 for all post-hoc results."""
    limits.check("Energy", "temperature", temperature)
    return Fitted(parameters={"temperature": float(temperature)})


def energy_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """T lse(l / T)."""
    temperature = state.parameters["temperature"]
    divided = np.asarray(logits, dtype=np.float64) / temperature
    return temperature * logsumexp(divided)


# ---- the other classes of a larger head ----------------------------------------------------------


def other_rows_fit(train: Training) -> Fitted:
    """The product that gives the logits of the head's other classes, l' (N, R).

    For EnergyMargin and Energy-FullHead, of a classifier with more classes than the data."""
    W, b = train.other_rows
    return Fitted(
        parameters={"other_classes": len(W)},
        centre=train.mean,
        matrix=W.T.astype(np.float32),
        offset=b + W.astype(np.float64) @ train.mean,
    )


def energy_margin_finish(
    others: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """lse(l) - lse(l'), l' (N, R) the logits of the head's other classes.

    Its logistic, 1 / (1 + exp(-score)), is the share of the softmax over all C + R classes that
    falls to the C: share and difference rank alike, and the difference does not saturate at 1. The
    share is NegLabel's score (Jiang et al., ICLR 2024) with the other classes for negative
    labels, where NegLabel has a text encoder's words."""
    return logsumexp(logits) - logsumexp(others)


def full_energy_finish(
    others: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
) -> np.ndarray:
    """log(exp lse(l) + exp lse(l')): the energy over all C + R classes of the head."""
    return np.logaddexp(logsumexp(logits), logsumexp(others))


# ---- entropy -------------------------------------------------------------------------------------


def entropy_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """sum_c p_c log p_c, the negative entropy of the softmax, in nats (Chan et al., ICCV 2021).

    Unclipped, where pytorch-ood clips probabilities at 1e-7."""
    logarithms = log_softmax(logits)
    return np.einsum("nc,nc->n", np.exp(logarithms), logarithms)


def gen_fit(train: Training, gamma: float = 0.1, top: int = 100) -> Fitted:
    """- sum of p_c^gamma (1 - p_c)^gamma over the `top` largest p_c (Liu et al., CVPR 2023).

    gamma = 0.1 and the 100 largest of ImageNet's classes are the authors' and OpenOOD's; with fewer
    classes, all of them count."""
    limits.check("GEN", "top", top)
    limits.check("GEN", "gamma", gamma)
    return Fitted(parameters={"gamma": float(gamma), "top": int(min(top, train.classes))})


def gen_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """The negative generalised entropy, of which pytorch-ood takes the mean, not the sum."""
    gamma, top = state.parameters["gamma"], state.parameters["top"]
    logarithms = np.partition(log_softmax(logits), -top, axis=1)[:, -top:]
    others = -np.expm1(logarithms)  # 1 - p
    terms = (np.exp(logarithms) * others) ** gamma
    return -terms.sum(axis=1)


def logit_gap_fit(train: Training, top: int | None = None) -> Fitted:
    """max l less the mean of the next `top` logits (LogitGap, 2025); 20% of C unless given.

    The authors take 20 of 100 classes, and 88 of ImageNet's 1,000."""
    if top is not None:
        limits.check("LogitGap", "top", top)
    others = train.classes - 1
    if not others:
        return undefined("LogitGap", "there is one class, and no other logit", {"top": None})
    if top is None:
        top = round(0.2 * train.classes)
    return Fitted(parameters={"top": int(max(1, min(top, others)))})


def logit_gap_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """The largest logit less the mean of those that follow it."""
    top = state.parameters["top"]
    largest = np.partition(logits, -top - 1, axis=1)[:, -top - 1 :]
    maxima = row_max(largest)
    others = largest.sum(axis=1, dtype=np.float64) - maxima
    return maxima - others / top


# ---- temperature scaling -------------------------------------------------------------------------


def temperature_fit(train: Training, temperature: float | None = None) -> Fitted:
    """max softmax(l / T), T the minimiser of the cross-entropy of ID validation images (Guo et al.,
    ICML 2017), found where its slope in 1/T is zero.

    Without validation images the training set stands in. Where every image is right the loss falls
    all the way to T = 0, and no such temperature exists: the one at the bound then stands, and the
    state's note says so."""
    if temperature is not None:
        limits.check("TempScaling", "temperature", temperature)
        return Fitted(parameters={"temperature": float(temperature)})
    rows = spaced_rows(train)
    features, labels = train.validation or (train.features[rows], train.labels[rows])
    slope = _slope_of_loss(train.logits(features), labels)
    cold, hot = slope(1 / COLDEST), slope(1 / HOTTEST)
    if cold > 0 > hot:
        inverse = _zero_of(slope, (1 / HOTTEST, hot), (1 / COLDEST, cold))
        return Fitted(parameters={"temperature": 1 / inverse})
    split = "validation" if train.validation else "training"
    return _no_temperature(cold, hot, f"{len(labels)} ID {split} images")


def _zero_of(
    function: Callable[[float], float], low: tuple[float, float], high: tuple[float, float]
) -> float:
    """Where a continuous function is zero, to 1e-6, between two places (x, its value there) of
    values below and above zero.

    False position with the Illinois rule (Dowell and Jarratt 1971): an end that stays twice has its
    value halved. SciPy's `brentq` takes as many steps, and a third of a second to import."""
    (a, at_a), (b, at_b) = low, high
    moved_low = None
    while b - a > 1e-6:
        middle = (a * at_b - b * at_a) / (at_b - at_a)
        middle = min(max(middle, a + 5e-7), b - 5e-7)  # so that the other end comes nearer as well
        value = function(middle)
        if value == 0:
            return middle
        if value < 0:
            a, at_a = middle, value
            at_b = at_b / 2 if moved_low is True else at_b
            moved_low = True
        else:
            b, at_b = middle, value
            at_a = at_a / 2 if moved_low is False else at_a
            moved_low = False
    return (a + b) / 2


def _no_temperature(cold: float, hot: float, images: str) -> Fitted:
    """The state where no temperature between the bounds has a slope of zero; `cold` and `hot` are
    the slopes there, `images` names the images in words."""
    if cold == hot == 0:
        return undefined(
            "TempScaling",
            f"the loss of {images} is the same at every temperature; give one",
            {"temperature": None},
        )
    if cold <= 0:
        bound, why = COLDEST, "every one is classified right, or nearly so"
    else:
        bound, why = HOTTEST, "the logits say less than a guess"
    return noted(
        "TempScaling",
        f"the loss of {images} falls all the way to T = {bound:g}, the last that is tried, and T"
        f" stays there ({why})",
        Fitted(parameters={"temperature": bound, "at_bound": True}),
    )


def _slope_of_loss(logits: np.ndarray, labels: np.ndarray) -> Callable[[float], float]:
    """logits (n, C), labels (n,) -> the slope in 1/T of their mean cross-entropy, a function of
    1/T: the mean over images of sum_c p_c (l_c - l_label), p the softmax of l / T."""
    n = len(logits)
    margins = logits - logits[np.arange(n), labels, None]
    logits = logits - row_max(logits)[:, None].astype(logits.dtype)

    def slope(inverse: float) -> float:
        def part(rows: slice) -> float:
            weights = np.exp(inverse * logits[rows].astype(np.float64))
            weighted = np.einsum("nc,nc->n", weights, margins[rows])
            return (weighted / weights.sum(axis=1)).sum()

        return float(sum(side_by_side(part, blocks(n))) / n)

    return slope


def temperature_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """max softmax(l / T) at the fitted temperature."""
    return max_softmax(logits, state.parameters["temperature"])


# ---- likeness to classes, and gradients ----------------------------------------------------------


def kl_matching_fit(train: Training) -> Fitted:
    """- min_k KL(p to d_k), d_k the mean softmax of the training images that are predicted as k
    (Hendrycks et al., ICML 2022, section 4.2).

    The authors take d_k from a held-out ID set. No labels are needed."""

    def part(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = train.logits(features)
        predictions = logits.argmax(axis=1)
        sums = class_sums(softmax(logits), predictions, train.classes)
        return sums, np.bincount(predictions, minlength=train.classes)

    sums, counts = summed(train.passes(part))
    predicted = counts > 0
    typical = sums[predicted] / counts[predicted, None]
    smallest = np.finfo(np.float64).tiny
    return Fitted(parameters={}, log_typical=np.log(typical.clip(smallest)))


def kl_matching_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """max_k sum_c p_c log d_kc, less sum_c p_c log p_c, which is the same."""
    logarithms = log_softmax(logits)
    probabilities = np.exp(logarithms)
    negative_entropy = np.einsum("nc,nc->n", probabilities, logarithms)
    likeness = probabilities @ state.log_typical.T
    return likeness.max(axis=1) - negative_entropy


def gradnorm_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """(sum_c |p_c - 1/C|) |h|_1: the L1 norm of the gradient of KL(uniform || softmax) by W, at
    T = 1 (Huang et al., NeurIPS 2021, eq. 6-8).

    That gradient is the outer product of (softmax - 1/C) and the features, so its norm is the
    product of theirs: no backward pass. The authors' code sums over classes where the paper means:
    C times as much, in the same order."""
    classes = logits.shape[1]
    gaps = np.abs(softmax(logits) - 1 / classes)
    lengths = np.abs(features).sum(axis=1, dtype=np.float64)
    return gaps.sum(axis=1) * lengths
