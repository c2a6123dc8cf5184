"""An ensemble of leave-out classifiers (Vyas, Jammalamadaka, Zhu, Das, Kaul and Willke 2018,
"Out-of-Distribution Detection Using an Ensemble of Self Supervised Leave-out Classifiers", ECCV,
arXiv 1809.03576): the classes of each member, and the loss that it is trained by.

    member = leave_out.members(class_names, 5)[0]    # knows four fifths of the classes
    known, outliers = member.known_of(images), member.outliers_of(images)
    loss = leave_out.margin_entropy_loss(logits, labels, margin=0.4, beta=0.2)

The classes are dealt into K folds. Member k is a classifier of all classes but those of fold k,
whose images are its outliers: on them its softmax is to have a higher entropy. Which classes make a
fold depends on the classes and K alone, so that the members of an ensemble may be trained apart:

- CIFAR-10 and K = 5: five pairs, the last two classes first (SimonLembeye's implementation).
- As many folds as classes: each class in turn.
- Otherwise: a permutation by NumPy's legacy generator with seed 3, cut into K parts; for CIFAR-100
  and K = 5 these are the folds of YU1ut's implementation. Where K does not divide the classes, the
  first folds have one class more than the others.

The images and outliers of a step are one batch (YU1ut's code makes two): batch norm's statistics
are those of both, in training as in its running averages. Outliers have the label -1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from images.members import OUTLIER, Member
from images.serving import Serving
from images.sets import ImageFiles, Images, Set

SEED_STEP = 100_003  # between the seeds of members: above the seeds that people choose
SPLIT_SEED = 3
CIFAR10_PAIRS = (
    ("ship", "truck"),
    ("frog", "horse"),
    ("deer", "dog"),
    ("bird", "cat"),
    ("airplane", "automobile"),
)


# ---- folds ---------------------------------------------------------------------------------------


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
    margin: float = 0.4,
    beta: float = 0.2,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Logits (N, C) of images and outliers, their labels (N,) -> the loss ():

        cross-entropy + beta max(margin + mean H(images) - mean H(outliers), 0)

    with H the entropy (Vyas et al. 2018). The cross-entropy is of the images alone, and so is its
    smoothing. The second part has no gradient where the outliers' mean entropy is `margin` nats
    above the images'. NaN for a batch without images, or without outliers."""
    cross_entropy = F.cross_entropy(
        logits, labels, ignore_index=OUTLIER, label_smoothing=label_smoothing
    )
    images, outliers = mean_entropies(logits, labels)
    return cross_entropy + beta * F.relu(margin + images - outliers)


def mean_entropies(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, C), labels (N,) -> the mean entropies () of images and of outliers.

    By products with masks, since picking rows by a mask makes a GPU wait."""
    values = entropy(logits)
    is_outlier = labels == OUTLIER
    outliers = (values * is_outlier).sum() / is_outlier.sum()
    images = (values * ~is_outlier).sum() / (~is_outlier).sum()
    return images, outliers


def check_margin(margin: float, classes: int) -> None:
    """ValueError for a margin that no softmax over these classes could reach."""
    largest = math.log(classes)
    if margin >= largest:
        raise ValueError(
            f"--margin is {margin:g} nats, and the entropy over {classes} classes is"
            f" {largest:.3g} at most; expected less"
        )


# ---- images and outliers -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Outliers:
    """A member, and the images of its left-out classes among training and validation images."""

    member: Member
    train: Set
    val: Set

    def served(self, serving: Serving) -> "Outliers":
        """The same, held in memory or read by workers."""
        return replace(self, train=serving.serve(self.train), val=serving.serve(self.val))

    def __str__(self) -> str:
        """What the log says of them."""
        member = self.member
        dealt_so = dealt(members(member.classes, member.folds))
        return (
            f"member {member.fold} of {member.folds} ({dealt_so}) leaves out"
            f" {', '.join(member.left_out)}: {len(self.train):,} outliers in training,"
            f" {len(self.val):,} in validation"
        )


def joined(images: Set, outliers: Set) -> Set:
    """Images and, behind them, outliers, as one set; both lie in memory, or in files."""
    labels = torch.cat((images.labels, outliers.labels))
    if isinstance(images, Images):
        assert isinstance(outliers, Images)
        pixels = torch.cat((images.pixels, outliers.pixels))
        return replace(images, pixels=pixels, labels=labels)
    assert isinstance(outliers, ImageFiles)
    return replace(images, paths=images.paths + outliers.paths, labels=labels)


def known(images: Set) -> Set:
    """The images of a joined set, without the outliers."""
    count = count_known(images)
    return images if count == len(images) else images.take(range(count))


def count_known(images: Set) -> int:
    """How many images of a joined set are no outliers; these come first."""
    return int((images.labels != OUTLIER).sum())


def beside_outliers(
    batches: Sequence[Tensor], images: int, outliers: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Batches of row numbers below `images` -> the same with as many outliers in each, whose rows
    follow those of the images.

    Each outlier comes once before any comes again. They alternate with the images, so that
    processes that share a batch have as many of both."""
    sizes = [len(batch) for batch in batches]
    drawn = images + draw(outliers, sum(sizes), generator)
    pairs = zip(batches, drawn.split(sizes), strict=True)
    return tuple(torch.stack(pair, dim=1).flatten() for pair in pairs)


def draw(count: int, needed: int, generator: torch.Generator) -> Tensor:
    """`needed` numbers below `count`, in the generator's order: each comes once before any comes
    again."""
    rounds = math.ceil(needed / count)
    orders = [torch.randperm(count, generator=generator) for _ in range(rounds)]
    return torch.cat(orders)[:needed]


def member_seed(seed: int, fold: int) -> int:
    """The seed of a member's weights, batches and augmentation, in an ensemble of this seed."""
    return seed + SEED_STEP * fold
