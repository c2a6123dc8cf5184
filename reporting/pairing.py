"""Two runs on the same images: DeLong's paired test of two AUROCs, McNemar's of two accuracies.

Both are sharper than a look at two intervals: what makes an image hard for both runs cancels."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from detection import metrics
from reporting.scored import ScoredRun, ScoredSet

SIGNIFICANT = 0.05  # p below which a test sets two runs apart


@dataclass(frozen=True)
class PairedTest:
    """What a paired test of a first run against a second one found."""

    difference: float  # of the first one's AUROC or accuracy over the second one's
    p_value: float  # two-sided; NaN where the difference is undefined

    @property
    def settles(self) -> bool:
        """True where the first run is ahead by more than chance."""
        return self.difference > 0 and self.p_value < SIGNIFICANT


def same_images(one: ScoredSet, other: ScoredSet) -> bool:
    """True where both sets are known to be of the same images in the same order.

    The sidecars of the features name the content of the images: a hash of files, or the name of a
    set that is read whole. Noise is computed at the size of the network's input, so that without
    files the sizes must be the same too."""
    contents = [part.images.get("source_content") for part in (one, other)]
    if not contents[0] or contents[0] != contents[1]:
        return False
    if not np.array_equal(one.labels, other.labels) or one.paths != other.paths:
        return False
    return one.paths is not None or input_size(one) == input_size(other)


def input_size(part: ScoredSet) -> int | None:
    """Pixels across the network's input; None where the sidecar does not say."""
    said = part.images.get("preprocessing")
    return said.get("size") if isinstance(said, dict) else None


def of_auroc(
    one: ScoredRun | None, method: str, other: ScoredRun | None, second: str, ood: str
) -> PairedTest | None:
    """The AUROC of `method` in one run against that of `second` in another, on one OOD set; None
    where the scores of the same images are not at hand."""
    if one is None or other is None or not same_images(one.id, other.id):
        return None
    sets = [{part.name: part for part in run.ood}.get(ood) for run in (one, other)]
    first, last = sets
    if first is None or last is None or not same_images(first, last):
        return None
    if method not in one.id.scores or second not in other.id.scores:
        return None
    found = metrics.paired_delong(
        one.id.scores[method], first.scores[method], other.id.scores[second], last.scores[second]
    )
    return PairedTest(found.difference, found.p_value)


def of_accuracy(one: ScoredRun | None, other: ScoredRun | None) -> PairedTest | None:
    """McNemar's exact test of two accuracies: among the ID test images that one run alone
    classifies right, either run's should be half (McNemar 1947); None where the same images are
    not at hand, or nobody knows what they were taken for."""
    if one is None or other is None or not same_images(one.id, other.id):
        return None
    first, second = is_right(one.id), is_right(other.id)
    if first is None or second is None:
        return None
    alone, against = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = binomtest(alone, alone + against).pvalue if alone + against else 1.0
    return PairedTest((alone - against) / len(first), float(p_value))


def is_right(part: ScoredSet) -> np.ndarray | None:
    """Which images (N,) are taken for their own class; None where that is not known."""
    names = part.images.get("class_names")
    if part.taken_for is None or not isinstance(names, list):
        return None
    own = [str(names[label]) if 0 <= label < len(names) else None for label in part.labels]
    return np.array([mine == taken for mine, taken in zip(own, part.taken_for, strict=True)])
