"""Class by class, for the panel of one score: which classes take in the images of an OOD set and
how many of those the score accepts, and which classes of the OOD set it tells least well apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reporting.scored import ScoredRun, ScoredSet
from reporting.words import finite, interval_of, rate

SHOWN = 8  # classes of a table


def class_panel(
    run: ScoredRun,
    methods: Sequence[str],
    by_ood_class: pd.DataFrame | None,
    words: Mapping[str, str],
) -> dict[str, Any]:
    """{"taken": {set: {"classes", "images", "further", "accepted": {method: counts}}}, "hardest":
    {method: {set: rows}}}; sets whose images nobody classified are left out.

    words: {class name: what to call it}."""
    return {
        "taken": {
            part.name: taken_in(part, methods, run.thresholds, words)
            for part in run.ood
            if part.taken_for is not None
        },
        "hardest": {} if by_ood_class is None else hardest(by_ood_class, methods),
    }


def taken_in(
    part: ScoredSet,
    methods: Sequence[str],
    thresholds: Mapping[str, float],
    words: Mapping[str, str],
) -> dict[str, Any]:
    """The classes that most images of a set are taken for, and how many of these each method
    accepts; a method without a threshold has no counts."""
    classes, own, images = np.unique(
        np.array(part.taken_for, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    first = np.argsort(-images, kind="stable")[:SHOWN]
    accepted = {}
    for method in methods:
        if method in part.scores and finite(thresholds.get(method)):
            passing = own[part.scores[method] >= thresholds[method]]
            accepted[method] = np.bincount(passing, minlength=len(classes))[first].tolist()
    return {
        "classes": [words.get(name, name) for name in classes[first].tolist()],
        "images": images[first].tolist(),
        "further": len(classes) - len(first),
        "accepted": accepted,
    }


def hardest(by_ood_class: pd.DataFrame, methods: Sequence[str]) -> dict[str, dict[str, list]]:
    """{method: {set: [[class, images, AUROC, interval, FPR], ...]}} as texts, the lowest AUROC
    first, of ood_by_ood_class.csv."""
    rows = by_ood_class[by_ood_class["method"].isin(methods)].sort_values("auroc", kind="stable")
    found: dict[str, dict[str, list]] = {}
    for (method, ood), part in rows.groupby(["method", "ood"], sort=False):
        lines = [hard_row(row) for row in part.head(SHOWN).to_dict("records")]
        found.setdefault(str(method), {})[str(ood)] = lines
    return found


def hard_row(row: Mapping[Any, Any]) -> list[str]:
    """One class of an OOD set, as texts."""
    low, high = row["auroc_low"], row["auroc_high"]
    within = interval_of(low, high, rate) if finite(low) else "one image"
    return [
        str(row["ood_class"]),
        f"{row['images']:,.0f}",
        rate(row["auroc"]),
        within,
        rate(row["fpr95"]),
    ]
