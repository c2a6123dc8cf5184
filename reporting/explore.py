"""What the page's one control switches: for each method its line, and for each OOD set its ROC
curve and its histograms, reduced to a few hundred numbers by exact rules; for each two methods
the scatter of reporting/score_pairs.py.

ROC curve      every point is a threshold of the data, as two counts: OOD images and ID images that
               score at least as high. Kept are, of each grid value of the false-positive rate
               (0, 0.01 ... 1, and 30 a decade from 0.0001 on), the last threshold that does not
               exceed it, and of each grid value of the true-positive rate (0, 0.01 ... 1) the first
               threshold that reaches it: at most 322 points, none of them interpolated.
histogram      counts in equal bins over the range that the figures of ood_methods.py use
               (figures.style.window); what lies beyond is counted at each end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import figures
from figures.style import finite, score_bins, window
from reporting.found import Found, Summary
from reporting.methods import line_of
from reporting.score_pairs import sampled_places, together
from reporting.scored import ScoredRun
from reporting.words import finite as is_finite
from reporting.words import kept, rate

SHARES = np.linspace(0, 1, 101)
SMALL_SHARES = np.logspace(-4, 0, 121)
DOCUMENT = "docs/methods.md"


@dataclass(frozen=True)
class Curve:
    """The corners of a ROC curve: how many OOD and how many ID images pass each threshold."""

    ood: np.ndarray  # (P,) int64, rising
    id: np.ndarray  # (P,) int64, rising


def roc(id_scores: np.ndarray, ood_scores: np.ndarray) -> Curve:
    """The whole ROC curve of scores (N,) and (M,), all finite: one point for each distinct score,
    and the origin."""
    scores = np.concatenate([id_scores, ood_scores])
    is_id = np.arange(len(scores)) < len(id_scores)
    order = np.argsort(-scores, kind="stable")
    scores, is_id = scores[order], is_id[order]
    last_of_its_value = np.append(scores[1:] != scores[:-1], True)
    inside = np.cumsum(is_id)[last_of_its_value]
    passed = np.flatnonzero(last_of_its_value) + 1
    return Curve(np.append(0, passed - inside), np.append(0, inside))


def reduced(curve: Curve) -> Curve:
    """The few hundred points of a whole ROC curve that the page draws, by the rule above."""
    most_ood = np.concatenate([SHARES, SMALL_SHARES]) * curve.ood[-1]
    least_id = SHARES * curve.id[-1]
    slack = 1e-9  # of a share that is not exact in binary: 0.29 * 100 is a little below 29
    below = np.searchsorted(curve.ood, np.floor(most_ood + slack), side="right") - 1
    reaching = np.searchsorted(curve.id, np.ceil(least_id - slack), side="left")
    kept_points = np.unique(np.concatenate([[0, len(curve.id) - 1], below, reaching]))
    return Curve(curve.ood[kept_points], curve.id[kept_points])


def histogram(id_scores: np.ndarray, ood_scores: np.ndarray) -> dict[str, Any]:
    """The counts of two sets of finite scores (N,) and (M,) in the same bins, and beyond them."""
    start, stop = window(id_scores, [ood_scores])
    edges = score_bins(start, stop, min(len(id_scores), len(ood_scores)))
    return {
        "start": significant(start),
        "stop": significant(stop),
        "id": np.histogram(id_scores, edges)[0].tolist(),
        "ood": np.histogram(ood_scores, edges)[0].tolist(),
        "below": [int((part < start).sum()) for part in (id_scores, ood_scores)],
        "above": [int((part > stop).sum()) for part in (id_scores, ood_scores)],
    }


def significant(value: float) -> float:
    """A number with six significant digits, so that JSON stays short."""
    return float(f"{value:.6g}")


def explore(summary: Summary, found: Found) -> dict[str, Any] | None:
    """What the script of the page reads, but for the gallery; None without scores of images."""
    run = found.scored
    if run is None or found.ood is None or not run.ood:
        return None
    methods = ranked(summary, run)
    return {
        "tpr": kept(summary["tpr"]),
        "sets": [part.name for part in run.ood],
        "images": [len(run.id), *(len(part) for part in run.ood)],
        "methods": [described(method, numbers_of(method, found.ood)) for method in methods],
        "roc": {method: curves_of(method, run) for method in methods},
        "histograms": {method: histograms_of(method, run) for method in methods},
        "places": {method: places_of(method, run) for method in methods},
        "together": {part.name: together(part, methods, run.thresholds) for part in run.ood},
        "thresholds": {
            method: significant(value)
            for method, value in run.thresholds.items()
            if is_finite(value)
        },
    }


def ranked(summary: Summary, run: ScoredRun) -> list[str]:
    """The methods with scores, the best mean first."""
    best_first = [row["method"] for row in summary["mean_over_sets"]]
    return [name for name in dict.fromkeys([*best_first, *run.id.scores]) if name in run.id.scores]


def described(method: str, sets: dict[str, list[str]]) -> dict[str, Any]:
    """A method's line, and its AUROC and FPR on each set."""
    line = line_of(method)
    return {
        "name": method,
        "does": line.does,
        "source": line.source,
        "family": line.family.name,
        "section": line.family.section,
        "sets": sets,
    }


def numbers_of(method: str, ood: pd.DataFrame) -> dict[str, list[str]]:
    """{set: [AUROC, FPR] in percent} as the table has them, without those without an interval."""
    rows = ood[(figures.method_labels(ood) == method) & ood["auroc_low"].notna()]
    return {
        str(row["ood"]): [rate(row["auroc"]), rate(row["fpr95"])] for row in rows.to_dict("records")
    }


def pairs(method: str, run: ScoredRun) -> Sequence[tuple[str, np.ndarray, np.ndarray]]:
    """(set, ID scores, its scores), where the method is defined for several images of each.

    As in the tables, an undefined score leaves the curve undefined."""
    inside = run.id.scores[method]
    found = []
    for part in run.ood:
        outside = part.scores.get(method, np.empty(0))
        if min(len(finite(inside)), len(finite(outside))) > 1:
            found.append((part.name, inside, outside))
    return found


def curves_of(method: str, run: ScoredRun) -> dict[str, list[list[int]]]:
    """{set: [OOD counts, ID counts]} of the reduced curves; none where a score is undefined."""
    found = {}
    for name, inside, outside in pairs(method, run):
        if np.isfinite(inside).all() and np.isfinite(outside).all():
            curve = reduced(roc(inside, outside))
            found[name] = [curve.ood.tolist(), curve.id.tolist()]
    return found


def places_of(method: str, run: ScoredRun) -> dict[str, list[list[int | None]]]:
    """{set: [places of ID images, of OOD images]} in the scatter of this method and another."""
    return {name: sampled_places(inside, outside) for name, inside, outside in pairs(method, run)}


def histograms_of(method: str, run: ScoredRun) -> dict[str, dict[str, Any]]:
    """{set: its histogram} of the finite scores."""
    return {
        name: histogram(finite(inside), finite(outside))
        for name, inside, outside in pairs(method, run)
    }
