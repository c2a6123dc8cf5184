"""All that was measured of a checkpoint as one JSON object, and what it says in plain language."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

import figures
import utils
from reporting import ensembles
from reporting.found import Found
from reporting.reading import reading

RUN_KEYS = (
    "model",
    "model_args",
    "dataset",
    "mode",
    "epoch",
    "epochs",
    "step",
    "steps",
    "held_out",
    "val_size",
    "preprocessing",
    "seconds",
    "command",
    "git_commit",
    "git_dirty",
    "created",
)


def summarise(found: Found, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The whole run as one JSON object: numbers in [0, 1], null where a value is missing."""
    ood = found.ood
    summary = {
        "checkpoint": checkpoint_facts(found),
        "accuracy": accuracies(found),
        "training": summarise_curves(found.curves),
        "tpr": found.tpr,
        "best": {},
        "mean_over_sets": [],
        "averaged_sets": [],
        "groups": rows_of(found.groups),
        "ood_metrics": rows_of(ood),
        "neural_collapse": rows_of(found.nc),
        "missing": [asdict(part) for part in found.missing],
        "stale": found.stale,
        "provenance": provenance,
    }
    if ood is not None:
        labelled = ood.assign(method=figures.method_labels(ood))
        summary["best"] = best_by_set(labelled)
        summary["mean_over_sets"] = mean_over_sets(labelled)
        summary["averaged_sets"] = averaged_sets(ood)
    summary["ensemble"] = ensembles.summarise(found.ensemble, summary)
    plain = utils.plain(summary)
    return {**plain, "reading": reading(plain)}


def checkpoint_facts(found: Found) -> dict[str, Any]:
    """What is known of the checkpoint; where nothing names its data set, the OOD table does."""
    run = {"stem": found.stem, "sha256": found.sha256}
    run |= {key: found.facts.get(key) for key in RUN_KEYS}
    if run["dataset"] is None and found.ood is not None and "dataset" in found.ood:
        run["dataset"] = str(found.ood["dataset"].iloc[0])
    return run


def accuracies(found: Found) -> dict[str, Any]:
    """{split: share of images classified right}: as the checkpoint states it, else as the tables
    measured it, else None."""
    measured = {}
    if found.nc is not None:
        rows = found.nc[found.nc["metric"] == "nc4_head_accuracy"]
        measured = dict(zip(rows["split"], rows["value"], strict=True))
    if found.ood is not None and "accuracy" in found.ood:
        known = found.ood["accuracy"].dropna()
        if len(known):
            measured["test"] = known.iloc[0]
    shares = {}
    for split in ("train", "val", "test"):
        stated = found.facts.get(f"{split}_acc")
        shares[split] = measured.get(split) if stated is None else stated
    return shares


def summarise_curves(curves: pd.DataFrame | None) -> dict[str, Any] | None:
    """Length of the training and its epochs of note; None without curves."""
    if curves is None or curves.empty:
        return None
    fitted = curves.loc[curves["train_acc"] == 1, "epoch"]
    best_epoch = best_accuracy = None
    if curves["val_acc"].notna().any():
        row = curves["val_acc"].idxmax()
        best_epoch, best_accuracy = curves["epoch"][row], curves["val_acc"][row]
    return {
        "epochs": len(curves),
        "seconds": curves["seconds"].sum() if "seconds" in curves else None,
        "best_val_epoch": best_epoch,
        "best_val_acc": best_accuracy,
        "first_epoch_all_training_images_right": fitted.iloc[0] if len(fitted) else None,
    }


def rows_of(table: pd.DataFrame | None) -> list[dict]:
    return [] if table is None else table.to_dict("records")


# ---- which method is best ------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The method with the highest AUROC on one OOD set; rates in [0, 1]."""

    method: str
    parameters: Any
    auroc: float
    auroc_low: float
    auroc_high: float
    fpr95: float
    tied_with: list[str]  # methods of the same AUROC
    intervals_overlap_with: list[str]
    # Whether paired tests set it apart from every other (column `best`); where none were made,
    # whether no interval overlaps its own. The tests see that all methods score the same images,
    # the intervals do not.
    set_apart: bool


def best_by_set(ood: pd.DataFrame) -> dict[str, dict[str, Any] | None]:
    """{OOD set: its Best as a dictionary, None where no method is defined on it}"""
    found = {}
    for name, rows in ood.groupby("ood", sort=False):
        best = best_of(rows)
        found[str(name)] = None if best is None else asdict(best)
    return found


def best_of(rows: pd.DataFrame) -> Best | None:
    """The best method in the rows of one OOD set.

    An AUROC counts only with its interval: that of a single image says nothing, however high it is.
    """
    rows = rows[has_interval(rows)]
    if rows.empty:
        return None
    best = rows.loc[rows["auroc"].idxmax()]
    others = rows.drop(index=best.name)
    tied = others.loc[others["auroc"] == best["auroc"], "method"]
    overlapping = others.loc[others["auroc_high"] >= best["auroc_low"], "method"]
    return Best(
        method=best["method"],
        parameters=best.get("parameters"),
        auroc=best["auroc"],
        auroc_low=best["auroc_low"],
        auroc_high=best["auroc_high"],
        fpr95=best["fpr95"],
        tied_with=list(tied),
        intervals_overlap_with=list(overlapping),
        set_apart=bool(best.get("best", overlapping.empty)),
    )


def has_interval(rows: pd.DataFrame) -> pd.Series:
    """(N,) bool: rows whose AUROC and its interval are defined."""
    defined = rows[["auroc", "auroc_low", "auroc_high"]].notna()
    return defined.all(axis=1)


def averaged_sets(ood: pd.DataFrame) -> list[str]:
    """Names of the sets that means are taken over: all, but for those of a single image, whose
    AUROC has no interval.

    A method that is undefined on the one image says nothing of the others.
    """
    alone = ood["auroc"].notna() & ~has_interval(ood)
    if "n_ood" in ood:
        alone |= ood["n_ood"] == 1
    left_out = set(ood.loc[alone, "ood"])
    return [name for name in dict.fromkeys(ood["ood"]) if name not in left_out]


def mean_over_sets(ood: pd.DataFrame) -> list[dict]:
    """Mean AUROC and FPR@95 of each method that is defined on every averaged set, highest AUROC
    first."""
    sets = averaged_sets(ood)
    defined = ood[ood["ood"].isin(sets)].dropna(subset=["auroc", "fpr95"])
    groups = defined.groupby("method", sort=False)
    on_every_set = groups["ood"].nunique() == len(sets)
    means = groups[["auroc", "fpr95"]].mean()[on_every_set]
    ranked = means.sort_values("auroc", ascending=False, kind="stable")
    return ranked.reset_index().to_dict("records")
