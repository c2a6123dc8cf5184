"""Tables of the page: what each cell says, as plain text.

parts.html.j2 lays the tables out and escapes their cells.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

import figures
import utils
from collapse.rows import ROWS
from reporting.found import Found, Summary
from reporting.methods import line_of
from reporting.words import (
    commit,
    duration,
    finite,
    interval,
    listed,
    number,
    rate,
    show,
)

SIGNS = "†‡§"  # of notes that stand beneath the table of collapse metrics

# ---- any table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlainTable:
    """Any table as text; the first cell of a row names it."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    kind: str = ""  # its class in report.css


def plain_table(frame: pd.DataFrame, caption: str, kind: str = "") -> PlainTable:
    """Any DataFrame as text."""
    rows = []
    for name, *cells in utils.plain(frame.astype(object).values.tolist()):
        rows.append([str(name), *map(show, cells)])
    return PlainTable(caption, [str(column) for column in frame.columns], rows, kind)


# ---- OOD detection -------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanCell:
    """A method's mean over several sets, in percent; `values` are what rows are sorted by."""

    auroc: str
    fpr: str
    values: tuple[float, float]  # AUROC and FPR in [0, 1]


@dataclass(frozen=True)
class SetCell:
    """One method on one OOD set, in percent; or `why` its AUROC is undefined."""

    auroc: str = ""
    interval: str = ""
    fpr: str = ""
    kind: str = ""  # "best" or "near": class in report.css
    mark: int | None = None  # number of its note beneath the table
    why: str = ""
    values: tuple[float, float] | None = None  # AUROC and FPR in [0, 1], by which rows are sorted


@dataclass(frozen=True)
class SetColumn:
    """The head of an OOD set's column; `images` is empty where their number is not known."""

    name: str
    images: str


@dataclass(frozen=True)
class MethodRow:
    """A method's row; None stands for a mean that is undefined, and for a set not scored."""

    method: str
    family: str  # of scores that go by the same kind of evidence
    means: list[MeanCell | None]
    sets: list[SetCell | None]


@dataclass(frozen=True)
class Detection:
    """The matrix of methods and OOD sets, its legend, its notes, and every metric."""

    images: str  # ID test images, "" where their number is not known
    groups: str  # which sets each mean is taken over, as the end of a sentence
    means: list[str]
    sets: list[SetColumn]
    rows: list[MethodRow]
    families: list[str]  # of the rows, in their order
    notes: list[str]  # the first has the mark 1
    every: PlainTable


@dataclass
class Marks:
    """Notes beneath a table, numbered from 1 in the order in which its cells first need them."""

    notes: list[str] = field(default_factory=list)

    def of(self, note: str) -> int:
        if note not in self.notes:
            self.notes.append(note)
        return self.notes.index(note) + 1


def detection(ood: pd.DataFrame, summary: Summary) -> Detection:
    """Methods by OOD sets, best mean first, the best of each set marked."""
    ood = ood.assign(method=figures.method_labels(ood))
    sets = [(str(name), rows) for name, rows in ood.groupby("ood", sort=False)]
    cells = {(row["method"], row["ood"]): row for row in ood.to_dict("records")}
    means = mean_columns(summary)
    best_first = [row["method"] for row in summary["mean_over_sets"]]
    marks = Marks()
    rows = []
    for method in dict.fromkeys([*best_first, *ood["method"]]):
        over = [mean_cell(column.get(method)) for _, column in means]
        each = [
            set_cell(cells.get((method, name)), summary["best"][name], marks) for name, _ in sets
        ]
        rows.append(MethodRow(method, line_of(method).family.name, over, each))
    return Detection(
        images=id_images(ood),
        groups=members(summary),
        means=[name for name, _ in means],
        sets=[SetColumn(name, ood_images(rows)) for name, rows in sets],
        rows=rows,
        families=list(dict.fromkeys(row.family for row in rows)),
        notes=marks.notes,
        every=every_metric(ood),
    )


def every_metric(ood: pd.DataFrame) -> PlainTable:
    """All columns of the table, without the AUROC of a single image, which has no interval."""
    known = ood["auroc_low"].notna() & ood["auroc_high"].notna()
    said_elsewhere = ("method", "checkpoint", "dataset")
    columns = ["method", *(name for name in ood.columns if name not in said_elsewhere)]
    shown = ood[columns].assign(auroc=ood["auroc"].where(known))
    return plain_table(shown, "Every metric of ood_metrics.csv", "every")


def mean_columns(summary: Summary) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """(name, {method: its row}) of the mean over all sets, and of each group's."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for row in groups_of_several(summary):
        groups.setdefault(row["group"], {})[row["method"]] = row
    over_all = {row["method"]: row for row in summary["mean_over_sets"]}
    return [("Mean", over_all), *groups.items()]


def groups_of_several(summary: Summary) -> list[dict[str, Any]]:
    """The rows of the groups of two sets or more: one of a single set is in that set's column."""
    return [row for row in summary["groups"] if len(row["sets"].split()) > 1]


def members(summary: Summary) -> str:
    """In words, which sets the mean leaves out and which ones each group has."""
    left_out = [name for name in summary["best"] if name not in summary["averaged_sets"]]
    parts = [f" but {listed(left_out)}"] if left_out else []
    groups = dict.fromkeys((row["group"], row["sets"]) for row in groups_of_several(summary))
    parts += [f"; {name}: {listed(sets.split())}" for name, sets in groups]
    return "".join(parts)


def id_images(ood: pd.DataFrame) -> str:
    """How many ID images every OOD set stands against, "" where the table does not have it."""
    if "n_id" not in ood or ood["n_id"].isna().all():
        return ""
    return f"{ood['n_id'].max():,.0f}"


def ood_images(rows: pd.DataFrame) -> str:
    """The number of images of an OOD set, "" where the table does not have it."""
    if "n_ood" not in rows or rows["n_ood"].isna().all():
        return ""
    count = int(rows["n_ood"].max())
    return "1 image" if count == 1 else f"{count:,} images"


def mean_cell(row: Mapping[str, Any] | None) -> MeanCell | None:
    if row is None:
        return None
    values = (row["auroc"], row["fpr95"])
    return MeanCell(rate(row["auroc"]), rate(row["fpr95"]), values)


def set_cell(
    row: Mapping[Hashable, Any] | None, best: Mapping[str, Any] | None, marks: Marks
) -> SetCell | None:
    """One method on one set; `best` is the set's row in summary.json."""
    if row is None:
        return None
    why = why_undefined(row)
    if why:
        return SetCell(why=why, mark=marks.of(why))
    note = text_in(row, "note")
    return SetCell(
        auroc=rate(row["auroc"]),
        interval=interval(row),
        fpr=rate(row["fpr95"]),
        kind=kind_of(row, best),
        mark=marks.of(note) if note else None,
        values=(row["auroc"], row["fpr95"]),
    )


def why_undefined(row: Mapping[Hashable, Any]) -> str:
    """Why a cell of the matrix stays empty, in words; "" where its AUROC and interval are there."""
    if not finite(row["auroc"]):
        return text_in(row, "note") or "undefined for some of these images, or for all"
    if finite(row["auroc_low"]) and finite(row["auroc_high"]):
        return ""
    if row.get("n_ood") == 1:
        return "one image only: its AUROC has no interval and is not shown"
    return "no interval"


def kind_of(row: Mapping[Hashable, Any], best: Mapping[str, Any] | None) -> str:
    """ "best" for the highest AUROC of its set, "near" where its interval overlaps that one's, else
    ""."""
    if best is None:
        return ""
    if row["auroc"] == best["auroc"]:
        return "best"
    return "near" if row["method"] in best["intervals_overlap_with"] else ""


def text_in(row: Mapping[Hashable, Any], column: str) -> str:
    """The text in a column, "" where there is no such column, or no text in it."""
    cell = row.get(column)
    return cell if isinstance(cell, str) else ""


# ---- neural collapse -----------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricValue:
    """A metric's value, and on which images."""

    number: str
    images: str


@dataclass(frozen=True)
class MetricRow:
    """A collapse metric: its values, what full collapse would give, and what it means."""

    metric: str
    values: list[MetricValue]
    target: str
    centring: str
    meaning: str
    source: str


@dataclass(frozen=True)
class Collapse:
    """The collapse metrics, the notes that stand once beneath them, and each class."""

    rows: list[MetricRow]
    notes: dict[str, str]  # {sign: note}
    per_class: PlainTable | None


def collapse(nc: pd.DataFrame, per_class: pd.DataFrame | None) -> Collapse:
    """Each metric on each set of images; then class by class, where that table is there."""
    classes = None if per_class is None else len(per_class)
    signs = repeated_notes(nc)
    rows = []
    for metric, group in nc.replace({"note": signs}).groupby("metric", sort=False):
        rows.append(metric_row(str(metric), group.to_dict("records"), classes))
    each = None
    if per_class is not None:
        each = plain_table(per_class, "Class by class, as in nc_per_class.csv")
    return Collapse(rows, {sign: note for note, sign in signs.items()}, each)


def repeated_notes(nc: pd.DataFrame) -> dict[str, str]:
    """{note: sign} of those that stand in more than two rows, and are said once instead."""
    if "note" not in nc:
        return {}
    repeated = [note for note, times in nc["note"].value_counts().items() if times > 2]
    return dict(zip(repeated, SIGNS, strict=False))


def metric_row(metric: str, rows: list[dict[Hashable, Any]], classes: int | None) -> MetricRow:
    """One metric's rows of the table; one that collapse.rows does not know has no meaning."""
    known = ROWS.get(metric)
    first = rows[0]
    return MetricRow(
        metric=metric,
        values=[MetricValue(number(row["value"]), joined(row, "split", "note")) for row in rows],
        target=known.target_for(classes) if known else "",
        centring=text_in(first, "centring"),
        meaning=known.meaning if known else "",
        source=text_in(first, "source"),
    )


def joined(row: Mapping[Hashable, Any], *columns: str) -> str:
    """The texts in these columns, with commas between them."""
    texts = [text_in(row, column) for column in columns]
    return ", ".join(filter(None, texts))


# ---- provenance ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Provenance:
    """What made the run's files, with which versions, and their hashes."""

    of: str  # Checkpoint or Checkpoints
    sha256: str  # of the checkpoint, or of each member of an ensemble
    versions: str
    made: PlainTable
    hashes: PlainTable


@dataclass
class Step:
    """What one command, at one commit, made; several files may share it."""

    files: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def provenance(summary: Summary, found: Found) -> Provenance:
    """Where each file comes from: the training, the stages, and this report."""
    report = summary["provenance"]
    inputs = report["inputs"]
    hashes = pd.DataFrame({"file": inputs.keys(), "SHA-256": inputs.values()})
    unknown = "not on record"
    hashed = [found.sha256 or unknown]
    if found.ensemble:
        hashed = [member.sha256 or unknown for member in found.ensemble.members]
    return Provenance(
        of="Checkpoints'" if found.ensemble else "Checkpoint",
        sha256=", ".join(hashed),
        versions=", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        made=made_table(found, report),
        hashes=plain_table(hashes, "Files that this report was made from"),
    )


def made_table(found: Found, report: Mapping[str, Any]) -> PlainTable:
    """One row per command and commit: its seconds, summed, and its files."""
    makers: dict[str, Mapping[str, Any]] = {}
    if found.sidecar:
        makers[found.stem] = found.sidecar
    makers |= found.records
    makers["this report"] = report
    steps: dict[tuple[str | None, str | None], Step] = {}
    for name, record in makers.items():
        step = steps.setdefault((record.get("command"), commit(record)), Step())
        step.files.append(f"{name}{rows_made(record)}")
        step.seconds += seconds_of(record)
    rows = []
    for (command, revision), step in steps.items():
        seconds = duration(sum(step.seconds)) if step.seconds else None
        rows.append([command, revision, seconds, ", ".join(step.files)])
    columns = ["command", "commit", "time", "made"]
    made = pd.DataFrame(rows, columns=columns, dtype=object)
    return plain_table(made, "What made each file", "made")


def rows_made(record: Mapping[str, Any]) -> str:
    """ " (1,234 rows)" after a file's name, "" where its record does not count them."""
    rows = record.get("rows")
    return f" ({rows:,} rows)" if finite(rows) else ""


def seconds_of(record: Mapping[str, Any]) -> list[float]:
    """The seconds that a record tells: one number, or one for each part of the work."""
    seconds = record.get("seconds")
    parts: Iterable[Any] = seconds.values() if isinstance(seconds, dict) else [seconds]
    return [part for part in parts if finite(part)]
