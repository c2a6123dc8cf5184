"""Score all members of an ensemble, put their scores together, and write the tables.

Rows of the table (higher = more in-distribution):

LeaveOut            of a leave-out ensemble: the sum over members of max softmax - entropy, of
                    perturbed images where there are some (Vyas et al. 2018)
EnsembleMSP ...     of the mean softmax (ensemble.uncertainties)
ranks(METHOD)       the mean over members of the share of ID test images that the method puts below
                    the image: each member fits and scores by itself

ood_members.csv has every method of every single member. There the test images of all classes are
ID, those of classes that a leave-out member does not know among them."""

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from artifacts import records, store
from detection import ensemble as formulas
from detection import evaluation, inputs, members, tables, tuning
from detection.grid import Choice
from detection.inputs import Inputs
from detection.members import Ensemble, Member
from detection.scored import Scored, ScoredSet

LEAVE_OUT = "LeaveOut"
# ID validation images, which go the way of a set; no set's name has a space
HELD_OUT = "held out"
CORE = (LEAVE_OUT, "EnsembleMSP", "EnsembleEntropy", "MutualInformation")  # each has its histogram
Given = dict[str, dict[str, Any]]  # {method: {parameter: value}}
ByMember = list[dict[str, np.ndarray]]  # [member] {set: (N,) or (N, C_k)}


@dataclass(frozen=True, eq=False)
class Classes:
    """The class that an ensemble takes each image for: the largest sum of softmaxes."""

    class_names: list[str]
    by_set: dict[str, np.ndarray]  # {set: (N,)}

    def classify(self, set_name: str, features: np.ndarray) -> np.ndarray:
        """The class (N,) of each image of a set, as a number."""
        return self.by_set[set_name]


@dataclass(frozen=True, eq=False)
class Result:
    """What scoring an ensemble yields."""

    scored: Scored
    classes: Classes
    right: np.ndarray  # (N,) whether each ID test image is classified right
    by_member: list[Scored]  # without their features
    # [member] the same (N,) of a member alone; None of one that does not know all classes
    right_by_member: list[np.ndarray | None]


@dataclass(frozen=True)
class Methods:
    """The post-hoc methods that each member is scored by: their names, the parameters that are
    given, and the set on which others are chosen."""

    names: list[str]
    given: Given
    val_ood: str | None


def score(
    ensemble: Ensemble,
    methods: Methods,
    choice: Choice,
    sets: list[str],
    stale: records.Stale,
    progress: Callable[..., Iterable[Member]] = lambda members, **_: members,
) -> Result:
    """Score the test images of all members, one member after the other; `progress` shows how far
    it is."""
    by_member: list[Scored] = []
    rights: list[np.ndarray | None] = []
    logits, perturbed = [], []
    if all(member.val for member in ensemble.members):
        sets = [*sets, HELD_OUT]
    for member in progress(ensemble.members, desc="members", unit="member"):
        found = read(member, methods, sets, stale)
        if by_member:
            check_rows(by_member[0], found)
        with said_of(member):
            by_member.append(without_features(score_member(found, methods, sets)))
        rights.append(found.right() if member.leave_out is None else None)
        logits.append(logits_of(found, sets))
        moved = logits[-1]
        if choice.pair.epsilon:
            moved = perturbed_logits(member, found, choice, sets, stale)
        perturbed.append(moved)
    sums = sums_of(ensemble, logits)
    by_set = {name: values.argmax(axis=1) for name, values in sums.items()}
    classes = Classes(ensemble.class_names, by_set)
    right = classes.by_set["ID"] == by_member[0].id.images.labels
    scored = joined(ensemble, by_member, logits, sums, perturbed, choice)
    return Result(scored, classes, right, [without_held_out(one) for one in by_member], rights)


# ---- one member ----------------------------------------------------------------------------------


def read(member: Member, methods: Methods, sets: list[str], stale: records.Stale) -> Inputs:
    """The features of one member, and of the validation OOD set where there is one."""
    wanted = [name for name in sets if name != HELD_OUT]
    found = members.read(member, [*wanted, *filter(None, [methods.val_ood])], stale)
    if HELD_OUT in sets:
        assert member.val is not None, "score has looked"
        found.ood[HELD_OUT] = store.read_features(member.val, stale, member.run.command)
    return found


def without_held_out(scored: Scored) -> Scored:
    """The same without ID validation images among the sets."""
    return replace(scored, ood=[part for part in scored.ood if part.name != HELD_OUT])


@contextlib.contextmanager
def said_of(member: Member) -> Iterator[None]:
    """Put the member's name before every warning of the block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = f"{member.name}: {warning.message}"
        warnings.warn(text, warning.category, stacklevel=2)


def score_member(found: Inputs, methods: Methods, sets: list[str]) -> Scored:
    """Fit every method to one member's training images, and score all test images by it."""
    fitted = inputs.fit(found)
    chosen: Given = {}
    if methods.val_ood:
        images = found.ood[methods.val_ood].features
        chosen = tuning.tune(fitted, methods.names, methods.given, images)
    ood = {name: found.ood[name] for name in sets}
    given = {**chosen, **methods.given}
    scored = evaluation.score(fitted, methods.names, given, found.test, ood)
    for name in chosen:
        scored.parameters[name] = scored.parameters[name] | {"val_ood": methods.val_ood}
    evaluation.note_undefined(scored)
    return scored


def without_features(scored: Scored) -> Scored:
    """The same scores; the features, of which one member's are enough to hold, are dropped."""

    def bare(part: ScoredSet) -> ScoredSet:
        none = part.images.features[:, :0].copy()
        return replace(part, images=replace(part.images, features=none))

    return Scored(bare(scored.id), [bare(part) for part in scored.ood], scored.parameters)


def logits_of(found: Inputs, sets: Collection[str]) -> dict[str, np.ndarray]:
    """{set: (N, C_k)}, the test images under the name ID."""
    assert found.head is not None
    parts = {"ID": found.test, **{name: found.ood[name] for name in sets}}
    return {name: found.head.logits(part.features) for name, part in parts.items()}


def perturbed_logits(
    member: Member, found: Inputs, choice: Choice, sets: Collection[str], stale: records.Stale
) -> dict[str, np.ndarray]:
    """{set: (N, C_k)} of the perturbed images; ID validation images need not have been perturbed.

    ValueError where a file of perturbed images has other rows than the plain one."""
    assert found.head is not None
    values = {}
    plain = {"ID": found.test, **{name: found.ood[name] for name in sets}}
    for name, images in plain.items():
        path = perturbed_file(member, name, choice)
        if path is None and name == HELD_OUT:
            continue
        assert path is not None, "grid.require has looked for it"
        moved = store.read_features(path, stale, member.run.command_with(choice.pair.flags))
        members.check_rows(images, moved)
        values[name] = found.head.logits(moved.features)
    return values


def perturbed_file(member: Member, name: str, choice: Choice) -> Path | None:
    """Where the perturbed images of a set lie."""
    splits = {"ID": "test", HELD_OUT: "val"}
    if name in splits:
        return member.id_file(splits[name], choice.pair)
    return member.ood_file(name, choice.pair)


def check_rows(first: Scored, found: Inputs) -> None:
    """ValueError unless a member's files hold the images of the first one's, in that order."""
    members.check_rows(first.id.images, found.test)
    for part in first.ood:
        members.check_rows(part.images, found.ood[part.name])


# ---- all together --------------------------------------------------------------------------------


def sums_of(ensemble: Ensemble, logits: ByMember) -> dict[str, np.ndarray]:
    """{set: (N, C)} the sums of the members' softmaxes, of plain images at temperature 1."""
    sums = {}
    for name in logits[0]:
        own = [values[name] for values in logits]
        sums[name] = formulas.class_sums(own, ensemble.known)
    return sums


def joined(
    ensemble: Ensemble,
    by_member: list[Scored],
    logits: ByMember,
    sums: dict[str, np.ndarray],
    perturbed: ByMember,
    choice: Choice,
) -> Scored:
    """The scores of the ensemble: its own, and the mean rank of every method."""
    first = by_member[0]
    parts = {"ID": first.id, **{part.name: part for part in first.ood}}
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name in parts:
        own = [values[name] for values in logits]
        scores[name] = {}
        if ensemble.is_leave_out and all(name in values for values in perturbed):
            moved = [values[name] for values in perturbed]
            scores[name][LEAVE_OUT] = formulas.score(moved, choice.pair.temperature)
        scores[name] |= formulas.uncertainties(own, sums[name])
        if ensemble.is_leave_out:  # whose members disagree about what they leave out
            del scores[name]["MutualInformation"]
        scores[name] |= mean_ranks(name, by_member)
    parameters = parameters_of(ensemble, by_member, choice, list(scores["ID"]))
    sets = {name: ScoredSet(name, part.images, scores[name]) for name, part in parts.items()}
    held_out, inside = sets.pop(HELD_OUT, None), sets.pop("ID")
    scored = Scored(inside, list(sets.values()), parameters, held_out)
    evaluation.note_undefined(scored)
    return scored


def mean_ranks(set_name: str, by_member: list[Scored]) -> dict[str, np.ndarray]:
    """{ranks(METHOD): (N,)} of the images of one set."""
    found = {}
    for method in by_member[0].id.scores:
        ranks = [
            formulas.ranks(part_of(scored, set_name).scores[method], scored.id.scores[method])
            for scored in by_member
        ]
        found[ranked(method)] = np.mean(ranks, axis=0)
    return found


def part_of(scored: Scored, set_name: str) -> ScoredSet:
    """One set of images among all of a member."""
    return next(part for part in (scored.id, *scored.ood) if part.name == set_name)


def ranked(method: str) -> str:
    return f"ranks({method})"


def parameters_of(
    ensemble: Ensemble, by_member: list[Scored], choice: Choice, names: list[str]
) -> dict[str, dict[str, Any]]:
    """{row: its parameters}: those of a method are one dict where all members have the same, and
    otherwise one per member."""
    found: dict[str, dict[str, Any]] = {name: {"members": len(by_member)} for name in names}
    if ensemble.is_leave_out:
        found[LEAVE_OUT] |= choice.parameters
    for method in by_member[0].parameters:
        own = [scored.parameters[method] for scored in by_member]
        same = all(values == own[0] for values in own)
        found[ranked(method)] |= own[0] if same else apart(own)
    return found


def apart(own: list[dict[str, Any]]) -> dict[str, Any]:
    """The parameters of a method that differ from member to member, and, once for all, the set that
    chose them."""
    sets = {values["val_ood"] for values in own if "val_ood" in values}
    return {"by_member": own, **({"val_ood": sets.pop()} if sets else {})}


def member_table(ensemble: Ensemble, result: Result, tpr: float) -> pd.DataFrame:
    """The tidy table of every single member."""
    rows = zip(ensemble.members, result.by_member, result.right_by_member, strict=True)
    parts = [tables.tabulate(member.run, scored, right, tpr) for member, scored, right in rows]
    return pd.concat(parts, ignore_index=True)
