"""The files of one checkpoint's scores: the tables, one file of scores per set, and the removal of
what an earlier table left."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import polars as pl

import utils
from artifacts import current, records, store
from detection import conformal, metrics, tables
from detection.detector import Detector
from detection.joining import held_out_path
from detection.scored import Scored, ScoredSet

# Made beside ood_metrics.csv, where asked for.
FIGURES = {".png", ".pdf", ".svg"}
DERIVED = (
    "ood_groups.csv",
    "ood_metrics.tex",
    "ensemble_grid.csv",
    "id_metrics.csv",
    "ood_by_id_class.csv",
    "ood_by_ood_class.csv",
    "conformal.csv",
    "fsood_metrics.csv",
    "fsood_groups.csv",
    "csid_metrics.csv",
    "detector.safetensors",
)


class Classifier(Protocol):
    """What takes an image for a class: one network's head, or an ensemble."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def classify(self, set_name: str, features: np.ndarray) -> np.ndarray:
        """The class (N,) of each image of a set, as a number."""


@dataclass(frozen=True)
class TableOptions:
    """How the tables are written."""

    tpr: float
    groups: tables.Groups  # [(group, its OOD sets)]
    latex: bool
    caption: str
    label: str


def write_tables(
    folder: Path, table: pd.DataFrame, scored: Scored, options: TableOptions, sidecar: dict
) -> list[Path]:
    """Write ood_metrics.csv and .md, and on demand ood_groups.csv and ood_metrics.tex -> their
    paths."""
    summary = tables.by_method(table, options.groups)
    written = [folder / "ood_metrics.csv", folder / "ood_metrics.md"]
    store.write_table(written[0], table, sidecar)
    utils.write_text(written[1], tables.markdown(summary, table, options.tpr))
    if options.groups:
        written.append(folder / "ood_groups.csv")
        means = tables.over_groups(table, options.groups, scored)
        store.write_table(written[-1], means, sidecar)
    if options.latex:
        written.append(folder / "ood_metrics.tex")
        text = tables.latex(summary, table, options.tpr, options.caption, options.label)
        utils.write_text(written[-1], text)
    return written


def write_more(folder: Path, more: dict[str, pd.DataFrame | None], sidecar: dict) -> list[Path]:
    """Write {file name: tidy table}, those that there are -> their paths."""
    there = {name: table for name, table in more.items() if table is not None and len(table)}
    for name, table in there.items():
        store.write_table(folder / name, table, sidecar)
    return [folder / name for name in there]


def write_scores(
    folder: Path,
    dataset: str,
    scored: Scored,
    classifier: Classifier | None,
    tpr: float,
    sidecar: dict,
    detector: Detector | None = None,
) -> list[Path]:
    """Write two files per set, of scores and of which thresholds each image passes -> their paths.

    `classifier` says which class each image is taken for, `detector` gives its verdict."""
    thresholds = {
        method: metrics.threshold_at_tpr(values, tpr) for method, values in scored.id.scores.items()
    }
    files = {f"ID_{dataset}.csv": scored.id}
    files |= {f"CSID_{part.name}.csv": part for part in scored.csid}
    files |= {f"OOD_{part.name}.csv": part for part in scored.ood}
    held_out = scored.held_out.scores if scored.held_out else {}
    written = []
    for name, part in files.items():
        own = {method: thresholds[method] for method in part.scores}
        frame = score_table(part, classifier, detector, tpr)
        frame = frame.with_columns(p_columns(part, held_out))
        paths = [folder / f"scores_{name}", folder / f"accepted_{name}"]
        for path, table in zip(paths, (frame, accepted_table(part, own)), strict=True):
            store.write_table(path, table, sidecar, thresholds=own)
        written += paths
    return [*written, *write_held_out(folder, dataset, scored, sidecar)]


def p_columns(part: ScoredSet, held_out: dict[str, np.ndarray]) -> list[pl.Series]:
    """<method>_p of each image, for the methods that were computed on held-out ID images."""
    columns = []
    for method, values in part.scores.items():
        if method in held_out:
            found = conformal.p_values(values, held_out[method]).astype(np.float32)
            columns.append(pl.Series(f"{method}_p", found).fill_nan(None))
    return columns


def write_held_out(folder: Path, dataset: str, scored: Scored, sidecar: dict) -> list[Path]:
    """Write the scores of ID validation images, which later runs join -> its path, if any."""
    if scored.held_out is None or not scored.held_out.scores:
        return []
    path = held_out_path(folder, dataset)
    columns: dict = {"label": scored.held_out.images.labels}
    for method, values in scored.held_out.scores.items():
        columns[method] = pl.Series(values).fill_nan(None)
    store.write_table(path, pl.DataFrame(columns), sidecar)
    return [path]


def score_table(
    part: ScoredSet, classifier: Classifier | None, detector: Detector | None, tpr: float
) -> pl.DataFrame:
    """One row per image: path, the detector's verdict with what it goes by, label, predicted class,
    and every score."""
    columns: dict = {"path": part.images.paths} if part.images.paths else {}
    prediction: dict[str, Any] = {}
    if classifier:
        numbers = classifier.classify(part.name, part.images.features)
        names = [classifier.class_names[number] for number in numbers]
        prediction = {"prediction": numbers, "predicted_class": names}
    scores = {name: pl.Series(values).fill_nan(None) for name, values in part.scores.items()}
    if detector is not None and detector.method:
        columns |= verdict_columns(part, detector, tpr, prediction.pop("predicted_class", None))
        if detector.method in scores:
            columns[detector.method] = scores.pop(detector.method)
    columns["label"] = part.images.labels
    return pl.DataFrame({**columns, **prediction, **scores})


def verdict_columns(
    part: ScoredSet, detector: Detector, tpr: float, classes: list[str] | None
) -> dict[str, Any]:
    """verdict, predicted_class, percentile and p_value, by the recommended score; empty where that
    was not computed on a set.

    Test images that calibrate the detector themselves say nothing of their own p-value."""
    named = {} if classes is None else {"predicted_class": classes}
    scores = part.scores.get(detector.method)
    if scores is None:
        empty = [None] * len(part)
        return {"verdict": empty, **named, "percentile": empty, "p_value": empty}
    found = detector.judge(scores, None, tpr)
    p_value = pl.Series(found.p_value.astype(np.float32))
    if detector.calibrated_on != "validation":
        p_value = pl.Series([None] * len(part), dtype=pl.Float32)
    return {
        "verdict": found.verdict,
        **named,
        "percentile": pl.Series(found.percentile.astype(np.float32)).fill_nan(None),
        "p_value": p_value.fill_nan(None),
    }


def accepted_table(part: ScoredSet, thresholds: dict[str, float]) -> pl.DataFrame:
    """One row per image: path, label, and whether each score passes its method's threshold."""
    columns: dict = {"path": part.images.paths} if part.images.paths else {}
    columns["label"] = part.images.labels
    for method, values in part.scores.items():
        scores = pl.Series(values).fill_nan(None)
        columns[f"{method}_accepted"] = accepted(scores, thresholds[method])
    return pl.DataFrame(columns)


def accepted(scores: pl.Series, threshold: float) -> pl.Series:
    """Whether each score passes the threshold; without a threshold there is no verdict."""
    if not np.isfinite(threshold):
        return pl.Series([None] * len(scores))
    return scores >= threshold


def remove_outdated(folder: Path, record: Path, written: list[Path]) -> list[str]:
    """Remove what an earlier command made of a table that is now another one -> the names.

    A score file that is not made anew stays: its numbers are still right, and its sidecar says what
    made them. Only figures and tables of this folder go, whatever the record names.
    """
    earlier = current.Record.read(record).outputs
    kept = {path.resolve() for path in written}
    root = folder.resolve()
    outdated = []
    for name in earlier:
        path = records.inside(folder, name).resolve()
        ours = Path(os.path.relpath(path, root))
        is_figure = ours.parts[0] == "figures" and ours.suffix in FIGURES
        if path not in kept and (is_figure or str(ours) in DERIVED):
            outdated.append(str(ours))
    for name in outdated:
        (folder / name).unlink(missing_ok=True)
        if name.endswith(".csv"):
            records.sidecar_path(folder / name).unlink(missing_ok=True)
    return outdated
