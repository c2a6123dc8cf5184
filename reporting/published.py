"""Published figures of the same ID set beside those of one run: OpenOOD's, near and far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reporting.leaderboard import (
    GROUPS,
    PROTOCOL,
    groups_of,
    incomplete,
    means,
    of_plain_networks,
    published_for,
)
from reporting.tables import PlainTable
from reporting.words import EMPTY, finite, rate


@dataclass(frozen=True)
class Beside:
    """The table, and what to know before one compares."""

    table: PlainTable
    notes: list[str]


def published(ood: pd.DataFrame | None) -> Beside | None:
    """What was published beside ood_metrics.csv; None where nothing was for its ID set, its OOD
    sets or its methods."""
    if ood is None or "dataset" not in ood:
        return None
    dataset, sets = str(ood["dataset"].iloc[0]), list(dict.fromkeys(ood["ood"]))
    grouped = groups_of(dataset, sets)
    theirs = of_plain_networks(published_for([dataset])) if grouped else pd.DataFrame()
    methods = [name for name in dict.fromkeys(ood["method"]) if name in set(theirs.get("ours", []))]
    ours = pd.DataFrame(
        {name: means(ood, members, "auroc", methods) for name, members in grouped.items()},
        index=methods,
    ).dropna(how="all")
    if ours.empty:
        return None
    ours = ours.sort_values(list(ours.columns), ascending=False, kind="stable")
    notes = [
        *accuracies(ood, theirs),
        *(f"Ours: {said}." for said in incomplete(dataset, grouped)),
        PROTOCOL,
    ]
    return Beside(beside(ours, theirs), notes)


def beside(ours: pd.DataFrame, theirs: pd.DataFrame) -> PlainTable:
    """A row per method: of each group our mean, and next to it each architecture's."""
    networks = list(dict.fromkeys(theirs["architecture"]))
    known = {(row["ours"], row["architecture"]): row for row in theirs.to_dict("records")}
    groups = [name for name in GROUPS if name in ours]
    heads = [f"{group}, {whose}" for group in groups for whose in ("ours", *networks)]
    rows = []
    for method, values in ours.iterrows():
        cells = []
        for group in groups:
            cells.append(rate(values[group]))
            cells += [
                figure(known.get((method, network)), f"{group}_auroc") for network in networks
            ]
        rows.append([str(method), *cells])
    caption = (
        "AUROC in percent, the mean over OpenOOD's near and far sets: of this run, and as published"
        f" for {', '.join(networks)}, ± the deviation over training seeds where there are several"
    )
    return PlainTable(caption, ["method", *heads], rows, "numbers")


def figure(row: Any, measure: str) -> str:
    """A published mean in percent, with its deviation, of which 0.00 stands there where nobody gave
    one; EMPTY where there is no mean."""
    if row is None or not finite(row[measure]):
        return EMPTY
    deviation = row[f"{measure.removesuffix('_auroc')}_std"]
    text = f"{row[measure]:.2f}"
    return f"{text} ± {deviation:.2f}" if finite(deviation) and deviation else text


def accuracies(ood: pd.DataFrame, theirs: pd.DataFrame) -> Sequence[str]:
    """The accuracy of this network beside theirs: networks that differ in it differ in AUROC."""
    own = ood["accuracy"].iloc[0] if "accuracy" in ood else None
    if not finite(own):
        return []
    first = theirs.drop_duplicates("architecture").to_dict("records")
    said = [f"{figure(row, 'accuracy')}% of {row['architecture']}" for row in first]
    return [f"Test accuracy: {rate(own)}% of ours, {', '.join(said)}."]
