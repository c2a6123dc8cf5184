"""Hyper-parameters chosen on a validation OOD set, which is then not tested on."""

import warnings

import numpy as np

from detection import evaluation, metrics
from scores import registry


def tune(
    fitted: registry.Training, names: list[str], given: dict[str, dict], ood: np.ndarray
) -> dict[str, dict]:
    """Choose hyper-parameters by AUROC of the ID validation images against one OOD set (M, D).

    -> {method: {parameter: value}}. Left out are methods without a grid, those whose parameters are
    `given`, and, with a warning, those that are undefined for some image.
    """
    best = {}
    for name in names:
        grid = registry.METHODS[name].grid
        if grid is None or name in given:
            continue
        areas = [
            validation_auroc(fitted, name, {grid.parameter: value}, ood) for value in grid.values
        ]
        if np.isnan(areas).any():
            warnings.warn(
                f"{name}: undefined for some image that --val-ood compares, so its {grid.parameter}"
                " is not chosen but its authors'",
                stacklevel=2,
            )
            continue
        best[name] = {grid.parameter: grid.values[int(np.argmax(areas))]}
    return best


def validation_auroc(
    fitted: registry.Training, name: str, parameters: dict, ood: np.ndarray
) -> float:
    """AUROC of one method with these parameters: ID validation images against `ood` (M, D)."""
    assert fitted.validation is not None, "--val-ood is refused without ID validation images"
    val, _ = fitted.validation
    state = evaluation.fit(fitted, [name], {name: parameters})
    inside = registry.score_all(val, state, fitted.W, fitted.b)[name]
    outside = registry.score_all(ood, state, fitted.W, fitted.b)[name]
    return metrics.auroc(inside, outside)
