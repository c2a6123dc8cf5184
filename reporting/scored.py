"""The scores of every image, as ood_methods.py wrote them: what curves, histograms and the gallery
are made from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

import figures
from artifacts import records, store

ID_FILE, OOD_FILE = "scores_ID_{}.csv", "scores_OOD_{}.csv"
LISTINGS = ("scores_ID_*.csv", "scores_OOD_*.csv")


@dataclass(frozen=True)
class ScoredSet:
    """The images of one set with their scores."""

    name: str
    scores: dict[str, np.ndarray]  # {method as the tables label it: (N,)}, NaN where undefined
    taken_for: list[str] | None  # class that each image is taken for; None without a head
    labels: np.ndarray  # (N,) int64
    paths: list[str] | None  # of images in files, below their folder
    images: dict[str, Any]  # the sidecar of the features: place, source, files
    features: Path | None = None  # where they lie, or lay: without the suffix

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ScoredRun:
    """The ID test images and each OOD set of the table whose scores are at hand."""

    id: ScoredSet
    ood: list[ScoredSet]
    thresholds: dict[str, float]  # {method: the score from which an image is accepted}


def find(folder: Path, ood: pd.DataFrame | None, stale: records.Stale, remedy: str) -> Any:
    """The ScoredRun of a folder; None where the table or the scores of ID images are missing.

    ValueError where a file of scores was edited since it was written."""
    if ood is None or "dataset" not in ood:
        return None
    dataset = str(ood["dataset"].iloc[0])
    path = folder / ID_FILE.format(dataset)
    if not path.is_file():
        return None
    methods = columns(ood)
    files = {str(name): folder / OOD_FILE.format(name) for name in dict.fromkeys(ood["ood"])}
    others = [
        read(file, name, folder / f"OOD_{name}_test", methods, stale, remedy)
        for name, file in files.items()
        if file.is_file()
    ]
    inside = read(path, dataset, folder / f"ID_{dataset}_test", methods, stale, remedy)
    said = records.read_sidecar(path).get("thresholds") or {}
    labels = {column: label for label, column in methods.items()}
    thresholds = {labels[name]: value for name, value in said.items() if name in labels}
    return ScoredRun(inside, others, thresholds)


def columns(ood: pd.DataFrame) -> dict[str, str]:
    """{label: method} of the methods that stand once for each set.

    Of a method with several parameters nobody can say which of them its column of scores is of."""
    labelled = ood.assign(label=figures.method_labels(ood))
    pairs = labelled[["label", "method"]].drop_duplicates()
    once = pairs[~pairs["method"].duplicated(keep=False)]
    return dict(zip(once["label"], once["method"], strict=True))


def read(
    path: Path, name: str, features: Path, methods: dict, stale: records.Stale, remedy: str
) -> ScoredSet:
    """One file of scores, with what the sidecar of its features says of the images."""
    table = store.read_typed(path, stale, remedy)
    scores = {label: numbers(table[column]) for label, column in methods.items() if column in table}
    return ScoredSet(
        name=name,
        scores=scores,
        taken_for=texts(table, "predicted_class"),
        labels=table["label"].to_numpy().astype(np.int64),
        paths=texts(table, "path"),
        images=records.read_sidecar(features.with_name(f"{features.name}.csv")),
        features=features,
    )


def numbers(column: pl.Series) -> np.ndarray:
    """A column of scores (N,) float64, NaN where it is empty."""
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def texts(table: pl.DataFrame, column: str) -> list[str] | None:
    """A column of texts, None where there is none."""
    if column not in table:
        return None
    found: Iterable[Any] = table[column].to_list()
    return ["" if cell is None else str(cell) for cell in found]
