"""Temperature and epsilon of a leave-out ensemble: chosen on a validation OOD set, which is then
not tested on, or given.

    choice = grid.choose(ensemble, val_ood="uniform", asked=None, stale=stale)
    choice.pair, choice.table

run_networks.py extracts one file per pair and member. Without a perturbation (epsilon 0) the plain
features serve, at any temperature."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from artifacts import records, store
from detection import ensemble as formulas
from detection import members, metrics
from detection.members import Ensemble, Pair

PLAIN = Pair(0.0, 1.0)
COLUMNS = ("auroc", "fpr95", "detection_error", "aupr_in", "aupr_out")


@dataclass(frozen=True, eq=False)
class Choice:
    """The pair that the test images are perturbed by, and the table that chose it: one row per pair
    with temperature, odin_epsilon, perturbation and the metrics in COLUMNS."""

    pair: Pair
    val_ood: str | None = None
    table: pd.DataFrame | None = None
    # {pair: scores of the validation images, of ID and of OOD}
    scores: dict[Pair, tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def reason(self) -> str:
        """Why this pair, in words."""
        if self.val_ood:
            return f", chosen on {self.val_ood} by AUROC"
        if not self.pair.epsilon:
            return " (plain images)"
        return ""

    @property
    def parameters(self) -> dict[str, object]:
        """What the column `parameters` says of the ensemble's score."""
        found: dict[str, object] = {
            "temperature": self.pair.temperature,
            "odin_epsilon": self.pair.epsilon,
        }
        if self.pair.epsilon:
            found["perturbation"] = self.pair.kind
        if self.val_ood:
            found["val_ood"] = self.val_ood
        return found


def choose(
    ensemble: Ensemble, val_ood: str | None, asked: Pair | None, stale: records.Stale
) -> Choice:
    """The pair for the test images: `asked`, or the best on `val_ood`, or the one whose perturbed
    test images are there; else none, at temperature 1.

    Of pairs with the same AUROC the first is taken: the smaller epsilon, then the smaller
    temperature. ValueError where several could be meant, and where what is needed is not there."""
    if asked:
        return Choice(of_its_kind(ensemble, asked))
    if val_ood:
        return tried(ensemble, val_ood, stale)
    refuse_gaps(ensemble, "test", ensemble.sets)
    there = [pair for pair in pairs_of_all(ensemble) if not lacking(ensemble, pair)]
    if len(there) > 1:
        found = ", ".join(pair.folder for pair in there)
        raise ValueError(
            f"the test images of {ensemble.members[0].name} were perturbed in several ways:"
            f" {found}; choose one with --perturbed TEMPERATURE EPSILON, or by a validation set"
            " with --val-ood NAME"
        )
    return Choice(there[0] if there else PLAIN)


def of_its_kind(ensemble: Ensemble, asked: Pair) -> Pair:
    """The pair of this temperature and epsilon whose perturbed images are there, by whichever
    gradient; ValueError where they are there by two."""
    same = [pair for pair in pairs_of_all(ensemble) if pair.values == asked.values]
    if len(same) > 1:
        folders = " and ".join(pair.folder for pair in same)
        raise ValueError(
            f"{ensemble.members[0].name} has images perturbed by {asked.words} in two ways,"
            f" {folders}; delete one of these folders of each member"
        )
    return same[0] if same and asked.epsilon else asked


def refuse_gaps(ensemble: Ensemble, split: str, sets: Collection[str]) -> None:
    """ValueError for perturbed images that some members have and others lack."""
    found = {pair for member in ensemble.members for pair in member.pairs() if pair.epsilon}
    flags = grid_flags(found, sets) if split == "val" else ""
    for pair in sorted(found):
        gone = lacking(ensemble, pair, split, sets)
        some = any(member.id_file(split, pair) for member in ensemble.members)
        if gone and some:
            raise ValueError(
                f"{gone[0]} is missing, where other images are perturbed so; make it with:"
                f" {ensemble.command(flags or pair.flags)}, or score plain images with"
                " --perturbed 1 0"
            )


def grid_flags(pairs: Collection[Pair], val_ood: Collection[str]) -> str:
    """The flags of run_networks.py that perturb validation images by all these pairs."""
    epsilons = sorted({0.0, *(pair.epsilon for pair in pairs)})
    temperatures = sorted({pair.temperature for pair in pairs})
    values = [
        "--odin-epsilon",
        *(f"{value:g}" for value in epsilons),
        "--temperature",
        *(f"{value:g}" for value in temperatures),
    ]
    return " ".join([*values, "--val-ood", *val_ood])


def pairs_of_all(ensemble: Ensemble) -> list[Pair]:
    """The pairs that some images of every member were perturbed by."""
    shared = set.intersection(*(set(member.pairs()) for member in ensemble.members))
    return sorted(shared)


def lacking(
    ensemble: Ensemble, pair: Pair, split: str = "test", sets: Collection[str] | None = None
) -> list[str]:
    """Names of the files of perturbed images that some member lacks."""
    gone = []
    for member in ensemble.members:
        folder = f"{member.name}/{pair.folder}"
        if member.id_file(split, pair) is None:
            gone.append(f"{folder}/ID_{member.run.dataset}_{split}.csv")
        for name in ensemble.sets if sets is None else sets:
            if member.ood_file(name, pair) is None:
                gone.append(f"{folder}/OOD_{name}_test.csv")
    return gone


def require(ensemble: Ensemble, choice: Choice, sets: Collection[str]) -> None:
    """ValueError, with the command, where test images are not perturbed as was chosen."""
    gone = lacking(ensemble, choice.pair, "test", sets)
    if not gone:
        return
    chosen = f", chosen on {choice.val_ood}," if choice.val_ood else ""
    raise ValueError(
        f"the test images are not yet perturbed by {choice.pair.words}{chosen} so that"
        f" {gone[0]} is missing; make them with: {ensemble.command(choice.pair.flags)}"
    )


def files(ensemble: Ensemble, choice: Choice, sets: Collection[str]) -> list[Path]:
    """The files of perturbed images that were read: of the test sets, and of the grid."""
    wanted = [(choice.pair, "test", sets)]
    if choice.scores:
        wanted += [(pair, "val", [str(choice.val_ood)]) for pair in choice.scores]
    found = []
    for pair, split, names in wanted:
        for member in ensemble.members:
            found.append(member.id_file(split, pair))
            found += [member.ood_file(name, pair) for name in names]
    return [path for path in dict.fromkeys(found) if path]


# ---- the grid ------------------------------------------------------------------------------------


def tried(ensemble: Ensemble, val_ood: str, stale: records.Stale) -> Choice:
    """Score the validation images by every pair that was extracted -> the best, and all."""
    check_plain(ensemble, val_ood)
    refuse_gaps(ensemble, "val", [val_ood])
    pairs = candidates(ensemble, val_ood)
    plain = validation_logits(ensemble, PLAIN, val_ood, stale)  # of all temperatures
    scores = {}
    for pair in pairs:
        found = validation_logits(ensemble, pair, val_ood, stale) if pair.epsilon else plain
        inside, outside = (formulas.score(logits, pair.temperature) for logits in found)
        scores[pair] = inside, outside
    rows = [row_of(pair, *scores[pair]) for pair in pairs]
    table = pd.DataFrame(rows)
    best = pairs[int(table["auroc"].to_numpy().argmax())]
    return Choice(best, val_ood, table, scores)


def candidates(ensemble: Ensemble, val_ood: str) -> list[Pair]:
    """Pairs whose perturbed validation images every member has, and each of their temperatures
    without a perturbation."""
    perturbed = [
        pair
        for pair in pairs_of_all(ensemble)
        if pair.epsilon and not lacking(ensemble, pair, "val", [val_ood])
    ]
    temperatures = {1.0, *(pair.temperature for pair in perturbed)}
    return sorted([*(Pair(0.0, temperature) for temperature in temperatures), *perturbed])


def check_plain(ensemble: Ensemble, val_ood: str) -> None:
    """ValueError without ID validation images of all classes in each member's folder."""
    for member in ensemble.members:
        if member.val is None:
            raise ValueError(
                f"{member.run.folder} has no validation images of all classes, with which --val-ood"
                f" compares {val_ood}: train its network with --val-size above 0"
            )


def validation_logits(
    ensemble: Ensemble, pair: Pair, val_ood: str, stale: records.Stale
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """[member] the logits of ID validation images (N, C_k), and of the validation OOD set (M,
    C_k)."""
    inside: list[np.ndarray] = []
    outside: list[np.ndarray] = []
    first: tuple[store.Features, store.Features] | None = None
    flags = grid_flags([pair], [val_ood]) if pair.epsilon else ""
    for member in ensemble.members:
        remedy = member.run.command_with(flags) if flags else member.run.command
        head = members.read_head(member, stale)
        both = (
            read(member.id_file("val", pair), stale, remedy),
            read(member.ood_file(val_ood, pair), stale, remedy),
        )
        first = first or both
        for one, other in zip(first, both, strict=True):
            members.check_rows(one, other)
        inside.append(head.logits(both[0].features))
        outside.append(head.logits(both[1].features))
    return inside, outside


def read(path: Path | None, stale: records.Stale, remedy: str) -> store.Features:
    """The features of a file that was found."""
    assert path is not None, "candidates and check_plain have looked for it"
    return store.read_features(path, stale, remedy)


def row_of(pair: Pair, inside: np.ndarray, outside: np.ndarray) -> dict[str, object]:
    """One row of the grid's table."""
    measured = metrics.evaluate(inside, outside)
    facts = {"temperature": pair.temperature, "odin_epsilon": pair.epsilon}
    how = {"perturbation": pair.kind if pair.epsilon else ""}
    return {**facts, **how, **{name: measured[name] for name in COLUMNS}}
