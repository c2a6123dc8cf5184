"""CSV and Parquet files as arrays: columns that are numbered through are one matrix.

    f0,f1,f2,species        "f" (N, 3), "species" (N,)
    0,1,2,target            "" (N, 3), "target" (N,)

A family of columns has one beginning and the numbers 0 .. D-1 or 1 .. D behind it, at least two of
them. A Parquet column of lists of equal length is a matrix too."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from artifacts import csv_files
from dumps.entries import BLOCK, FLOAT, OTHER, TEXT, WHOLE, Dump, Entry, in_blocks

NUMBERED = "numbered columns"  # the key of a family without a beginning: 0, 1, 2 ...


def families(names: Sequence[str]) -> dict[str, list[str]]:
    """{beginning: its columns in order} of the columns that are numbered through."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        if parts := re.fullmatch(r"(.*?)(0|[1-9]\d*)", name):
            found.setdefault(parts[1], {})[int(parts[2])] = name
    whole = {}
    for beginning, numbered in found.items():
        numbers = sorted(numbered)
        first = numbers[0]
        through = numbers == list(range(first, first + len(numbers)))
        if through and first in (0, 1) and len(numbers) > 1:
            whole[beginning.rstrip("_. -") or NUMBERED] = [numbered[n] for n in numbers]
    return whole


# ---- CSV -----------------------------------------------------------------------------------------


def read_csv(path: Path) -> Dump:
    """A CSV, read as a whole; ValueError names the line and column that are wrong."""
    names = csv_files.columns_of(path)
    refuse_without_header(path, names)
    matrices = families(names)
    numbers = [name for columns in matrices.values() for name in columns]
    frame = csv_files.read_csv(path, numbers)
    if numbers and not csv_files.is_finite(frame, numbers):
        csv_files.refuse(path, frame, numbers)
    entries = {}
    for key, columns in matrices.items():
        values = frame.select(columns).to_numpy(order="c")
        entries[key] = Entry(key, values.shape, "decimals", FLOAT, in_blocks(values))
    for name in names:
        if name not in numbers:
            entries[name] = column_of(name, frame[name])
    return Dump(path, entries)


def refuse_without_header(path: Path, names: Sequence[str]) -> None:
    """ValueError for a CSV that begins with its numbers, as np.savetxt writes it."""
    numbers = [name for name in names if re.fullmatch(r"\s*[+-]?\d+\.\d*(e[+-]?\d+)?\s*", name)]
    if len(numbers) > len(names) / 2:
        raise ValueError(
            f"{path}, line 1: found numbers, expected the names of the columns, such as f0, f1 ...,"
            " label; add such a line, or save the array with np.save"
        )


def column_of(name: str, column: pl.Series) -> Entry:
    """A column of text as whole numbers, numbers or text, whichever all of its cells are."""
    whole = csv_files.whole_numbers(column)
    if whole is not None:
        return Entry(name, (len(whole),), "whole numbers", WHOLE, in_blocks(whole.to_numpy()))
    numbers = column.cast(pl.Float64, strict=False)
    if not numbers.null_count():
        return Entry(name, (len(column),), "decimals", FLOAT, in_blocks(numbers.to_numpy()))
    texts = csv_files.unguarded(column.fill_null(""))
    return Entry(name, (len(column),), "text", TEXT, in_blocks(np.array(texts.to_list(), object)))


# ---- Parquet -------------------------------------------------------------------------------------


def read_parquet(path: Path) -> Dump:
    """A Parquet file, whose rows are read when they are asked for."""
    schema = schema_of(path)
    count = int(scan(path).select(pl.len()).collect().item())
    numeric = [name for name, kind in schema.items() if kind.is_numeric()]
    entries = {}
    for key, columns in families(numeric).items():
        dtype = str(schema[columns[0]])
        entries[key] = Entry(key, (count, len(columns)), dtype, FLOAT, matrix(path, columns))
        for name in columns:
            del schema[name]
    for name, kind in schema.items():
        entries[name] = parquet_column(path, name, kind, count)
    return Dump(path, entries)


def schema_of(path: Path) -> dict[str, pl.DataType]:
    """{column: its type}; ValueError for a file that is not Parquet."""
    try:
        with open(path, "rb") as file:
            return dict(pl.read_parquet_schema(file))
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{path} cannot be read as Parquet: {csv_files.first_line(error)}"
        ) from None


def scan(path: Path) -> pl.LazyFrame:
    """The file as polars reads it in parts; its name is taken literally."""
    return pl.scan_parquet(path, glob=False)


def parts(path: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    """These columns, BLOCK rows at a time."""
    whole = scan(path).select(columns)
    start = 0
    while len(part := whole.slice(start, BLOCK).collect()):
        yield part
        start += BLOCK


def matrix(path: Path, columns: list[str]):
    """The blocks of several columns of numbers; an empty cell becomes NaN, which is refused."""

    def blocks() -> Iterator[np.ndarray]:
        for part in parts(path, columns):
            yield part.to_numpy(order="c")

    return blocks


def parquet_column(path: Path, name: str, kind: pl.DataType, count: int) -> Entry:
    """One column: numbers, text, or lists of numbers of one length."""
    if isinstance(kind, (pl.List, pl.Array)) and kind.inner.is_numeric():  # type: ignore[union-attr]
        return column_of_lists(path, name, kind, count)
    of = FLOAT if kind.is_float() else WHOLE if kind.is_integer() or kind == pl.Boolean else OTHER
    if kind in (pl.String, pl.Categorical, pl.Enum):
        of = TEXT

    def blocks() -> Iterator[np.ndarray]:
        for part in parts(path, [name]):
            if of == TEXT:
                yield np.array(part[name].cast(pl.String).fill_null("").to_list(), object)
            else:
                yield part[name].to_numpy()

    return Entry(name, (count,), str(kind), of, blocks)


def column_of_lists(path: Path, name: str, kind: pl.DataType, count: int) -> Entry:
    """A column of lists as a matrix (N, D), D by its first row."""
    first = scan(path).select(name).head(1).collect()[name].to_list()
    width = len(first[0] or ()) if first else 0

    def blocks() -> Iterator[np.ndarray]:
        done = 0
        for part in parts(path, [name]):
            rows = part[name].to_list()
            for number, row in enumerate(rows):
                if row is None or len(row) != width:
                    found = "none" if row is None else len(row)
                    raise ValueError(
                        f"{path}, data row {done + number + 1}, column {name}: found {found}"
                        f" numbers, expected {width} as in the first row"
                    )
            yield np.array(rows, np.float64)
            done += len(rows)

    return Entry(name, (count, width), str(kind), FLOAT, blocks)
