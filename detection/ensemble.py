"""Scores and classes of an ensemble of leave-out classifiers (Vyas et al. 2018, ECCV, arXiv
1809.03576, algorithm 2): each member knows all classes but its own fold's.

    score = ensemble.score(logits, temperature=1000)           # of perturbed images
    numbers = ensemble.predicted(logits, classes)              # of plain ones

`logits` has one array (N, C_k) per member, `classes` one sequence of C_k class numbers: output j of
member k stands for class classes[k][j] of the ensemble."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from scores import common

Logits = Sequence[np.ndarray]
Classes = Sequence[Sequence[int]]


def score(logits: Logits, temperature: float = 1.0) -> np.ndarray:
    """The sum over members of max softmax(l / T) - H(softmax(l / T)) -> (N,) float64, higher = more
    in-distribution.

    It lies between K - and + log(C_k): where T is large every softmax is nearly uniform, and images
    differ in the last digits alone, which float64 holds. ValueError for no members, members of
    other images, and a temperature that is not above 0."""
    check(logits, temperature)
    total = np.zeros(len(logits[0]))
    for member in logits:
        total += member_score(member, temperature)
    return total


def member_score(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """One member's part: (N, C_k) -> (N,)."""
    logarithms = common.log_softmax(np.asarray(logits, dtype=np.float64) / temperature)
    probabilities = np.exp(logarithms)
    negative_entropy = np.einsum("nc,nc->n", probabilities, logarithms)
    return probabilities.max(axis=1) + negative_entropy


def class_sums(logits: Logits, classes: Classes, temperature: float = 1.0) -> np.ndarray:
    """The sum over members of their softmaxes, mapped to the C classes of all -> (N, C).

    A member adds nothing to the classes that it does not know. Each is left out by one member, so
    that none is at a disadvantage; divided by K, the rows sum to one. ValueError as in `score`, and
    as in `check_classes`."""
    check(logits, temperature)
    count = check_classes(classes, [member.shape[1] for member in logits])
    sums = np.zeros((len(logits[0]), count))
    for member, numbers in zip(logits, classes, strict=True):
        scaled = np.asarray(member, dtype=np.float64) / temperature
        sums[:, list(numbers)] += common.softmax(scaled)
    return sums


def predicted(logits: Logits, classes: Classes, temperature: float = 1.0) -> np.ndarray:
    """The class of the largest sum of softmaxes -> (N,), the first of equal ones."""
    return class_sums(logits, classes, temperature).argmax(axis=1)


# ---- checks --------------------------------------------------------------------------------------


def check(logits: Logits, temperature: float) -> None:
    """ValueError for no members, members of different numbers of images, and an impossible
    temperature."""
    if not temperature > 0 or not np.isfinite(temperature):
        raise ValueError(f"the temperature is {temperature:g}; expected a number above 0")
    lengths = sorted({len(member) for member in logits})
    if len(lengths) != 1:
        found = " and ".join(map(str, lengths)) or "no members"
        raise ValueError(f"the members have logits of {found} images; expected the same images")


def check_classes(classes: Classes, widths: Sequence[int]) -> int:
    """The number of classes of an ensemble whose members have these widths; ValueError unless each
    class is left out by exactly one member, as where a member is missing or doubled."""
    if [len(numbers) for numbers in classes] != list(widths):
        raise ValueError(
            f"the members have {list(widths)} outputs, and know"
            f" {[len(numbers) for numbers in classes]} classes; expected as many"
        )
    known = [number for numbers in classes for number in numbers]
    counts = np.bincount(known)
    wrong = np.flatnonzero(counts != len(classes) - 1)
    if len(wrong):
        number = int(wrong[0])
        left_out = len(classes) - int(counts[number])
        raise ValueError(
            f"class {number} is left out by {left_out} of {len(classes)} members; expected one:"
            " is a member missing, or there twice?"
        )
    return len(counts)
