"""Fit every method to one checkpoint's training features, score every test set, and say which
scores are undefined."""

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from artifacts import store
from detection import combining, metrics
from detection.scored import Scored, ScoredSet
from scores import registry

Progress = Callable[..., Any]  # such as console.progress: (iterable, desc, unit) -> the same


def unseen(iterable: Any, **options: Any) -> Any:
    """In place of console.progress: shows nothing."""
    return iterable


def score(
    fitted: registry.Training,
    names: list[str],
    given: dict[str, dict],
    test: store.Features,
    ood: dict[str, store.Features],
    tuned: dict[str, Collection[str]] | None = None,
    combinations: Sequence[combining.Combination] = (),
    csid: dict[str, store.Features] | None = None,
    progress: Progress = unseen,
) -> Scored:
    """Fit each method once and score each test set once.

    given: {method: {parameter: value}}, other than the defaults. tuned: {OOD set: methods whose
    parameters it chose}, which are not computed on it. What `combinations` need is computed too,
    and is dropped again unless it is among `names`. `progress` shows how far it is.
    """
    tuned = tuned or {}
    members = [name for name in combining.members_of(combinations) if name not in names]
    states = fit(fitted, [*names, *members], given, progress)
    inside = registry.score_all(test.features, states, fitted.W, fitted.b)
    outside = []
    for name, images in progress(ood.items(), desc="scoring", unit="set"):
        left_out = tuned.get(name, ())
        tested = {method: state for method, state in states.items() if method not in left_out}
        scores = registry.score_all(images.features, tested, fitted.W, fitted.b)
        outside.append(ScoredSet(name, images, scores, notes_of(tested)))
    shifted = []
    for name, images in (csid or {}).items():
        scores = registry.score_all(images.features, states, fitted.W, fitted.b)
        shifted.append(ScoredSet(name, images, scores))
    parameters = {name: state.parameters for name, state in states.items()}
    held_out = score_held_out(fitted, states)
    alike = {name: state.alike for name, state in states.items()}
    of_names = {name: states[name] for name in names}
    inside_set = ScoredSet("ID", test, inside)
    scored = Scored(inside_set, outside, parameters, held_out, shifted, states=of_names)
    combining.add(scored, combinations, fitted, states)
    note_constant(scored, alike)
    for name in members:
        scored.parameters.pop(name)
        for part in parts_of(scored):
            part.scores.pop(name, None)
            part.notes.pop(name, None)
    return scored


def score_held_out(
    fitted: registry.Training, states: dict[str, registry.Fitted]
) -> ScoredSet | None:
    """The ID validation images and their scores; None without any."""
    if fitted.validation is None:
        return None
    features, labels = fitted.validation
    scores = registry.score_all(features, states, fitted.W, fitted.b)
    images = store.Features(features, labels, None, Path())
    return ScoredSet("held out", images, scores)


def parts_of(scored: Scored) -> list[ScoredSet]:
    """All sets of images: ID test images, csID and OOD sets, held-out ID images where there are
    some."""
    held_out = [scored.held_out] if scored.held_out else []
    return [scored.id, *scored.csid, *scored.ood, *held_out]


def fit(
    fitted: registry.Training,
    names: list[str],
    given: dict[str, dict],
    progress: Progress = unseen,
) -> dict[str, registry.Fitted]:
    """registry.fit_all without the warnings that a state's note repeats: they are printed once,
    below the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", registry.Noted)
        shown = partial(progress, desc="fitting", unit="method")
        return registry.fit_all(fitted, names, given, shown)


def notes_of(states: dict[str, registry.Fitted]) -> dict[str, str]:
    """{method: what its fit has to say}, for the methods that say something."""
    noted = {name: state.note for name, state in states.items()}
    return {name: text for name, text in noted.items() if text}


def note_undefined(scored: Scored) -> None:
    """Note each method that is undefined for some images of a set, or for some ID test images.

    Methods that are undefined for all of them have a note from their fit.
    """
    for part in scored.ood:
        for method, values in part.scores.items():
            inside = scored.id.scores[method]
            if np.isnan(values).all() and method in part.notes:
                continue
            add_note(part, method, why_undefined(inside, scored.id.name, method))
            add_note(part, method, why_undefined(values, part.name, method))


def add_note(part: ScoredSet, method: str, text: str | None) -> None:
    """Add a text, if there is one, to what is noted of a method on a set."""
    if text:
        before = part.notes.get(method)
        part.notes[method] = f"{before}; {text}" if before else text


def note_constant(scored: Scored, alike: dict[str, str]) -> None:
    """Note each method whose score is the same for all ID test images, with the value and, where
    the fit knows it (`alike`, {method: why}), the reason."""
    for part in scored.ood:
        for method, values in part.scores.items():
            text = why_constant(scored.id.scores[method], values, part.name)
            if text and alike.get(method):
                text = f"{text}: {alike[method]}"
            add_note(part, method, text)


def why_constant(inside: np.ndarray, outside: np.ndarray, name: str) -> str | None:
    """What is constant, in words; None where the scores (N,) of the ID test images, or those (M,)
    of an OOD set beside them, differ, or there is one ID image."""
    if len(inside) < 2 or inside.min() != inside.max():
        return None
    value = f"{inside[0]:.6g}"
    if outside.min() == outside.max() == inside[0]:
        return (
            f"the score is {value} for all {len(inside):,} ID test images and for all"
            f" {len(outside):,} of {name}: it tells nothing apart"
        )
    return (
        f"the score is {value} for all {len(inside):,} ID test images: no threshold can keep a part"
        " of them"
    )


def note_direction(scored: Scored, methods: list[str]) -> None:
    """Note each of the methods whose AUROC is below 0.5 on every set: its sign may be wrong."""
    for method in methods:
        inside = scored.id.scores[method]
        parts = [part for part in scored.ood if method in part.scores]
        areas = [metrics.auroc(inside, part.scores[method]) for part in parts]
        if parts and all(area < 0.5 for area in areas):
            for part in parts:
                part.notes.setdefault(
                    method,
                    "its AUROC is below 0.5 on every set; a score is higher for more"
                    " in-distribution images, so its sign may be wrong",
                )


def why_undefined(values: np.ndarray, set_name: str, method: str) -> str | None:
    """Why a method's metrics stay empty, in words; None where it scores each image of the set."""
    rows = np.flatnonzero(np.isnan(values))
    if not len(rows):
        return None
    why = combining.UNDEFINED
    if method in registry.ROWS:
        why = registry.ROWS[method].missing
    images = f"{len(rows):,} of {len(values):,} {set_name} test images"
    return (
        f"undefined for {images}, first in data row {rows[0] + 1:,}: {why}; metrics with these"
        " images stay empty"
    )
