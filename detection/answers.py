"""The answers of detect.py: one line an image, copies of what was rejected, and the exit code."""

import csv
import filecmp
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import utils
from detection.detector import ACCEPTED, REJECTED, Verdicts

FORMATS = ("table", "csv", "jsonl")
ALL_ACCEPTED, MISTAKE, SOME_REJECTED = 0, 2, 3  # exit codes
LONGEST = 24  # letters of a class in the table


@dataclass(frozen=True)
class Answer:
    """What is said of one image; None where a value is undefined, or there is no head."""

    path: str
    verdict: str
    predicted_class: str | None
    percentile: float | None
    p_value: float | None
    score: float | None


def answers_of(paths: Sequence[str], verdicts: Verdicts) -> list[Answer]:
    """The verdicts of N images, one by one."""
    classes: Sequence[str | None] = verdicts.classes or [None] * len(verdicts)
    numbers = (verdicts.percentile, verdicts.p_value, verdicts.score)
    columns = [[known(value) for value in values] for values in numbers]
    rows = zip(paths, verdicts.verdict, classes, *columns, strict=True)
    return [Answer(*row) for row in rows]


def known(value: float) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)


# ---- lines ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class Printer:
    """Writes answers to a stream as they come.

    format      of FORMATS
    method      the score's name
    class_width letters of a class in the table; 0 without a head
    """

    format: str
    method: str
    class_width: int
    stream: TextIO
    is_first: bool = True

    def write(self, answers: Sequence[Answer]) -> None:
        """Write answers, and hand them over: whoever reads need not wait for more."""
        if self.format == "csv":
            self.write_csv(answers)
        else:
            line = self.table_line if self.format == "table" else self.json_line
            for answer in answers:
                self.stream.write(f"{line(answer)}\n")
        self.stream.flush()

    def table_line(self, answer: Answer) -> str:
        """ "accepted   tench     43.1%  p 0.432   photo.jpg"."""
        cells = [f"{answer.verdict:9}"]
        if self.class_width:
            name = one_line(answer.predicted_class or "")[: self.class_width]
            cells.append(f"{name:{self.class_width}}")
        percentile = "" if answer.percentile is None else f"{answer.percentile:.1f}%"
        p_value = "" if answer.p_value is None else f"p {answer.p_value:.4f}"
        cells += [f"{percentile:>6}", f"{p_value:8}", one_line(answer.path)]
        return "  ".join(cells)

    def json_line(self, answer: Answer) -> str:
        """An object of JSON."""
        return json.dumps({**vars(answer), "method": self.method})

    def write_csv(self, answers: Sequence[Answer]) -> None:
        """Rows with the columns that the scores of ood_methods.py begin with."""
        from artifacts.csv_files import guarded_cell  # it imports polars

        writer = csv.writer(self.stream, lineterminator="\n")
        if self.is_first:
            columns = ["path", "verdict", "predicted_class", "percentile", "p_value", self.method]
            writer.writerow(columns)
            self.is_first = False
        for answer in answers:
            writer.writerow([guarded_cell(cell) for cell in vars(answer).values()])


def one_line(text: str) -> str:
    """A name with what would break a line of the table escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


# ---- copies --------------------------------------------------------------------------------------


def copy_into(folder: Path, path: str) -> Path:
    """Copy a file into a folder under its own name, or under the first name-2, name-3 ... that is
    free -> the copy. Nothing is overwritten; a file that is there already, byte by byte, is not
    copied again."""
    source = Path(path)
    number = 1
    while True:
        name = source.name if number == 1 else f"{source.stem}-{number}{source.suffix}"
        target = folder / name
        try:
            return copied(source, target)
        except FileExistsError:
            if target.is_file() and filecmp.cmp(source, target, shallow=False):
                return target
            number += 1


def copied(source: Path, target: Path) -> Path:
    """Copy a file to where none is; FileExistsError where one is. A copy that fails is removed."""
    with open(source, "rb") as content, open(target, "xb") as file:
        try:
            shutil.copyfileobj(content, file)
        except BaseException:
            os.unlink(target)
            raise
    return target


# ---- all of a run --------------------------------------------------------------------------------


@dataclass(eq=False)
class Answers:
    """Takes what comes, image by image or broken, and knows the exit code in the end.

    copies   the folder that rejected images are copied into, or None
    gallery  what keeps answers for the page, or None
    """

    printer: Printer
    copies: Path | None = None
    gallery: Any = None  # a detection.gallery.Gallery
    counts: Counter[str] = field(default_factory=Counter)
    broken: int = 0

    def add(self, paths: Sequence[str], verdicts: Verdicts) -> None:
        """Count, copy, keep and print the verdicts of N images; what is printed has been kept."""
        answers = answers_of(paths, verdicts)
        self.counts.update(answer.verdict for answer in answers)
        for answer in answers:
            if self.copies is not None and answer.verdict == REJECTED:
                copy_into(utils.writable_folder(self.copies), answer.path)
            if self.gallery is not None:
                self.gallery.add(answer)
        self.printer.write(answers)

    def add_broken(self, path: str, why: str) -> None:
        """Name an image that cannot be scored, on standard error."""
        self.broken += 1
        print(f"error: {one_line(path)}: {why}", file=sys.stderr)

    @property
    def code(self) -> int:
        """0 where all images were accepted, 3 where some were not, 2 where one could not be
        scored, or none was."""
        if self.broken or not self.counts:
            return MISTAKE
        return ALL_ACCEPTED if set(self.counts) == {ACCEPTED} else SOME_REJECTED

    def summary(self) -> str:
        """ "12 images: 10 accepted, 2 rejected; 1 could not be scored"."""
        total = sum(self.counts.values())
        listed = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        text = f"{total:,} image{'s' * (total != 1)}{': ' * bool(listed)}{listed}"
        return f"{text}; {self.broken:,} could not be scored" if self.broken else text
