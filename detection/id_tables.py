"""id_metrics.csv: what a classifier and a score are worth together, one row per measure.

`measures.py` has the formulas; a new measure is a function there, a row here, and a line in
docs/methods.md. `ood` and `method` are empty where a measure is of neither."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import figures
from detection import evaluation, measures, metrics
from detection.inputs import Inputs
from detection.intervals import UNKNOWN, Interval
from detection.scored import Scored, ScoredSet
from detection.tables import Place
from scores import common, registry

COVERAGES = (0.8, 0.9, 0.95)
FPRS = (0.01, 0.1)
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """One measure; `at` is the share that it is taken at, `temperature` what divides the logits."""

    measure: str
    value: float
    interval: Interval = UNKNOWN
    method: str = ""
    ood: str = ""
    at: float = NAN
    temperature: float = NAN
    note: str = ""


@dataclass(frozen=True, eq=False)
class RiskCurve:
    """The ID test images in the order of a score, and the selective risk that follows."""

    order: metrics.Order
    risk: measures.RiskCoverage


RiskCurves = dict[str, RiskCurve]  # by method


@dataclass(frozen=True, eq=False)
class Probabilities:
    """What a single network says of the N ID test images: logits (N, C) and labels (N,), and the
    temperature that ID validation images fitted, None without any."""

    logits: np.ndarray
    labels: np.ndarray
    temperature: float | None
    why: str  # what to know of the temperature, or why there is none

    def at(self, temperature: float) -> np.ndarray:
        """(N, C) the softmax of the logits divided by a temperature."""
        return common.softmax(self.logits / temperature)


def probabilities(
    found: Inputs, fitted: registry.Training, known: dict[str, Any] | None = None
) -> Probabilities | None:
    """None without a head or labels. known: the parameters of TempScaling, if it was fitted
    already."""
    if found.head is None or not found.test.labelled:
        return None
    logits = found.head.logits(found.test.features).astype(np.float64)
    labels = found.test.labels
    if fitted.validation is None:
        why = "no ID validation images, on which a temperature would be fitted"
        return Probabilities(logits, labels, None, why)
    if known is None and not fitted.labelled:
        return Probabilities(logits, labels, None, "the training images have no labels")
    if known is None:
        known = evaluation.fit(fitted, ["TempScaling"], {})["TempScaling"].parameters
    why = "the loss falls all the way to this temperature, the last that is tried"
    return Probabilities(logits, labels, known["temperature"], why if "at_bound" in known else "")


def tabulate(
    run: Place,
    scored: Scored,
    right: np.ndarray | None,
    said: Probabilities | None,
    tpr: float,
    curves: RiskCurves,
) -> pd.DataFrame | None:
    """The tidy table; None where it is not known which ID images are classified right."""
    if right is None:
        return None
    rows = [*calibration(said), *selective(scored, right, curves), *with_ood(scored, right, tpr)]
    names = {"checkpoint": run.folder.name, "dataset": run.dataset}
    return pd.DataFrame([{**names, **as_columns(row)} for row in rows])


def as_columns(row: Row) -> dict[str, object]:
    """One line of the file."""
    return {
        "ood": row.ood,
        "method": row.method,
        "measure": row.measure,
        "at": row.at,
        "value": row.value,
        "low": row.interval.low,
        "high": row.interval.high,
        "temperature": row.temperature,
        "note": row.note,
    }


# ---- of the classifier alone ---------------------------------------------------------------------


def calibration(said: Probabilities | None) -> Iterator[Row]:
    """Before and after the temperature."""
    if said is None:
        return
    right = said.logits.argmax(axis=1) == said.labels
    count, n = int(right.sum()), len(right)
    yield Row("accuracy", count / n, measures.wilson(count, n))
    yield from calibration_at(1.0, said, "" if said.temperature else said.why)
    if said.temperature:
        yield from calibration_at(said.temperature, said, said.why)


def calibration_at(temperature: float, said: Probabilities, note: str) -> Iterator[Row]:
    """Calibration of the softmax of the logits divided by one temperature."""
    p = said.at(temperature)
    confidence = p.max(axis=1)
    right = said.logits.argmax(axis=1) == said.labels
    losses = {
        "brier": measures.brier(p, said.labels),
        "nll": measures.nll(said.logits / temperature, said.labels),
    }
    values = {
        "confidence": (float(confidence.mean()), measures.mean_interval(confidence)),
        "ece": (measures.ece(confidence, right), UNKNOWN),
        "ece_equal_mass": (measures.ece_equal_mass(confidence, right), UNKNOWN),
        "classwise_ece": (measures.classwise_ece(p, said.labels), UNKNOWN),
        **{name: (float(x.mean()), measures.mean_interval(x)) for name, x in losses.items()},
    }
    for name, (value, interval) in values.items():
        yield Row(name, value, interval, temperature=temperature, note=note)


# ---- of a score on ID images ---------------------------------------------------------------------


def risk_curves(scored: Scored, right: np.ndarray | None) -> RiskCurves:
    """{method: its selective risk by coverage, and the order of the ID test images by it}, of the
    methods that are defined for all of them; empty without a classifier."""
    if right is None:
        return {}
    found = {}
    for method, values in scored.id.scores.items():
        if not np.isnan(values).any():
            order = metrics.Order.of(np.asarray(values, dtype=np.float64))
            found[method] = RiskCurve(order, measures.risk_coverage_of(order, right))
    return found


def selective(scored: Scored, right: np.ndarray, curves: RiskCurves) -> Iterator[Row]:
    """Which predictions to trust, by each method."""
    for method in scored.id.scores:
        if method not in curves:
            yield Row("aurc", NAN, method=method, note="undefined for some ID test image")
            continue
        curve = curves[method].risk
        yield Row("aurc", measures.aurc(curve), method=method)
        yield Row("e_aurc", measures.excess_aurc(curve), method=method)
        for coverage in COVERAGES:
            risk, interval = measures.risk_at(curve, coverage)
            yield Row("risk", risk, interval, method, at=coverage)
        yield failure_auroc(method, curves[method].order, right)


def failure_auroc(method: str, order: metrics.Order, right: np.ndarray) -> Row:
    """Right predictions against wrong ones."""
    if right.all() or not right.any():
        note = f"{int(right.sum()):,} of {len(right):,} ID test images are classified right"
        return Row("failure_auroc", NAN, method=method, note=note)
    found = metrics.delong_of(order, right)
    return Row("failure_auroc", found.auroc, Interval(found.low, found.high), method)


# ---- of a score on ID and OOD images -------------------------------------------------------------


def with_ood(scored: Scored, right: np.ndarray, tpr: float) -> Iterator[Row]:
    """Wrong and OOD images rejected together, and open sets, by each method and set."""
    for part in scored.ood:
        for method in part.scores:
            order = scored.order(part, method)
            if order is None:
                note = "undefined for some image"
                yield Row("scod_aurc", NAN, method=method, ood=part.name, note=note)
                continue
            yield from scod(part, method, order, right, tpr)
            yield from open_set(part, method, order, scored.id.scores[method], right)


def scod(
    part: ScoredSet, method: str, order: metrics.Order, right: np.ndarray, tpr: float
) -> Iterator[Row]:
    """Selective classification in the presence of OOD data (Xia and Bouganis 2022, section 2):
    right predictions are to be kept, wrong ones and OOD images rejected."""
    kept_right = np.concatenate([right, np.zeros(len(part.scores[method]), dtype=bool)])
    curve = measures.risk_coverage_of(order, kept_right)
    yield Row("scod_aurc", measures.aurc(curve), method=method, ood=part.name)
    if not right.any():
        return
    found = metrics.delong_of(order, kept_right)
    interval = Interval(found.low, found.high)
    yield Row("scod_auroc", found.auroc, interval, method, part.name)
    rate = metrics.fpr_of(order, kept_right, tpr)
    yield Row("scod_fpr", rate, method=method, ood=part.name, at=tpr)


def open_set(
    part: ScoredSet, method: str, order: metrics.Order, inside: np.ndarray, right: np.ndarray
) -> Iterator[Row]:
    """OSCR and CCR at FPR."""
    n, m = len(right), len(part.scores[method])
    is_id = np.arange(n + m) < n
    ood_below = metrics.placements_of(order, is_id)[0][:n]
    id_above = np.zeros(m)
    if right.any():
        kept_right = np.concatenate([right, np.zeros(m, dtype=bool)])
        of_right = metrics.placements_of(order, kept_right)[1][n:]
        id_above = of_right * right.mean()
    area, interval = measures.oscr(right, ood_below, id_above)
    yield Row("oscr", area, interval, method, part.name)
    from_lowest = order.places[~is_id[order.places]][::-1] - n
    ordered = part.scores[method][from_lowest]
    for fpr in FPRS:
        rate, interval = measures.ccr_at_fpr(right, inside, ordered, fpr)
        yield Row("ccr", rate, interval, method, part.name, at=fpr)


# ---- for the figure ------------------------------------------------------------------------------


def reliability_bins(said: Probabilities | None) -> list[figures.Bins]:
    """Before the temperature, and after it where there is one."""
    if said is None:
        return []
    right = said.logits.argmax(axis=1) == said.labels
    found = []
    for temperature in [1.0, *([said.temperature] if said.temperature else [])]:
        confidence = said.at(temperature).max(axis=1)
        bins = measures.reliability(confidence, right)
        error = measures.calibration_error(bins)
        found.append(figures.Bins(temperature, bins.confidence, bins.accuracy, error))
    return found


def trust_figure(
    said: Probabilities | None, risks: RiskCurves, methods: Collection[str]
) -> Figure | None:
    """Reliability, and selective risk by coverage of these methods; None without a classifier."""
    if said is None and not risks:
        return None
    curves = {
        method: (found.risk.coverage, found.risk.risk)
        for method, found in risks.items()
        if method in methods
    }
    return figures.trust(reliability_bins(said), curves)
