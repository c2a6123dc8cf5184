"""Full-spectrum tables: ID test images and ID images under a covariate shift (csID) together
against each OOD set, as OpenOOD v1.5 defines them (Zhang et al. 2023, section 3.3).

`fsood_metrics.csv` has the columns of ood_metrics.csv, and `csid_metrics.csv` one row per csID set
and method. A method stands there if it was computed on every csID set. Thresholds, and with them
the columns `<method>_accepted` of score files, stay those of the ID test images."""

from pathlib import Path

import numpy as np
import pandas as pd

from artifacts import store
from detection import measures, metrics, tables
from detection.outputs import Classifier
from detection.scored import Scored, ScoredSet
from detection.tables import Place


def pooled(scored: Scored) -> Scored | None:
    """The scores with csID images among the ID images; None without any."""
    if not scored.csid:
        return None
    parts = [scored.id, *scored.csid]
    methods = [name for name in scored.id.scores if all(name in part.scores for part in parts)]
    scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in methods}
    labels = np.concatenate([part.images.labels for part in parts])
    images = store.Features(np.empty((len(labels), 0), np.float32), labels, None, Path())
    outside = [with_methods(part, methods) for part in scored.ood]
    return Scored(ScoredSet("ID and csID", images, scores), outside, scored.parameters)


def with_methods(part: ScoredSet, methods: list[str]) -> ScoredSet:
    """The set without the scores of other methods."""
    kept = {name: part.scores[name] for name in methods if name in part.scores}
    return ScoredSet(part.name, part.images, kept, part.notes)


def right_of(part: ScoredSet, classifier: Classifier | None) -> np.ndarray | None:
    """(N,) True for each image that is classified right; None without a classifier."""
    if classifier is None:
        return None
    return classifier.classify(part.name, part.images.features) == part.images.labels


def tabulate(
    run: Place,
    scored: Scored,
    together: Scored | None,
    classifier: Classifier | None,
    tpr: float,
    more_tpr: list[float],
) -> pd.DataFrame | None:
    """The table of `pooled` scores; its accuracy is over ID and csID images alike."""
    if together is None:
        return None
    right = None
    if classifier is not None:
        found = [right_of(part, classifier) for part in (scored.id, *scored.csid)]
        right = np.concatenate([part for part in found if part is not None])
    table = tables.tabulate(run, together, right, tpr, more_tpr)
    table.insert(2, "csid", " ".join(part.name for part in scored.csid))
    return table


def by_set(
    run: Place, scored: Scored, classifier: Classifier | None, tpr: float
) -> pd.DataFrame | None:
    """One row per csID set and method: the accuracy there, the AUROC of ID test images against the
    set, 0.5 where the score does not see the shift, and the share of the set that the threshold
    accepts which keeps the share `tpr` of ID test images."""
    rows = []
    for part in scored.csid:
        right = right_of(part, classifier)
        count = 0 if right is None else int(right.sum())
        interval = measures.wilson(count, len(part))
        for method, values in part.scores.items():
            area = metrics.delong(scored.id.scores[method], values)
            threshold = metrics.threshold_at_tpr(scored.id.scores[method], tpr)
            undefined = np.isnan(values).any() or np.isnan(threshold)
            rows.append(
                {
                    "checkpoint": run.folder.name,
                    "dataset": run.dataset,
                    "csid": part.name,
                    "n_csid": len(part),
                    "accuracy": np.nan if right is None else count / len(part),
                    "accuracy_low": np.nan if right is None else interval.low,
                    "accuracy_high": np.nan if right is None else interval.high,
                    "method": method,
                    "auroc": area.auroc,
                    "auroc_low": area.low,
                    "auroc_high": area.high,
                    "accepted": np.nan if undefined else float(np.mean(values >= threshold)),
                }
            )
    return pd.DataFrame(rows) if rows else None


def heading(table: pd.DataFrame, dataset: str) -> str:
    """What the printed table shows."""
    first = table.iloc[0]
    named = ", ".join(first["csid"].split())
    right = ""
    if not np.isnan(first["accuracy"]):
        right = f", {100 * first['accuracy']:.2f}% classified right"
    return (
        f"full spectrum: {dataset} and {named} together ({first['n_id']:,} images{right}) against"
        " each OOD set, in %"
    )
