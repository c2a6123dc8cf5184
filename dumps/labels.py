"""Labels in the forms that people have -> the numbers 0 .. C-1 of the classes, and their names.

One-hot rows, whole numbers kept as floats, texts, and texts that are whole numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from artifacts import csv_files
from dumps.sources import Source

OOD_LABEL = -1
SHOWN = 5  # names that a message lists


@dataclass(frozen=True, eq=False)
class Raw:
    """Labels as they were read: whole numbers (N,) int64, or texts [N]; and where they stand."""

    name: str  # FILE:KEY
    numbers: np.ndarray | None
    texts: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts) if self.numbers is None else len(self.numbers)  # type: ignore[arg-type]


def read(source: Source, count: int, features: str, flag: str) -> Raw:
    """The labels (N,) of `count` rows of features; ValueError for another number of them, and for
    what is neither whole numbers, one-hot rows nor texts."""
    values = source.entry.whole()
    if source.entry.rows != count:
        raise ValueError(
            f"{flag}: {source.name} holds {source.entry.rows:,} labels, and {features} {count:,}"
            " rows of features; expected one label per row"
        )
    if len(source.entry.plain_shape) == 2:
        return Raw(source.name, from_one_hot(values.reshape(count, -1), source.name))
    values = values.reshape(count)
    if values.dtype.kind in "fiub":
        whole = csv_files.whole_numbers(pl.Series(values.astype(float_or_whole(values))))
        if whole is not None:
            return Raw(source.name, whole.to_numpy())
        wrong = int(np.argmax(~(values == np.round(values))))
        raise ValueError(
            f"{source.name}, data row {wrong + 1}: found {values[wrong]}, expected a whole number,"
            " the number of a class"
        )
    texts = [as_text(value) for value in values.tolist()]
    if "" in texts:
        row = texts.index("")
        raise ValueError(f"{source.name}, data row {row + 1}: the label is empty")
    return Raw(source.name, None, texts)


def float_or_whole(values: np.ndarray) -> type:
    """int64 for whole types, float64 for others."""
    return np.int64 if values.dtype.kind in "iub" else np.float64


def as_text(value: object) -> str:
    """A text, of bytes or not."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def from_one_hot(values: np.ndarray, name: str) -> np.ndarray:
    """Rows (N, C) of one 1 among zeros -> (N,) the place of each 1."""
    is_one = values == 1
    wrong = ~((is_one | (values == 0)).all(axis=1) & (is_one.sum(axis=1) == 1))
    if wrong.any():
        raise ValueError(
            f"{name}, data row {int(np.argmax(wrong)) + 1}: expected one number per row, or one-hot"
            f" rows with a single 1 among zeros, found shape {values.shape} with other rows"
        )
    return is_one.argmax(axis=1).astype(np.int64)


# ---- the classes ---------------------------------------------------------------------------------


def read_names(path: str) -> list[str]:
    """--class-names FILE, a name a line, in the order of the labels; ValueError for a name that
    stands twice, and what is no text."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--class-names {path} cannot be read as text ({error})") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(names) < 2:
        found = f"{twice[0]!r} twice" if twice else f"{len(names)} names"
        raise ValueError(
            f"--class-names {path}: found {found}; expected at least two names, one a line, each"
            " once"
        )
    return names


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a run, and who names them.

    `known` is False where nobody named them: they are then the values of the training labels."""

    names: list[str]
    known: bool
    of_head: bool  # True where a head says how many there are

    @property
    def count(self) -> int:
        return len(self.names)


def classes_of(train: Raw | None, names: Sequence[str] | None, head_rows: int | None) -> Classes:
    """The classes by --class-names, by a head's rows, or by the training labels.

    ValueError where texts have no order that a head's rows follow, and where names are not as many
    as the head's rows."""
    if names is not None:
        if head_rows is not None and len(names) != head_rows:
            raise ValueError(
                f"--class-names names {len(names):,} classes, and the head has {head_rows:,} rows;"
                " expected one name per row, in the order of the rows"
            )
        return Classes(list(names), True, head_rows is not None)
    texts = train is not None and train.texts is not None and as_numbers(train) is None
    if head_rows is not None:
        if texts:
            assert train is not None and train.texts is not None
            raise ValueError(
                f"{train.name} holds names, such as {train.texts[0]!r}, and nothing says which row"
                " of the head is which; name the rows, one a line, with: --class-names FILE"
            )
        return Classes(list(map(str, range(head_rows))), False, True)
    if train is None:
        return Classes([], False, False)
    if texts:
        assert train.texts is not None
        return Classes(sorted(set(train.texts)), True, False)
    numbers = as_numbers(train)
    assert numbers is not None
    return Classes(list(map(str, range(int(numbers.max(initial=-1)) + 1))), False, False)


def as_numbers(raw: Raw) -> np.ndarray | None:
    """Labels that are whole numbers, also where they are kept as text; None of names."""
    if raw.numbers is not None:
        return raw.numbers
    whole = csv_files.whole_numbers(pl.Series(raw.texts, dtype=pl.String))
    return None if whole is None else whole.to_numpy()


def numbered(raw: Raw, classes: Classes, flag: str) -> np.ndarray:
    """Labels (N,) int64 in 0 .. C-1; ValueError with the first that is no class, and for ID images
    that are marked as OOD."""
    if raw.texts is not None and (classes.known or as_numbers(raw) is None):
        place = {name: number for number, name in enumerate(classes.names)}
        unknown = [row for row, text in enumerate(raw.texts) if text not in place]
        if not unknown:
            return np.array([place[text] for text in raw.texts], np.int64)
        if as_numbers(raw) is None:
            row = unknown[0]
            raise ValueError(
                f"{flag}: {raw.name}, data row {row + 1}: {raw.texts[row]!r} is not among the"
                f" {classes.count:,} classes, {some(classes.names)}; images of other classes are"
                " OOD: give them as --ood NAME=FILE"
            )
    numbers = as_numbers(raw)
    assert numbers is not None
    refuse_ood(raw, numbers, flag)
    wrong = numbers >= classes.count
    if wrong.any():
        row = int(np.argmax(wrong))
        known = "the head's" if classes.of_head else "named" if classes.known else "the training's"
        raise ValueError(
            f"{flag}: {raw.name}, data row {row + 1}: found label {numbers[row]}, and {known}"
            f" classes are 0 to {classes.count - 1}"
        )
    return numbers


def refuse_ood(raw: Raw, numbers: np.ndarray, flag: str) -> None:
    """ValueError where ID images have negative labels, which mark OOD images."""
    outside = numbers < 0
    if not outside.any():
        return
    row = int(np.argmax(outside))
    which = "all rows" if outside.all() else f"{int(outside.sum()):,} of {len(numbers):,} rows"
    advice = "give the file as --ood NAME=FILE"
    if not outside.all():
        advice = "put them into a file of their own, and give that as --ood NAME=FILE"
    raise ValueError(
        f"{flag}: {raw.name}, data row {row + 1}: found label {numbers[row]} in {which}; negative"
        f" labels mark OOD images, and this set is in-distribution: {advice}"
    )


def some(names: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
