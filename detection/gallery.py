"""A page of thumbnails: what was rejected and what was accepted, lowest scores first."""

import base64
import heapq
import io
import itertools
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import utils
from detection.answers import Answer
from detection.detector import ACCEPTED
from images import reading

MOST = 300  # thumbnails of a kind: a stream may be of any length, and a page may not
SIDE = 160  # pixels of a thumbnail's longer side
QUALITY = 80  # of its JPEG
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
main { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0; width: 168px; }
img { max-width: 160px; max-height: 160px; border: 4px solid #2a7f3f; }
.rejected img { border-color: #b3261e; }
figcaption { font-size: 12px; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } }
"""


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
        body = section("Rejected", "rejected", self.rejected)
        body += section("Accepted", "accepted", self.accepted)
        title = escape(self.title)
        utils.write_text(
            path,
            "<!doctype html>\n"
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}</body></html>\n",
        )


def section(name: str, kind: str, found: Kind) -> str:
    """The images of one kind."""
    shown = found.answers()
    head = f"{name}: {found.count:,}"
    if found.count > len(shown):
        head += f", the {len(shown):,} with the lowest scores"
    figures = "".join(figure(answer) for answer in shown)
    return f'<h2>{head}</h2>\n<main class="{kind}">\n{figures}</main>\n'


def figure(answer: Answer) -> str:
    """One image and what is said of it."""
    said = [answer.predicted_class or ""]
    if answer.percentile is not None:
        said.append(f"percentile {answer.percentile:.1f}")
    if answer.p_value is not None:
        said.append(f"p {answer.p_value:.4f}")
    caption = "<br>".join(escape(text) for text in (answer.path, ", ".join(filter(None, said))))
    return (
        f'<figure><img alt="{escape(answer.verdict)}" src="{thumbnail(answer.path)}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def thumbnail(path: str) -> str:
    """A small JPEG within the page; empty where the file is gone."""
    try:
        image = reading.read(path)
    except Exception:  # it was read a moment ago; the page does without it
        return ""
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
