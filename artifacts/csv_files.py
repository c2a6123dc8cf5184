"""CSV and Parquet files as frames: read strictly, written so that no spreadsheet runs a cell,
hashed by content.

    width_of("ID_cifar100_train.csv")
        # D; artifacts/frames.py reads the rows
    read_head("head.csv")
        # polars: class String, w0 .. w{D-1} and bias Float32
    read_table("ood_metrics.csv")
        # pandas: names are text

Files are opened here and passed on open, because polars reads `lr[1].csv` as a pattern and pandas
expands `~`. A file that cannot be read is refused with the line, as an editor counts it (the header
is line 1), and the column.

Accepted as the same table: any order of columns, quotes, CR LF, a byte order mark, an unnamed index
column in front, and blank rows at the end. Features may have further columns, which are ignored; a
head may not.

A text cell that begins with = + - @, tab, CR or ' is written with a ' in front, which reading
removes again.

This module knows nothing of sidecars (`records`) or of what a file means (`store`).
"""

import collections
import csv
import functools
import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import numpy as np
import polars as pl

from arrays import BLOCK

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")
# The name of an index column that pandas wrote by mistake, and the name that it gets when pandas
# reads it and writes it again.
INDEX = ("", "Unnamed: 0")
# Columns of tables that hold text, even if every cell looks like a number: a data set may be called
# 2023.
TEXT = (
    "checkpoint",
    "class_name",
    "centring",
    "csid",
    "dataset",
    "group",
    "guarantee",
    "images_of",
    "layer",
    "measure",
    "method",
    "metric",
    "note",
    "ood",
    "ood_class",
    "parameters",
    "path",
    "predicted_class",
    "reason",
    "row",
    "sets",
    "source",
    "split",
    "verdict",
)
# A number as polars reads it, without NaN and infinity.
NUMBER = r" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
NUMBERS = re.compile(f"{NUMBER}(?:,{NUMBER})*", re.ASCII)
LARGEST = float(np.finfo(np.float32).max)
LARGEST_LABEL = 2**53  # above it, a float no longer stands for a single whole number
# A spreadsheet takes such a cell for a formula, or hides its first character.
GUARDED = r"^[=+\-@\t\r']"
GUARD = r"^'([=+\-@\t\r'])"


# ---- headers -------------------------------------------------------------------------------------


def columns_of(path: str | os.PathLike) -> list[str]:
    """The column names of a CSV or Parquet file, without an unnamed index column in front.

    The rows are not read.
    """
    if is_parquet(path):
        return parquet_columns(path)
    return without_index(header(path))


def is_parquet(path: str | os.PathLike) -> bool:
    return Path(path).suffix == ".parquet"


def parquet_columns(path: str | os.PathLike) -> list[str]:
    try:
        with open(path, "rb") as file:
            return list(pl.read_parquet_schema(file))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as Parquet: {first_line(error)}") from None


def without_index(names: list[str]) -> list[str]:
    has_index = bool(names) and names[0] in INDEX
    return names[1:] if has_index else names


def header(path: str | os.PathLike) -> list[str]:
    """All names in the first line of a CSV. ValueError if it is not a header, or names a column
    twice."""
    with open(path, "rb") as file:
        line = file.readline()
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path}, line 1: not UTF-8 text; save it as CSV in UTF-8") from None
    if "\r" in text:
        raise ValueError(f"{path}, line 1: lines end in CR alone; save it with LF or CR LF")
    try:
        names = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{path}, line 1: not the header of a CSV ({error})") from None
    check_names(path, names)
    return names


def check_names(path: str | os.PathLike, names: list[str]) -> None:
    """ValueError unless every column has a name of its own. An index column in front needs none."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(
                f"{path}, line 1, column {place + 1}: a second column called {name!r}; delete the"
                " wrong one"
            )
        if not name and place > 0:
            raise ValueError(
                f"{path}, line 1, column {place + 1}: this column has no name; delete it or name it"
            )


def width_of(path: str | os.PathLike) -> int:
    """D of a feature file, from its header. ValueError says what is wrong with the header."""
    names = columns_of(path)
    width = sum(name.startswith("ct") for name in names)
    wanted = {"label", *numbered("ct", width)}
    if not width or not wanted <= set(names):
        raise ValueError(
            f"{path} is not a feature file: expected columns ct0 .. ct{{D-1}}, label[, path], "
            f"found {shown_names(names)}"
        )
    return width


def numbered(letters: str, width: int) -> list[str]:
    return [f"{letters}{index}" for index in range(width)]


def shown_names(names: list[str]) -> str:
    """The first and last names of a file for a message, which mentions a wrong separator."""
    if not names:
        return "none"
    if len(names) == 1 and re.search(r"[;\t]", names[0]):
        return f"{names[0][:60]!r}; the columns must be separated by commas"
    first = ", ".join(names[:3])[:60]
    last = names[-1][-20:]
    return f"{first} ... {last}"


# ---- features and heads --------------------------------------------------------------------------


def checked_features(
    path: str | os.PathLike,
    frame: pl.DataFrame,
    numbers: Sequence[str],
    texts: Sequence[str],
    start: int = 0,
) -> pl.DataFrame:
    """Rows of a feature file, as they were read, in the types that `frames` yields.

    `start` is the number of rows before them. ValueError names the first line and column that are
    wrong.
    """
    labels = whole_numbers(frame["label"])
    for name in texts:
        check_paths(path, frame[name], numbers, start)
    kinds = frame.schema
    others = [name for name in numbers if kinds[name] != pl.Float32]
    read = frame
    if others:
        check_numbers(path, frame, others)
        frame = frame.with_columns(pl.col(others).cast(pl.Float32))
    if labels is None or not is_finite(frame, numbers):
        refuse(path, read, numbers, ["label"], start)
    return frame.with_columns(
        labels, *(unguarded(frame[name].cast(pl.String)) for name in texts)
    ).rechunk()


def read_head(path: str | os.PathLike) -> pl.DataFrame:
    """head.csv as a frame: class String, w0 .. w{D-1} and bias Float32.

    ValueError says what is wrong.
    """
    names = columns_of(path)
    weights = numbered("w", len(names) - 2)
    if {"class", *weights, "bias"} != set(names):
        raise ValueError(
            f"{path} is not a head: expected columns class, w0 .. w{{D-1}}, bias, found"
            f" {shown_names(names)}"
        )
    numbers = [*weights, "bias"]
    frame = read_csv(path, numbers)
    if not is_finite(frame, numbers):
        refuse(path, frame, numbers)
    return frame.select(unguarded(frame["class"].fill_null("")), *numbers)


def is_finite(frame: pl.DataFrame, numbers: Sequence[str]) -> bool:
    """True if no cell of these columns, which are Float32, is empty, NaN or infinite."""
    # An expression for each of some hundred columns would take longer than the numbers do.
    columns = [frame.get_column(name) for name in numbers]
    if any(column.null_count() for column in columns):
        return False
    return all(np.isfinite(column.to_numpy()).all() for column in columns)


def whole_numbers(labels: pl.Series) -> pl.Series | None:
    """A column of labels, text or numbers, as Int64; None if one is not a whole number.

    3 and 3.0 are whole numbers, true is not.
    """
    kind = labels.dtype
    if kind.is_integer():
        whole = labels.cast(pl.Int64, strict=False)
        return whole if not whole.null_count() else None
    if kind != pl.String and not kind.is_float():
        return None
    if kind == pl.String:
        whole = labels.cast(pl.Int64, strict=False)
        if not whole.null_count():
            return whole
        labels = labels.str.strip_chars(" ").cast(pl.Float64, strict=False)
    is_whole = (labels == labels.round()) & (labels.abs() <= LARGEST_LABEL)
    if not is_whole.fill_null(False).all():
        return None
    return labels.cast(pl.Int64)


def check_paths(
    path: str | os.PathLike, column: pl.Series, numbers: Sequence[str], start: int = 0
) -> None:
    """ValueError unless every image has a path. An empty one means that the row was cut short."""
    kind = column.dtype
    if kind not in (pl.String, pl.Categorical, pl.Enum):
        raise ValueError(f"{path}, column path: found {kind} values, expected text")
    empty = column.is_null() | (column.cast(pl.String) == "")
    if empty.any():
        if not is_parquet(path):
            look_through(path, numbers, ["label"])
        raise ValueError(
            f"{place(path, start + first_true(empty), 'path')}: the cell is empty, expected the"
            " image's path"
        )


# ---- tables --------------------------------------------------------------------------------------


def read_table(path: str | os.PathLike) -> "pd.DataFrame":
    """A table of this project as pandas: names are text, an empty cell is NaN."""
    frame = read_typed(path)
    import pandas as pd  # half of the start, and for tables of this kind alone

    return pd.DataFrame({column.name: as_pandas(column) for column in frame})


def as_pandas(column: pl.Series) -> "np.ndarray | pd.Series":
    """A column as pandas.read_csv would give it: an empty cell is NaN, and whole numbers with an
    empty cell among them are floats."""
    if column.dtype.is_numeric():
        return column.to_numpy()
    import pandas as pd

    values = [np.nan if value is None else value for value in column.to_list()]
    is_empty = column.null_count() == len(column)
    return pd.Series(values, dtype=object if is_empty else None)


def read_typed(path: str | os.PathLike) -> pl.DataFrame:
    """A table of this project as polars.

    The columns in TEXT are text. Others are Int64, Float64 or Boolean if every cell is. ValueError
    if most cells of a column are numbers, but not all.
    """
    cells = read_csv(path)
    frame = typed(cells)
    for column in frame:
        if column.dtype == pl.String and column.name not in TEXT:
            refuse_a_word_among_numbers(path, column)
    return frame


def refuse_a_word_among_numbers(path: str | os.PathLike, column: pl.Series) -> None:
    is_word = column.is_not_null() & column.cast(pl.Float64, strict=False).is_null()
    filled = len(column) - column.null_count()
    if is_word.sum() * 2 < filled:
        row = first_true(is_word)
        raise ValueError(
            f"{place(path, row, column.name)}: found {column[row]!r}, expected a number"
        )


def first_true(flags: pl.Series) -> int:
    """The index of the first True; one must be."""
    row = flags.arg_max()
    assert row is not None
    return row


def typed(cells: pl.DataFrame) -> pl.DataFrame:
    """A frame of text with each column in the type that its text stands for."""
    return cells.select(typed_column(column) for column in cells)


def typed_column(column: pl.Series) -> pl.Series:
    column = column.set(column == "", None)
    if column.name in TEXT:
        return unguarded(column)
    for kind in (pl.Int64, pl.Float64):
        numbers = column.cast(kind, strict=False)
        if numbers.null_count() == column.null_count():
            return numbers
    words = column.str.to_lowercase()
    if words.is_in(["true", "false"]).fill_null(True).all():
        return words == "true"
    return unguarded(column)


# ---- how files are read --------------------------------------------------------------------------


def read_csv(
    path: str | os.PathLike, numbers: Sequence[str] = (), labels: Sequence[str] = ()
) -> pl.DataFrame:
    """All columns of a CSV: `numbers` as Float32, the others as text.

    Blank rows at the end are left out. ValueError if a cell of `numbers` is not a number, or a row
    has more or fewer cells than the header.
    """
    names = header(path)
    try:
        with open(path, "rb") as file:
            frame = pl.read_csv(
                file, schema_overrides=dict.fromkeys(numbers, pl.Float32), infer_schema=False
            )
    except pl.exceptions.PolarsError as error:
        look_through(path, numbers, labels)
        look_for_quotes(path)
        raise ValueError(f"{path} cannot be read as CSV: {first_line(error)}") from None
    if frame.columns != names:
        raise ValueError(f"{path}, line 1: not the header of a CSV")
    frame = without_blank_end(frame)
    if is_doubtful(frame) or not quotes_are_whole(path):
        look_through(path, numbers, labels)
    return frame.select(without_index(names))


def without_blank_end(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame up to its last row that is not blank.

    Spreadsheets write `,,,` for deleted rows.
    """
    last_column = frame[frame.columns[-1]]
    rows = frame.height
    while rows and last_column[rows - 1] is None:  # looks at one cell before it looks at the row
        if any(cell is not None for cell in frame.row(rows - 1)):
            break
        rows -= 1
    return frame.head(rows)


def is_doubtful(frame: pl.DataFrame) -> bool:
    """True if polars may have misread the file: it fills up short rows, and reads an open quote to
    the end of the file."""
    if frame[frame.columns[-1]].null_count():
        return True
    texts = [column for column in frame if column.dtype == pl.String]
    return any(column.str.contains("\n", literal=True).any() for column in texts)


@functools.cache
def polars_checks_quotes() -> bool:
    """True for newer versions of polars. Older ones read `"a"b` as a."""
    try:
        pl.read_csv(b'name\n"a"b\n')
    except pl.exceptions.PolarsError:
        return True
    return False


def quotes_are_whole(path: str | os.PathLike) -> bool:
    """False if a cell goes on after its closing quote, which polars may not have noticed.

    Only lines with quotes are read.
    """
    if polars_checks_quotes():
        return True
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b'"') < 0:
            return True
        try:
            lines = (line.decode() for line in iter(content.readline, b"") if b'"' in line)
            collections.deque(csv.reader(lines, strict=True), maxlen=0)
        except csv.Error:
            return False
    return True


def check_numbers(path: str | os.PathLike, frame: pl.DataFrame, numbers: Sequence[str]) -> None:
    """ValueError if one of the columns `numbers` of a Parquet file holds anything else."""
    for column in frame.select(numbers):
        if not (column.dtype.is_float() or column.dtype.is_integer()):
            raise ValueError(
                f"{path}, column {column.name}: found {column.dtype} values, expected numbers"
            )


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


# ---- where a file is wrong -----------------------------------------------------------------------


def refuse(
    path: str | os.PathLike,
    frame: pl.DataFrame,
    numbers: Sequence[str],
    labels: Sequence[str] = (),
    start: int = 0,
) -> NoReturn:
    """Raise the ValueError that names the first cell that is no finite number, or no label.

    `start` rows of the file come before those of the frame.
    """
    if is_parquet(path):
        refuse_values(path, frame, numbers, labels, start)
    else:
        look_through(path, numbers, labels)
    raise ValueError(f"{path} holds a cell that is not a finite number")


def refuse_values(
    path: str | os.PathLike,
    frame: pl.DataFrame,
    numbers: Sequence[str],
    labels: Sequence[str],
    start: int,
) -> None:
    """`refuse` for a Parquet file, which has no lines."""
    for name in numbers:
        values = frame[name].cast(pl.Float32, strict=False)
        wrong = ~values.is_finite().fill_null(False)
        if wrong.any():
            row = first_true(wrong)
            raise ValueError(
                f"{place(path, start + row, name)}: found {frame[name][row]!r},"
                " expected a finite number"
            )
    for name in labels:
        for row, value in enumerate(frame[name]):
            if whole_numbers(frame[name][row : row + 1]) is None:
                raise ValueError(
                    f"{place(path, start + row, name)}: found {value!r}, expected a whole number"
                )


def place(path: str | os.PathLike, row: int, column: str) -> str:
    """The position of a frame's cell in its file, in words.

    A CSV gives the line, which is not the row if quoted cells span several lines. Parquet gives the
    row.
    """
    if not is_parquet(path):
        for number, (line, _) in enumerate(records_of(path)):
            if number == row + 1:
                return f"{path}, line {line}, column {column}"
    return f"{path}, data row {row + 1}, column {column}"


def records_of(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of each record of a CSV, including the header, in pure Python.

    Bytes that are not UTF-8 become surrogates, and only LF ends a line, as for polars. ValueError
    for wrong quotes.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        reader, line = csv.reader(file, strict=True), 1
        try:
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}, line {line}: {quote_fault(error)}") from None


def quote_fault(error: csv.Error) -> str:
    if "unexpected end" in str(error) or "field limit" in str(error):
        return 'a cell opens with " and is never closed'
    if "new-line" in str(error):
        return "a CR stands within the row, outside of quotes"
    return f"the row cannot be read ({error})"


def look_through(
    path: str | os.PathLike, numbers: Sequence[str], labels: Sequence[str] = ()
) -> None:
    """Raise a ValueError that names the first wrong line and column of a CSV, if there is one.

    This is a second, slow pass over the file.
    """
    rows = records_of(path)
    blank = None
    _, names = next(rows, (1, []))
    for line, cells in rows:
        if not any(cells):
            blank = blank or line
            continue
        if blank:
            raise ValueError(
                f"{path}, line {blank}: the row is blank, and others follow; delete it"
            )
        row = dict(zip(names, cells, strict=False))
        if fault := fault_of(row, names, len(cells), numbers, labels):
            raise ValueError(f"{path}, line {line}{fault}")


def look_for_quotes(path: str | os.PathLike) -> None:
    """Raise a ValueError that names the first row with an odd number of quotes, which Python's
    reader accepts."""
    starts = [line for line, _ in records_of(path)]
    with open(path, "rb") as file:
        quotes_by_line = [line.count(b'"') for line in file]
    ends = [*starts[1:], len(quotes_by_line) + 1]
    for start, end in zip(starts, ends, strict=False):
        quotes = sum(quotes_by_line[start - 1 : end - 1])
        if quotes % 2:
            raise ValueError(f'{path}, line {start}: a " is missing, or there is one too many')


def fault_of(
    cells: Mapping[str, str],
    names: list[str],
    count: int,
    numbers: Sequence[str],
    labels: Sequence[str],
) -> str | None:
    """What is wrong with a row {column: text} of `count` cells, or None.

    The text follows the line in a message.
    """
    if count < len(names):
        return (
            f", column {names[count]}: the row ends before it, with {count} cells; expected"
            f" {len(names)}"
        )
    if count > len(names):
        return f", column {len(names) + 1}: the row has {count} cells; expected {len(names)}"
    for name, text in cells.items():
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            return f", column {name}: not UTF-8 text"
    if not are_numbers([cells[name] for name in numbers]):
        name = next(name for name in numbers if not is_number(cells[name]))
        return f", column {name}: {in_words(cells[name])}, expected a finite number"
    for name in labels:
        if whole_numbers(pl.Series([cells[name]])) is None:
            return f", column {name}: {in_words(cells[name])}, expected a whole number"
    return None


def are_numbers(texts: list[str]) -> bool:
    """True if all texts are finite numbers. One match per row is faster than one per cell."""
    if not texts:
        return True
    if not NUMBERS.fullmatch(",".join(texts)):
        return False
    return max(abs(float(text)) for text in texts) <= LARGEST


def is_number(text: str) -> bool:
    return bool(re.fullmatch(NUMBER, text, re.ASCII)) and abs(float(text)) <= LARGEST


def in_words(text: str) -> str:
    return f"found {text[:40]!r}" if text else "the cell is empty"


def check_end(path: str | os.PathLike) -> None:
    """ValueError if a CSV does not end with a line end: its last cell may have been cut short, such
    as from 11 to 1."""
    if is_parquet(path):
        return
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 1))
        if file.read() == b"\n":
            return
    line, cells = list(records_of(path))[-1]
    column = header(path)[len(cells) - 1]
    raise ValueError(
        f"{path}, line {line}, column {column}: the file ends within a line, so that"
        f" {cells[-1][:40]!r} may have been cut short; if it is whole, end the line"
    )


# ---- writing -------------------------------------------------------------------------------------


def write_frame(path: str | os.PathLike, frame: "pl.DataFrame | pd.DataFrame") -> None:
    """Write a frame as CSV, or as Parquet if the name says so. Missing values become empty cells.

    float32 is written in the shortest form that reads back to the same float32.
    """
    try:
        if isinstance(frame, pl.DataFrame):
            write_polars(path, frame)
        else:
            write_pandas(path, frame)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise with_file_name(error, path) from None


def with_file_name(error: Exception, path: str | os.PathLike) -> Exception:
    """The system's error, such as that of a full disk, as an OSError that names the file.

    polars and an open file leave the name out. An error without the system's number is returned
    unchanged.
    """
    number = getattr(error, "errno", None)
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(found[1])
    if not number:
        return error
    return OSError(number, os.strerror(number), str(path))


def write_polars(path: str | os.PathLike, frame: pl.DataFrame) -> None:
    with open(path, "wb") as file:
        if is_parquet(path):
            frame.write_parquet(file, row_group_size=BLOCK)
            return
        append_polars(file, frame)


def append_polars(file: IO[bytes], frame: pl.DataFrame, header: bool = True) -> None:
    """Write a frame's rows into an open CSV, behind a header or not."""
    texts = [column for column in frame if column.dtype == pl.String]
    safe = frame.with_columns(guarded(column) for column in texts)
    safe.write_csv(file, include_header=header)


def write_pandas(path: str | os.PathLike, frame: "pd.DataFrame") -> None:
    texts = frame.select_dtypes(exclude=["number", "bool"]).columns
    frame = frame.assign(**{name: frame[name].map(guarded_cell) for name in texts})
    cells = [cell for name in texts for cell in frame[name] if isinstance(cell, str)]
    # pandas does not quote a cell for a CR in it.
    has_cr = any("\r" in cell for cell in cells)
    quoting = csv.QUOTE_NONNUMERIC if has_cr else csv.QUOTE_MINIMAL
    with open(path, "w", encoding="utf-8", newline="") as file:
        frame.to_csv(file, index=False, lineterminator="\n", quoting=quoting)


def guarded(column: pl.Series) -> pl.Series:
    """Text cells, with a ' in front of those that a spreadsheet would run."""
    return column.str.replace(f"({GUARDED})", "'$1")


def guarded_cell(cell: object) -> object:
    """`guarded` for one cell of any type; only text changes."""
    if isinstance(cell, str) and re.match(GUARDED, cell):
        return f"'{cell}"
    return cell


def unguarded(column: pl.Series) -> pl.Series:
    """Text cells without the ' that `guarded` put in front. A ' that it would not have put there
    stays."""
    return column.str.replace(GUARD, "$1")


# ---- content -------------------------------------------------------------------------------------


def content_sha256(frame: pl.DataFrame) -> str:
    """SHA-256 of the content of features or a head: names and values of the columns, in any order.

    Each column is hashed by itself, and threads share the columns: 100 MB take 0.06 s of processor
    time, or 0.19 s on a processor without instructions for SHA, whereas reading the same as CSV
    takes 1.5 s.
    """
    columns = frame.get_columns()
    workers = min(8, os.cpu_count() or 1)
    shares = [columns[worker::workers] for worker in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(digests_of, shares)
        digests = sorted(digest for part in parts for digest in part)
    text = json.dumps([frame.height, digests])
    return hashlib.sha256(text.encode()).hexdigest()


def digests_of(columns: list[pl.Series]) -> list[list[str]]:
    """[name, type, SHA-256 of the values] of each column."""
    return [[column.name, str(column.dtype), column_digest(column)] for column in columns]


def column_digest(column: pl.Series) -> str:
    if column.dtype.is_numeric():
        return hashlib.sha256(np.ascontiguousarray(column.to_numpy()).data).hexdigest()
    return hashlib.sha256(json.dumps(column.to_list()).encode()).hexdigest()


def table_content_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of the content of a table in a file: numbers by value, whether whole or not, and all
    other columns by their text."""
    return typed_content_sha256(typed(read_csv(path)))


def typed_content_sha256(frame: pl.DataFrame) -> str:
    """SHA-256 of the content of a table from read_typed; the same as its file's."""
    whole = [name for name, kind in frame.schema.items() if kind == pl.Int64]
    as_floats = frame.with_columns(pl.col(whole).cast(pl.Float64))
    return content_sha256(as_floats)
