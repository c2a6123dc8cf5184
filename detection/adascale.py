"""AdaSCALE (Regmi 2025): SCALE whose percentile follows, image by image, from how far activations
move where the image's least important pixels are changed.

It scores pairs of features, of an image and of its changed copy: run_networks.py --adascale
extracts the copies of ID validation, ID test and OOD images. The validation images say which moves
are usual.
"""

from pathlib import Path

import numpy as np

from artifacts import records, store
from detection.inputs import Inputs
from detection.odin import check_rows
from detection.scored import Scored
from feature_files import FeatureFiles
from head import Head
from scores import common, registry

NAMES = tuple(row.name for row in registry.ADASCALE)  # with scaled activations, with scaled logits
# as OpenOOD's configuration has them
PERCENTILES = (75.0, 85.0)
CORRECTION, MOVED, WEIGHT = 0.05, 0.01, 10.0  # shares of activations, and the weight of the second
PARAMETERS = {
    "low": PERCENTILES[0],
    "high": PERCENTILES[1],
    "correction": CORRECTION,
    "moved": MOVED,
    "weight": WEIGHT,
}


def moves(features: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """(N, D), (N, D) of the changed images -> (N,): the changed activations of the largest 5%,
    plus 10 times how far the largest 1% moved; one activation at least."""
    width = features.shape[1]
    order = np.argsort(-features, axis=1, kind="stable")
    first = order[:, : max(1, int(width * CORRECTION))]
    second = order[:, : max(1, int(width * MOVED))]
    kept = np.maximum(np.take_along_axis(changed, first, axis=1), 0)
    moved = np.abs(np.take_along_axis(features - changed, second, axis=1))
    return kept.sum(axis=1, dtype=np.float64) + WEIGHT * moved.sum(axis=1, dtype=np.float64)


def percentiles(usual: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Moves of validation images (n,), and of others (N,) -> (N,): from the high percentile for an
    image that moves less than all of them to the low one."""
    share = np.searchsorted(np.sort(usual), found, "right") / len(usual)
    low, high = PERCENTILES
    return low + (1 - share) * (high - low)


def scales(features: np.ndarray, percentile: np.ndarray) -> np.ndarray:
    """(N, D), (N,) -> (N,): the sum of an image's activations over that of its largest ones;
    negative ones count as 0. NaN where the largest ones are 0."""
    width = features.shape[1]
    descending = -np.sort(-np.maximum(features, 0), axis=1)
    kept = np.maximum(1, width - np.round(width * percentile / 100).astype(int))
    sums = np.cumsum(descending, axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, -1] / sums[np.arange(len(sums)), kept - 1]


def scores_of(
    features: np.ndarray, changed: np.ndarray, usual: np.ndarray, head: Head
) -> dict[str, np.ndarray]:
    """{method: (N,)}: lse(W h exp(s) + b) and lse(l s^2), s of `scales`."""
    scale = scales(features, percentiles(usual, moves(features, changed)))[:, None]
    logits = head.logits(features).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        activations = common.logsumexp((logits - head.b) * np.exp(scale) + head.b)
        of_logits = common.logsumexp(logits * scale**2)
    found = dict(zip(NAMES, (activations, of_logits), strict=True))
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in found.items()}


def add(
    run: FeatureFiles,
    scored: Scored,
    found: Inputs,
    names: list[str],
    stale: records.Stale | None = None,
) -> None:
    """Add the scores of these methods to every set; a set without changed images gets NaN and a
    note. Needs `run.adascale_test`, `run.adascale_val` and a head."""
    assert run.adascale_test and run.adascale_val and found.val and found.head
    remedy = run.command_with("--adascale")

    def changed(path: Path, images: store.Features) -> np.ndarray:
        features = store.read_features(path, stale, remedy).features
        check_rows(path, features, len(images.features), remedy)
        return features

    held_out = changed(run.adascale_val, found.val)
    usual = moves(found.val.features, held_out)
    parts = [(scored.id, found.test, run.adascale_test)]
    if scored.held_out:
        parts.append((scored.held_out, found.val, run.adascale_val))
    for part in scored.ood:
        if path := run.adascale_ood.get(part.name):
            parts.append((part, found.ood[part.name], path))
            continue
        for name in names:
            part.scores[name] = np.full(len(part), np.nan)
            part.notes[name] = f"no changed images of {part.name}; make them with: {remedy}"
    for part, images, path in parts:
        values = scores_of(images.features, changed(path, images), usual, found.head)
        for name in names:
            part.scores[name] = values[name]
    for name in names:
        scored.parameters[name] = dict(PARAMETERS)
