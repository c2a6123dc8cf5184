"""Text for the report: numbers, durations and lists in words."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import figures

EMPTY = "–"  # stands where a value is missing


def finite(value: Any) -> bool:
    """True for a number that is neither NaN nor infinite; False for anything else."""
    if not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


def rate(share: Any) -> str:
    """A share in [0, 1] in percent, without the sign; EMPTY where it is missing."""
    if not finite(share):
        return EMPTY
    return figures.percent(share)


def percent(share: Any, digits: int = 1) -> str:
    """A share in [0, 1] in percent, with the sign; EMPTY where it is missing."""
    if not finite(share):
        return EMPTY
    return f"{figures.percent(share, digits)}%"


def kept(tpr: float) -> str:
    """The share of ID images that a threshold keeps, in percent without the sign: 0.955 is 95.5,
    not 96."""
    return f"{100 * tpr:.10g}"


def interval(row: Mapping[Any, Any]) -> str:
    """ "94.1–95.9", the 95% interval of a row's AUROC in percent; ">99.9" where both its ends are
    written so."""
    low, high = rate(row["auroc_low"]), rate(row["auroc_high"])
    if low == high and not low[0].isdigit():
        return low
    return f"{low}–{high}"


def interval_of(low: Any, high: Any, text: Callable[[Any], str]) -> str:
    """ "94.1–95.9" of any two ends, each as `text` writes it."""
    return f"{text(low)}–{text(high)}"


def points(difference: float) -> str:
    """A difference of two shares in points of percent: "0.3 points", "less than 0.1 points"."""
    text = f"{100 * difference:.1f}"
    if difference > 0 and float(text) == 0:
        return "less than 0.1 points"
    return f"{text} points"


def number(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits; EMPTY where it is missing."""
    if not finite(value):
        return EMPTY
    return f"{value:.{digits}g}"


def show(value: Any) -> str:
    """Any cell of a table as text."""
    if value is None:
        return EMPTY
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def duration(seconds: Any) -> str | None:
    """Seconds in the unit that reads best; None where they are missing."""
    if not finite(seconds):
        return None
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def commit(record: Mapping[str, Any]) -> str | None:
    """The commit that a record names, in ten digits, and whether the code was changed since."""
    if not record.get("git_commit"):
        return None
    changed = ", with changes" if record.get("git_dirty") else ""
    return f"{record['git_commit'][:10]}{changed}"


def listed(words: Iterable[str], further: int = 0) -> str:
    """["a", "b"], 3 further -> "a, b and 3 more"."""
    words = list(words)
    if further > 0:
        words.append(f"{further} more")
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
