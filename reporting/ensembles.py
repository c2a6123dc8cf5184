"""What the report says of an ensemble: who its members are, what they have in common, and how each
of them does alone.

The tables of an ensemble stand in a folder of their own, and ood_methods.py --ensemble names the
members in their sidecars. Each member's own folder and checkpoint stand beside that folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from artifacts import records
from reporting.found import Ensemble, Member, Summary
from reporting.tables import PlainTable
from reporting.words import listed, percent, rate

TABLE = "ood_metrics.csv"  # whose sidecar says that a folder is of an ensemble
DIGITS = 12  # of a hash, in a table
OF_ONE = ("train_acc", "val_acc", "test_acc", "command")  # facts of a member alone


# ---- what is there -------------------------------------------------------------------------------


def find(folder: Path, table: pd.DataFrame | None) -> Ensemble | None:
    """The ensemble whose tables stand in a folder; None for the folder of a single network.

    table: ood_members.csv, None where it is missing."""
    said = records.read_sidecar(folder / TABLE)
    if not said.get("ensemble"):
        return None
    beside = folder.parent
    members = [member(beside, name, network) for name, network in networks(folder).items()]
    return Ensemble(said["ensemble"], members, table)


def networks(folder: Path) -> dict[str, dict[str, Any]]:
    """{name: its hashes} of the members; {} for the folder of a single network."""
    return records.read_sidecar(folder / TABLE).get("members") or {}


def member(beside: Path, name: str, network: Mapping[str, Any]) -> Member:
    """One member, as its checkpoint's sidecar and its head's describe it."""
    trained = records.checkpoint_sidecar(records.inside(beside, f"{name}.pth"))
    head = records.read_sidecar(records.inside(beside, name) / "head.csv")
    left_out = (head.get("leave_out") or {}).get("left_out") or []
    hashed = network.get("checkpoint_sha256")
    return Member(name, hashed, list(left_out), {**head, **trained})


def files(folder: Path) -> list[Path]:
    """The files of the members that the report reads."""
    found = []
    for name in networks(folder):
        found += [folder.parent / f"{name}.json", folder.parent / name / "head.json"]
    return found


def checkpoints(folder: Path) -> list[str]:
    """The members as the command line names them: their checkpoints, or where there are none, their
    folders of features."""
    found = []
    for name in networks(folder):
        checkpoint = folder.parent / f"{name}.pth"
        found.append(str(checkpoint if checkpoint.is_file() else folder.parent / name))
    return found


def common_facts(ensemble: Ensemble) -> dict[str, Any]:
    """What all members say of themselves alike; the rest is not the ensemble's."""
    first, *others = [one.facts for one in ensemble.members]
    shared = {}
    for name, value in first.items():
        if name not in OF_ONE and all(other.get(name) == value for other in others):
            shared[name] = value
    shared["seconds"] = total_seconds(ensemble)
    shared["held_out"] = unknown_to_all(ensemble)
    return shared


def total_seconds(ensemble: Ensemble) -> float | None:
    """Seconds that all trainings took together; None where one is not on record."""
    total = 0.0
    for one in ensemble.members:
        seconds = one.facts.get("seconds")
        if not isinstance(seconds, (int, float)):
            return None
        total += seconds
    return total


def unknown_to_all(ensemble: Ensemble) -> list[str]:
    """The classes that every member held out."""
    first, *others = [one.facts.get("held_out") or [] for one in ensemble.members]
    return [name for name in first if all(name in other for other in others)]


# ---- for summary.json ----------------------------------------------------------------------------


def summarise(ensemble: Ensemble | None, summary: Summary) -> dict[str, Any] | None:
    """The part of summary.json on the ensemble; None for a single network."""
    if ensemble is None:
        return None
    members = [
        {
            "checkpoint": one.name,
            "sha256": one.sha256,
            "left_out": one.left_out,
            "test_acc": one.facts.get("test_acc"),
        }
        for one in ensemble.members
    ]
    return {"kind": ensemble.kind, "members": members, "alone": alone(ensemble, summary)}


@dataclass(frozen=True)
class Alone:
    """A method's AUROC, averaged over the OOD sets: of all members together, by rank, and of each
    by itself; in [0, 1]."""

    method: str
    together: float | None
    mean: float
    lowest: float
    highest: float


def alone(ensemble: Ensemble, summary: Summary) -> list[dict[str, Any]]:
    """Alone of every method that is defined for every member, the highest mean first."""
    if ensemble.table is None:
        return []
    together = {row["method"]: row["auroc"] for row in summary["mean_over_sets"]}
    rows = ensemble.table[ensemble.table["ood"].isin(summary["averaged_sets"])]
    values = rows.pivot_table(
        index="method", columns="checkpoint", values="auroc", aggfunc=mean_of_all, sort=False
    )
    found = []
    for method, each in values.iterrows():
        if len(each) < len(ensemble.members) or each.isna().any():
            continue
        ranked = together.get(f"ranks({method})")
        found.append(Alone(str(method), ranked, each.mean(), each.min(), each.max()))
    found.sort(key=lambda row: -row.mean)
    return [asdict(row) for row in found]


def mean_of_all(values: pd.Series) -> float:
    """The mean, NaN where one of the values is."""
    return values.mean(skipna=False)


# ---- for the page --------------------------------------------------------------------------------


def title(summary: Summary) -> str:
    """What the page is of: "leave-out ensemble of 5 resnet18", or "resnet18" of a single network,
    its stem where nothing names the model."""
    said, run = summary["ensemble"], summary["checkpoint"]
    if said is None:
        return run["model"] or run["stem"]
    return f"{said['kind']} ensemble of {len(said['members'])} {run['model'] or 'networks'}"


def facts(summary: Summary) -> dict[str, Any]:
    """{name: value} of the facts that only an ensemble has."""
    said = summary["ensemble"]
    if said is None:
        return {}
    found: dict[str, Any] = {"Ensemble": f"{said['kind']}, {len(said['members'])} networks"}
    counts = {len(one["left_out"]) for one in said["members"]} - {0}
    if counts:
        found["Classes that a member does not know"] = listed(map(str, sorted(counts)))
    return found | perturbation(summary["ood_metrics"])


def perturbation(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """How the images of the row LeaveOut were perturbed, and what chose that."""
    for row in rows:
        if row["method"] == "LeaveOut" and row.get("parameters"):
            return {"Perturbation (LeaveOut)": in_words(row["parameters"])}
    return {}


def in_words(text: str) -> str:
    """The parameters of LeaveOut as a line of the page; as they stand where they are not ours."""
    try:
        parameters = json.loads(text)
        return described(parameters)
    except (ValueError, TypeError, KeyError):
        return text


def described(parameters: Mapping[str, Any]) -> str:
    """ "temperature 1000, epsilon 0.002, entropy, chosen on uniform"."""
    text = f"temperature {parameters['temperature']:g}"
    if parameters.get("odin_epsilon"):
        text += f", epsilon {parameters['odin_epsilon']:g}, {parameters['perturbation']}"
    if parameters.get("val_ood"):
        text += f", chosen on {parameters['val_ood']}"
    return text


def member_table(summary: Summary) -> PlainTable | None:
    """Who the members are; None for a single network."""
    if summary["ensemble"] is None:
        return None
    rows = []
    for one in summary["ensemble"]["members"]:
        hashed = (one["sha256"] or "not on record")[:DIGITS]
        unknown = listed(one["left_out"]) or "none"
        rows.append([one["checkpoint"], unknown, percent(one["test_acc"], 2), hashed])
    columns = ["member", "classes left out", "test accuracy, of its own classes", "SHA-256"]
    return PlainTable("", columns, rows)


def alone_table(summary: Summary) -> PlainTable | None:
    """Every method of the members alone beside the mean of their ranks; None where nothing is known
    of them."""
    said = summary["ensemble"]
    if said is None or not said["alone"]:
        return None
    rows = []
    for row in said["alone"]:
        values = [rate(row[name]) for name in ("together", "mean", "lowest", "highest")]
        rows.append([row["method"], *values])
    columns = ["method", "all together, by rank", "members, mean", "lowest", "highest"]
    caption = "AUROC in percent, averaged over the sets; ID are the test images of all classes"
    return PlainTable(caption, columns, rows)


def reading(summary: Summary) -> list[str]:
    """What an ensemble's own score is worth beside its single members."""
    said = summary["ensemble"]
    if said is None or not said["alone"]:
        return []
    over = {row["method"]: row["auroc"] for row in summary["mean_over_sets"]}
    own = [name for name in ("LeaveOut", "EnsembleMSP") if name in over]
    singles = {row["method"]: row for row in said["alone"]}
    if not own or "MSP" not in singles:
        return []
    msp, best = singles["MSP"], said["alone"][0]
    return [
        f"Averaged over the sets, {own[0]} has AUROC {percent(over[own[0]])}; of a single member,"
        f" MSP has {rate(msp['lowest'])}–{percent(msp['highest'])}, and {best['method']}, the best"
        f" by the members' mean, {rate(best['lowest'])}–{percent(best['highest'])}."
    ]
