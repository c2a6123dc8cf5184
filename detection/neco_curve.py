"""NECO over its number of components: what the number is worth, seen with OOD data. It chooses
nothing; ood_methods.py --neco-curve draws it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

import figures
from detection import evaluation, metrics
from detection.asked import PARAMETERS, Given
from detection.scored import Scored
from scores import geometry, registry
from scores.common import compute_logits

FAMILY = PARAMETERS["neco_dim"][1]  # the rows that have a number of components to give
POINTS = 40  # numbers of components that are tried, evenly spaced on a logarithmic axis


def draw(
    fitted: registry.Training, names: Sequence[str], given: Given, scored: Scored
) -> dict[str, Figure]:
    """{file name: figure}, one for each of the named methods that is of NECO's family and defined.

    given: {method: {parameter: value}}, as the table has it."""
    drawn = {}
    for name in names:
        dim = scored.parameters[name].get("dim") if name in FAMILY else None
        if dim is None or fitted.width < 2:
            continue
        dims = numbers(fitted.width, dim)
        areas = by_dimension(fitted, name, given.get(name, {}), scored, dims)
        if areas:
            figure = figures.neco_dimensions(dims, areas, dim, name)
            drawn[f"neco_dimensions_{name}"] = figure
    return drawn


def numbers(width: int, chosen: int) -> list[int]:
    """The numbers of components that are tried for features of a width, with the chosen one,
    ascending."""
    spaced = np.geomspace(1, width - 1, POINTS).round().astype(int)
    return sorted({*spaced.tolist(), chosen})


def by_dimension(
    fitted: registry.Training, name: str, given: dict, scored: Scored, dims: Sequence[int]
) -> dict[str, list[float]]:
    """{OOD set: AUROC (K,) with each number of components}; a set with an undefined image is left
    out."""
    state = evaluation.fit(fitted, [name], {name: {**given, "dim": fitted.width - 1}})[name]

    def scores(features: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(features), 1), np.float32)
        if state.parameters["max_logit"]:
            logits = compute_logits(features, *fitted.last_layer)
        return geometry.neco_over_dimensions(features, logits, state, dims)

    inside = scores(scored.id.images.features)
    found = {}
    for part in scored.ood:
        outside = scores(part.images.features)
        if np.isfinite(inside).all() and np.isfinite(outside).all():
            pairs = zip(inside.T, outside.T, strict=True)
            found[part.name] = [metrics.auroc(one, other) for one, other in pairs]
    return found
