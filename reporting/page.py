"""The report as one HTML file that holds its style and its figures and links to nothing.

This module gathers what the page says, as plain text in dataclasses; report.html.j2 lays it out and
escapes it, with the macros of parts.html.j2 and the style of report.css.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from reporting import ensembles
from reporting.found import Found, Summary
from reporting.pictures import PictureGroup, pictures
from reporting.tables import (
    Collapse,
    Detection,
    PlainTable,
    Provenance,
    collapse,
    detection,
    provenance,
)
from reporting.words import EMPTY, duration, interval, kept, listed, number, percent, show

HEADINGS = {  # of the sections, in their order
    "run": "The run",
    "ood": "Out-of-distribution detection",
    "nc": "Neural collapse",
    "other": "Further figures",
    "how": "How to read this",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class Tile:
    """One of the few numbers that a reader looks for first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Fact:
    """A line about the run."""

    name: str
    value: str


@dataclass(frozen=True)
class Section:
    """A section of the page with its figures."""

    name: str
    heading: str
    pictures: list[PictureGroup]


@dataclass(frozen=True)
class Page:
    """All that report.html.j2 shows; the template escapes every text."""

    title: str
    subject: str  # what the page is of, as the end of a sentence
    stem: str
    tpr: str  # share of ID images that the threshold keeps, in percent without the sign
    created: str
    tiles: list[Tile]
    reading: list[str]  # sentences
    stale: list[str]
    missing: list[dict[str, Any]]  # what, command
    facts: list[Fact]
    members: PlainTable | None  # of an ensemble
    alone: PlainTable | None  # how each member of it does by itself
    ood: Detection | None
    nc: Collapse | None
    provenance: Provenance
    sections: list[Section]


def render(summary: Summary, found: Found) -> str:
    """The whole of report.html, from summary.json's object and the tables and figures."""
    return template().render(page=page_of(summary, found))


@cache
def template() -> Template:
    """The page's template, compiled once per process."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["EMPTY"] = EMPTY
    return environment.get_template("report.html.j2")


def page_of(summary: Summary, found: Found) -> Page:
    """What the page says."""
    run = summary["checkpoint"]
    titles = [ensembles.title(summary), run["dataset"]]
    ood = None if found.ood is None else detection(found.ood, summary)
    nc = None if found.nc is None else collapse(found.nc, found.per_class)
    return Page(
        title=" on ".join(filter(None, titles)),
        subject=subject_of(summary),
        stem=run["stem"],
        tpr=kept(summary["tpr"]),
        created=summary["provenance"]["created"][:16].replace("T", " "),
        tiles=tiles(summary),
        reading=summary["reading"],
        stale=summary["stale"],
        missing=summary["missing"],
        facts=facts(summary),
        members=ensembles.member_table(summary),
        alone=ensembles.alone_table(summary),
        ood=ood,
        nc=nc,
        provenance=provenance(summary, found),
        sections=sections(ood, nc, pictures(summary, found)),
    )


def subject_of(summary: Summary) -> str:
    """What the page is of, as the end of a sentence that the stem completes."""
    if summary["ensemble"]:
        return "OOD detection by the ensemble"
    return "OOD detection and neural collapse of the checkpoint"


def sections(
    ood: Detection | None, nc: Collapse | None, shown: Mapping[str, list[PictureGroup]]
) -> list[Section]:
    """The sections that hold anything, in their order."""
    filled = {"run", "how", "provenance", *(name for name, groups in shown.items() if groups)}
    if ood is not None:
        filled.add("ood")
    if nc is not None:
        filled.add("nc")
    return [
        Section(name, heading, shown.get(name, []))
        for name, heading in HEADINGS.items()
        if name in filled
    ]


def tiles(summary: Summary) -> list[Tile]:
    """The few numbers that a reader looks for first; those that are missing are left out."""
    values = {(row["metric"], row["split"]): row["value"] for row in summary["neural_collapse"]}
    nc1 = number(values.get(("nc1", "train")), 3)
    mismatch = percent(values.get(("nc4_mismatch", "test")), 2)
    shown = [
        Tile("test accuracy", percent(summary["accuracy"]["test"], 2)),
        *detection_tiles(summary),
        Tile("NC1", nc1, "0 under full collapse"),
        Tile("NC4 mismatch, test", mismatch, "0% under full collapse"),
    ]
    return [tile for tile in shown if tile.value != EMPTY]


def detection_tiles(summary: Summary) -> list[Tile]:
    """AUROC and FPR of the method with the best mean; of a single set, with its interval."""
    if not summary["mean_over_sets"]:
        return []
    top, share = summary["mean_over_sets"][0], kept(summary["tpr"])
    method, sets = top["method"], summary["averaged_sets"]
    if len(sets) == 1:
        prefix, over = "", f"interval {interval(summary['best'][sets[0]])}"
    else:
        prefix, over = "mean ", f"best over {len(sets)} sets"
    auroc, fpr = percent(top["auroc"]), percent(top["fpr95"])
    return [
        Tile(f"{prefix}AUROC", auroc, f"{method}, {over}"),
        Tile(f"{prefix}FPR@{share}", fpr, f"{method}, keeping {share}% of ID"),
    ]


def facts(summary: Summary) -> list[Fact]:
    """What is known of the checkpoint and its training; what is missing is left out."""
    run, accuracy, training = summary["checkpoint"], summary["accuracy"], summary["training"] or {}
    unit = "Epoch" if run["step"] is None else "Evaluation"
    rows = {
        "Model": run["model"],
        **ensembles.facts(summary),
        "ID data set": run["dataset"],
        "Recipe": run["mode"],
        "Classes held out": held_out(run),
        f"{unit} of this checkpoint": None if summary["ensemble"] else run["epoch"],
        "Epochs trained" if run["step"] is None else "Evaluations": training.get("epochs")
        or run["epochs"],
        "Step of this checkpoint": None if summary["ensemble"] else run["step"],
        "Steps trained": run["steps"],
        "Training accuracy": percent(accuracy["train"], 2),
        "Validation accuracy": percent(accuracy["val"], 2),
        "Test accuracy": percent(accuracy["test"], 2),
        f"Best validation {unit.lower()}": training.get("best_val_epoch"),
        f"First {unit.lower()} with every training image right": training.get(
            "first_epoch_all_training_images_right"
        ),
        "Training time": duration(training.get("seconds") or run["seconds"]),
    }
    known = {name: value for name, value in rows.items() if value not in (None, "", EMPTY)}
    return [Fact(name, show(value)) for name, value in known.items()]


def held_out(run: Mapping[str, Any]) -> str:
    """The classes that the training left out, the first eight by name."""
    classes = run["held_out"] or []
    return listed(map(str, classes[:8]), len(classes) - 8)
