"""Features, heads and tables with their sidecars: written whole, and checked when they are read.

    features   ID_cifar100_train.csv    ct0 .. ct{D-1}, label[, path]     one row per image
    head       head.csv                 class, w0 .. w{D-1}, bias         one row per class
    tables     ood_metrics.csv          columns of any names; missing values are empty cells

Features may also be .parquet files with the same columns. With a head, logits = features @ W.T + b.

A file that differs from its sidecar was edited, cut short, or put there by somebody else. It is
refused, unless `stale` (a records.Stale that allows it) notes it and lets it pass.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

import disk_rows
from arrays import first_outside
from artifacts import blocks, csv_files, current, records, shards
from artifacts.csv_files import SUFFIXES, columns_of
from head import Head

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SUFFIXES",
    "Features",
    "check_labels",
    "columns_of",
    "feature_file",
    "read_features",
    "read_head",
    "read_table",
    "read_typed",
    "width_of",
    "write_features",
    "write_head",
    "write_table",
]

T = TypeVar("T")

EXTRACT = "python run_networks.py --checkpoint <its checkpoint>"


@dataclass(frozen=True)
class Features:
    """The features of N images, and the file that they came from."""

    features: np.ndarray  # (N, D) float32
    labels: np.ndarray  # (N,) int64
    paths: list[str] | None  # [N] the image files, if the images came from files
    file: Path

    @property
    def labelled(self) -> bool:
        """False where every label is -1: of OOD images, and of ID images that nobody labelled."""
        return bool((self.labels != -1).any())


# ---- writing -------------------------------------------------------------------------------------


def write_table(
    path: str | os.PathLike,
    frame: "pl.DataFrame | pd.DataFrame",
    sidecar: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Write a table as CSV with its sidecar. Missing values become empty cells.

    The sidecar gets the number of rows, `more`, and both hashes.
    """
    facts = {**(sidecar or {}), "rows": len(frame), **more}
    with records.with_sidecar(path, facts, csv_files.table_content_sha256) as temporary:
        csv_files.write_frame(temporary, frame)


def write_parsed(
    path: str | os.PathLike, frame: pl.DataFrame, sidecar: Mapping[str, Any] | None, width: int
) -> None:
    """Write features or a head with a sidecar.

    Reading gives exactly this frame, so its content is hashed in memory.
    """
    facts = {**(sidecar or {}), "rows": len(frame), "width": width}
    with records.with_sidecar(path, facts, lambda _: csv_files.content_sha256(frame)) as temporary:
        csv_files.write_frame(temporary, frame)


def numbered_columns(letters: str, matrix: ArrayLike) -> dict[str, np.ndarray]:
    """Matrix (N, D) -> {"ct0": its first column (N,) as float32, ...} for the letters "ct"."""
    columns = np.asarray(matrix, np.float32).T
    return {f"{letters}{index}": column for index, column in enumerate(columns)}


def text_column(name: str, values: Iterable[object]) -> pl.Series:
    return pl.Series(name, [str(value) for value in values], dtype=pl.String)


def write_features(
    path: str | os.PathLike,
    features: ArrayLike,
    labels: ArrayLike,
    paths: Iterable[str | os.PathLike] | None = None,
    sidecar: Mapping[str, Any] | None = None,
) -> None:
    """Write features (N, D), labels (N,) and paths [N] as CSV, or as Parquet by the name of the
    file, with a sidecar.

    float32 is written in the shortest decimal form that reads back to the same float32. If the same
    features exist in the other format, that file is deleted, because both have one sidecar.
    """
    frame = feature_frame(features, labels, paths)
    if shards.is_folder(path):
        shards.remove(path)
    write_parsed(path, frame, sidecar, np.shape(features)[1])
    remove_other_format(path)


def feature_frame(
    features: ArrayLike, labels: ArrayLike, paths: Iterable[str | os.PathLike] | None = None
) -> pl.DataFrame:
    """Features (N, D), labels (N,) and paths [N] as the columns of a feature file."""
    columns = numbered_columns("ct", features)
    frame = pl.DataFrame({**columns, "label": np.asarray(labels, np.int64)})
    return frame if paths is None else frame.with_columns(text_column("path", paths))


def remove_other_format(path: str | os.PathLike) -> None:
    """Remove the same features in the other format: both have one sidecar."""
    for suffix in SUFFIXES:
        if suffix != Path(path).suffix:
            shards.remove(Path(path).with_suffix(suffix))


def write_head(
    path: str | os.PathLike,
    W: ArrayLike,
    b: ArrayLike,
    class_names: Iterable[object],
    sidecar: Mapping[str, Any] | None = None,
) -> None:
    """Write W (C, D) and b (C,) as head.csv: one row per class, in the order of the logits.

    The column `class` holds the name of the class.
    """
    weights = numbered_columns("w", W)
    names = text_column("class", class_names)
    bias = np.asarray(b, np.float32)
    frame = pl.DataFrame({"class": names, **weights, "bias": bias})
    write_parsed(path, frame, sidecar, len(weights))


# ---- reading -------------------------------------------------------------------------------------


def read(reader: Callable[[str | os.PathLike], T], path: str | os.PathLike, remedy: str) -> T:
    """reader(path). Its ValueError is raised with the command that makes the file anew."""
    try:
        return reader(path)
    except ValueError as error:
        raise ValueError(f"{error}; make it anew with: {remedy}") from None


def check(
    path: str | os.PathLike,
    content: Callable[[], str],
    rows: int,
    stale: records.Stale | None,
    remedy: str,
) -> None:
    """Refuse a file that differs from its sidecar, and one without a sidecar that may have been cut
    short."""
    if not current.check_file(path, content, rows, stale, remedy):
        read(csv_files.check_end, path, remedy)


def read_features(
    path: str | os.PathLike, stale: records.Stale | None = None, remedy: str = EXTRACT
) -> Features:
    """Read a feature file, CSV or Parquet, or a folder of shards, exactly.

    Memory is that of the features, and some 64 MB; artifacts/blocks.py reads in bounded memory.

    ValueError for a file without features, for NaN or infinity (with line and column), and for a
    file that differs from its sidecar. The message names `remedy`, the command that makes the file
    anew.
    """
    read = blocks.whole(path, stale, remedy)
    return Features(read.features, read.labels, read.paths, file=Path(path))


def read_features_to_disk(
    path: str | os.PathLike,
    folder: Path,
    stale: records.Stale | None = None,
    remedy: str = EXTRACT,
) -> Features:
    """The same features, read block by block into a file in `folder` that goes with the program;
    the image files' names are left out. ValueError as above, and where the disk has no room."""
    width = blocks.width_of(path, remedy)
    needed = blocks.expected_rows(path, width) * width * disk_rows.KIND.itemsize
    free = shutil.disk_usage(folder).free
    no_room = (
        f"{path} takes {needed / 2**30:,.1f} GiB of {folder} while it is scored, where"
        f" {free / 2**30:,.1f} are free; free some, or read it into memory with"
        " --features-in memory"
    )
    if needed > free:
        raise ValueError(no_room)
    writer, labels = disk_rows.Writer(folder, width), []
    for block in blocks.blocks(path, stale, remedy):
        try:
            writer.add(block.features)
        except OSError as error:  # others write there too
            raise ValueError(f"{no_room} ({error.strerror})") from None
        labels.append(block.labels)
    rows = cast(np.ndarray, writer.finished())  # it answers as one where scores ask it
    return Features(rows, np.concatenate(labels), None, file=Path(path))


def read_head(
    path: str | os.PathLike, stale: records.Stale | None = None, remedy: str = EXTRACT
) -> Head:
    """head.csv -> Head with W (C, D) and b (C,) in float32."""
    frame = read(csv_files.read_head, path, remedy)
    weights = [name for name in frame.columns if name not in ("class", "bias")]
    if frame.height < 2 or not weights:
        raise ValueError(
            f"{path} holds {frame.height} classes and {len(weights)} weights each; expected at"
            " least 2 and 1"
        )
    check(path, lambda: csv_files.content_sha256(frame), len(frame), stale, remedy)
    W = frame.select(weights).to_numpy(order="c")
    return Head(W, frame["bias"].to_numpy(), frame["class"].to_list())


def read_table(
    path: str | os.PathLike,
    columns: Iterable[str] = (),
    stale: records.Stale | None = None,
    remedy: str = "the script that wrote it",
) -> "pd.DataFrame":
    """Read a table that this project wrote, as pandas.

    ValueError if it lacks one of `columns`, has no rows, or differs from its sidecar.
    """
    table = read(csv_files.read_table, path, remedy)
    lacking = [name for name in columns if name not in table.columns]
    if lacking or table.empty:
        raise ValueError(
            f"{path} lacks {', '.join(lacking) or 'rows'}; make it anew with: {remedy}"
        )
    check(path, lambda: csv_files.table_content_sha256(path), len(table), stale, remedy)
    return table


def read_typed(
    path: str | os.PathLike,
    stale: records.Stale | None = None,
    remedy: str = "the script that wrote it",
) -> pl.DataFrame:
    """Read a table that this project wrote, as polars, exact to the last bit.

    ValueError if it differs from its sidecar.
    """
    table = read(csv_files.read_typed, path, remedy)
    check(path, lambda: csv_files.typed_content_sha256(table), len(table), stale, remedy)
    return table


def width_of(path: str | os.PathLike) -> int:
    """D of a feature file, or of the shards in a folder, from their headers. ValueError says what
    is wrong with a header, or with a folder."""
    if shards.is_folder(path):
        shards.check_folder(Path(path), EXTRACT)
    return csv_files.width_of(shards.parts_of(path)[0])


# ---- what a folder holds -------------------------------------------------------------------------


def feature_file(folder: str | os.PathLike, name: str) -> Path | None:
    """The .csv or .parquet file of this stem, or folder of shards; None if there is neither."""
    for suffix in SUFFIXES:
        path = Path(folder) / f"{name}{suffix}"
        if path.exists():
            return path
    return None


def check_labels(data: Features, class_names: Sequence[str]) -> None:
    """ValueError, with line and label, if the label of an ID image is not a class of the head."""
    row = first_outside(data.labels, len(class_names))
    if row is not None:
        raise ValueError(
            f"{csv_files.place(data.file, row, 'label')}: found label {data.labels[row]}, and the"
            f" head knows classes 0 to {len(class_names) - 1}"
        )
