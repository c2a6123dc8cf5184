"""Scores and classes of an ensemble.

    score = ensemble.score(logits, temperature=1000)           # leave-out, of perturbed images
    sums = ensemble.class_sums(logits, classes)                # of plain ones
    numbers = sums.argmax(axis=1)
    uncertainty = ensemble.uncertainties(logits, sums)         # deep or leave-out
    ranks = ensemble.ranks(scores_of_image, scores_of_reference)

Of a leave-out ensemble (Vyas et al. 2018, ECCV, arXiv 1809.03576, algorithm 2) each member knows
all classes but its own fold's; of a deep ensemble (Lakshminarayanan et al. 2017, NeurIPS) each
knows all.

`logits` has one array (N, C_k) per member, `classes` one sequence of C_k class numbers: output j of
member k stands for class classes[k][j] of the ensemble."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr

from detection import metrics
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
    return np.exp(logarithms).max(axis=1) - entropy_of(logarithms)


def entropy_of(logarithms: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities (N, C_k) -> their entropy (N,), in nats."""
    return -np.einsum("nc,nc->n", np.exp(logarithms), logarithms)


def class_sums(logits: Logits, classes: Classes, temperature: float = 1.0) -> np.ndarray:
    """The sum over members of their softmaxes, mapped to the C classes of all -> (N, C).

    A member adds nothing to the classes that it does not know. Each class is left out by one
    member, or by none, so that none is at a disadvantage; divided by K, the rows sum to one.
    ValueError as in `score`, and as in `check_classes`."""
    check(logits, temperature)
    count = check_classes(classes, [member.shape[1] for member in logits])
    sums = np.zeros((len(logits[0]), count))
    for member, numbers in zip(logits, classes, strict=True):
        scaled = np.asarray(member, dtype=np.float64) / temperature
        sums[:, list(numbers)] += common.softmax(scaled)
    return sums


# ---- uncertainty ---------------------------------------------------------------------------------


def uncertainties(logits: Logits, sums: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of the mean softmax p of K members -> {name: (N,)}, higher = more in-distribution;
    `sums` (N, C) are of `class_sums` at temperature 1.

    EnsembleMSP is max p, EnsembleEntropy is -H(p) (Lakshminarayanan et al. 2017), and
    MutualInformation is mean H(p_k) - H(p) (Depeweg et al. 2018, ICML), the part of the entropy
    that the members' disagreement makes, with its sign turned. It says little where members do not
    know the same classes: about those they disagree always."""
    mean = sums / len(logits)
    entropy = entr(mean).sum(axis=1)
    doubles = [np.asarray(member, dtype=np.float64) for member in logits]
    of_members = np.mean([entropy_of(common.log_softmax(member)) for member in doubles], axis=0)
    return {
        "EnsembleMSP": mean.max(axis=1),
        "EnsembleEntropy": -entropy,
        "MutualInformation": of_members - entropy,
    }


def ranks(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The share (N,) of the defined reference scores (M,) that lie below each of the scores (N,),
    equal ones counting half; NaN for NaN, and for all where no reference score is defined.

    A member's scores in these units can be averaged with those of any other member: only the order
    that it puts images in counts. Scores below the whole reference have all the same share, 0."""
    defined = reference[~np.isnan(reference)]
    if not defined.size:
        return np.full(len(scores), np.nan)
    shares = metrics.rank_among(np.sort(defined), scores)
    return np.where(np.isnan(scores), np.nan, shares)


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
    class is known to all members, or each is left out by exactly one of them; as where a member is
    missing or doubled."""
    if [len(numbers) for numbers in classes] != list(widths):
        raise ValueError(
            f"the members have {list(widths)} outputs, and know"
            f" {[len(numbers) for numbers in classes]} classes; expected as many"
        )
    known = [number for numbers in classes for number in numbers]
    counts = np.bincount(known)
    if (counts == len(classes)).all():
        return len(counts)
    wrong = np.flatnonzero(counts != len(classes) - 1)
    if len(wrong):
        number = int(wrong[0])
        left_out = len(classes) - int(counts[number])
        raise ValueError(
            f"class {number} is left out by {left_out} of {len(classes)} members; expected one:"
            " is a member missing, or there twice?"
        )
    return len(counts)
