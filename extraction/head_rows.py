"""Which rows of a classifier the data's classes are: all, in order, or some of a larger head.

    found = head_rows.choose(known, names)      # names: of the data's classes, in label order
    found.rows                                  # (0, 217, 482, ...), or None for all of them
    W, b = found.of(*classifiers.head(layer))   # (C, D), (C,) of the data's classes

A network of ImageNet's 1,000 classes knows those of ten folders by their WordNet ids. Its rows are
named by the checkpoint, by a list (--classes), or by the number of its classes where all folders
are named by ids. Nothing is guessed: each class of the data must be among the names of the rows.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from networks import wordnet
from networks.messages import some


@dataclass(frozen=True)
class Rows:
    """The classes of the data as rows of the classifier.

    names: of the data's classes, in label order. rows: of each, its row; None where the classifier
    has just these classes in this order. whole: the names of all rows, where they are more. by: who
    named them."""

    names: list[str]
    rows: list[int] | None = None
    whole: list[str] | None = None
    by: str = ""

    def of(self, W: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The whole head, W (C', D) and b (C',) -> the rows of the data's classes, (C, D), (C,)."""
        if self.rows is None:
            return W, b
        return W[self.rows], b[self.rows]

    def said(self, shown_first: int = 4) -> str:
        """ "10 of 1,000, by WordNet id: n01440764 (tench), ..."; "" for a head of its own."""
        if self.rows is None or self.whole is None:
            return ""
        listed = [with_word(name) for name in self.names]
        return (
            f"{len(self.rows):,} of the classifier's {len(self.whole):,}, by {self.by}: "
            f"{some(listed, shown_first)}"
        )


@dataclass(frozen=True)
class Named:
    """The names of all rows of a classifier, and who says so."""

    names: list[str]
    by: str


def with_word(name: str) -> str:
    """ "n01440764 (tench)": a WordNet id with the first of its words; other names as they are."""
    if not wordnet.is_id(name):
        return name
    first = wordnet.words(name).partition(",")[0]
    return f"{name} ({first})" if first else name


# ---- who names the rows --------------------------------------------------------------------------


def by_size(classes: int, names: Sequence[str]) -> Named | None:
    """ImageNet's classes, where the data's classes are WordNet ids and the classifier has as many
    rows as one of ImageNet's heads; else None."""
    if not names or not all(wordnet.is_id(name) for name in names):
        return None
    ids = wordnet.ids(classes)
    return None if ids is None else Named(ids, "the WordNet ids of the folders")


def read_list(path: str, classes: int, of_data: Sequence[str] = ()) -> Named:
    """--classes FILE: one line per row of the classifier, in its order -> their names.

    A line is a name, with other words behind a tab or comma, or behind a WordNet id; a class of the
    data (`of_data`), whose own name may have a comma, may be all of it. ValueError for a file with
    another number of lines, a name that stands twice, and what is no text."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--classes {path} cannot be read as text ({error})") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    names = [line if line in of_data else name_in(line) for line in lines]
    if len(names) != classes:
        raise ValueError(
            f"--classes {path} has {len(names):,} lines, and the classifier has {classes:,} rows;"
            " expected one line per row, in the order of the rows"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--classes {path} names {some(twice)} more than once")
    return Named(names, f"the names in {Path(path).name}")


def name_in(line: str) -> str:
    """The class that a line names: "n01440764 tench" -> "n01440764", "dog,a pet" -> "dog"."""
    first = re.split(r"[\t,]", line.strip(), maxsplit=1)[0].strip()
    word = first.split()[0] if first else ""
    return word if wordnet.is_id(word) else first


# ---- choosing ------------------------------------------------------------------------------------


def choose(known: Named, names: Sequence[str]) -> Rows:
    """The rows of the data's classes, by their names.

    ValueError for a class of the data that no row has."""
    place = {name: row for row, name in enumerate(known.names)}
    unknown = [name for name in names if name not in place]
    if unknown:
        raise ValueError(
            f"of the data's {len(names):,} classes, {len(unknown):,} are not among the"
            f" {len(known.names):,} that the classifier knows by {known.by}: {some(unknown)};"
            f" it knows {some(known.names, 3)}"
        )
    rows = [place[name] for name in names]
    if rows == list(range(len(known.names))):
        return Rows(list(names))
    return Rows(list(names), rows, known.names, known.by)
