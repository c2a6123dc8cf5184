"""CSV and Parquet files as frames: read strictly, written so that no spreadsheet runs a cell, hashed by content.

    frame = read_features("ID_cifar100_train.csv")     # ct0 .. ct{D-1} Float32, label Int64[, path String]
    frame = read_head("head.csv")                      # class String, w0 .. w{D-1} and bias Float32
    table = read_table("ood_metrics.csv")              # a pandas table, names as text

Nothing here knows of sidecars (`records`) or of what a file means (`artifacts`).
"""
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

SUFFIXES = (".csv", ".parquet")


# ---- reading ---------------------------------------------------------------------------------------------------------

def columns_of(path):
    """The column names of a CSV or Parquet file without reading it; a leading unnamed index column is passed over."""
    if Path(path).suffix == ".parquet":
        try:
            with open(path, "rb") as file:
                return list(pl.read_parquet_schema(file))
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{path} cannot be read as Parquet: {first_line(error)}") from None
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return [name.strip('"') for name in file.readline().rstrip("\r\n").split(",")]


def width_of(path):
    """D of a feature file, from its header; ValueError says what is amiss."""
    names = columns_of(path)
    features = [name for name in names if name.startswith("ct")]
    if not features or features != [f"ct{index}" for index in range(len(features))] or "label" not in names:
        raise ValueError(f"{path} is not a feature file: expected columns ct0 .. ct{{D-1}}, label[, path], found "
                         f"{', '.join(names[:3])[:60]} ... {names[-1][-20:]}")
    return len(features)


def read_features(path):
    """A feature file -> its frame: ct0 .. ct{D-1} Float32 in this order, label Int64, and path String where there is one.

    Raises ValueError that names the first line and column which are amiss.
    """
    width = width_of(path)
    numbers = [f"ct{index}" for index in range(width)]
    try:
        if Path(path).suffix == ".parquet":
            with open(path, "rb") as file:
                frame = pl.read_parquet(file)
        else:
            kinds = dict.fromkeys(numbers, pl.Float32) | ({"path": pl.String} if "path" in columns_of(path) else {})
            with open(path, "rb") as file:
                frame = pl.read_csv(file, schema_overrides=kinds, infer_schema_length=1000)
        labels = frame["label"]
        frame = frame.with_columns(pl.col(numbers).cast(pl.Float32), pl.col("label").cast(pl.Int64))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as features: {first_line(error)}") from None
    labelled = frame["label"].is_not_null().to_numpy()
    whole = np.isfinite(frame.select(numbers).to_numpy()).all(axis=1) & labelled
    if not whole.all():
        row = int(np.argmin(whole))
        what = ("NaN, infinity or an empty cell, of which every score is undefined" if labelled[row] else "no label")
        raise ValueError(f"{path} holds {what}, first in data row {row + 1}")
    if labels.dtype.is_float() and (labels != labels.round()).any():
        row = int((labels != labels.round()).arg_max())
        raise ValueError(f"{path} has label {labels[row]} in data row {row + 1}; expected whole numbers")
    return frame.select([*numbers, "label", *(["path"] if "path" in frame.columns else [])])


def read_head(path):
    """head.csv -> its frame: class String, w0 .. w{D-1} and bias Float32; ValueError says what is amiss."""
    names = columns_of(path)
    weights = [f"w{index}" for index in range(len(names) - 2)]
    if names != ["class", *weights, "bias"]:
        raise ValueError(f"{path} is not a head: expected columns class, w0 .. w{{D-1}}, bias, found {', '.join(names[:4])} ...")
    try:
        with open(path, "rb") as file:
            frame = pl.read_csv(file, schema_overrides=dict.fromkeys([*weights, "bias"], pl.Float32) | {"class": pl.String})
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as a head: {first_line(error)}") from None
    return frame


def read_table(path):
    """A table of ours -> pandas; names are text, an empty cell is NaN."""
    try:
        with open(path, "rb") as file:
            return pd.read_csv(file)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read as a table: {first_line(error)}") from None


def first_line(error):
    return str(error).splitlines()[0]


# ---- writing ---------------------------------------------------------------------------------------------------------

def write_frame(path, frame):
    """A frame as CSV, or as Parquet where the name says so; missing values are empty cells.

    float32 is written in the shortest form that reads back to the same float32.
    """
    if Path(path).suffix == ".parquet":
        frame.write_parquet(path)
    elif isinstance(frame, pd.DataFrame):
        frame.to_csv(path, index=False)
    else:
        frame.write_csv(path)


# ---- content ---------------------------------------------------------------------------------------------------------

def content_sha256(frame):
    """SHA-256 of what a frame of features or a head says: the names and values of its columns, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(frame.columns):
        column = frame[name]
        digest.update(f"{name}\0{column.dtype}\0{len(column)}\0".encode())
        if column.dtype.is_numeric() and not column.null_count():
            digest.update(np.ascontiguousarray(column.to_numpy()))
        else:
            digest.update("\0".join(map(repr, column.to_list())).encode())
    return digest.hexdigest()


def table_content_sha256(path):
    """The same of a table's file: columns of numbers by their values, all others by their text."""
    with open(path, "rb") as file:
        frame = pl.read_csv(file, infer_schema_length=0)
    numbers = frame.select(pl.all().cast(pl.Float64, strict=False))
    columns = [numbers[name] if numbers[name].null_count() == frame[name].null_count() else frame[name] for name in frame.columns]
    return content_sha256(pl.DataFrame(columns))


def file_content_sha256(path):
    """The same of a file of any kind: features, a head, or another table."""
    names = columns_of(path)
    if "ct0" in names and "label" in names:
        return content_sha256(read_features(path))
    if "class" in names and "w0" in names:
        return content_sha256(read_head(path))
    return table_content_sha256(path)
