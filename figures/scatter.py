"""Figures of ID and OOD images as points, image by image; `figures` holds them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import (
    FEW,
    ID_COLOUR,
    INK,
    LONG,
    PAPER,
    QUIET,
    Array,
    canvas,
    captioned,
    close_grid,
    grid_shape,
    ood_colour,
    panel_title,
    shorten,
    thin,
    window,
)


@captioned(
    "Features on the two directions in which ID features vary most. Two of many directions: "
    "sets that overlap here may be apart in others."
)
def principal_components(
    id_points: Array,
    ood_points: Mapping[str, Array],
    explained: Sequence[float] = (np.nan, np.nan),
    id_labels: Array | None = None,
) -> Figure:
    """ID and OOD features on the two leading principal components, one panel per OOD set over the
    same ID points.

    id_points (N, 2); ood_points: name -> (M, 2); explained: shares of variance in [0, 1] of the two
    components; id_labels (N,): where given and at most LONG classes, each label is written at the
    median of its points. At most 2,000 points of a group are drawn, evenly spaced in file order.
    """
    first, second = (_in_brackets(share, "%") for share in explained)
    note = "; in brackets: share of the variance" if first and second else ""
    figure = _scatter_panels(
        id_points,
        ood_points,
        id_labels,
        "ID and OOD features on two principal components",
        f"first component{first}, in feature units{note}",
    )
    _say_beside(figure, f"second component{second}")
    return figure


PAIRS = ((0, 1), (0, 2), (1, 2))  # of three components: across, up


@captioned(
    "The same with a third direction, each pair of the three in a panel of its own: a set "
    "that hides behind ID in one view may stand apart in another."
)
def three_components(
    id_points: Array,
    ood_points: Mapping[str, Array],
    explained: Sequence[float] = (np.nan, np.nan, np.nan),
    id_labels: Array | None = None,
) -> Figure:
    """ID and OOD features on the three leading principal components: one row of panels per OOD
    set, one panel per pair.

    id_points (N, 3); ood_points: name -> (M, 3); explained: shares of variance in [0, 1]; id_labels
    as in `principal_components`. Three flat views and no perspective: on paper a cloud drawn in
    depth hides what is behind it, and no coordinate can be read off. One unit is as long in every
    panel."""
    rows = max(len(ood_points), 1)
    title = "ID and OOD features on three principal components"
    figure, grid = canvas(rows, 3, 0.9 + 2.75 * rows, title, layout="compressed")
    inside = thin(id_points, width=3)
    outside = {name: thin(points, width=3) for name, points in ood_points.items()}
    square = _square(inside, list(outside.values()))
    labelled = np.asarray(id_points, dtype=np.float64)
    names = [
        f"component {axis + 1}{_in_brackets(share, '%')}" for axis, share in enumerate(explained)
    ]
    for position, (panels, name) in enumerate(zip(grid, outside or [""], strict=True)):
        panel_title(panels[0], shorten(name), ood_colour(position))
        for axes, pair in zip(panels, map(list, PAIRS), strict=True):
            _draw_points(axes, inside[:, pair], ID_COLOUR, 3, 0.35)
            if outside:
                points = outside[name][:, pair]
                _draw_points(axes, points, ood_colour(position), 3, 0.5)
                _count_beyond(axes, points, square.of(pair))
            _show_square(axes, square.of(pair))
            axes.set_ylabel(names[pair[1]])
            if position == rows - 1:
                axes.set_xlabel(names[pair[0]])
            axes.locator_params(nbins=4)
            _write_labels(axes, labelled[:, pair], id_labels, 6)
    known = np.isfinite(explained).all()
    note = "; in brackets: share of the variance of the training features" if known else ""
    _say_below(figure, f"feature units{note}")
    return figure


@captioned("A t-SNE of a sample; distances between groups mean nothing.")
def embedding(
    id_points: Array, ood_points: Mapping[str, Array], id_labels: Array | None = None
) -> Figure:
    """t-SNE of ID and OOD features, embedded together: id_points (N, 2), ood_points: name -> (M,
    2), id_labels (N,)."""
    figure = _scatter_panels(
        id_points,
        ood_points,
        id_labels,
        "t-SNE of ID and OOD features",
        "neighbours are meant to stay neighbours; distances between groups and their sizes mean"
        " nothing",
    )
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
    return figure


def _scatter_panels(
    id_points: Array,
    ood_points: Mapping[str, Array],
    id_labels: Array | None,
    title: str,
    below: str,
) -> Figure:
    """One square panel per OOD set, its points (M, 2) over the same ID points (N, 2); `below` is
    written beneath all of them."""
    rows, columns = grid_shape(len(ood_points))
    side = {1: 5.2, 2: 3.85, 3: 2.55, 4: 1.9}[columns]
    height = 0.8 + rows * (side + 0.3)
    figure, grid = canvas(
        rows, columns, height, title, layout="compressed", sharex=True, sharey=True
    )
    inside = thin(id_points)
    outside = {name: thin(points) for name, points in ood_points.items()}
    square = _square(inside, list(outside.values()))
    labelled = np.asarray(id_points, dtype=np.float64)
    size, letters = (7, 8) if columns < 3 else (3, 6)
    for position, (axes, name) in enumerate(zip(grid.flat, outside or [""], strict=False)):
        panel_title(axes, shorten(name), ood_colour(position))
        _draw_points(axes, inside, ID_COLOUR, size, 0.35)
        if outside:
            _draw_points(axes, outside[name], ood_colour(position), size, 0.5)
            _count_beyond(axes, outside[name], square)
        _show_square(axes, square)
        axes.locator_params(nbins=4)
        _write_labels(axes, labelled, id_labels, letters)
    close_grid(grid, max(len(ood_points), 1))
    _say_below(figure, below)
    return figure


@captioned("NECO's share against the largest logit, image by image.")
def neco_shares(inside: tuple[Array, Array], outside: Mapping[str, tuple[Array, Array]]) -> Figure:
    """NECO's share, of a feature's norm in the first d components, against the largest logit: one
    panel per OOD set.

    inside: (share (N,) in [0, 1], largest logit (N,)) of ID test images; outside: name -> the same.
    At most 2,000 images of a group are drawn, those without a share (a feature at the training
    mean) left out."""
    rows, columns = grid_shape(len(outside))
    height = 1.0 + rows * (3.4 if columns < 3 else 2.3)
    title = "NECO's share and the largest logit: do they see the same images?"
    figure, grid = canvas(rows, columns, height, title, sharex=True, sharey=True)
    known = thin(np.column_stack(inside))
    for position, (axes, name) in enumerate(zip(grid.flat, outside or [""], strict=False)):
        panel_title(axes, shorten(name), ood_colour(position))
        _draw_points(axes, known, ID_COLOUR, 5, 0.35)
        if outside:
            points = thin(np.column_stack(outside[name]))
            _draw_points(axes, points, ood_colour(position), 5, 0.5)
        axes.locator_params(nbins=4)
    close_grid(grid, max(len(outside), 1))
    grid[0, 0].set_xlim(right=1.0)
    _say_below(figure, "share of the standardised feature's norm in the first d components")
    _say_beside(figure, "largest logit")
    return figure


# ---- what the panels share -----------------------------------------------------------------------


@dataclass(frozen=True)
class Square:
    """The part of the feature space that panels show: one unit is as long on every axis."""

    centre: Array  # (K,)
    half: float  # of its side

    def of(self, axes: Sequence[int]) -> "Square":
        """The same on some of the axes."""
        return Square(self.centre[axes], self.half)


def _square(inside: Array, outside: Sequence[Array]) -> Square:
    """What to show of ID points (N, K) and of sets of OOD points (M, K)."""
    limits = [
        window(inside[:, axis], [points[:, axis] for points in outside], 0.2)
        for axis in range(inside.shape[1])
    ]
    return Square(np.mean(limits, axis=1), np.ptp(limits, axis=1).max() / 2)


def _show_square(axes: Axes, square: Square) -> None:
    """Limit a panel to a square of two axes."""
    low, high = square.centre - square.half, square.centre + square.half
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")


def _draw_points(axes: Axes, points: Array, colour: str, size: float, alpha: float) -> None:
    """Points (N, 2) as dots of so many square points; a few of them larger, each with a rim."""
    across, up = points.T
    if len(points) > FEW:
        axes.scatter(across, up, s=size, color=colour, alpha=alpha, lw=0)
    else:
        axes.scatter(across, up, s=4 * size, color=colour, alpha=0.85, lw=0.6, edgecolor="white")


def _say_below(figure: Figure, note: str) -> None:
    text = f"{note}\nblue: ID      coloured: the OOD set"
    figure.supxlabel(text, fontsize=9, color=QUIET)


def _say_beside(figure: Figure, quantity: str) -> None:
    """Name the vertical axis that all panels share."""
    figure.supylabel(quantity, fontsize=9, color=QUIET)


def _in_brackets(share: float, unit: str) -> str:
    """A share in percent, in brackets and after a space; "" where it is not known."""
    return f" ({100 * share:.1f}{unit})" if np.isfinite(share) else ""


def _count_beyond(axes: Axes, points: Array, square: Square) -> None:
    """In a corner, the share of the points (M, 2) that the panel's square does not show."""
    if not len(points):
        return
    hidden = (np.abs(points - square.centre) > square.half).any(axis=1)
    share = hidden.mean()
    if share >= 0.01:
        axes.annotate(
            f"{100 * share:.0f}% beyond",
            (0.99, 0.01),
            xycoords="axes fraction",
            ha="right",
            fontsize=7.5,
            color=QUIET,
            bbox=PAPER,
        )


def _write_labels(axes: Axes, points: Array, labels: Array | None, size: float) -> None:
    """Each class's label at the median of its points (N, 2), where there are few enough to read."""
    if labels is None:
        return
    classes = np.unique(labels)
    if len(classes) > LONG:
        return
    for label in classes:
        place = np.nanmedian(points[np.asarray(labels) == label], axis=0)
        axes.annotate(
            shorten(label, 10),
            place,
            ha="center",
            va="center",
            fontsize=size,
            fontweight="bold",
            color=INK,
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "alpha": 0.7, "lw": 0},
        )
