"""Published figures beside ours in the report of one run, where docs/published has its ID set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from images import openood
from reporting import leaderboard
from reporting.found import Found
from reporting.leaderboard import GROUPS, PROTOCOL
from reporting.tables import PlainTable
from reporting.words import EMPTY, finite, percent, rate

COLUMNS = ["method", "network", "near, ours", "near, published", "far, ours", "far, published"]


@dataclass(frozen=True)
class Published:
    """A table of our means and the published ones of the same methods, and what to know of them."""

    table: PlainTable
    notes: list[str]


def published(found: Found, folder: Path) -> Published | None:
    """Near and far AUROC of plain networks; None where nothing is published for the ID set, or none
    of OpenOOD's sets was tested."""
    if found.ood is None or not has_benchmark(found):
        return None
    board = leaderboard.make([folder])
    measures = [f"{name}_auroc" for name in GROUPS]
    ours = board.ours.dropna(subset=measures, how="all").sort_values(
        measures, ascending=False, kind="stable"
    )
    theirs = board.published
    plain = theirs[(theirs["task"] == "ood") & (theirs["training"] == "CrossEntropy")]
    rows = [
        row_of(own, other)
        for own in ours.to_dict("records")
        for other in plain[plain["ours"] == own["method"]].to_dict("records")
    ]
    if not rows:
        return None
    caption = "Mean AUROC in percent over OpenOOD's near and far sets, ours and as published"
    accuracies = accuracy_notes(plain.to_dict("records"), ours["accuracy"].iloc[0])
    notes = [*accuracies, *untested(found, folder), PROTOCOL]
    return Published(PlainTable(caption, COLUMNS, rows, "numbers"), notes)


def untested(found: Found, folder: Path) -> list[str]:
    """Which of OpenOOD's sets our means lack."""
    assert found.ood is not None
    dataset = str(found.ood["dataset"].iloc[0])
    sets = [str(name) for name in dict.fromkeys(found.ood["ood"])]
    groups = leaderboard.groups_of(dataset, sets)
    # the table has no intervals: nothing is said of those
    return leaderboard.said_of(folder, dataset, sets, groups, intervals=pd.DataFrame())


def has_benchmark(found: Found) -> bool:
    """True where the run's ID set is one that OpenOOD publishes figures of."""
    table = found.ood
    if table is None or "dataset" not in table or not set(leaderboard.NEEDED) <= set(table):
        return False
    return openood.benchmark_of(str(table["dataset"].iloc[0])) is not None


def row_of(own: Mapping[Any, Any], other: Mapping[Any, Any]) -> list[str]:
    """A method's means, ours and one network's published ones."""
    cells = []
    for group in GROUPS:
        cells += [ours_of(own, group), with_deviation(other, group)]
    return [str(own["method"]), str(other["architecture"]), *cells]


def ours_of(own: Mapping[Any, Any], group: str) -> str:
    """Our mean; why it is empty where it is: no set of the group was tested."""
    if not own[f"{group}_sets"]:
        return "no set tested"
    return rate(own[f"{group}_auroc"])


def with_deviation(other: Mapping[Any, Any], group: str) -> str:
    """ "80.27 ± 0.11", in percent as published; 0.00 stands there where nobody gave a deviation."""
    value, deviation = other[f"{group}_auroc"], other[f"{group}_std"]
    if not finite(value):
        return EMPTY
    return f"{value:.2f} ± {deviation:.2f}" if finite(deviation) and deviation else f"{value:.2f}"


def accuracy_notes(published_rows: list[dict[Any, Any]], accuracy: Any) -> list[str]:
    """Our test accuracy and that of each published network: other networks, other AUROCs."""
    notes = {}
    for row in published_rows:
        if finite(row["accuracy"]) and row["architecture"] not in notes:
            trained = f", {row['description']}" if isinstance(row["description"], str) else ""
            notes[row["architecture"]] = (
                f"{row['accuracy']:.2f}% for {row['architecture']}{trained}"
            )
    if not notes or not finite(accuracy):
        return []
    return [
        f"Test accuracy: {percent(accuracy, 2)} here; published are {', '.join(notes.values())}."
    ]
