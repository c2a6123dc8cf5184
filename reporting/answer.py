"""Which score, and is that settled? The best method of each OOD set, how far the next one is, and
whether the difference is more than chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reporting.found import Summary
from reporting.words import finite, interval, listed, percent, points, rate

NAMED = 3  # methods that are within reach, by name


@dataclass(frozen=True)
class Verdict:
    """The best method of one OOD set."""

    ood: str
    best: str  # with those of the same AUROC counted
    auroc: str
    interval: str
    fpr: str
    runner_up: str  # the next method and its AUROC; "" where there is none
    settled: str  # "yes", "no" or "tie": its class in report.css
    why: str


@dataclass(frozen=True)
class Answer:
    """The answer in a sentence or two, and a row for each set; a set without one says why."""

    sentences: list[str]
    verdicts: list[Verdict]


def answer(summary: Summary) -> Answer | None:
    """The answer of a run; None where no score is defined on any set."""
    best = {name: row for name, row in summary["best"].items() if row}
    if not best:
        return None
    verdicts = [verdict(name, row, summary) for name, row in best.items()]
    return Answer(sentences(summary, verdicts), verdicts)


def verdict(name: str, best: Mapping[str, Any], summary: Summary) -> Verdict:
    """The best method of a set, set beside the next one."""
    settled, why = settlement(best, paired(summary, name))
    return Verdict(
        ood=name,
        best=listed([best["method"]], len(best["tied_with"])),
        auroc=rate(best["auroc"]),
        interval=interval(best),
        fpr=rate(best["fpr95"]),
        runner_up=runner_up(name, best, summary),
        settled=settled,
        why=why,
    )


def paired(summary: Summary, name: str) -> bool:
    """True where the table says what paired tests found on this set."""
    rows = [row for row in summary["ood_metrics"] if row["ood"] == name]
    return any(row.get("best") is not None for row in rows)


def settlement(best: Mapping[str, Any], by_tests: bool) -> tuple[str, str]:
    """ "yes", "no" or "tie", and the reason in words."""
    if best["tied_with"]:
        return "tie", f"{1 + len(best['tied_with'])} methods have the same AUROC"
    if best["set_apart"] and by_tests:
        return "yes", "paired tests on the same images set it apart from every other"
    if best["set_apart"]:
        return "yes", "its interval meets that of no other"
    near = best["intervals_overlap_with"]
    if by_tests and not near:
        return "no", "paired tests do not set it apart from every other"
    reach = listed(near[:NAMED], len(near) - NAMED)
    if by_tests:
        return "no", f"paired tests do not set it apart; intervals that meet its own: {reach}"
    return "no", f"its interval meets that of {reach}"


def runner_up(name: str, best: Mapping[str, Any], summary: Summary) -> str:
    """The next method on a set, and how far it is behind."""
    if best["tied_with"]:
        return ""
    rows = [row for row in summary["ranking"][name] if row["method"] != best["method"]]
    if not rows:
        return ""
    behind = points(best["auroc"] - rows[0]["auroc"])
    return f"{rows[0]['method']}, {behind} behind"


def sentences(summary: Summary, verdicts: list[Verdict]) -> list[str]:
    """The answer: the best mean, and on how many sets the best method is settled."""
    said = []
    means = summary["mean_over_sets"]
    sets = len(summary["averaged_sets"])
    if len(verdicts) > 1 and means:
        first, *others = means
        text = (
            f"{first['method']} has the highest mean AUROC over {sets} OOD sets,"
            f" {percent(first['auroc'])}"
        )
        if others and finite(others[0]["auroc"]):
            behind = points(first["auroc"] - others[0]["auroc"])
            text += f"; next is {others[0]['method']}, {behind} behind"
        said.append(f"{text}.")
    return [*said, settled_on(verdicts)]


def settled_on(verdicts: list[Verdict]) -> str:
    """On which sets the best method is set apart from all others."""
    settled = [row.ood for row in verdicts if row.settled == "yes"]
    if not settled:
        where = "this set" if len(verdicts) == 1 else "any of them"
        return f"Not settled: no method is set apart from every other on {where}."
    if len(settled) == len(verdicts):
        where = "this set" if len(verdicts) == 1 else f"each of the {len(verdicts)} sets"
        return f"Settled on {where}: the best method is set apart from every other."
    return (
        f"Settled on {listed(settled)}, where the best method is set apart from every other; not"
        f" on {listed(row.ood for row in verdicts if row.settled != 'yes')}."
    )
