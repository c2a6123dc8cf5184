"""The rows of a feature file as small frames, one after the other, so that memory is bounded
whatever the file holds; and the hash of its content, made in passing.

    for frame in frames("ID_cifar100_train.csv"):
        # polars: ct0 .. ct{D-1} Float32, label Int64[, path String]; some thousand rows

A CSV is read some megabytes at a time, a Parquet file by its row groups. Both are as strict as
`csv_files`, whose words a refusal has.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from arrays import BLOCK
from artifacts import csv_files
from artifacts.csv_files import first_line, is_parquet

CHUNK = 1 << 24  # bytes of a CSV that are read at once
LONGEST = 1 << 27  # bytes without the end of a row, above which a quote must be missing


def frames(path: str | os.PathLike) -> Iterator[pl.DataFrame]:
    """Yield the rows of a feature file in order, ct0 .. ct{D-1} Float32, label Int64, and path
    String if the file has one.

    ValueError names the first line and column that are wrong. It may come after frames that were
    right.
    """
    numbers = csv_files.numbered("ct", csv_files.width_of(path))
    texts = ["path"] if "path" in csv_files.columns_of(path) else []
    wanted = [*numbers, "label", *texts]
    start = 0
    found = parquet_frames(path, wanted) if is_parquet(path) else csv_frames(path, numbers)
    for frame in found:
        if frame.columns != wanted:
            frame = frame.select(wanted)
        yield csv_files.checked_features(path, frame, numbers, texts, start)
        start += frame.height


def count_rows(path: str | os.PathLike) -> int:
    """At least as many rows as the file has, found without reading its values.

    Of a Parquet file exactly as many; of a CSV its line ends, and one more.
    """
    if is_parquet(path):
        return scan(path).select(pl.len()).collect().item()
    lines = 1
    with open(path, "rb") as file:
        while text := file.read(CHUNK):
            lines += text.count(b"\n")
    return lines


# ---- CSV -----------------------------------------------------------------------------------------


def csv_frames(path: str | os.PathLike, numbers: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield a CSV's rows: `numbers` as Float32, the others as text; blank rows at its end are left
    out."""
    names = csv_files.header(path)
    was_blank = False
    if not csv_files.quotes_are_whole(path):
        csv_files.look_through(path, numbers, ["label"])
    for text in texts_of(path, numbers):
        whole = parsed(path, text, names, numbers)
        frame = csv_files.without_blank_end(whole)
        if (was_blank and frame.height) or csv_files.is_doubtful(frame):
            csv_files.look_through(path, numbers, ["label"])
        was_blank = was_blank or frame.height < whole.height
        if names[0] in csv_files.INDEX:
            frame = frame.drop(names[0])
        if frame.height:
            yield frame


def parsed(
    path: str | os.PathLike, text: bytes, names: list[str], numbers: Sequence[str]
) -> pl.DataFrame:
    """Some rows of a CSV, below its header, as a frame of all its columns."""
    kinds = dict.fromkeys(numbers, pl.Float32)
    try:
        frame = pl.read_csv(text, schema_overrides=kinds, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        csv_files.look_through(path, numbers, ["label"])
        csv_files.look_for_quotes(path)
        raise ValueError(f"{path} cannot be read as CSV: {first_line(error)}") from None
    if frame.columns != names:
        raise ValueError(f"{path}, line 1: not the header of a CSV")
    return frame


def texts_of(path: str | os.PathLike, numbers: Sequence[str]) -> Iterator[bytes]:
    """Yield a CSV as texts of about CHUNK bytes, each with the header and then whole rows."""
    with open(path, "rb") as file:
        head = file.readline()
        while text := file.read(CHUNK):
            text = b"".join((head, text, file.readline()))
            while b'"' in text and text.count(b'"') % 2:  # a line end within quotes ends no row
                more = file.readline()
                if not more or len(text) > LONGEST:
                    csv_files.look_through(path, numbers, ["label"])
                    csv_files.look_for_quotes(path)
                    more += file.read()
                if not more:
                    break
                text += more
            yield text


# ---- Parquet -------------------------------------------------------------------------------------


def scan(path: str | os.PathLike) -> pl.LazyFrame:
    """A Parquet file, of which nothing is read yet; its name is no pattern and no address."""
    return pl.scan_parquet(os.path.abspath(path), glob=False, hive_partitioning=False)


def parquet_frames(path: str | os.PathLike, wanted: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield BLOCK rows at a time, which is what our files have in a row group."""
    try:
        rows = count_rows(path)
        for start in range(0, rows, BLOCK):
            frame = scan(path).select(wanted).slice(start, BLOCK).collect()
            yield frame
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as Parquet: {first_line(error)}") from None


# ---- content -------------------------------------------------------------------------------------


class Digest:
    """`csv_files.content_sha256` of a frame that comes in parts.

    Each column is hashed by itself. Threads would wait for each other at every column.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.kinds: dict[str, str] = {}
        self.hashes: dict[str, hashlib._Hash] = {}

    def update(self, frame: pl.DataFrame) -> None:
        """Add the rows of a frame; all frames have the same columns."""
        if not self.hashes:
            self.kinds = {name: str(kind) for name, kind in frame.schema.items()}
            self.hashes = {name: hashlib.sha256() for name in frame.columns}
        values: bytes | memoryview
        for column in frame.get_columns():
            if column.dtype.is_numeric():
                values = np.ascontiguousarray(column.to_numpy()).data
            else:
                values = self.text_of(column)
            self.hashes[column.name].update(values)
        self.rows += frame.height

    def text_of(self, column: pl.Series) -> bytes:
        """What a column's cells add to the JSON of all of them."""
        text = json.dumps(column.to_list())[1:-1]
        before = ", " if self.rows else "["
        return f"{before}{text}".encode()

    def hexdigest(self) -> str:
        """The hash of all rows so far."""
        digests = []
        for name, own in self.hashes.items():
            whole = own.copy()
            if self.kinds[name] == str(pl.String):
                whole.update(b"]" if self.rows else b"[]")
            digests.append([name, self.kinds[name], whole.hexdigest()])
        text = json.dumps([self.rows, sorted(digests)])
        return hashlib.sha256(text.encode()).hexdigest()


def file_content_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of the content of any file: features, a head, or another table."""
    names = csv_files.columns_of(path)
    if "ct0" in names and "label" in names:
        return features_sha256(path)
    if "class" in names and "w0" in names:
        return csv_files.content_sha256(csv_files.read_head(path))
    return csv_files.table_content_sha256(path)


def features_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of the content of a feature file."""
    digest = Digest()
    for frame in frames(path):
        digest.update(frame)
    return digest.hexdigest()
