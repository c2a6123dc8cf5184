"""ODIN (Liang et al. 2018): the largest softmax probability, at temperature T, of perturbed images.

ODIN scores features of its own: run_networks.py --odin-epsilon extracts them from perturbed ID and
OOD images.
"""

from pathlib import Path
from typing import Any

import numpy as np

from artifacts import records, store
from detection.scored import Scored
from feature_files import FeatureFiles
from head import Head
from scores import registry

ODIN = registry.ODIN.name


def add_odin(
    run: FeatureFiles, scored: Scored, head: Head, stale: records.Stale | None = None
) -> None:
    """Add ODIN's scores to every set; a set without perturbed images gets NaN and a note, and
    validation images without any get none.

    Needs `run.odin_test`. ValueError as `perturbed_features` raises it.
    """
    assert run.odin_test is not None, "the caller looks for perturbed images"
    id_path = run.odin_test
    parameters = perturbation_of(id_path)
    remedy = run.command_with(f"--odin-epsilon {parameters['odin_epsilon'] or 0.0014}")

    def score(path: Path, rows: int) -> np.ndarray:
        features = perturbed_features(path, id_path, parameters, rows, remedy, stale)
        logits = head.logits(features)
        return registry.max_softmax(logits, parameters["temperature"])

    scored.id.scores[ODIN] = score(id_path, len(scored.id))
    if run.odin_val and scored.held_out:
        scored.held_out.scores[ODIN] = score(run.odin_val, len(scored.held_out))
    for part in scored.ood:
        if part.name in run.odin_ood:
            part.scores[ODIN] = score(run.odin_ood[part.name], len(part))
            continue
        part.scores[ODIN] = np.full(len(part), np.nan)
        part.notes[ODIN] = f"no perturbed images of {part.name}; make them with: {remedy}"
    scored.parameters[ODIN] = parameters


def perturbation_of(path: Path) -> dict[str, Any]:
    """Epsilon and temperature of a file of perturbed images; None for what its sidecar lacks."""
    sidecar = records.read_sidecar(path)
    return {key: sidecar.get(key) for key in ("odin_epsilon", "temperature")}


def perturbed_features(
    path: Path,
    id_path: Path,
    parameters: dict[str, Any],
    rows: int,
    remedy: str,
    stale: records.Stale | None,
) -> np.ndarray:
    """Features (rows, D) of perturbed images.

    ValueError if they were not perturbed with `parameters`, like the ID images in `id_path`, or if
    their number is not `rows`, that of the plain images.
    """
    is_unknown = None in parameters.values()
    if is_unknown or perturbation_of(path) != parameters:
        raise ValueError(
            f"{path} was perturbed with another epsilon or temperature than {id_path}, or does not"
            f" say with which; delete it, or make both anew with: {remedy}"
        )
    features = store.read_features(path, stale, remedy).features
    check_rows(path, features, rows, remedy)
    return features


def check_rows(path: Path, features: np.ndarray, rows: int, remedy: str) -> None:
    """ValueError for another number of changed images than of plain ones."""
    if len(features) != rows:
        raise ValueError(
            f"{path} holds {len(features)} images where the plain ones are {rows}; make it anew"
            f" with: {remedy}"
        )
