"""Figures of the pipeline: one function per figure, arrays or pandas tables in, a matplotlib Figure
out.

Only `matplotlib.figure.Figure` is used, never pyplot: no global state, no backend, safe in threads.
Save with `figure.savefig(path)`; each figure carries its own resolution. One style throughout: ID
has one fixed colour, OOD sets take theirs by position, many sets become small multiples with the
name beside the data, and shares are drawn as percent. Cells that are NaN are left out, which the
figure says in words; nothing is drawn as zero because it is missing.

Each function has `captions`, what the report says beneath its figure. figures.training,
figures.scores, figures.trust (predictions), figures.grid (temperature and epsilon of an ensemble),
figures.scatter (points,
image by image), figures.collapse (one checkpoint), figures.comparison (several runs) and
figures.series (over checkpoints and layers) hold the functions, figures.style what they share;
scripts import this module alone.
"""

from figures.collapse import (
    angle_histogram,
    class_mean_distances,
    cosine_histogram,
    gram_matrices,
    mismatch_map,
    nc5_bars,
    nearest_mean_agreement,
    pca_spectrum,
    weight_mean_alignment,
    within_class_variance,
)
from figures.comparison import collapse_against_auroc, curves_together
from figures.grid import grid_map, grid_scores
from figures.scatter import embedding, neco_shares, principal_components, three_components
from figures.scores import (
    auroc_bars,
    centre_distances,
    method_labels,
    neco_dimensions,
    score_histograms,
)
from figures.series import collapse_curves, correlation_maps, layer_epoch_maps, nc5_curves
from figures.style import ID_COLOUR, LONG, OOD_COLOURS, ood_colour, percent
from figures.training import training_curves
from figures.trust import Bins, swallowed, trust

__all__ = [
    "ID_COLOUR",
    "LONG",
    "OOD_COLOURS",
    "Bins",
    "angle_histogram",
    "auroc_bars",
    "centre_distances",
    "class_mean_distances",
    "collapse_against_auroc",
    "collapse_curves",
    "correlation_maps",
    "cosine_histogram",
    "curves_together",
    "embedding",
    "gram_matrices",
    "grid_map",
    "grid_scores",
    "layer_epoch_maps",
    "method_labels",
    "mismatch_map",
    "nc5_bars",
    "nc5_curves",
    "nearest_mean_agreement",
    "neco_dimensions",
    "neco_shares",
    "ood_colour",
    "pca_spectrum",
    "percent",
    "principal_components",
    "score_histograms",
    "swallowed",
    "three_components",
    "training_curves",
    "trust",
    "weight_mean_alignment",
    "within_class_variance",
]
