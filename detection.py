"""The scores of one checkpoint on every test set: hyper-parameters, ODIN's perturbed images, what is undefined, the tidy table."""
import json
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

import artifacts
import metrics
import records
import scores
import tables
import utils

# What --val-ood tries, the default among them: a few values around it. Published searches are wider, but for ASH and SCALE.
GRIDS = {"Energy": ("temperature", (0.5, 1, 2, 5, 10)), "GEN": ("gamma", (0.01, 0.1, 0.5, 1)),
         "ReAct": ("percentile", (85, 90, 95, 99)), "ASH-P": ("percentile", (65, 70, 75, 80, 85, 90, 95)),
         "ASH-B": ("percentile", (65, 70, 75, 80, 85, 90, 95)), "ASH-S": ("percentile", (65, 70, 75, 80, 85, 90, 95)),
         "SCALE": ("percentile", (65, 70, 75, 80, 85, 90, 95)), "DICE": ("percentile", (10, 30, 50, 70, 90)),
         "KNN": ("k", (1, 10, 50, 100, 200)), "NNGuide": ("k", (1, 10, 50, 100)), "NCI": ("alpha", (0, 1e-4, 1e-3, 1e-2))}
ODIN = "ODIN"  # scores features of its own, which run_networks.py --odin-epsilon extracts


@dataclass(frozen=True)
class Scored:
    """All scores of one checkpoint: by method (N,), and by OOD set and method."""

    id: dict
    ood: dict
    parameters: dict


def score(fitted, names, overrides, test, ood):
    """Fit by the training set and score every test set once."""
    W, b = fitted.W, fitted.b
    states = scores.fit_all(fitted, names, overrides)
    return Scored(scores.score_all(test.features, states, W, b),
                  {name: scores.score_all(found.features, states, W, b) for name, found in ood.items()},
                  {name: state.parameters for name, state in states.items()})


def tune(fitted, names, overrides, ood):
    """Hyper-parameters by AUROC of the ID validation images against one OOD set (M, D) that is not tested on -> {method:
    {name: value}}."""
    best, (val, _), W, b = {}, fitted.validation, fitted.W, fitted.b
    for name in (name for name in names if name in GRIDS and name not in overrides):
        parameter, values = GRIDS[name]
        areas = []
        for value in values:
            state = scores.fit_all(fitted, [name], {name: {parameter: value}})
            areas.append(metrics.auroc(scores.score_all(val, state, W, b)[name], scores.score_all(ood, state, W, b)[name]))
        if np.isnan(areas).any():
            warnings.warn(f"{name}: undefined for some image that --val-ood compares, so its {parameter} is not chosen but its "
                          "authors'", stacklevel=2)
        else:
            best[name] = {parameter: values[int(np.argmax(areas))]}
    return best


def add_odin(run, scored, sets, W, b):
    """ODIN (Liang et al. 2018): the largest softmax probability at temperature T of perturbed images, ID and OOD alike.

    sets: {"": the plain ID test images, name: those of an OOD set}. One without perturbed images is left empty, with a warning.
    """
    found = {key: records.read_sidecar(run.odin[""]).get(key) for key in ("odin_epsilon", "temperature")}
    anew = f"{run.command} --odin-epsilon {found['odin_epsilon'] or 0.0014}"
    lacking = [name for name in scored.ood if name not in run.odin]
    if lacking:
        warnings.warn(f"ODIN: no perturbed images of {', '.join(lacking)}, left empty; make them with: {anew}", stacklevel=2)
    for name, into in [("", scored.id), *scored.ood.items()]:
        rows = len(sets[name].labels)
        if name in lacking:
            into[ODIN] = np.full(rows, np.nan)
            continue
        path = run.odin[name]
        if None in found.values() or {key: records.read_sidecar(path).get(key) for key in found} != found:
            raise ValueError(f"{path} was perturbed with another epsilon or temperature than {run.odin['']}, or does not say with "
                             f"which; delete it, or make both anew with: {anew}")
        features = artifacts.read_features(path).features
        if len(features) != rows:
            raise ValueError(f"{path} holds {len(features)} images where the plain ones are {rows}; make it anew with: {anew}")
        into[ODIN] = scores.max_softmax(scores.compute_logits(features, W, b), found["temperature"])
    scored.parameters[ODIN] = found


def warn_of_undefined(scored):
    """Methods whose score is NaN for some images but not for all, where they have said why themselves."""
    said = {}
    for name, found in [("ID", scored.id), *scored.ood.items()]:
        for method, values in found.items():
            rows, where = np.flatnonzero(np.isnan(values)), "on every set" if name == "ID" else "there"
            if 0 < len(rows) < len(values):
                said.setdefault(f"undefined for {len(rows)} of {len(values)} {name} test images, first in data row {rows[0] + 1}; "
                                f"its metrics {where} stay empty", []).append(method)
    for text, methods in said.items():
        warnings.warn(f"{', '.join(methods)}: {text}", stacklevel=2)


def tabulate(run, scored, right, tpr):
    """Scores -> the tidy table: a row an OOD set and method. `best` says that a paired test against each other method agrees."""
    rows = []
    for name, found in scored.ood.items():
        measured = {method: metrics.evaluate(scored.id[method], found[method], tpr) for method in found}
        leader = tables.significant_leader(measured, scored.id, found)
        for method, values in measured.items():
            parameters = scored.parameters[method]
            rows.append({"checkpoint": run.folder.name, "dataset": run.dataset, "ood": name, "method": method,
                         "parameters": json.dumps(utils.plain(parameters)) if parameters else "", **values,
                         "accuracy": right.mean(),
                         "accuracy_at_tpr": metrics.accuracy_at_coverage(right, scored.id[method], tpr),
                         "best": method == leader})
    return pd.DataFrame(rows)
