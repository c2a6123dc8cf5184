"""Tables of id_metrics.csv, ood_by_id_class.csv, ood_by_ood_class.csv and conformal.csv, each
reduced to what one can read: the files hold the rest."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from reporting.class_panel import hard_row
from reporting.found import Summary
from reporting.tables import PlainTable
from reporting.words import EMPTY, finite, interval_of, number, rate

ROWS = 15  # of a table by class
SELECTIVE = {  # {column: (measure, at)} of ID test images alone
    "AURC": ("aurc", None),
    "excess AURC": ("e_aurc", None),
    "errors at 80% kept": ("risk", 0.8),
    "at 90%": ("risk", 0.9),
    "at 95%": ("risk", 0.95),
    "AUROC of errors": ("failure_auroc", None),
}
CALIBRATION = {
    "accuracy": "accuracy",
    "confidence": "mean confidence",
    "ece": "ECE, 15 bins of equal width",
    "ece_equal_mass": "ECE, 15 bins of equally many images",
    "classwise_ece": "class-wise ECE",
    "brier": "Brier score, 0 to 2",
    "nll": "negative log-likelihood, nats",
}
SHARES = ("accuracy", "confidence", "ece", "ece_equal_mass", "classwise_ece")


@dataclass(frozen=True)
class TrustTables:
    """What the further tables say; a list is empty where its file is not there."""

    calibration: list[PlainTable] = field(default_factory=list)
    selective: list[PlainTable] = field(default_factory=list)
    by_class: list[PlainTable] = field(default_factory=list)
    conformal: list[PlainTable] = field(default_factory=list)


def trust_tables(more: Mapping[str, pd.DataFrame], summary: Summary) -> TrustTables:
    """The tables of the files that are there; `more` is by file name."""
    means = summary["mean_over_sets"]
    best = means[0]["method"] if means else "MSP"
    trust = more.get("id_metrics.csv")
    by_id = more.get("ood_by_id_class.csv")
    by_ood = more.get("ood_by_ood_class.csv")
    promised = more.get("conformal.csv")
    by_class = [] if by_id is None else [swallowing(by_id, best)]
    if by_ood is not None:
        by_class += hardest_classes(by_ood, best)
    return TrustTables(
        calibration=[] if trust is None else calibration(trust),
        selective=[] if trust is None else [*selective(trust), *open_set(trust)],
        by_class=by_class,
        conformal=[] if promised is None else conformal(promised, best),
    )


# ---- id_metrics.csv ------------------------------------------------------------------------------


def calibration(trust: pd.DataFrame) -> list[PlainTable]:
    """The measures of the softmax, at temperature 1 and at the one that calibrates it."""
    rows = trust[trust["measure"].isin(CALIBRATION) & empty(trust["method"])]
    if rows.empty:
        return []
    temperatures = list(dict.fromkeys(rows["temperature"].dropna()))
    table = []
    for measure, words in CALIBRATION.items():
        own = rows[rows["measure"] == measure]
        of_all = own[own["temperature"].isna()]
        each = [own[own["temperature"] == value] for value in temperatures]
        cells = [cell(measure, of_all if len(of_all) else part) for part in each]
        if len(own):
            table.append([words, *cells])
    heads = [f"temperature {number(value)}" for value in temperatures]
    caption = "How far the confidence can be taken at its word; shares in percent, with intervals"
    return [PlainTable(caption, ["measure", *heads], table, "numbers")]


def cell(measure: str, rows: pd.DataFrame) -> str:
    """A measure's value with its interval, in percent where it is a share."""
    if rows.empty:
        return EMPTY
    row = rows.iloc[0]
    text = rate if measure in SHARES else number
    if not finite(row["low"]):
        return text(row["value"])
    return f"{text(row['value'])} ({interval_of(row['low'], row['high'], text)})"


def selective(trust: pd.DataFrame) -> list[PlainTable]:
    """How well each score finds the network's own errors, the best first."""
    rows = trust[empty(trust["ood"]) & ~empty(trust["method"])]
    if rows.empty:
        return []
    known = {
        (row["method"], row["measure"], at_of(row)): row["value"] for row in rows.to_dict("records")
    }
    methods = list(dict.fromkeys(rows["method"]))
    methods.sort(key=lambda name: order(known.get((name, "aurc", None))))
    table = [
        [name, *(rate(known.get((name, *what))) for what in SELECTIVE.values())] for name in methods
    ]
    caption = (
        "Selective classification: errors among the ID test images that a score keeps, in percent;"
        " lower is better, but for the AUROC of right against wrong images"
    )
    return [PlainTable(caption, ["method", *SELECTIVE], table, "numbers")]


def open_set(trust: pd.DataFrame) -> list[PlainTable]:
    """OSCR by method and set: right and kept ID images against kept OOD images."""
    rows = trust[trust["measure"] == "oscr"]
    if rows.empty:
        return []
    sets = list(dict.fromkeys(rows["ood"]))
    values = {(row["method"], row["ood"]): row["value"] for row in rows.to_dict("records")}
    methods = list(dict.fromkeys(rows["method"]))

    def mean(name: str) -> float | None:
        each = [values.get((name, ood)) for ood in sets]
        known = [value for value in each if value is not None and finite(value)]
        return sum(known) / len(sets) if len(known) == len(sets) else None

    methods.sort(key=lambda name: order(-(mean(name) or 0)))
    table = [
        [name, rate(mean(name)), *(rate(values.get((name, ood))) for ood in sets)]
        for name in methods
    ]
    caption = (
        "OSCR: in percent, the pairs of an ID and an OOD image in which the ID image is classified"
        " right and scores higher"
    )
    return [PlainTable(caption, ["method", "mean", *map(str, sets)], table, "numbers")]


def at_of(row: Mapping) -> float | None:
    """The share at which a measure is taken, None where it is of none."""
    return row["at"] if finite(row["at"]) else None


def order(value: float | None) -> float:
    """A number to sort by, what is missing last."""
    return value if finite(value) else float("inf")  # type: ignore[return-value]


def empty(column: pd.Series) -> pd.Series:
    """True where nothing stands."""
    return column.isna() | (column.astype(str) == "")


# ---- by class ------------------------------------------------------------------------------------


def swallowing(by_id: pd.DataFrame, best: str) -> PlainTable:
    """Which class takes in which images, and how many of them pass the best method's threshold."""
    accepted = f"{best}_accepted"
    has_verdicts = accepted in by_id
    sets = list(dict.fromkeys(by_id["images_of"]))
    totals = by_id.groupby("images_of")["images"].sum()
    cells = {}
    for row in by_id.to_dict("records"):
        passing = row[accepted] / totals[row["images_of"]] if has_verdicts else None
        cells[row["predicted_class"], row["images_of"]] = taken(row["share"], passing)
    known = by_id[by_id["images_of"] != by_id["dataset"]]
    most = known.groupby("predicted_class")["images"].sum().sort_values(ascending=False)
    names = list(most.index[:ROWS])
    table = [[str(name), *(cells.get((name, ood), "0.0") for ood in sets)] for name in names]
    further = by_id["predicted_class"].nunique() - len(names)
    more = f"; {further} more in ood_by_id_class.csv" if further else ""
    verdicts = f", and in brackets of those that {best} accepts" if has_verdicts else ""
    caption = f"Share of each set's images taken for a class, in percent{verdicts}{more}"
    return PlainTable(caption, ["class", *map(str, sets)], table, "numbers")


def taken(share: float, passing: float | None) -> str:
    return rate(share) if passing is None else f"{rate(share)} ({rate(passing)})"


def hardest_classes(by_ood: pd.DataFrame, best: str) -> list[PlainTable]:
    """The OOD classes that the best method tells least well from ID images."""
    rows = by_ood[by_ood["method"] == best].sort_values("auroc", kind="stable")
    if rows.empty:
        return []
    table = []
    for row in rows.head(ROWS).to_dict("records"):
        name, *cells = hard_row(row)
        table.append([name, str(row["ood"]), *cells])
    further = len(rows) - len(table)
    more = f"; {further} more in ood_by_ood_class.csv" if further else ""
    caption = f"The OOD classes that {best} tells least well from the ID test images, percent{more}"
    columns = ["OOD class", "set", "images", "AUROC", "interval", "FPR"]
    return [PlainTable(caption, columns, table, "numbers")]


# ---- conformal.csv -------------------------------------------------------------------------------


def conformal(promised: pd.DataFrame, best: str) -> list[PlainTable]:
    """What the best method's thresholds with a guarantee reject, by guarantee and level."""
    rows = promised[promised["method"] == best]
    method = best
    if rows.empty:
        method = str(promised["method"].iloc[0])
        rows = promised[promised["method"] == method]
    sets = list(dict.fromkeys(rows["ood"]))
    table = []
    for (guarantee, level), part in rows.groupby(["guarantee", "level"], sort=False):
        by_set = {row["ood"]: row for row in part.to_dict("records")}
        nothing = all(isinstance(row.get("note"), str) and row["note"] for row in by_set.values())
        if nothing:
            needed = max(row["images_needed"] for row in by_set.values())
            why = f"takes {needed:,.0f} held-out images, has {part['held_out_images'].iloc[0]:,.0f}"
            table.append([f"{guarantee}, {rate(level)}%", why, *([EMPTY] * len(sets))])
            continue
        inside = rate_range([row["rejected_id"] for row in by_set.values()])
        cells = [rate(by_set[ood]["rejected_ood"]) if ood in by_set else EMPTY for ood in sets]
        table.append([f"{guarantee}, {rate(level)}%", inside, *cells])
    caption = (
        f"Thresholds of {method} with a guarantee: share rejected of the ID test images, which the"
        " guarantee is about, and of each OOD set, which is only measured; in percent"
    )
    columns = ["guarantee and level", "ID rejected", *map(str, sets)]
    return [PlainTable(caption, columns, table, "numbers")]


def rate_range(shares: list[float]) -> str:
    """One share in percent, or the least and the largest of several."""
    low, high = rate(min(shares)), rate(max(shares))
    return low if low == high else f"{low}–{high}"
