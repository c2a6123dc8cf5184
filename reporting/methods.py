"""What each score of the tables is: the family it is of, what it does in one line, its source, and
where docs/methods.md explains it. All of it is in the score's own row (scores/rows.py)."""

import re
from dataclasses import dataclass

from scores import registry


@dataclass(frozen=True)
class Family:
    """Scores that go by the same kind of evidence."""

    name: str
    section: str  # its heading in docs/methods.md, as a link names it


LOGITS = Family("logits", "from-the-logits")
SHAPED = Family(
    "shaped activations", "from-shaped-activations-the-energy-at-t--1-of-changed-logits"
)
PLACE = Family("where features lie", "from-where-the-features-lie")
NEIGHBOURS = Family("neighbours", "from-the-neighbours-among-the-training-images")
PERTURBED = Family("perturbed images", "odin")
TOGETHER = Family("several together", "combinations")
ENSEMBLES = Family("ensembles", "an-ensemble")
OWN = Family("your own", "a-score-of-your-own")
BY_MODULE = {
    "logits": LOGITS,
    "shaping": SHAPED,
    "gaussians": PLACE,
    "geometry": PLACE,
    "class_means": PLACE,
    "neighbours": NEIGHBOURS,
}
OF_ENSEMBLES = {
    "LeaveOut": "the members' softmaxes and entropies, summed, each image perturbed",
    "EnsembleMSP": "the largest mean softmax of all members",
    "EnsembleEntropy": "how concentrated the mean softmax of all members is",
    "MutualInformation": "how little the members disagree",
}


@dataclass(frozen=True)
class MethodLine:
    """A score in one line; `source` is empty where nobody published it."""

    name: str  # as the tables label it, parameters included
    family: Family
    does: str
    source: str = ""


def line_of(label: str) -> MethodLine:
    """What a score of the tables is, by its label there: "KNN", "KNN k=5", "mean(MSP,KNN)"."""
    together = re.fullmatch(r"(mean|ranks)\((.*)\)", label)
    if together and together[1] == "mean":
        return MethodLine(label, TOGETHER, f"the mean of {together[2]}, each standardised")
    if together:
        return MethodLine(label, ENSEMBLES, f"the mean rank of {together[2]} among the members")
    name = label.partition(" ")[0]
    if name in registry.ROWS:
        row = registry.ROWS[name]
        return MethodLine(label, family_of(row), row.does, row.source)
    if name in OF_ENSEMBLES:
        return MethodLine(label, ENSEMBLES, OF_ENSEMBLES[name])
    return MethodLine(label, OWN, "a score that is not among the published ones")


def family_of(row: registry.Description) -> Family:
    """The family of a score's row: that of the file in which its fit stands."""
    if "images" in row.needs:
        return PERTURBED
    fit = getattr(row, "fit", None)
    fit = getattr(fit, "func", fit)  # of a partial
    module = getattr(fit, "__module__", "").rpartition(".")[2]
    return BY_MODULE.get(module, OWN)
