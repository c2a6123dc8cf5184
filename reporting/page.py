"""The report as one HTML file that holds its style and its figures and links to nothing.

This module gathers what the page says, as plain text in dataclasses; report.html.j2 lays it out and
escapes it, with the macros of parts.html.j2 and the style of report.css.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

import utils
from reporting import ensembles, image_sets
from reporting.answer import Answer, answer
from reporting.class_panel import class_panel
from reporting.collapse_summary import Bar, bars
from reporting.explore import DOCUMENT, explore, ranked
from reporting.found import Found, Summary
from reporting.gallery import ID, Exhibit, Gallery, is_small, words_of
from reporting.methods import MethodLine, line_of
from reporting.pictures import Subject, pictures
from reporting.published import Beside, published
from reporting.tables import (
    Collapse,
    Detection,
    PlainTable,
    Provenance,
    collapse,
    detection,
    provenance,
)
from reporting.trust_tables import TrustTables, trust_tables
from reporting.words import EMPTY, duration, interval, kept, listed, number, percent, show

HEADINGS = {  # of the sections, in their order
    "run": "The run",
    "ood": "Which score tells OOD images apart?",
    "gallery": "One score at a time",
    "nc": "How far has it collapsed?",
    "details": "All of out-of-distribution detection",
    "metrics": "All of neural collapse",
    "other": "Further figures",
    "how": "How to read this",
    "provenance": "Provenance",
}
ROOT = Path(__file__).resolve().parents[1]


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
    subjects: list[Subject]


@dataclass(frozen=True)
class Wall:
    """A row of images: its key in the gallery, its heading, and whether its images are so small
    that their pixels are shown as squares."""

    key: str
    name: str
    small: bool


@dataclass(frozen=True)
class OneScore:
    """What the control of the page switches, as it stands without its script: the best method."""

    best: str
    does: str
    walls: list[Wall]  # of OOD images, and last of ID images
    data: dict[str, Any] | None  # what the script reads; None without scores of images
    gallery: Gallery

    @property
    def wall(self) -> dict[str, list[Exhibit]]:
        """The best method's images by set."""
        return self.gallery.walls.get(self.best, {})


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
    cautions: list[str]
    images: PlainTable | None
    members: PlainTable | None  # of an ensemble
    alone: PlainTable | None  # how each member of it does by itself
    ood: Detection | None
    answer: Answer | None
    lines: list[MethodLine]  # what each method is
    published: Beside | None  # figures of others on the same data
    document: str  # where docs/methods.md lies as seen from the page; "" where it is elsewhere
    one: OneScore | None
    trust: TrustTables
    bars: list[Bar]
    nc: Collapse | None
    provenance: Provenance
    sections: list[Section]

    @property
    def has_script(self) -> bool:
        return self.ood is not None


def render(summary: Summary, found: Found, shown: Gallery, folder: Path) -> str:
    """The whole of report.html in a folder, from summary.json's object, the tables, the figures and
    the gallery."""
    page = page_of(summary, found, shown, folder)
    return environment().get_template("report.html.j2").render(page=page)


@cache
def environment() -> Environment:
    """What compiles templates, each once per process."""
    made = utils.templates(Path(__file__).parent)
    made.globals["EMPTY"] = EMPTY
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return made


def page_of(summary: Summary, found: Found, shown: Gallery, folder: Path) -> Page:
    """What the page says."""
    run = summary["checkpoint"]
    titles = [ensembles.title(summary), run["dataset"]]
    ood = None if found.ood is None else detection(found.ood, summary)
    nc = None if found.nc is None else collapse(found.nc, found.per_class)
    one = one_score(summary, found, shown)
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
        facts=facts(summary, found),
        cautions=image_sets.cautions(found),
        images=image_sets.image_table(found),
        members=ensembles.member_table(summary),
        alone=ensembles.alone_table(summary),
        ood=ood,
        answer=answer(summary),
        lines=[] if ood is None else [line_of(row.method) for row in ood.rows],
        published=published(found.ood),
        document=document(folder),
        one=one,
        trust=trust_tables(found.more, summary),
        bars=bars(summary),
        nc=nc,
        provenance=provenance(summary, found),
        sections=sections(ood, nc, one, pictures(summary, found)),
    )


def document(folder: Path) -> str:
    """docs/methods.md as a link from a page in a folder of this checkout; "" elsewhere, where such
    a link would lead through other people's folders."""
    folder = folder.resolve()
    if not folder.is_relative_to(ROOT):
        return ""
    return Path(os.path.relpath(ROOT / DOCUMENT, folder)).as_posix()


def one_score(summary: Summary, found: Found, shown: Gallery) -> OneScore | None:
    """The best method with its curves and images; None without scores of images."""
    data = explore(summary, found)
    if data is None or found.scored is None:
        return None
    rows = [Wall(part.name, part.name, is_small(part)) for part in found.scored.ood]
    rows.append(Wall(ID, "ID", is_small(found.scored.id)))
    walls = {
        method: {key: [asdict(one) for one in wall] for key, wall in walls.items()}
        for method, walls in shown.walls.items()
    }
    by_ood_class = found.more.get("ood_by_ood_class.csv")
    methods = ranked(summary, found.scored)
    classes = class_panel(found.scored, methods, by_ood_class, words_of(found.facts))
    data |= {"walls": walls, "thumbnails": shown.thumbnails, "classes": classes}
    return OneScore(methods[0], line_of(methods[0]).does, rows, data, shown)


def subject_of(summary: Summary) -> str:
    """What the page is of, as the end of a sentence that the stem completes."""
    if summary["ensemble"]:
        return "OOD detection by the ensemble"
    return "OOD detection and neural collapse of the checkpoint"


def sections(
    ood: Detection | None,
    nc: Collapse | None,
    one: OneScore | None,
    shown: Mapping[str, list[Subject]],
) -> list[Section]:
    """The sections that hold anything, in their order."""
    figures = {
        "details": shown.get("ood", []),
        "metrics": shown.get("nc", []),
        "run": shown.get("run", []),
        "other": shown.get("other", []),
    }
    filled = {"run", "ood", "nc", "how", "provenance"}
    filled |= {name for name, subjects in figures.items() if subjects}
    if ood is not None:
        filled.add("details")
    if one is not None:
        filled.add("gallery")
    if nc is not None:
        filled.add("metrics")
    return [
        Section(name, heading, figures.get(name, []))
        for name, heading in HEADINGS.items()
        if name in filled
    ]


def tiles(summary: Summary) -> list[Tile]:
    """The few numbers that a reader looks for first; those that are missing are left out."""
    shown = [
        Tile("test accuracy", percent(summary["accuracy"]["test"], 2)),
        *detection_tiles(summary),
        *collapse_tiles(summary),
    ]
    return [tile for tile in shown if tile.value != EMPTY]


def collapse_tiles(summary: Summary) -> list[Tile]:
    """NC1, never without the trace ratio and CDNV, and NC4."""
    values = {(row["metric"], row["split"]): row["value"] for row in summary["neural_collapse"]}
    ratio, cdnv = (
        number(values.get((f"nc1_{name}", "train")), 3) for name in ("trace_ratio", "cdnv")
    )
    beside = [f"trace ratio {ratio}", f"CDNV {cdnv}"]
    known = [text for text in beside if not text.endswith(EMPTY)]
    note = ", ".join([*known, "0 under full collapse"])
    return [
        Tile("NC1", number(values.get(("nc1", "train")), 3), note),
        Tile(
            "NC4 mismatch, test",
            percent(values.get(("nc4_mismatch", "test")), 2),
            "0% under full collapse",
        ),
    ]


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


def facts(summary: Summary, found: Found) -> list[Fact]:
    """What is known of the checkpoint and its training; what is missing is left out."""
    known = image_sets.counts(found)
    run, accuracy, training = summary["checkpoint"], summary["accuracy"], summary["training"] or {}
    unit = "Epoch" if run["step"] is None else "Evaluation"
    rows = {
        "Model": run["model"],
        "Trained": None if summary["trained_here"] else "elsewhere",
        **ensembles.facts(summary),
        "ID data set": run["dataset"],
        "Classes, C": counted(known.get("classes"), image_sets.class_words(found.facts)),
        "Features, D": counted(known.get("features")),
        "Training images, N": counted(known.get("train")),
        "Test images": counted(known.get("test")),
        "Input": image_sets.preprocessing_words(found),
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
    return [
        Fact(name, show(value)) for name, value in rows.items() if value not in (None, "", EMPTY)
    ]


def counted(count: int | None, words: str = "") -> str:
    """ "1,280", or "10: tench, church and 8 more"; "" where the number is not known."""
    if count is None:
        return ""
    return f"{count:,}: {words}" if words else f"{count:,}"


def held_out(run: Mapping[str, Any]) -> str:
    """The classes that the training left out, the first eight by name."""
    classes = run["held_out"] or []
    return listed(map(str, classes[:8]), len(classes) - 8)
