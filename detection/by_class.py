"""Class by class: which ID class swallows which OOD set, and how well each class of an OOD set is
told apart.

ood_by_id_class.csv     one row per OOD set and ID class that some image is taken for: how many, and
                        how many of these each method accepts
ood_by_ood_class.csv    one row per class of an OOD set and method, where the set's images come from
                        folders of classes: AUROC with its interval, and both FPRs"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import figures
from detection import intervals, metrics, tables
from detection.outputs import Classifier
from detection.scored import Scored, ScoredSet
from detection.tables import Place
from images.folders import first_folder

# ---- by ID class ---------------------------------------------------------------------------------


def by_id_class(
    run: Place, scored: Scored, classifier: Classifier | None, tpr: float
) -> pd.DataFrame | None:
    """The table of ID classes, the most images of a set first; None without a classifier.

    ID test images stand there too, under the name of their data set, for comparison."""
    if classifier is None:
        return None
    thresholds = {
        method: metrics.threshold_at_tpr(values, tpr) for method, values in scored.id.scores.items()
    }
    parts = [counted(part, classifier, thresholds) for part in (*scored.ood, scored.id)]
    names = [*(part.name for part in scored.ood), run.dataset]
    for name, part in zip(names, parts, strict=True):
        part.insert(0, "checkpoint", run.folder.name)
        part.insert(1, "dataset", run.dataset)
        part.insert(2, "images_of", name)
    return pd.concat(parts, ignore_index=True)


def counted(part: ScoredSet, classifier: Classifier, thresholds: dict[str, float]) -> pd.DataFrame:
    """One row per class that some image of the set is taken for: predicted_class, images, share,
    and <method>_accepted, empty where the method has no threshold or was not computed."""
    prediction = classifier.classify(part.name, part.images.features)
    classes = len(classifier.class_names)
    images = np.bincount(prediction, minlength=classes)
    columns: dict[str, object] = {
        "predicted_class": list(classifier.class_names),
        "images": images,
        "share": images / len(part),
    }
    for method, threshold in thresholds.items():
        columns[f"{method}_accepted"] = np.full(classes, np.nan)
        if method in part.scores and np.isfinite(threshold):
            accepted = prediction[part.scores[method] >= threshold]
            columns[f"{method}_accepted"] = np.bincount(accepted, minlength=classes)
    table = pd.DataFrame(columns)
    there = table[table["images"] > 0]
    return there.sort_values("images", ascending=False, kind="stable", ignore_index=True)


def swallowed(
    by_class: pd.DataFrame | None, table: pd.DataFrame, scored: Scored, class_names: list[str]
) -> Figure | None:
    """Heat maps of the shares of each OOD set that are taken for each class, and that the method of
    the highest mean AUROC accepts besides; None where that is not known."""
    if by_class is None or len(class_names) < 2:
        return None
    sets = {part.name: len(part) for part in scored.ood}
    own = by_class[by_class["images_of"].isin(list(sets))]
    sizes = pd.Series(sets)
    wide = own.pivot(index="images_of", columns="predicted_class", values="images")
    taken = wide.reindex(index=list(sets), columns=class_names).fillna(0).div(sizes, axis=0)
    method = tables.best_on_average(table)
    accepted = None
    if method is not None:
        wide = own.pivot(index="images_of", columns="predicted_class", values=f"{method}_accepted")
        accepted = wide.reindex(index=list(sets), columns=class_names).fillna(0)
        accepted = accepted.div(sizes, axis=0)
    return figures.swallowed(taken, accepted, method or "")


# ---- by OOD class --------------------------------------------------------------------------------


def classes_of(part: ScoredSet) -> tuple[list[str], np.ndarray] | None:
    """The names of the set's classes, in order, and the number (M,) of each image's: the first
    folders of the paths. None where the images have no paths, or fewer than two folders."""
    paths = part.images.paths
    if not paths:
        return None
    folders = [first_folder(path) for path in paths]
    names = sorted(set(folders))
    if len(names) < 2:
        return None
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers[folder] for folder in folders])


def by_ood_class(run: Place, scored: Scored, tpr: float) -> pd.DataFrame | None:
    """The tidy table of OOD classes; None where no set has classes."""
    rows = []
    for part in scored.ood:
        found = classes_of(part)
        if found is None:
            continue
        names, class_of = found
        for method, values in part.scores.items():
            inside = scored.id.scores[method]
            for row in of_method(inside, values, class_of, names, tpr):
                rows.append({"ood": part.name, "method": method, **row})
    if not rows:
        return None
    table = pd.DataFrame(rows)
    table.insert(0, "checkpoint", run.folder.name)
    table.insert(1, "dataset", run.dataset)
    return table.sort_values(["ood", "ood_class"], kind="stable", ignore_index=True)


def of_method(
    inside: np.ndarray, values: np.ndarray, class_of: np.ndarray, names: list[str], tpr: float
) -> Iterator[dict[str, object]]:
    """One row per class: what metrics.evaluate says of its images against all ID images.

    The ID scores (n,) are sorted once for all classes."""
    ordered = np.sort(inside)
    threshold = metrics.threshold_at_tpr(inside, tpr)
    for number, name in enumerate(names):
        own = np.sort(values[class_of == number])
        row = {"ood_class": name, "images": len(own)}
        if np.isnan(ordered[-1]) or np.isnan(own[-1]):  # NaN is sorted last
            measured = dict.fromkeys(metrics.BY_CLASS, np.nan)
        else:
            measured = against(ordered, own, threshold, tpr)
        yield row | measured


def against(ordered: np.ndarray, own: np.ndarray, threshold: float, tpr: float) -> dict[str, float]:
    """metrics.BY_CLASS of one class's scores (m,) against ID scores (n,), both ascending."""
    n, m = len(ordered), len(own)
    # metrics.placements from one search of a class's few images among the many
    below = np.searchsorted(ordered, own, "left")
    not_above = np.searchsorted(ordered, own, "right")
    id_above = 1 - (below + not_above) / (2 * n)
    # ID images from the place `not_above` on are above, and those from `below` on not below
    beaten = np.bincount(not_above, minlength=n + 1) + np.bincount(below, minlength=n + 1)
    ood_below = np.cumsum(beaten)[:n] / (2 * m)
    area = float(id_above.mean())
    moved = intervals.spread(ood_below) + intervals.spread(id_above)
    interval = intervals.auroc(area, moved, n, m)
    caught = own[metrics.needed(tpr, m) - 1]
    return {
        "auroc": area,
        "auroc_low": interval.low,
        "auroc_high": interval.high,
        "fpr95": float(np.mean(own >= threshold)),
        "fpr95_ood_positive": float(np.searchsorted(ordered, caught, "right") / n),
    }
