"""The figures of one checkpoint: {name of the file: figure}, and how figures are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import figures
from artifacts.blocks import Stored
from collapse import metrics, rows
from collapse.measuring import Measured
from head import Head

SAMPLE = 500  # images of a set in the t-SNE


@dataclass(frozen=True, eq=False)
class Components:
    """NECO as ood_methods.py scores it by default, and the spectrum that it takes its components
    from."""

    variances: np.ndarray  # (D,) of the standardised training features, descending
    dim: int | None  # d, the components that NECO takes; None where it is undefined
    share: Callable[[np.ndarray], np.ndarray]  # (n, D) -> (n,) norm of the first d over the whole


def draw(found: Measured, components: Components, tsne: bool = False) -> dict[str, Figure]:
    """All figures of one checkpoint; `tsne` asks for that of an embedding, which is slow."""
    drawn = draw_features(found, components)
    if found.inputs.head:
        drawn |= draw_head(found, found.inputs.head, components)
    if tsne:
        drawn["nc_tsne"] = draw_embedding(found)
    if found.layers is not None:
        drawn["nc_layers"] = figures.collapse_curves(found.layers, rows.layers(), "depth")
        drawn["nc5_layers"] = figures.nc5_curves(found.layers, "depth")
    return drawn


def draw_features(found: Measured, components: Components) -> dict[str, Figure]:
    """What features alone show."""
    inputs, moments = found.inputs, found.moments
    present = moments.present
    weights = None if inputs.W is None else inputs.W[present]
    inside = distances(inputs.test, moments.means)
    outside = {name: distances(found_set, moments.means) for name, found_set in inputs.ood.items()}
    drawn = {}
    if components.dim is not None:
        drawn["nc_pca_spectrum"] = figures.pca_spectrum(
            components.variances, components.dim, len(present)
        )
    drawn["within_class_variance"] = figures.within_class_variance(found.per_class)
    drawn["cosine_histogram"] = figures.cosine_histogram(moments.centred, weights)
    drawn["class_mean_distances"] = figures.class_mean_distances(moments.means, inputs.class_names)
    drawn["nc5"] = figures.nc5_bars(nc5_table(found.alignments))
    drawn["nc_centre_distances"] = figures.centre_distances(inside, outside)
    return drawn


def draw_head(found: Measured, head: Head, components: Components) -> dict[str, Figure]:
    """The classifier beside the features."""
    inputs, moments = found.inputs, found.moments
    weights = head.W[moments.present]
    seen = [inputs.class_names[index] for index in moments.present]
    decisions = found.decisions["test"]

    def share_and_logit(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
        shares, largest = [], []
        for block in stored.blocks():
            shares.append(components.share(block.features))
            largest.append(head.logits(block.features).max(axis=1))
        return np.concatenate(shares), np.concatenate(largest)

    drawn = {}
    if components.dim is not None:
        outside = {name: share_and_logit(features) for name, features in inputs.ood.items()}
        inside = share_and_logit(inputs.test)
        drawn["nc_neco_share"] = figures.neco_shares(inside, outside)
    drawn["weight_mean_alignment"] = figures.weight_mean_alignment(found.per_class)
    drawn["nc4_agreement"] = figures.nearest_mean_agreement(found.per_class)
    assert decisions.predicted is not None, "there is a head"
    drawn["nc4_mismatches"] = figures.mismatch_map(
        decisions.nearest, decisions.predicted, inputs.class_names
    )
    drawn["nc_angles"] = figures.angle_histogram(moments.centred, weights)
    drawn["nc_gram"] = figures.gram_matrices(moments.centred, weights, seen)
    return drawn


def distances(stored: Stored, means: np.ndarray) -> np.ndarray:
    """(n,) distances of a set's images to the nearest class mean (C, D)."""
    parts = [metrics.centre_distances(block.features, means) for block in stored.blocks()]
    return np.concatenate(parts)


def sample_of(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """At most SAMPLE images of a set, evenly spaced: features (m, D), labels (m,)."""
    wanted = sample(np.arange(stored.rows), SAMPLE)
    features, labels = [], []
    for block in stored.blocks():
        own = wanted[(wanted >= block.start) & (wanted < block.start + len(block.labels))]
        features.append(block.features[own - block.start])
        labels.append(block.labels[own - block.start])
    return np.concatenate(features), np.concatenate(labels)


def draw_embedding(found: Measured) -> Figure:
    """t-SNE of some ID and OOD test images."""
    inputs = found.inputs
    test, labels = sample_of(inputs.test)
    sets = [sample_of(stored)[0] for stored in inputs.ood.values()]
    inside, *others = embed([test, *sets])
    outside = dict(zip(inputs.ood, others, strict=True))
    names = np.array([inputs.class_names[label] for label in labels])
    return figures.embedding(inside, outside, names)


def embed(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One t-SNE (van der Maaten and Hinton 2008) of a sample of several sets: [(n, D)] -> [(m,
    2)]."""
    from sklearn.manifold import TSNE  # slow to import, and for this figure alone

    chosen = [sample(features, SAMPLE) for features in groups]
    together = np.concatenate(chosen)
    perplexity = min(30, (len(together) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(together)
    ends = np.cumsum([len(features) for features in chosen])
    return np.split(points, ends[:-1])


def sample(items: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` rows, evenly spaced in their order."""
    count = min(limit, len(items))
    places = np.linspace(0, len(items) - 1, count)
    return items[places.astype(int)]


def nc5_table(alignments: dict[str, metrics.Alignment]) -> pd.DataFrame:
    """NC5 by split -> one row per set: the ID test set, the null, first."""
    lines = []
    for split, alignment in alignments.items():
        name = "ID test (null)" if split == "test" else split.removeprefix("ood:")
        lines.append({"name": name, "uncentred": alignment.uncentred, "centred": alignment.centred})
    return pd.DataFrame(lines)
