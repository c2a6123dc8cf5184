"""The images behind the numbers: of each method the OOD images that it trusts most, and the ID test
images that it trusts least."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from images.thumbnails import LOSSLESS
from reporting.explore import ranked
from reporting.found import Found, Summary
from reporting.nearest import Nearest, nearest
from reporting.scored import ScoredRun, ScoredSet
from reporting.thumbnails import Album, Gone, size_of
from reporting.words import number

ID = ""  # the key of the ID images, which no OOD set has
SHOWN = 8  # images of a row of the gallery
MOST_BYTES = 2_000_000  # of all thumbnails together, as they stand in the page
FULL = "its images found no room in the 2 MB of a page's gallery: better methods went first"


@dataclass(frozen=True)
class Exhibit:
    """One image: its thumbnail's key, score, the class it was taken for, and that of its label."""

    key: str
    score: str
    taken_for: str
    label: str = ""  # of an ID image
    nearest: str = ""  # the class of the nearest class mean, where it is not the one taken for

    @property
    def is_right(self) -> bool:
        return self.label == self.taken_for


@dataclass
class Gallery:
    """All rows of images; `walls` by method and then by OOD set, ID for the ID images."""

    walls: dict[str, dict[str, list[Exhibit]]] = field(default_factory=dict)
    thumbnails: dict[str, str] = field(default_factory=dict)  # {key: src}
    absent: dict[str, str] = field(default_factory=dict)  # {set: why its images are not shown}
    full: list[str] = field(default_factory=list)  # methods that found no room
    no_nearest: str = ""  # why nobody can say which class mean is nearest

    @property
    def size(self) -> int:
        """Bytes that the thumbnails take."""
        return sum(map(len, self.thumbnails.values()))


@dataclass(frozen=True)
class Known:
    """What is said of images beside their scores."""

    words: dict[str, str]  # {class name: what to call it}
    nearest: Nearest

    def called(self, name: str) -> str:
        return self.words.get(name, name)


def gallery(summary: Summary, found: Found, data_dir: Path, wanted: bool = True) -> Gallery:
    """The gallery of a run, the best method first until 2 MB are full."""
    made = Gallery()
    run = found.scored
    if run is None:
        return made
    if not wanted:
        made.absent = {part.name: "left out, as --no-gallery asked" for part in sets_of(run)}
        return made
    albums = {key: album(part, run, found, data_dir) for key, part in keyed(run)}
    known = Known(words_of(found.facts), nearest(run, dict(keyed(run))))
    made.no_nearest = known.nearest.why_not
    for method in ranked(summary, run):
        hang(made, method, run, albums, known)
    return made


def sets_of(run: ScoredRun) -> list[ScoredSet]:
    return [run.id, *run.ood]


def keyed(run: ScoredRun) -> list[tuple[str, ScoredSet]]:
    """(its key, a set) of each set, the ID images first."""
    return [(ID, run.id), *((part.name, part) for part in run.ood)]


def is_small(part: ScoredSet) -> bool:
    """True where the images of a set are kept as they are, a few pixels wide."""
    looks = part.images.get("files")
    if isinstance(looks, dict):
        sides = (looks.get("width") or math.inf, looks.get("height") or math.inf)
        return max(sides) <= LOSSLESS
    return size_of(part.images) <= LOSSLESS


def album(part: ScoredSet, run: ScoredRun, found: Found, data_dir: Path) -> Album:
    held_out = [str(name) for name in found.facts.get("held_out") or []]
    return Album(part, data_dir, held_out, str(run.id.images.get("place") or run.id.name))


def words_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """{class name: what to call it}: the words behind a WordNet id where the head has them."""
    names, words = facts.get("class_names") or [], facts.get("class_words") or []
    if len(names) != len(words):
        return {}
    return {
        name: text.removeprefix(f"{name} (").removesuffix(")") if text != name else name
        for name, text in zip(names, words, strict=True)
    }


def hang(
    made: Gallery, method: str, run: ScoredRun, albums: dict[str, Album], known: Known
) -> None:
    """Add one method's images, unless they are more than there is room for."""
    wall: dict[str, list[Exhibit]] = {}
    new: dict[str, str] = {}
    for key, part in keyed(run):
        if part.name in made.absent or method not in part.scores:
            continue
        rows = chosen(part.scores[method], most=key != ID)
        try:
            found = thumbnails(key, rows, albums[key], made)
        except Gone as reason:
            made.absent[part.name] = str(reason)
            continue
        shown = [row for row in rows if f"{key}/{row}" in found]
        wall[key] = list(exhibits(key, part, method, shown, run, known))
        new |= found
    added = sum(len(src) for name, src in new.items() if name not in made.thumbnails)
    if made.size + added > MOST_BYTES:
        made.full.append(method)
        return
    made.thumbnails |= new
    made.walls[method] = wall


def chosen(scores: np.ndarray, most: bool) -> list[int]:
    """The rows of the highest scores, or of the lowest; the first in the data where they tie."""
    finite = np.flatnonzero(np.isfinite(scores))
    values = -scores[finite] if most else scores[finite]
    return finite[np.argsort(values, kind="stable")[:SHOWN]].tolist()


def thumbnails(key: str, rows: Sequence[int], images: Album, made: Gallery) -> dict[str, str]:
    """{key: src} of the images that can be read; Gone where none can."""
    found, reasons = {}, []
    for row in rows:
        name = f"{key}/{row}"
        try:
            found[name] = made.thumbnails.get(name) or images.thumbnail(row)
        except Gone as reason:
            reasons.append(reason)
    if reasons and not found:
        raise reasons[0]
    return found


def exhibits(
    key: str,
    part: ScoredSet,
    method: str,
    rows: Sequence[int],
    run: ScoredRun,
    known: Known,
) -> Iterator[Exhibit]:
    """What is said of each image."""
    names = run.id.images.get("class_names") or []
    for row in rows:
        taken = part.taken_for[row] if part.taken_for else ""
        label = int(part.labels[row])
        own = str(names[label]) if key == ID and 0 <= label < len(names) else ""
        score = number(float(part.scores[method][row]))
        closest = known.nearest.of(key, row)
        other = str(names[closest]) if closest is not None and closest < len(names) else taken
        yield Exhibit(
            key=f"{key}/{row}",
            score=score,
            taken_for=known.called(taken),
            label=known.called(own),
            nearest=known.called(other) if other != taken else "",
        )
