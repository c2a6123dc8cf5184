"""One score against another, for the scatter that the page draws of any two methods: where a sample
of the images lies, and how many of all images pass both thresholds.

sample     of each set at most 250 images, evenly spaced in the order of the data, the same for each
           method
places     of scores: thousandths of the way across the axis of the histogram of this method and set
           (figures.style.window); what lies beyond stands at the end
together   counts of all images, exact, by set: how many two methods both accept
"""

from collections.abc import Mapping, Sequence

import numpy as np

from figures.style import finite, window
from reporting.scored import ScoredSet
from reporting.words import finite as is_finite

SAMPLE = 250
STEPS = 1000


def evenly(count: int) -> np.ndarray:
    """At most SAMPLE of `count` rows, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int))


def sampled_places(inside: np.ndarray, outside: np.ndarray) -> list[list[int | None]]:
    """ID scores (N,) and OOD scores (M,) of one method -> the places of both samples."""
    start, stop = window(finite(inside), [finite(outside)])
    return [places(part[evenly(len(part))], start, stop) for part in (inside, outside)]


def places(scores: np.ndarray, start: float, stop: float) -> list[int | None]:
    """Scores (N,) as thousandths of the way from start to stop; None where undefined."""
    shares = (scores - start) / (stop - start)
    steps = np.nan_to_num(np.clip(shares, 0, 1) * STEPS, nan=-1).round().astype(int)
    return [None if step < 0 else step for step in steps.tolist()]


def together(
    part: ScoredSet, methods: Sequence[str], thresholds: Mapping[str, float]
) -> list[list[int]]:
    """(M, M): images of the set that two methods both accept; on the diagonal those that one
    accepts. A method without a threshold, or an undefined score, accepts none."""
    accepted = np.zeros((len(methods), len(part)))  # float64 counts exactly, and multiplies fast
    for number, method in enumerate(methods):
        if method in part.scores and is_finite(thresholds.get(method)):
            accepted[number] = part.scores[method] >= thresholds[method]
    return (accepted @ accepted.T).astype(np.int64).tolist()
