"""A page of thumbnails: what was rejected and what was accepted, lowest scores first."""

import heapq
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import utils
from detection.answers import Answer
from detection.detector import ACCEPTED
from images import reading, thumbnails

MOST = 300  # thumbnails of a kind: a stream may be of any length, and a page may not
SIDE = 160  # pixels of a thumbnail's longer side


@dataclass(eq=False)
class Kind:
    """The answers of one kind with the lowest scores, MOST of them."""

    count: int = 0
    heap: list[tuple[float, int, Answer]] = field(default_factory=list)

    def add(self, answer: Answer, number: int) -> None:
        """Keep an answer if its score is among the lowest; an undefined one counts as lowest."""
        self.count += 1
        score = float("-inf") if answer.score is None else answer.score
        entry = (-score, -number, answer)
        if len(self.heap) < MOST:
            heapq.heappush(self.heap, entry)
        else:
            heapq.heappushpop(self.heap, entry)

    def answers(self) -> list[Answer]:
        """Lowest scores first; of equal ones, in the order in which they came."""
        return [answer for _, _, answer in sorted(self.heap, key=lambda one: one[:2], reverse=True)]


class Gallery:
    """Keeps the answers that the page shows, and writes it."""

    def __init__(self, title: str):
        self.title = title
        self.rejected, self.accepted = Kind(), Kind()
        self.numbers = itertools.count()

    def add(self, answer: Answer) -> None:
        """Take an answer; what is undefined stands among what was rejected."""
        kind = self.accepted if answer.verdict == ACCEPTED else self.rejected
        kind.add(answer, next(self.numbers))

    def write(self, path: str | Path) -> None:
        """Write the page, whole or not at all."""
        parts = [section("Rejected", self.rejected), section("Accepted", self.accepted)]
        template = utils.templates(Path(__file__).parent).get_template("gallery.html.j2")
        utils.write_text(path, template.render(title=self.title, parts=parts))


@dataclass(frozen=True)
class Shown:
    """One image and what is said of it."""

    path: str
    verdict: str
    said: str
    source: str  # of its thumbnail; "" where the file is gone


@dataclass(frozen=True)
class Part:
    """The images of one kind."""

    kind: str  # its class in the page's style
    heading: str
    images: list[Shown]


def section(name: str, found: Kind) -> Part:
    """The images of one kind, under a heading that counts them."""
    answers = found.answers()
    heading = f"{name}: {found.count:,}"
    if found.count > len(answers):
        heading += f", the {len(answers):,} with the lowest scores"
    return Part(name.lower(), heading, [shown(answer) for answer in answers])


def shown(answer: Answer) -> Shown:
    """One image and what is said of it."""
    said = [answer.predicted_class or ""]
    if answer.percentile is not None:
        said.append(f"percentile {answer.percentile:.1f}")
    if answer.p_value is not None:
        said.append(f"p {answer.p_value:.4f}")
    text = ", ".join(filter(None, said))
    return Shown(answer.path, answer.verdict, text, thumbnail(answer.path))


def thumbnail(path: str) -> str:
    """A small picture as the text of an img's src; empty where the file is gone."""
    try:
        return thumbnails.source(reading.read(path), SIDE)
    except Exception:  # it was read a moment ago; the page does without it
        return ""
