"""What an earlier run of ood_methods.py scored by the same head and ID features: it stays, and the
new scores join it.

    # Cheap: names, parameters and hashes.
    earlier = joining.find(folder, "cifar100")
    # Its scores of each image beside the new ones.
    scored = joining.join(scored, earlier, folder, "cifar100")

An earlier score stays where the head, the ID features and its OOD set are what its record says that
they were, and the tables that hold it are as they were written. Methods that are asked for now are
computed anew on every set."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

import utils
from artifacts import csv_files, current, store
from detection.odin import ODIN
from detection.scored import Scored, ScoredSet
from scores import registry

RECORD = "ood_methods.json"
ORDER = [*registry.METHODS, ODIN]


@dataclass
class Earlier:
    """What stays of an earlier table, and what does not, in words."""

    parameters: dict = field(default_factory=dict)  # {method: {name: value}}
    notes: dict = field(default_factory=dict)  # {(set, method): text}
    cells: list = field(default_factory=list)  # [(set, method)]: what was computed
    drawn: list = field(default_factory=list)  # methods that have a histogram
    # {why rows do not stay, in words: methods of these rows}
    lost: dict = field(default_factory=dict)
    # methods of a table that was changed after it was written
    edited: list = field(default_factory=list)

    @property
    def sets(self):
        return list(dict.fromkeys(name for name, _ in self.cells))

    def notes_of(self, name):
        """{method: text, which may be empty} of the methods that were computed on this set."""
        return {method: self.notes[place, method] for place, method in self.cells if place == name}

    def tuned_on(self):
        """OOD sets that chose some method's hyper-parameters."""
        return sorted(
            {values["val_ood"] for values in self.parameters.values() if values.get("val_ood")}
        )

    def without(self, methods):
        """The same but for these methods, which are computed anew."""
        kept = {name: values for name, values in self.parameters.items() if name not in methods}
        cells = [cell for cell in self.cells if cell[1] in kept]
        notes = {cell: text for cell, text in self.notes.items() if cell[1] in kept}
        lost = {text: of for text, of in self.lost.items() if not of <= set(methods)}
        drawn = [name for name in self.drawn if name in kept]
        return Earlier(kept, notes, cells, drawn, lost)

    @property
    def summary(self):
        """A line on what stays."""
        number = len(self.parameters)
        stays = (
            "1 method of the earlier table stays"
            if number == 1
            else f"{number} methods of the earlier table stay"
        )
        return f"{stays} beside what is computed now; --replace starts over"


# ---- what stays ----------------------------------------------------------------------------------


def find(folder, dataset):
    """What stays of the table in a folder of features -> Earlier, which may be empty."""
    record = current.Record.read(folder / RECORD)
    if not record.outputs or not record.inputs:
        return Earlier()
    reason = why_not(folder, dataset, record)
    if reason:
        return Earlier(lost={f"the earlier table starts over: {reason}": {"all"}})
    changed = changed_tables(folder, record)
    if changed:
        reason = f"{', '.join(changed)} was changed after it was written"
        return Earlier(
            lost={f"the earlier table starts over: {reason}": {"all"}},
            edited=methods_in(folder / "ood_metrics.csv"),
        )
    return read_table(folder, dataset, record)


def why_not(folder, dataset, record):
    """Why nothing of the earlier table can stay, in words; "" where it can."""
    if f"scores_ID_{dataset}.csv" not in record.outputs:
        return "it was of another ID data set"
    for stem in ("head", *(f"ID_{dataset}_{split}" for split in ("train", "val", "test"))):
        if not same(folder, stem, record):
            return f"{stem} changed, came or went since"
    return ""


def changed_tables(folder, record):
    """Names of the tables that are no longer what the record says was written."""
    tables = [name for name in record.outputs if name.startswith("scores_")]
    return [
        name for name in ("ood_metrics.csv", *tables) if record.output(name).change(folder / name)
    ]


def methods_in(path):
    """The methods that a table names, edited or not; none where it cannot be read."""
    try:
        return list(dict.fromkeys(map(str, csv_files.read_table(path)["method"])))
    except (ValueError, KeyError, OSError):
        return []


def same(folder, stem, record):
    """True if the feature file of this stem is the one that the record read, or is absent now as it
    was then."""
    names = [f"{stem}{suffix}" for suffix in store.SUFFIXES]
    return all(record.input(name).unchanged(folder / name) for name in names)


def read_table(folder, dataset, record):
    """The rows of ood_metrics.csv whose OOD set, and what chose their parameters, are as they
    were."""
    found = Earlier(
        drawn=[
            Path(name).stem.removeprefix("scores_")
            for name in record.outputs
            if name.startswith("figures/scores_")
        ]
    )
    table = store.read_table(folder / "ood_metrics.csv", ["ood", "method", "parameters"])
    for row in table.to_dict("records"):
        name, method = str(row["ood"]), str(row["method"])
        values = parsed(text_of(row["parameters"]), folder)
        lost = why_row_goes(folder, dataset, record, name, method, values)
        if lost:
            found.lost.setdefault(lost, set()).add(method)
            continue
        found.cells.append((name, method))
        found.parameters[method] = values
        found.notes[name, method] = text_of(row.get("note"))
    return found


def text_of(cell):
    """A cell of a table as text: "" where it is empty."""
    return cell if isinstance(cell, str) else ""


def parsed(text, folder):
    """The column `parameters` -> {name: value}."""
    try:
        values = json.loads(text) if text else {}
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(
            f"{folder / 'ood_metrics.csv'} has {text[:40]!r} under parameters, expected JSON; start"
            " over with --replace"
        )
    return values


def why_row_goes(folder, dataset, record, name, method, values):
    """Why an earlier row does not stay, in words; "" where it does."""
    utils.SetName.parse(name)  # a name, and no path
    if method not in ORDER:
        return f"{method} is no method of this version; its rows go"
    if (
        not same(folder, f"OOD_{name}_test", record)
        or f"scores_OOD_{name}.csv" not in record.outputs
    ):
        return f"OOD_{name}_test changed, or is gone; the earlier rows of {name} go"
    chosen_on = values.get("val_ood")
    if chosen_on:
        stem = f"OOD_{utils.SetName.parse(str(chosen_on)).name}_test"
        if not same(folder, stem, record):
            return (
                f"{stem}, which chose the parameters of {method}, changed or is gone; the earlier"
                f" rows of {method} go"
            )
    perturbed = (f"ODIN_ID_{dataset}_test", f"ODIN_OOD_{name}_test") if method == ODIN else ()
    if not all(same(folder, stem, record) for stem in perturbed):
        return f"perturbed images of {name} changed, or are gone; the earlier row of {method} goes"
    return ""


# ---- its scores ----------------------------------------------------------------------------------


def join(scored: Scored, earlier: Earlier, folder: Path, dataset: str) -> Scored:
    """New scores and earlier ones together, in the order of the registry."""
    if not earlier.cells:
        return scored
    inside = joined(
        scored.id, folder / f"scores_ID_{dataset}.csv", dict.fromkeys(earlier.parameters, "")
    )
    outside = [
        joined(part, folder / f"scores_OOD_{part.name}.csv", earlier.notes_of(part.name))
        for part in scored.ood
    ]
    return Scored(inside, outside, in_order({**earlier.parameters, **scored.parameters}))


def joined(part: ScoredSet, path: Path, notes: dict[str, str]) -> ScoredSet:
    """A set with its earlier scores beside the new ones; `notes` has a text, which may be empty,
    for each earlier method."""
    before = read_scores(path, list(notes), len(part)) if notes else {}
    scores = in_order({**before, **part.scores})
    return ScoredSet(part.name, part.images, scores, {**notes, **part.notes})


def in_order(by_method):
    return {name: by_method[name] for name in ORDER if name in by_method}


def read_scores(path, methods, rows):
    """{method: (N,)} from a table of scores, exactly as they were written; an empty cell is NaN."""
    try:
        with open(path, "rb") as file:
            frame = pl.read_csv(
                file, columns=methods, schema_overrides=dict.fromkeys(methods, pl.Float64)
            )
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{path} cannot be read: {str(error).splitlines()[0]}; start over with --replace"
        ) from None
    if len(frame) != rows:
        raise ValueError(
            f"{path} holds {len(frame)} rows, its features {rows}; start over with --replace"
        )
    return {method: frame[method].fill_null(float("nan")).to_numpy().copy() for method in methods}
