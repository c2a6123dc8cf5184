"""ODIN (Liang et al. 2018): the largest softmax probability, at temperature T, of perturbed images.

It scores features of its own, which run_networks.py --odin-epsilon extracts of ID and OOD images
alike.
"""

from pathlib import Path

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
    """Add ODIN's scores to every set; a set without perturbed images gets NaN, and a note."""
    assert run.odin_test is not None, "the caller looks for perturbed images"
    sidecar = records.read_sidecar(run.odin_test)
    parameters = {key: sidecar.get(key) for key in ("odin_epsilon", "temperature")}
    remedy = run.command_with(f"--odin-epsilon {parameters['odin_epsilon'] or 0.0014}")

    def score(path, rows):
        features = perturbed_features(path, run.odin_test, parameters, rows, remedy, stale)
        return registry.max_softmax(head.logits(features), parameters["temperature"])

    scored.id.scores[ODIN] = score(run.odin_test, len(scored.id))
    for part in scored.ood:
        if part.name in run.odin_ood:
            part.scores[ODIN] = score(run.odin_ood[part.name], len(part))
            continue
        part.scores[ODIN] = np.full(len(part), np.nan)
        part.notes[ODIN] = f"no perturbed images of {part.name}; make them with: {remedy}"
    scored.parameters[ODIN] = parameters


def perturbed_features(
    path: Path,
    id_path: Path,
    parameters: dict,
    rows: int,
    remedy: str,
    stale: records.Stale | None,
) -> np.ndarray:
    """Features (rows, D) of perturbed images.

    ValueError where they were not perturbed like the ID images in `id_path`, or are not as many as
    the plain ones.
    """
    sidecar = records.read_sidecar(path)
    alike = {key: sidecar.get(key) for key in parameters} == parameters
    if None in parameters.values() or not alike:
        raise ValueError(
            f"{path} was perturbed with another epsilon or temperature than {id_path}, or does not"
            f" say with which; delete it, or make both anew with: {remedy}"
        )
    features = store.read_features(path, stale, remedy).features
    if len(features) != rows:
        raise ValueError(
            f"{path} holds {len(features)} images where the plain ones are {rows}; make it anew"
            f" with: {remedy}"
        )
    return features
