"""The files of one checkpoint's scores: the tables, one file of scores per set, and the removal of
what an earlier table left."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import polars as pl

import utils
from artifacts import current, records, store
from detection import conformal, metrics, tables
from detection.joining import held_out_path
from detection.scored import Scored, ScoredSet

# Made beside ood_metrics.csv, where asked for.
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
) -> list[Path]:
    """Write one file of scores per set -> their paths; `classifier` says which class each image is
    taken for."""
    thresholds = {
        method: metrics.threshold_at_tpr(values, tpr) for method, values in scored.id.scores.items()
    }
    files = {f"scores_ID_{dataset}.csv": scored.id}
    files |= {f"scores_CSID_{part.name}.csv": part for part in scored.csid}
    files |= {f"scores_OOD_{part.name}.csv": part for part in scored.ood}
    held_out = scored.held_out.scores if scored.held_out else {}
    for name, part in files.items():
        own = {method: thresholds[method] for method in part.scores}
        frame = score_table(part, own, classifier).with_columns(p_columns(part, held_out))
        store.write_table(folder / name, frame, sidecar, thresholds=own)
    return [*(folder / name for name in files), *write_held_out(folder, dataset, scored, sidecar)]


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
    part: ScoredSet, thresholds: dict[str, float], classifier: Classifier | None
) -> pl.DataFrame:
    """One row per image: path, label, predicted class, every score, and whether it passes its
    method's threshold."""
    columns: dict = {"path": part.images.paths} if part.images.paths else {}
    columns["label"] = part.images.labels
    if classifier:
        prediction = classifier.classify(part.name, part.images.features)
        columns["prediction"] = prediction
        columns["predicted_class"] = [classifier.class_names[index] for index in prediction]
    for method, values in part.scores.items():
        columns[method] = pl.Series(values).fill_nan(None)
    for method in part.scores:
        columns[f"{method}_accepted"] = accepted(columns[method], thresholds[method])
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
        is_figure = ours.parts[0] == "figures" and ours.suffix == ".png"
        if path not in kept and (is_figure or str(ours) in DERIVED):
            outdated.append(str(ours))
    for name in outdated:
        (folder / name).unlink(missing_ok=True)
        if name.endswith(".csv"):
            records.sidecar_path(folder / name).unlink(missing_ok=True)
    return outdated
