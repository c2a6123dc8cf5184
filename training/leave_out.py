"""An ensemble of leave-out classifiers (Vyas, Jammalamadaka, Zhu, Das, Kaul and Willke 2018,
"Out-of-Distribution Detection Using an Ensemble of Self Supervised Leave-out Classifiers", ECCV,
arXiv 1809.03576): the classes of each member, and the loss that it is trained by.

    members = leave_out.members(class_names, 5)      # five Members, each without a fifth of them
    loss = leave_out.margin_entropy_loss(logits, labels, outlier_logits, margin=0.4, beta=0.2)

The classes are dealt into K folds. Member k is a classifier of all classes but those of fold k,
whose images are its outliers: on them its softmax is to have a higher entropy. Which classes make a
fold depends on the classes and K alone, so that the members of an ensemble may be trained apart:

- CIFAR-10 and K = 5: five pairs, the last two classes first (SimonLembeye's implementation).
- As many folds as classes: each class in turn.
- Otherwise: a permutation by NumPy's legacy generator with seed 3, cut into K parts; for CIFAR-100
  and K = 5 these are the folds of YU1ut's implementation. Where K does not divide the classes, the
  first folds have one class more than the others.

The images and outliers of a step are one batch (YU1ut's code makes two): batch norm's statistics
are those of both, in training as in its running averages."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SPLIT_SEED = 3
CIFAR10_PAIRS = (
    ("ship", "truck"),
    ("frog", "horse"),
    ("deer", "dog"),
    ("bird", "cat"),
    ("airplane", "automobile"),
)


# ---- folds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """One classifier of an ensemble, as its checkpoint and sidecar describe it."""

    fold: int  # from 1
    folds: int
    classes: list[str]  # of the ensemble, in the data set's order
    left_out: list[str]  # of this member, in that order too

    @property
    def known(self) -> list[str]:
        """The classes that the member tells apart, in the order of its outputs."""
        return [name for name in self.classes if name not in self.left_out]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def members(class_names: Sequence[str], folds: int) -> list[Member]:
    """The members of an ensemble of `folds` classifiers of these classes.

    ValueError where there are fewer than two folds or more than classes, and where a member would
    have fewer than two classes."""
    classes = list(class_names)
    check_folds(len(classes), folds)
    found = []
    for fold, numbers in enumerate(deal(classes, folds), start=1):
        left_out = [classes[number] for number in sorted(numbers)]
        found.append(Member(fold, folds, classes, left_out))
    return found


def check_folds(classes: int, folds: int) -> None:
    """ValueError for a number of folds into which these classes cannot be dealt."""
    if not 2 <= folds <= classes:
        raise ValueError(
            f"--folds is {folds}; expected 2 to {classes}, the number of classes, each of which is"
            " left out by one member"
        )
    kept = classes - math.ceil(classes / folds)
    if kept < 2:
        raise ValueError(
            f"--folds {folds} leaves {kept} of {classes} classes to a member; at least 2 are needed"
        )


def deal(classes: Sequence[str], folds: int) -> list[list[int]]:
    """The numbers of the classes of each fold: every class is in one of them."""
    if folds == len(CIFAR10_PAIRS) and set(classes) == set(sum(CIFAR10_PAIRS, ())):
        return [[classes.index(name) for name in pair] for pair in CIFAR10_PAIRS]
    if folds == len(classes):
        return [[number] for number in range(folds)]
    order = np.random.RandomState(SPLIT_SEED).permutation(len(classes))
    return [part.tolist() for part in np.array_split(order, folds)]


def choose(fold: str, folds: int) -> list[int]:
    """What --fold asks for -> numbers of folds, from 1: one, or all of them; ValueError for
    another."""
    if fold == "all":
        return list(range(1, folds + 1))
    if fold.isdecimal() and 1 <= int(fold) <= folds:
        return [int(fold)]
    raise ValueError(f"--fold is {fold}; expected 1 to {folds}, or all")


def dealt(found: Sequence[Member]) -> str:
    """How the classes are dealt, in words: "10 classes in 5 folds of 2"."""
    sizes = [len(member.left_out) for member in found]
    largest = sizes.count(max(sizes))
    text = f"{len(found[0].classes)} classes in {len(sizes)} folds of"
    if largest == len(sizes):
        return f"{text} {sizes[0]}"
    return f"{text} {max(sizes)} (the first {largest}) or {min(sizes)}"


# ---- the loss ------------------------------------------------------------------------------------


def entropy(logits: Tensor) -> Tensor:
    """(N, C) -> (N,): the entropy of the softmax, in nats."""
    logarithms = F.log_softmax(logits, dim=1)
    return -(logarithms.exp() * logarithms).sum(1)


def margin_entropy_loss(
    logits: Tensor,
    labels: Tensor,
    outlier_logits: Tensor,
    margin: float = 0.4,
    beta: float = 0.2,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Logits (N, C) of images, their labels (N,), logits (M, C) of outliers -> the loss ():

        cross-entropy + beta max(margin + mean H(images) - mean H(outliers), 0)

    with H the entropy (Vyas et al. 2018). The second part has no gradient where the outliers' mean
    entropy is `margin` nats above the images'. Smoothing is of the cross-entropy alone."""
    cross_entropy = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    gap = entropy(outlier_logits).mean() - entropy(logits).mean()
    return cross_entropy + beta * F.relu(margin - gap)


def check_margin(margin: float, classes: int) -> None:
    """ValueError for a margin that no softmax over these classes could reach."""
    largest = math.log(classes)
    if margin >= largest:
        raise ValueError(
            f"--margin is {margin:g} nats, and the entropy over {classes} classes is"
            f" {largest:.3g} at most; expected less"
        )


# ---- the outliers of an epoch --------------------------------------------------------------------


def draw_outliers(
    count: int, sizes: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Row numbers of `count` outliers for steps of these sizes, in the generator's order: each
    outlier comes once before any comes again."""
    needed = sum(sizes)
    rounds = math.ceil(needed / count)
    orders = [torch.randperm(count, generator=generator) for _ in range(rounds)]
    return torch.cat(orders)[:needed].split(list(sizes))
