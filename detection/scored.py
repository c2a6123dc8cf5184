"""What a checkpoint's scores are held in: one set of images and its scores, and all sets of one
checkpoint together."""

from dataclasses import dataclass, field

import numpy as np

from artifacts import store
from detection import metrics
from scores.common import Fitted


@dataclass(frozen=True, eq=False)
class ScoredSet:
    """One set of N test images and its scores.

    A method need not have been computed on every set: it is then absent from `scores`.
    """

    name: str
    images: store.Features
    scores: dict[str, np.ndarray]  # {method: (N,)}
    # {method: why its scores or metrics are missing here, or what to know of them}
    notes: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images.labels)


@dataclass(frozen=True, eq=False)
class Scored:
    """All scores of one checkpoint: of the ID test images, and of each OOD set."""

    id: ScoredSet
    ood: list[ScoredSet]
    parameters: dict[str, dict]  # {method: {name: value}}
    # ID validation images, for p-values; None where there are none, and of an ensemble. A method
    # need not have been computed on them.
    held_out: ScoredSet | None = None
    # ID images under a covariate shift; a method need not have been computed on them
    csid: list[ScoredSet] = field(default_factory=list)
    # {method: its fitted state}, for the detector; of an ensemble there is none
    states: dict[str, Fitted] = field(default_factory=dict)
    # {(OOD set, method): the order of its images among ID images}, each sorted once
    orders: dict[tuple[str, str], metrics.Order | None] = field(default_factory=dict)

    def order(self, part: ScoredSet, method: str) -> metrics.Order | None:
        """ID test images and those of a set in the order of their scores, kept for every table;
        None where a score is NaN."""
        key = part.name, method
        if key not in self.orders:
            inside = self.id.scores[method]
            self.orders[key] = metrics.order_of(inside, part.scores[method])
        return self.orders[key]
