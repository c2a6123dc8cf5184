"""Features, heads and tables with their sidecars: written whole, and checked when they are read.

    features   ID_cifar100_train.csv    ct0 .. ct{D-1}, label[, path]     one row per image;
        .parquet holds the same columns
    head       head.csv                 class, w0 .. w{D-1}, bias         one row per class; logits
        = features @ W.T + b
    tables     ood_metrics.csv          as its writer makes them; missing values are empty cells

A file that its sidecar no longer describes was edited, cut short, or put there by somebody else. It
is refused, unless `stale` (a records.Stale that allows it) notes that and lets it pass."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from arrays import first_outside
from artifacts import csv_files, current, records
from artifacts.csv_files import SUFFIXES, columns_of, width_of
from head import Head

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

EXTRACT = "python run_networks.py --checkpoint <its checkpoint>"


@dataclass(frozen=True)
class Features:
    """features (N, D) float32, labels (N,) int64, paths [N] or None, and the file they came
    from."""

    features: np.ndarray
    labels: np.ndarray
    paths: list
    file: Path


# ---- writing -------------------------------------------------------------------------------------


def write_table(path, frame, sidecar=None, **more):
    """A polars or pandas table as CSV, and its sidecar with its rows and both hashes; missing
    values are empty cells."""
    with records.with_sidecar(
        path, {**(sidecar or {}), "rows": len(frame), **more}, csv_files.table_content_sha256
    ) as temporary:
        csv_files.write_frame(temporary, frame)


def write_parsed(path, frame, sidecar, width):
    """Features or a head, whose content is that of the frame at hand."""
    with records.with_sidecar(
        path,
        {**(sidecar or {}), "rows": len(frame), "width": width},
        lambda _: csv_files.content_sha256(frame),
    ) as temporary:
        csv_files.write_frame(temporary, frame)


def write_features(path, features, labels, paths=None, sidecar=None):
    """features (N, D) float32, labels (N,) int, paths [N] -> a CSV (or Parquet by its name) and its
    sidecar.

    float32 is written in the shortest decimal form that reads back to the same float32. The same
    features in the other format, whose sidecar this one replaces, are removed."""
    columns = {
        f"ct{index}": column for index, column in enumerate(np.asarray(features, np.float32).T)
    }
    frame = pl.DataFrame({**columns, "label": np.asarray(labels, np.int64)})
    if paths is not None:
        frame = frame.with_columns(
            pl.Series("path", [str(path) for path in paths], dtype=pl.String)
        )
    write_parsed(path, frame, sidecar, len(columns))
    for suffix in SUFFIXES:
        if suffix != Path(path).suffix:
            Path(path).with_suffix(suffix).unlink(missing_ok=True)


def write_head(path, W, b, class_names, sidecar=None):
    """W (C, D) and b (C,) -> head.csv, one row per class in the order of the logits; `class` holds
    the class's name."""
    weights = {f"w{index}": column for index, column in enumerate(np.asarray(W, np.float32).T)}
    names = pl.Series("class", [str(name) for name in class_names], dtype=pl.String)
    frame = pl.DataFrame({"class": names, **weights, "bias": np.asarray(b, np.float32)})
    write_parsed(path, frame, sidecar, len(weights))


# ---- reading -------------------------------------------------------------------------------------


def read(reader, path, remedy):
    """reader(path); what it refuses is refused with the command that makes the file anew."""
    try:
        return reader(path)
    except ValueError as error:
        raise ValueError(f"{error}; make it anew with: {remedy}") from None


def check(path, content, rows, stale, remedy):
    """Refuse a file that is not what its sidecar describes, and one that nothing describes and that
    may have been cut."""
    if not current.check_file(path, content, rows, stale, remedy):
        read(csv_files.check_end, path, remedy)


def read_features(path, stale=None, remedy=EXTRACT):
    """Read a feature CSV or Parquet file, exactly.

    Raises ValueError for what is no feature file, for NaN or infinity, by line and column, and for
    a file that is not what its sidecar describes, with the command `remedy` that makes it anew."""
    frame = read(csv_files.read_features, path, remedy)
    check(path, lambda: csv_files.content_sha256(frame), len(frame), stale, remedy)
    numbers = [name for name in frame.columns if name.startswith("ct")]
    paths = frame["path"].to_list() if "path" in frame.columns else None
    return Features(
        frame.select(numbers).to_numpy(order="c"), frame["label"].to_numpy(), paths, Path(path)
    )


def read_head(path, stale=None, remedy=EXTRACT):
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


def read_table(path, columns=(), stale=None, remedy="the script that wrote it"):
    """A table of ours -> pandas; ValueError where it lacks one of `columns`, or rows, or is not
    what its sidecar describes."""
    table = read(csv_files.read_table, path, remedy)
    lacking = [name for name in columns if name not in table.columns]
    if lacking or table.empty:
        raise ValueError(
            f"{path} lacks {', '.join(lacking) or 'rows'}; make it anew with: {remedy}"
        )
    check(path, lambda: csv_files.table_content_sha256(path), len(table), stale, remedy)
    return table


def read_typed(path, stale=None, remedy="the script that wrote it"):
    """A table of ours -> polars, to the last bit; ValueError where it is not what its sidecar
    describes."""
    table = read(csv_files.read_typed, path, remedy)
    check(path, lambda: csv_files.typed_content_sha256(table), len(table), stale, remedy)
    return table


# ---- what a folder holds -------------------------------------------------------------------------


def feature_file(folder, name):
    """The .csv or .parquet file of this stem, or None."""
    return next(
        (path for suffix in SUFFIXES if (path := Path(folder) / f"{name}{suffix}").exists()), None
    )


def check_labels(data, class_names):
    """Labels of ID images must be classes of the head: ValueError with the line of the first that
    is not."""
    row = first_outside(data.labels, len(class_names))
    if row is not None:
        raise ValueError(
            f"{csv_files.place(data.file, row, 'label')}: found label {data.labels[row]}, and the"
            f" head knows classes 0 to {len(class_names) - 1}"
        )
