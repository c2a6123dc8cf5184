"""The scores of one checkpoint on every test set: hyper-parameters, ODIN's perturbed images, what
is undefined, the table."""

import json
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

import utils
from artifacts import records, store
from detection import metrics, tables
from scores import registry

ODIN = "ODIN"  # scores features of its own, which run_networks.py --odin-epsilon extracts


@dataclass(frozen=True)
class Scored:
    """All scores of one checkpoint. A method need not have been computed on every set: its scores
    there are absent."""

    id: dict  # {method: (N,)}
    ood: dict  # {set: {method: (M,)}}
    parameters: dict  # {method: {name: value}}
    notes: dict  # {(set, method): why a score is missing, or what to know of it}


def score(fitted, names, overrides, test, ood, tuned=None):
    """Fit by the training set and score every test set once; `tuned`, {set: methods}, are left out
    there."""
    W, b, tuned = fitted.W, fitted.b, tuned or {}
    states = fit(fitted, names, overrides)
    inside = registry.score_all(test.features, states, W, b)
    outside = {}
    for name, found in ood.items():
        tested = {
            method: state for method, state in states.items() if method not in tuned.get(name, ())
        }
        outside[name] = registry.score_all(found.features, tested, W, b)
    notes = {}
    for name, found in outside.items():
        for method in found:
            if hasattr(states[method], "note"):
                notes[name, method] = states[method].note
    return Scored(
        inside, outside, {name: state.parameters for name, state in states.items()}, notes
    )


def fit(fitted, names, overrides):
    """scores.fit_all without the warnings that stand in a state's note: they are told once, beneath
    the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", registry.Noted)
        return registry.fit_all(fitted, names, overrides)


def tune(fitted, names, overrides, ood):
    """Hyper-parameters by AUROC of the ID validation images against one OOD set (M, D) that is not
    tested on -> {method: {name: value}}."""
    best, (val, _), W, b = {}, fitted.validation, fitted.W, fitted.b
    for name in names:
        grid = registry.METHODS[name].grid
        if grid is None or name in overrides:
            continue
        parameter, values = grid.parameter, grid.values
        areas = []
        for value in values:
            state = fit(fitted, [name], {name: {parameter: value}})
            inside = registry.score_all(val, state, W, b)[name]
            outside = registry.score_all(ood, state, W, b)[name]
            areas.append(metrics.auroc(inside, outside))
        if np.isnan(areas).any():
            warnings.warn(
                f"{name}: undefined for some image that --val-ood compares, so its {parameter} is"
                " not chosen but its authors'",
                stacklevel=2,
            )
        else:
            best[name] = {parameter: values[int(np.argmax(areas))]}
    return best


def add_odin(run, scored, test, ood, head, stale=None):
    """ODIN (Liang et al. 2018): the largest softmax probability at temperature T of perturbed
    images, ID and OOD alike.

    test: the plain ID test images; ood: {name: those of an OOD set}. A set without perturbed images
    is left empty, with a note.
    """
    said = records.read_sidecar(run.odin_test)
    found = {key: said.get(key) for key in ("odin_epsilon", "temperature")}
    anew = run.command_with(f"--odin-epsilon {found['odin_epsilon'] or 0.0014}")

    def score(path, plain):
        features = perturbed_features(path, run.odin_test, found, len(plain.labels), anew, stale)
        return registry.max_softmax(head.logits(features), found["temperature"])

    scored.id[ODIN] = score(run.odin_test, test)
    for name, values in scored.ood.items():
        if name in run.odin_ood:
            values[ODIN] = score(run.odin_ood[name], ood[name])
        else:
            values[ODIN] = np.full(len(ood[name].labels), np.nan)
            scored.notes[name, ODIN] = f"no perturbed images of {name}; make them with: {anew}"
    scored.parameters[ODIN] = found


def perturbed_features(path, inside, found, rows, anew, stale):
    """Features (rows, D) of perturbed images; ValueError where they were not perturbed like the ID
    images in `inside`, or are not as many as the plain ones."""
    sidecar = records.read_sidecar(path)
    alike = {key: sidecar.get(key) for key in found} == found
    if None in found.values() or not alike:
        raise ValueError(
            f"{path} was perturbed with another epsilon or temperature than {inside}, or does not"
            f" say with which; delete it, or make both anew with: {anew}"
        )
    features = store.read_features(path, stale, anew).features
    if len(features) != rows:
        raise ValueError(
            f"{path} holds {len(features)} images where the plain ones are {rows}; make it anew"
            f" with: {anew}"
        )
    return features


def note_undefined(scored):
    """Note each method that is undefined for some images of a set, or for some ID test images.

    Methods that are undefined for all of them have a note from their fit.
    """
    for name, found in scored.ood.items():
        for method, values in found.items():
            said = [
                text
                for text in (
                    missing(scored.id[method], "ID", method),
                    missing(values, name, method),
                )
                if text
            ]
            if said and (name, method) not in scored.notes:
                scored.notes[name, method] = "; ".join(said)


def missing(values, name, method):
    """Why a method's metrics stay empty, in words; "" where it has a score for each image of this
    set."""
    rows = np.flatnonzero(np.isnan(values))
    if not len(rows):
        return ""
    why = "its perturbed image has no score" if method == ODIN else registry.METHODS[method].missing
    images = f"{len(rows):,} of {len(values):,} {name} test images"
    return (
        f"undefined for {images}, first in data row {rows[0] + 1:,}: {why}; metrics with these"
        " images stay empty"
    )


def tabulate(run, scored, right, tpr):
    """Scores -> the tidy table: one row per OOD set and method. `best` says that a paired test
    against each other method of that set agrees; `right` (N,), None without a head: whether each ID
    test image is classified right."""
    rows = []
    for name, found in scored.ood.items():
        measured = {
            method: metrics.evaluate(scored.id[method], found[method], tpr) for method in found
        }
        leader = tables.significant_leader(measured, scored.id, found)
        for method, values in measured.items():
            parameters = scored.parameters[method]
            row = {
                "checkpoint": run.folder.name,
                "dataset": run.dataset,
                "ood": name,
                "method": method,
                "parameters": json.dumps(utils.plain(parameters)) if parameters else "",
            }
            row |= values
            row |= accuracies(right, scored.id[method], tpr)
            row["best"] = method == leader
            row["note"] = scored.notes.get((name, method), "")
            rows.append(row)
    return pd.DataFrame(rows)


def accuracies(right, id_scores, tpr):
    """The share of ID test images classified right, of all and of those that the threshold
    keeps."""
    if right is None:
        return {"accuracy": np.nan, "accuracy_at_tpr": np.nan}
    return {
        "accuracy": right.mean(),
        "accuracy_at_tpr": metrics.accuracy_at_coverage(right, id_scores, tpr),
    }
