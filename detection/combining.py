"""Combinations of scores: the mean of several, each standardised on ID images.

ood_methods.py --combine MSP,KNN    a row mean(MSP,KNN), beside those of its members
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.scored import Scored, ScoredSet
from scores import registry

UNDEFINED = "one of the scores that it combines is undefined"


@dataclass(frozen=True)
class Combination:
    """Two or more methods by their published names."""

    members: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"mean({','.join(self.members)})"


@dataclass(frozen=True, eq=False)
class Scale:
    """What standardises one method's scores: their mean and standard deviation over ID images."""

    mean: float
    std: float

    def standardise(self, scores: np.ndarray) -> np.ndarray:
        """(N,) -> (N,)."""
        return (scores - self.mean) / self.std


def parse(text: str) -> Combination:
    """ "MSP,knn" -> MSP and KNN; ValueError for an unknown method, one alone, one twice, and ODIN,
    whose ID validation images nobody perturbs."""
    known = {registry.plain_name(name): name for name in registry.METHODS}
    members = []
    for given in text.split(","):
        name = known.get(registry.plain_name(given.strip()))
        if name is None:
            raise ValueError(
                f"{text!r}: {given.strip()!r} cannot be combined; expected two or more of"
                f" {', '.join(registry.METHODS)}, with commas between them"
            )
        if name in members:
            raise ValueError(f"{text!r}: {name} is combined with itself; name each method once")
        members.append(name)
    if len(members) < 2:
        raise ValueError(f"{text!r}: {members[0]} stands alone; expected two methods, as MSP,KNN")
    return Combination(tuple(members))


def members_of(combinations: Sequence[Combination]) -> list[str]:
    """The methods that they need, each once."""
    return list(dict.fromkeys(name for each in combinations for name in each.members))


def add(
    scored: Scored,
    combinations: Sequence[Combination],
    fitted: registry.Training,
    states: dict[str, registry.Fitted],
) -> None:
    """Add the scores of combinations to every set on which all their members were computed.

    The mean and the standard deviation are of the ID validation images, of the training images
    where there are none. Where a member does not vary over them, the combination is undefined.
    """
    if not combinations:
        return
    wanted = {name: states[name] for name in members_of(combinations)}
    split, features = "training", fitted.features
    if fitted.validation:
        split, features = "validation", fitted.validation[0]
    reference = registry.score_all(features, wanted, fitted.W, fitted.b)
    scales = {name: Scale(values.mean(), values.std()) for name, values in reference.items()}
    for combination in combinations:
        held_out = [scored.held_out] if scored.held_out else []
        for part in (scored.id, *scored.csid, *scored.ood, *held_out):
            _add_to(part, combination, scales, split)
        scored.parameters[combination.name] = parameters_of(combination, split, scored)


def _add_to(
    part: ScoredSet, combination: Combination, scales: dict[str, Scale], split: str
) -> None:
    """Add one combination to one set, and say why where it is undefined for all images."""
    if not set(combination.members) <= set(part.scores):
        return
    constant = [name for name in combination.members if not scales[name].std > 0]
    if constant:
        part.scores[combination.name] = np.full(len(part), np.nan)
        part.notes[combination.name] = (
            f"{constant[0]} is undefined for some ID {split} image, or the same for all, and cannot"
            " be standardised"
        )
        return
    standard = [scales[name].standardise(part.scores[name]) for name in combination.members]
    part.scores[combination.name] = np.mean(standard, axis=0)


def parameters_of(combination: Combination, split: str, scored: Scored) -> dict[str, Any]:
    """What the column `parameters` says of a combination: its members with theirs, and on which ID
    images they were standardised."""
    members = {name: scored.parameters[name] for name in combination.members}
    return {"members": members, "standardised_on": split}


def is_combination(name: str, parameters: Mapping[str, Any]) -> bool:
    """True if a row of this name, with these parameters, is a combination of known methods."""
    members = tuple(parameters.get("members") or ())
    known = all(member in registry.METHODS for member in members)
    return known and name == Combination(members).name
