"""What all figures share: colours, the canvas, and the helpers that place text and choose axis
ranges.

Only `matplotlib.figure.Figure` is used, never pyplot: no global state, no backend, safe in threads.
ID has one fixed colour, OOD sets take theirs by position, and everything that is not data is grey.
"""

import functools
import inspect
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

Array = np.ndarray
Parameters = ParamSpec("Parameters")

ID_COLOUR = "#0072B2"
# Mostly Okabe and Ito (2008), without its blue, which is ID's, and its yellow, which vanishes on
# white. Colour is never the only sign: each set's name stands beside its data.
OOD_COLOURS = (
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#6A3D9A",
    "#56B4E9",
    "#8A6D3B",
    "#4D4D4D",
)
INK, QUIET, FAINT = "#222222", "#666666", "#D9D9D9"
WIDTH = 8.6  # inches
DPI = 150  # sharp at that width on a page about 900 pixels wide
DASHES = (0, (4, 3))
DOTS = (0, (1, 2))
# behind small text that may cross a line
PAPER = {
    "boxstyle": "square,pad=0.1",
    "fc": "white",
    "lw": 0,
}
LONG = 20  # more classes than this are drawn sorted, with only the extremes named
FEW = 100  # images of a set, and no more: each is drawn so that it can be seen
FEWEST_BINS, MOST_BINS = 12, 80


def ood_colour(position: int) -> str:
    """Colour of the OOD set at this position in the list of sets; repeats after eight."""
    return OOD_COLOURS[position % len(OOD_COLOURS)]


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, without the sign; only what is exactly all or nothing reads 100 or 0."""
    text = f"{100 * share:.{digits}f}"
    least = 10.0**-digits
    if 0 < share < 1 and float(text) == 0:
        return f"<{least:.{digits}f}"
    if 0 < share < 1 and float(text) == 100:
        return f">{100 - least:.{digits}f}"
    return text


class Captioned(Protocol[Parameters]):
    """A function that draws a figure, with the captions that its figures may have."""

    captions: tuple[str, ...]

    def __call__(self, *given: Parameters.args, **named: Parameters.kwargs) -> Figure:
        """Draw the figure; its `caption` is one of `captions`."""


def captioned(
    text: str = "", **by_axis: str
) -> Callable[[Callable[Parameters, Figure]], Captioned[Parameters]]:
    """Let a function that draws a figure give it its caption: `text`, or, where the figure may run
    along epochs or along depth, the one for its argument `along`.

    The caption travels as `figure.caption` and, in the PNG, as its description.
    """

    def decorate(draw: Callable[Parameters, Figure]) -> Captioned[Parameters]:
        parameters = inspect.signature(draw)

        @functools.wraps(draw)
        def drawn(*given: Parameters.args, **named: Parameters.kwargs) -> Figure:
            bound = parameters.bind(*given, **named)
            bound.apply_defaults()
            along = bound.arguments.get("along", "")
            figure = draw(*given, **named)
            figure.caption = by_axis.get(along, text)  # type: ignore[attr-defined]
            return figure

        captioned_draw = cast(Captioned[Parameters], drawn)
        captioned_draw.captions = tuple(by_axis.values()) or (text,)
        return captioned_draw

    return decorate


def read_caption(png: bytes) -> str:
    """The caption that a PNG of ours carries; empty for another's, and for what is no image."""
    try:
        with Image.open(io.BytesIO(png)) as image:
            return str(image.info.get("Description", ""))
    except (OSError, SyntaxError, ValueError):
        return ""


def share_of_page(png: bytes) -> float:
    """How wide a figure was drawn, as a share of WIDTH in (0, 1]: shown in that proportion, all
    figures have letters of one size. 1 for another program's, and for what is no image."""
    try:
        with Image.open(io.BytesIO(png)) as image:
            ours = "Description" in image.info
            pixels = image.width
    except (OSError, SyntaxError, ValueError):
        return 1.0
    return min(1.0, pixels / (WIDTH * DPI)) if ours else 1.0


def canvas(
    rows: int,
    columns: int,
    height: float,
    title: str,
    width: float = WIDTH,
    layout: Any = "constrained",
    **options: Any,
) -> tuple[Figure, Array]:
    """Figure (width, height inches) with a left-aligned title, and its (rows, columns) array of
    quiet axes."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.08, h_pad=0.06)
    figure.suptitle(title, x=0.012, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        quieten(axes)
    return figure, grid


def quieten(axes: Axes) -> None:
    """Only the axes that carry a scale keep a line; everything that is not data turns grey."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", colors=QUIET, labelsize=8.5, length=3, color=FAINT)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=QUIET, fontsize=9)


def logarithmic(axes: Axes) -> None:
    """A logarithmic vertical axis that names its powers of ten alone."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())


def grid_shape(count: int, most: int = 4) -> tuple[int, int]:
    """(rows, columns) of `count` panels, at most that many side by side: five stand as three and
    two, not as four and one."""
    rows = max(math.ceil(count / most), 1)
    columns = max(math.ceil(count / rows), 1)
    return rows, columns


def close_grid(grid: Array, count: int) -> None:
    """Hide the panels beyond the first `count`; x tick labels under the lowest of each column, full
    last row or not."""
    for axes in grid.flat[max(count - grid.shape[1], 0) : count]:
        axes.tick_params(labelbottom=True)
    for axes in grid.flat[count:]:
        axes.set_visible(False)


def panel_title(axes: Axes, text: str, colour: str = INK) -> None:
    """Title of one panel, in a darker shade of its data's colour: orange letters would be too pale
    to read."""
    darker: Any = 0.75 * np.array(to_rgb(colour))
    axes.set_title(text, loc="left", fontsize=9.5, color=darker, fontweight="bold", pad=5)


def shorten(text: Any, length: int = 22) -> str:
    """A name on one line, of at most `length` characters."""
    text = " ".join(str(text).split())
    if len(text) > length:
        text = text[: length - 1] + "…"
    return text.replace("$", r"\$")  # two dollar signs would be taken for mathematics


def window(reference: Array, others: Sequence[Array], share: float = 0.5) -> tuple[float, float]:
    """Axis range for scores (N,) and a list of (M,): within percentiles, never so wide that the
    reference is flattened.

    From the `share`-th percentile to its complement, over the groups whose median lies within reach
    of the reference: ten times the larger of its interquartile range and the median one. Neither
    one far set nor a long tail may squeeze all others into a single bar."""
    shares = [share, 25, 50, 75, 100 - share]
    groups = [np.percentile(group, shares) for group in [reference, *others] if len(group)]
    if not groups:
        return 0.0, 1.0
    low, quarter, middle, three_quarters, high = np.array(groups).T
    spread = three_quarters - quarter
    reach = 10 * max(spread[0], np.median(spread)) or np.inf
    least, most = low[0] - reach, high[0] + reach
    near = (middle >= least) & (middle <= most)
    start = max(low[near].min(), least)
    stop = min(high[near].max(), most)
    margin = 0.02 * (stop - start) or 0.5 * max(abs(start), 1e-3)
    return start - margin, stop + margin


def finite(values: Any) -> Array:
    """The finite ones of any array, flat, in float64."""
    values = np.asarray(values, dtype=np.float64).ravel()
    return values[np.isfinite(values)]


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each (x, y, text, colour) just right of its point, moved apart where two would
    overlap."""
    ends = sorted((end for end in ends if np.isfinite(end[1])), key=lambda end: end[1])
    places = apart(heights(axes, [y for _, y, _, _ in ends]), 0.075)
    for (x, _, text, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            text,
            (x, place),
            xycoords=("data", "axes fraction"),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def heights(axes: Axes, values: Sequence[float]) -> list[float]:
    """Where values (K,) stand on the vertical axis: 0 at its lower end, 1 at its upper."""
    scale: Callable[[Any], Any] = np.log if axes.get_yscale() == "log" else np.asarray
    low, high = scale(axes.get_ylim())
    return [(scale(value) - low) / (high - low) for value in values]


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved so that neighbours are at least `gap` apart, none above 1."""
    moved = list(places)
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + gap)
    top = max(1.0, gap * len(moved))  # what the gaps pushed out of the panel moves down again
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], top)
        top = moved[index] - gap
    return moved


def bar_rows(axes: Axes, count: int) -> None:
    """Room for `count` horizontal bars without a margin above and below; one or two bars stay as
    thin as three."""
    spare = max(3 - count, 0) / 2
    lowest, highest = 0, count - 1
    axes.set_ylim(lowest - 0.6 - spare, highest + 0.6 + spare)


def beside_bar(axes: Axes, text: str, end: float, row: float, colour: str, **font: Any) -> None:
    """A text just right of a horizontal bar's end."""
    axes.annotate(
        text,
        (end, row),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        **font,
    )


def thin(points: Any, limit: int = 2000, width: int = 2) -> Array:
    """At most `limit` finite points (N, width), evenly spaced in their order."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, width)
    points = points[np.isfinite(points).all(axis=1)]
    chosen = np.linspace(0, len(points) - 1, min(limit, len(points)))
    return points[chosen.astype(int)]


def score_bins(start: float, stop: float, count: int) -> Array:
    """Edges of bins from start to stop for the density of `count` values: twice the root of their
    number, so that a few photographs make no comb, and at most 80."""
    bins = int(np.clip(2 * np.sqrt(max(count, 1)), FEWEST_BINS, MOST_BINS))
    return np.linspace(start, stop, bins + 1)


def rug(axes: Axes, values: Array, colour: str) -> None:
    """One tick at the foot of the panel for each of a few values (N,); none where they are many."""
    if len(values) <= FEW:
        feet = np.zeros(len(values))
        axes.plot(values, feet, "|", color=colour, ms=9, mew=1.1, alpha=0.8, clip_on=False)


def density(axes: Axes, values: Array, bins: Array, colour: str, alpha: float) -> float:
    """Filled density of the values over the bins, normalised by all values; returns the peak."""
    counts, _ = np.histogram(values, bins)
    shares = counts / max(len(values), 1)
    densities = shares / (bins[1] - bins[0])
    axes.stairs(densities, bins, fill=True, color=colour, alpha=alpha, lw=0)
    axes.stairs(densities, bins, color=colour, lw=1.2)
    return densities.max()


def two_densities(axes: Axes, inside: Array, outside: Array, bins: Array, colour: str) -> bool:
    """Draw the density of ID (N,) and of an OOD set (M,); True if a spike leaves the panel.

    A spike may leave it, since the other density must stay legible beneath it.
    """
    peaks = [
        density(axes, inside, bins, ID_COLOUR, 0.25),
        density(axes, outside, bins, colour, 0.35),
    ]
    lower = min((peak for peak in peaks if peak > 0), default=1)
    top = min(max(peaks), 5 * lower) or 1
    axes.set(ylim=(0, 1.1 * top), yticks=[], xlim=(bins[0], bins[-1]))
    axes.spines["left"].set_visible(False)
    return max(peaks) > top


def beyond(inside: Array, outside: Array, start: float, stop: float) -> str:
    """In words, how much of either group the axis does not show."""
    parts = []
    for name, values in (("ID", inside), ("OOD", outside)):
        if not len(values):
            parts.append(f"no finite {name} score")
            continue
        below, above = np.mean(values < start), np.mean(values > stop)
        for share, side in ((below, "left"), (above, "right")):
            if share >= 0.01:
                parts.append(f"{100 * share:.0f}% of {name} further {side}")
    return ", ".join(parts)
