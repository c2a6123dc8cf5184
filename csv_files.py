"""Feature CSVs, heads and tables: written and read, exactly.

    features   ID_cifar100_train.csv    ct0 .. ct{D-1}, label[, path]     one row per image; .parquet holds the same columns
    head       head.csv                 class, w0 .. w{D-1}, bias         one row per class; logits = features @ W.T + b
    tables     ood_metrics.csv          as its writer makes them; missing values are empty cells
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from records import read_sidecar, sidecar_path, with_sidecar

SUFFIXES = (".csv", ".parquet")

# ---- features and heads -----------------------------------------------------------------------------------------------

def write_features(path, features, labels, paths=None, sidecar=None):
    """features (N, D) float32, labels (N,) int, paths [N] -> a CSV (or Parquet by its name) and its sidecar.

    float32 is written in the shortest decimal form that reads back to the same float32. The same features in the other
    format, whose sidecar this one replaces, are removed.
    """
    columns = {f"ct{index}": column for index, column in enumerate(np.asarray(features, np.float32).T)}
    frame = pl.DataFrame({**columns, "label": np.asarray(labels, np.int64)})
    if paths is not None:
        frame = frame.with_columns(pl.Series("path", [str(path) for path in paths], dtype=pl.String))
    details = {"rows": frame.height, "width": len(columns)}
    with with_sidecar(path, {**(sidecar or {}), **details}) as temporary:
        frame.write_parquet(temporary) if Path(path).suffix == ".parquet" else frame.write_csv(temporary)
    for suffix in SUFFIXES:
        if suffix != Path(path).suffix:
            Path(path).with_suffix(suffix).unlink(missing_ok=True)


@dataclass(frozen=True)
class Features:
    """features (N, D) float32, labels (N,) int64, paths [N] or None, and the file they came from."""

    features: np.ndarray
    labels: np.ndarray
    paths: list
    file: Path


def columns_of(path):
    """The column names of a CSV or Parquet file without reading it; a leading unnamed index column is passed over."""
    if Path(path).suffix == ".parquet":
        try:
            return list(pl.read_parquet_schema(path))
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return [name.strip('"') for name in file.readline().rstrip("\r\n").split(",")]


def width_of(path):
    """D of a feature file, from its header: ct0 .. ct{D-1} in order, then label; ValueError says what is amiss."""
    names = columns_of(path)
    features = [name for name in names if name.startswith("ct")]
    if not features or features != [f"ct{index}" for index in range(len(features))] or "label" not in names:
        raise ValueError(f"{path} is not a feature file: expected columns ct0 .. ct{{D-1}}, label[, path], found "
                         f"{', '.join(names[:3])[:60]} ... {names[-1][-20:]}")
    return len(features)


def read_features(path):
    """Read a feature CSV or Parquet file, exactly; NaN or infinity among the features raises ValueError with its row."""
    width = width_of(path)
    numbers = [f"ct{index}" for index in range(width)]
    try:
        if Path(path).suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            kinds = dict.fromkeys(numbers, pl.Float32) | ({"path": pl.String} if "path" in columns_of(path) else {})
            frame = pl.read_csv(path, schema_overrides=kinds, infer_schema_length=1000)
        labels = frame["label"]
        frame = frame.with_columns(pl.col(numbers).cast(pl.Float32), pl.col("label").cast(pl.Int64))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as features: {str(error).splitlines()[0]}") from None
    features = frame.select(numbers).to_numpy(order="c")
    written = read_sidecar(path).get("rows", frame.height)
    if frame.height == 0 or frame.height != written:
        raise ValueError(f"{path} holds {frame.height or 'no'} rows, expected {written or 'some'}, as its sidecar says; make it "
                         f"anew with run_networks.py, or delete {sidecar_path(path).name} to take it as it is")
    labelled = frame["label"].is_not_null().to_numpy()
    whole = np.isfinite(features).all(axis=1) & labelled
    if not whole.all():
        row = int(np.argmin(whole))
        what = ("NaN, infinity or an empty cell, of which every score is undefined" if labelled[row] else "no label")
        raise ValueError(f"{path} holds {what}, first in data row {row + 1}; make it anew with run_networks.py"
                         + (", of a network that did not diverge" if labelled[row] else ""))
    if labels.dtype.is_float() and (labels != labels.round()).any():
        row = int((labels != labels.round()).arg_max())
        raise ValueError(f"{path} has label {labels[row]} in data row {row + 1}; expected whole numbers")
    return Features(features, frame["label"].to_numpy(), frame["path"].to_list() if "path" in frame.columns else None,
                    Path(path))


def write_head(path, W, b, class_names, sidecar=None):
    """W (C, D) and b (C,) -> head.csv, a row a class in the order of the logits; `class` holds the class's name."""
    frame = pl.DataFrame({"class": [str(name) for name in class_names],
                          **{f"w{index}": column for index, column in enumerate(np.asarray(W, np.float32).T)},
                          "bias": np.asarray(b, np.float32)})
    with with_sidecar(path, {**(sidecar or {}), "rows": frame.height, "width": frame.width - 2}) as temporary:
        frame.write_csv(temporary)


def read_head(path):
    """head.csv -> W (C, D) float32, b (C,) float32, class names [C]."""
    names = columns_of(path)
    weights = [f"w{index}" for index in range(len(names) - 2)]
    if names != ["class", *weights, "bias"]:
        raise ValueError(f"{path} is not a head: expected columns class, w0 .. w{{D-1}}, bias, found {', '.join(names[:4])} ...")
    try:
        frame = pl.read_csv(path, schema_overrides=dict.fromkeys([*weights, "bias"], pl.Float32) | {"class": pl.String})
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as a head: {str(error).splitlines()[0]}") from None
    if frame.height < 2 or not weights:
        raise ValueError(f"{path} holds {frame.height} classes and {len(weights)} weights each; expected at least 2 and 1")
    W, b = frame.select(weights).to_numpy(order="c"), frame["bias"].to_numpy()
    if not (np.isfinite(W).all() and np.isfinite(b).all()):
        raise ValueError(f"{path} holds NaN, infinity or an empty cell; make it anew with run_networks.py")
    return W, b, frame["class"].to_list()


def feature_file(folder, name):
    """The .csv or .parquet file of this stem, or None."""
    return next((path for suffix in SUFFIXES if (path := Path(folder) / f"{name}{suffix}").exists()), None)


def check_labels(data, class_names):
    """Labels of ID images must be classes of the head: ValueError with the first that is not."""
    wrong = (data.labels < 0) | (data.labels >= len(class_names))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{data.file} has label {data.labels[row]} in data row {row + 1}; the head knows classes 0 to "
                         f"{len(class_names) - 1}")


# ---- tables -----------------------------------------------------------------------------------------------------------

def write_table(path, frame, sidecar=None):
    """A pandas table as CSV with its sidecar; missing values are empty cells."""
    with with_sidecar(path, {**(sidecar or {}), "rows": len(frame)}) as temporary:
        frame.to_csv(temporary, index=False)


def read_table(path):
    return pd.read_csv(path)
