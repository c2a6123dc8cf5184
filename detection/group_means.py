"""Intervals of mean AUROCs over a group of OOD sets, and of how far each method is behind the best.

All sets stand against the same ID images, and all methods score the same images: what they share is
in the variance. DeLong's placements are averaged over the sets before they are squared, and
subtracted between methods before that (DeLong et al. 1988, for any linear contrast)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from detection import intervals, metrics
from detection.intervals import Interval, Spread
from detection.scored import Scored, ScoredSet

COLUMNS = ("auroc_low", "auroc_high", "behind", "behind_low", "behind_high", "behind_p")


@dataclass(frozen=True, eq=False)
class Placements:
    """One method on the sets of a group: of each ID image, the share of OOD images that it beats,
    averaged over the sets, (n,); of each set's OOD images, the share of ID images that beat it."""

    ood_below: np.ndarray
    id_above: list[np.ndarray]

    @property
    def area(self) -> float:
        return float(self.ood_below.mean())

    @property
    def spread(self) -> Spread:
        total = intervals.spread(self.ood_below)
        for values in self.id_above:
            total = total + intervals.spread(values).scaled(1 / len(self.id_above))
        return total

    def minus(self, other: "Placements") -> "Placements":
        """The placements of the difference of two methods' means."""
        pairs = zip(self.id_above, other.id_above, strict=True)
        return Placements(self.ood_below - other.ood_below, [one - two for one, two in pairs])

    def interval(self) -> Interval:
        images = sum(len(values) for values in self.id_above)
        return intervals.auroc(self.area, self.spread, len(self.ood_below), images)


def placements(scored: Scored, method: str, sets: Sequence[ScoredSet]) -> Placements | None:
    """None where the method was not computed on a set, or is undefined for some image."""
    inside = scored.id.scores[method]
    if any(method not in part.scores for part in sets):
        return None
    if any(np.isnan(values).any() for values in (inside, *(s.scores[method] for s in sets))):
        return None
    found = [metrics.placements(inside, part.scores[method]) for part in sets]
    below = np.mean([ood_below for ood_below, _ in found], axis=0)
    return Placements(below, [id_above for _, id_above in found])


def columns(scored: Scored, names: Sequence[str]) -> pd.DataFrame:
    """One row per method, by its name, with COLUMNS, over the sets `names`; NaN where undefined.

    `behind` is the highest mean AUROC of all methods less the method's own, `behind_p` the paired
    test's two-sided p-value that they are the same; both are empty for the best itself."""
    sets = [part for part in scored.ood if part.name in names]
    found = {method: placements(scored, method, sets) for method in scored.id.scores}
    known = {method: each for method, each in found.items() if each is not None}
    table = pd.DataFrame(np.nan, index=list(found), columns=list(COLUMNS))
    if not known:
        return table
    best = max(known, key=lambda method: known[method].area)
    own = {method: each.interval() for method, each in known.items()}
    for method, each in known.items():
        table.loc[method, ["auroc_low", "auroc_high"]] = own[method]
        if method != best:
            behind = compare(known[best], own[best], each, own[method])
            table.loc[method, ["behind", "behind_low", "behind_high", "behind_p"]] = behind
    return table


def compare(
    best: Placements, of_best: Interval, other: Placements, of_other: Interval
) -> tuple[float, float, float, float]:
    """The difference of two mean AUROCs, its interval, and the p-value that there is none."""
    apart = best.area - other.area
    one, two = best.spread.variance, other.spread.variance
    between = best.minus(other).spread.variance
    if math.isnan(between):
        return apart, math.nan, math.nan, math.nan
    shared = (one + two - between) / 2
    correlation = shared / math.sqrt(one * two) if one * two > 0 else 0.0
    interval = intervals.difference(best.area, of_best, other.area, of_other, correlation)
    return (apart, *interval, p_value(apart, between))


def p_value(apart: float, variance: float) -> float:
    """Two-sided and normal; 1 for no difference without a variance."""
    if variance == 0:
        return 1.0 if apart == 0 else 0.0
    return float(2 * ndtr(-abs(apart) / math.sqrt(variance)))
