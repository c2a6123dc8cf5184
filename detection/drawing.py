"""The figures of one checkpoint's scores: AUROC by method, histograms of scores, and the features
on their principal axes."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import figures
import utils
from detection import grid, metrics, tables
from detection.scored import Scored
from scores import registry


def draw(
    folder: Path,
    fitted: registry.Training | None,
    table: pd.DataFrame,
    scored: Scored,
    tpr: float,
    drawn_before: Sequence[str] = (),
    core: Collection[str] = registry.CORE,
    more: Mapping[str, Figure | None] | None = None,
    vector: Sequence[str] = (),
) -> list[Path]:
    """Write the OOD figures into `folder` -> their paths; without a training set there is none of
    the features.

    drawn_before: methods of an earlier table that keep the histogram that they have. core: methods
    that have one always. more: {name: figure} beside these, those that there are. vector: formats
    beside PNG.
    """
    table = tables.printable(table)
    shown = dict.fromkeys([*methods_to_show(table, scored, core), *drawn_before])
    drawn = {"auroc_bars": figures.auroc_bars(table)}
    for method in shown:
        drawn[f"scores_{method}"] = histogram(method, table, scored, tpr)
    if fitted is not None:
        drawn |= draw_components(fitted, scored)
    drawn |= {name: figure for name, figure in (more or {}).items() if figure is not None}
    return utils.write_figures(folder, drawn, vector)


def methods_to_show(table: pd.DataFrame, scored: Scored, core: Collection[str]) -> list[str]:
    """The core methods, and the best on average of those that were computed on every set."""
    shown = [method for method in scored.id.scores if method in core]
    best = tables.best_on_average(table)
    return shown if best is None else [*shown, best]


def histogram(method: str, table: pd.DataFrame, scored: Scored, tpr: float) -> Figure:
    """Histograms of one method's scores of ID and of each OOD set that it was computed on."""
    inside = scored.id.scores[method]
    outside = {part.name: part.scores[method] for part in scored.ood if method in part.scores}
    areas = table[table["method"] == method].set_index("ood")["auroc"].to_dict()
    threshold = metrics.threshold_at_tpr(inside, tpr)
    return figures.score_histograms(inside, outside, method, threshold, areas)


def draw_components(fitted: registry.Training, scored: Scored) -> dict[str, Figure]:
    """{name: figure} of the features on their leading principal axes, as many as there are."""
    centre, axes, explained = leading_components(fitted)
    if len(explained) < 2:  # one feature is no plane
        return {}
    labels = scored.id.images.labels
    inside = (scored.id.images.features - centre) @ axes
    outside = {part.name: (part.images.features - centre) @ axes for part in scored.ood}
    first_two = {name: points[:, :2] for name, points in outside.items()}
    drawn = {
        "principal_components": figures.principal_components(
            inside[:, :2], first_two, explained[:2], labels
        )
    }
    if len(explained) == 3:  # two features have no third component
        drawn["principal_components_three"] = figures.three_components(
            inside, outside, explained, labels
        )
    return drawn


def leading_components(
    fitted: registry.Training,
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """The training set -> its mean (D,), the three leading principal axes (D, 3), and the share of
    the variance of each, NaN where all features are the same."""
    values, vectors = fitted.spectrum
    leading = values[:-4:-1]
    axes = vectors[:, :-4:-1]
    total = values.sum()
    shares = leading / total if total > 0 else np.full(len(leading), np.nan)
    return fitted.mean.astype(np.float32), axes.astype(np.float32), tuple(shares)


def draw_grid(folder: Path, choice: grid.Choice, vector: Sequence[str] = ()) -> list[Path]:
    """Write the figures of the grid of temperatures and epsilons -> their paths; none where the
    pair was given."""
    if choice.table is None or choice.scores is None:
        return []
    assert choice.val_ood is not None
    chosen = (choice.pair.temperature, choice.pair.epsilon)
    places = {(pair.temperature, pair.epsilon): both for pair, both in choice.scores.items()}
    drawn = {
        "ensemble_grid": figures.grid_map(choice.table, choice.val_ood, chosen),
        "ensemble_grid_scores": figures.grid_scores(places, choice.val_ood, chosen),
    }
    return utils.write_figures(folder, drawn, vector)
