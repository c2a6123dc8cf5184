"""Scores that an earlier run of ood_methods.py computed from the same head and ID features. They
stay, and the new scores join them.

    # Cheap: names, parameters and hashes.
    earlier = joining.find(folder, "cifar100")
    # Its scores of each image beside the new ones.
    scored = joining.join(scored, earlier, folder, "cifar100")

An earlier score stays if the head, the ID features and its OOD set are still the files that its
record names, and the tables that hold it are as they were written. Methods that are asked for now
are computed anew on every set."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

import feature_files
import utils
from artifacts import csv_files, current, records, store
from detection import combining
from detection.adascale import NAMES as ADASCALE
from detection.odin import ODIN
from detection.scored import Scored, ScoredSet
from scores import registry

RECORD = "ood_methods.json"
ORDER = [*registry.METHODS, ODIN, *ADASCALE]

Cell = tuple[str, str]  # (OOD set, method)
Value = TypeVar("Value")


@dataclass
class Earlier:
    """What stays of an earlier table, and why the rest does not."""

    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)  # {method: {name: value}}
    notes: dict[Cell, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)  # what was computed
    drawn: list[str] = field(default_factory=list)  # methods that have a histogram
    # {why rows do not stay, in words: methods of these rows}
    lost: dict[str, set[str]] = field(default_factory=dict)
    # methods of a table that was changed after it was written
    edited: list[str] = field(default_factory=list)

    @property
    def sets(self) -> list[str]:
        """The OOD sets of the rows that stay."""
        names = [name for name, _ in self.cells]
        return list(dict.fromkeys(names))

    def notes_of(self, name: str) -> dict[str, str]:
        """{method: its note, "" if it has none} for the methods that were computed on this set."""
        methods = [method for of_set, method in self.cells if of_set == name]
        return {method: self.notes[name, method] for method in methods}

    def tuned_on(self) -> list[str]:
        """OOD sets that chose some method's hyper-parameters."""
        chosen_on = [values.get("val_ood") for values in self.parameters.values()]
        return sorted({name for name in chosen_on if name})

    def without(self, methods: Collection[str]) -> "Earlier":
        """The same table without these methods, which are computed anew."""
        kept = Earlier()
        for method, values in self.parameters.items():
            if method not in methods:
                kept.parameters[method] = values
        for cell in self.cells:
            _, method = cell
            if method in kept.parameters:
                kept.cells.append(cell)
                kept.notes[cell] = self.notes[cell]
        kept.drawn = [method for method in self.drawn if method in kept.parameters]
        for reason, lost_methods in self.lost.items():
            if not lost_methods <= set(methods):
                kept.lost[reason] = lost_methods
        return kept

    @property
    def summary(self) -> str:
        """A line on what stays."""
        number = len(self.parameters)
        stays = f"{number} methods of the earlier table stay"
        if number == 1:
            stays = "1 method of the earlier table stays"
        return f"{stays} beside what is computed now; --replace starts over"


@dataclass(frozen=True)
class Place:
    """A folder of features, its ID data set, and the record of the earlier run there."""

    folder: Path
    dataset: str
    record: current.Record

    def is_same(self, stem: str) -> bool:
        """True if the feature file of this stem is the one that the record read, or is absent now
        as it was then."""
        for suffix in store.SUFFIXES:
            name = f"{stem}{suffix}"
            if not self.record.input(name).unchanged(self.folder / name):
                return False
        return True


# ---- what stays ----------------------------------------------------------------------------------


def find(folder: Path, dataset: str) -> Earlier:
    """What stays of the table in a folder of features; empty if there is no table."""
    record = current.Record.read(folder / RECORD)
    if not record.outputs or not record.inputs:
        return Earlier()
    place = Place(folder, dataset, record)
    reason = why_not(place)
    if reason:
        return nothing_stays(reason)
    changed = changed_tables(place)
    if changed:
        found = nothing_stays(f"{', '.join(changed)} was changed after it was written")
        found.edited = written_methods(place)
        return found
    return read_table(place)


def nothing_stays(reason: str) -> Earlier:
    """An empty table that says why it starts over."""
    return Earlier(lost={f"the earlier table starts over: {reason}": {"all"}})


def why_not(place: Place) -> str:
    """Why nothing of the earlier table can stay, in words; "" where it can."""
    if f"scores_ID_{place.dataset}.csv" not in place.record.outputs:
        return "it was of another ID data set"
    splits = [f"ID_{place.dataset}_{split}" for split in ("train", "val", "test")]
    for stem in ("head", *splits):
        if not place.is_same(stem):
            return f"{stem} changed, came or went since"
    return ""


def changed_tables(place: Place) -> list[str]:
    """Names of the tables that are no longer what the record says was written."""
    tables = [name for name in place.record.outputs if name.startswith("scores_")]
    changed = []
    for name in ("ood_metrics.csv", *tables):
        if place.record.output(name).change(place.folder / name):
            changed.append(name)
    return changed


def written_methods(place: Place) -> list[str]:
    """The methods of the table as it was written: its own cells may be what was edited."""
    sidecar = records.read_sidecar(place.folder / f"scores_ID_{place.dataset}.csv")
    if sidecar.get("thresholds"):
        return list(sidecar["thresholds"])
    try:
        column = csv_files.read_table(place.folder / "ood_metrics.csv")["method"]
    except (ValueError, KeyError, OSError):
        return []
    return list(dict.fromkeys(map(str, column)))


def lacking(folder: Path, methods: Collection[str]) -> list[str]:
    """Those of the methods that the table in a folder was written without."""
    record = current.Record.read(folder / RECORD)
    prefix, suffix = "scores_ID_", ".csv"
    for name in record.outputs:
        if name.startswith(prefix):
            dataset = name.removeprefix(prefix).removesuffix(suffix)
            there = written_methods(Place(folder, dataset, record))
            return [method for method in methods if method not in there]
    return []


def read_table(place: Place) -> Earlier:
    """The rows of ood_metrics.csv whose OOD set, and the set that chose their parameters, are
    unchanged."""
    found = Earlier(drawn=drawn_methods(place.record))
    path = place.folder / "ood_metrics.csv"
    table = store.read_table(path, ["ood", "method", "parameters"])
    for row in table.to_dict("records"):
        name, method = str(row["ood"]), str(row["method"])
        values = parsed(text_of(row["parameters"]), place.folder)
        reason = why_row_goes(place, name, method, values)
        if reason:
            found.lost.setdefault(reason, set()).add(method)
            continue
        found.cells.append((name, method))
        found.parameters[method] = values
        found.notes[name, method] = text_of(row.get("note"))
    return found


def drawn_methods(record: current.Record) -> list[str]:
    """Methods whose histogram of scores the record names."""
    figures = [Path(name) for name in record.outputs if name.startswith("figures/scores_")]
    return [figure.stem.removeprefix("scores_") for figure in figures]


def text_of(cell: Any) -> str:
    """A cell of a table as text; "" if it is empty."""
    return cell if isinstance(cell, str) else ""


def parsed(text: str, folder: Path) -> dict[str, Any]:
    """{name: value} from a cell of the column `parameters`; ValueError if it is no JSON object."""
    if not text:
        return {}
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(
            f"{folder / 'ood_metrics.csv'} has {text[:40]!r} under parameters, expected JSON; start"
            " over with --replace"
        )
    return values


def why_row_goes(place: Place, name: str, method: str, values: Mapping[str, Any]) -> str:
    """Why the earlier row of an OOD set and a method does not stay, in words; "" where it does.

    values: the parameters of the method. ValueError for a name that is no set's, such as a path.
    """
    utils.SetName.parse(name)
    is_own = "file" in values  # of detection.own
    if method not in ORDER and not is_own and not combining.is_combination(method, values):
        return f"{method} is no method of this version; its rows go"
    was_scored = f"scores_OOD_{name}.csv" in place.record.outputs
    if not place.is_same(f"OOD_{name}_test") or not was_scored:
        return f"OOD_{name}_test changed, or is gone; the earlier rows of {name} go"
    chosen_on = values.get("val_ood")
    if chosen_on:
        stem = f"OOD_{utils.SetName.parse(str(chosen_on)).name}_test"
        if not place.is_same(stem):
            return (
                f"{stem}, which chose the parameters of {method}, changed or is gone; the earlier"
                f" rows of {method} go"
            )
    whole = feature_files.WHOLE_HEAD
    if method in ORDER and registry.needs_rest(method) and not place.is_same(whole):
        return f"{whole} changed, came or went since; the earlier rows of {method} go"
    if method in (ODIN, *ADASCALE):
        kind = "ODIN" if method == ODIN else "ADASCALE"
        inside = [f"{kind}_ID_{place.dataset}_{split}" for split in ("test", "val")]
        for stem in (*inside, f"{kind}_OOD_{name}_test"):
            if not place.is_same(stem):
                return (
                    f"perturbed images of {name} changed, or are gone; the earlier row of {method}"
                    " goes"
                )
    return ""


# ---- its scores ----------------------------------------------------------------------------------


def join(scored: Scored, earlier: Earlier, folder: Path, dataset: str) -> Scored:
    """New scores and earlier ones together, in the order of the registry."""
    if not earlier.cells:
        return scored
    no_notes = dict.fromkeys(earlier.parameters, "")
    inside = joined(scored.id, folder / f"scores_ID_{dataset}.csv", no_notes)
    outside = []
    for part in scored.ood:
        path = folder / f"scores_OOD_{part.name}.csv"
        outside.append(joined(part, path, earlier.notes_of(part.name)))
    parameters = in_order({**earlier.parameters, **scored.parameters})
    held_out = joined_held_out(scored.held_out, held_out_path(folder, dataset), no_notes)
    csid = [joined_csid(part, folder, dataset, no_notes) for part in scored.csid]
    return Scored(inside, outside, parameters, held_out, csid, states=scored.states)


def joined_csid(part: ScoredSet, folder: Path, dataset: str, notes: dict[str, str]) -> ScoredSet:
    """A csID set with those of the earlier scores that were computed on the same images."""
    record = current.Record.read(folder / RECORD)
    path = folder / f"scores_CSID_{part.name}.csv"
    is_same = Place(folder, dataset, record).is_same(f"CSID_{part.name}_test")
    if not is_same or path.name not in record.outputs or not path.is_file():
        return part
    there = csv_files.read_table(path).columns
    return joined(part, path, {method: note for method, note in notes.items() if method in there})


def held_out_path(folder: Path, dataset: str) -> Path:
    """Where the scores of ID validation images stand."""
    return folder / f"scores_val_{dataset}.csv"


def joined_held_out(part: ScoredSet | None, path: Path, notes: dict[str, str]) -> ScoredSet | None:
    """The held-out images with those of the earlier scores that were computed on them."""
    if part is None or not path.is_file():
        return part
    there = csv_files.read_table(path).columns
    return joined(part, path, {method: note for method, note in notes.items() if method in there})


def joined(part: ScoredSet, path: Path, notes: dict[str, str]) -> ScoredSet:
    """A set with its earlier scores beside the new ones.

    path: the table of earlier scores. notes: {earlier method: its note, "" if it has none}.
    """
    before = {}
    if notes:
        before = read_scores(path, list(notes), len(part))
    scores = in_order({**before, **part.scores})
    return ScoredSet(part.name, part.images, scores, {**notes, **part.notes})


def in_order(by_method: Mapping[str, Value]) -> dict[str, Value]:
    """The same values in the order of the registry, and combinations after them."""
    known = {name: by_method[name] for name in ORDER if name in by_method}
    return {**known, **by_method}


def read_scores(path: Path, methods: list[str], rows: int) -> dict[str, np.ndarray]:
    """{method: (N,)} from a table of scores, exactly as they were written; an empty cell is NaN.

    ValueError if the table cannot be read or does not have N = `rows` rows.
    """
    kinds = dict.fromkeys(methods, pl.Float64)
    try:
        with open(path, "rb") as file:
            frame = pl.read_csv(file, columns=methods, schema_overrides=kinds)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{path} cannot be read: {str(error).splitlines()[0]}; start over with --replace"
        ) from None
    if len(frame) != rows:
        raise ValueError(
            f"{path} holds {len(frame)} rows, its features {rows}; start over with --replace"
        )
    filled = frame.fill_null(float("nan"))
    return {method: filled[method].to_numpy().copy() for method in methods}
