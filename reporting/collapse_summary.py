"""Neural collapse in five numbers, each on a bar from no collapse to full collapse.

Where a metric has no largest value, the bar says by which rule it stands where it does."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reporting.found import Summary
from reporting.words import finite, number, percent

Values = Mapping[tuple[str, str], float]  # by metric and split


@dataclass(frozen=True)
class Bar:
    """One of NC1 to NC5."""

    name: str
    what: str  # in a few words
    value: str
    beside: list[str]  # further numbers without which the first one misleads
    share: float | None  # of the way to full collapse, in [0, 1]; None where undefined
    rule: str  # how the share is made, or why there is none

    @property
    def percent(self) -> str:
        return "" if self.share is None else f"{100 * self.share:.0f}"


def bars(summary: Summary) -> list[Bar]:
    """The bars of the metrics that were measured."""
    rows = summary["neural_collapse"]
    measured = {row["metric"] for row in rows}
    values = {(row["metric"], row["split"]): row["value"] for row in rows if finite(row["value"])}
    notes = {row["metric"]: row.get("note") or "" for row in rows}
    made = []
    for names, make in BARS.items():
        if not measured & set(names):
            continue
        reason = next((notes[name] for name in names if notes.get(name)), "")
        made.append(make(values) or undefined(names[0], reason))
    return made


def undefined(metric: str, reason: str) -> Bar:
    """The bar of a metric that was measured and has no value."""
    name = metric.partition("_")[0].upper()
    why = reason or "no value is defined on these images"
    return Bar(name, WHAT[name], "undefined", [], None, why)


WHAT = {
    "NC1": "spread within classes",
    "NC2": "class means form a simplex",
    "NC3": "weights align with class means",
    "NC4": "decides by the nearest class mean",
    "NC5": "OOD means orthogonal to class means",
}


def clipped(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def within_classes(values: Values) -> Bar | None:
    """NC1, never alone: it weighs each direction by the spread between classes there."""
    names = {"nc1_trace_ratio": "trace ratio", "nc1_cdnv": "CDNV"}
    nc1 = values.get(("nc1", "train"))
    beside = [
        f"{name} {number(values[key, 'train'], 3)}"
        for key, name in names.items()
        if (key, "train") in values
    ]
    ratio, named = values.get(("nc1_trace_ratio", "train")), "trace ratio"
    if ratio is None:
        ratio, named = nc1, "NC1"
    if ratio is None:
        return None
    return Bar(
        "NC1",
        WHAT["NC1"],
        number(nc1, 3),
        beside or ["trace ratio and CDNV are not in the table"],
        clipped(1 / (1 + ratio)),
        f"1 / (1 + {named}): full collapse at 0, none without bound",
    )


def simplex(values: Values) -> Bar | None:
    """NC2 by the distance of Gram matrices, which sees norms and angles at once."""
    distance = values.get(("nc2_means_gram_distance", "train"))
    varying = values.get(("nc2_means_norm_cv", "train"))
    beside = [] if varying is None else [f"norms vary by {percent(varying)}"]
    if distance is None:
        if varying is None:
            return None
        rule = "1 - norms' variation; the distance to a simplex ETF is undefined"
        return Bar(
            "NC2", WHAT["NC2"], percent(varying), ["variation of norms"], clipped(1 - varying), rule
        )
    share = clipped(1 - distance / math.sqrt(2))
    rule = "1 - distance of the Gram matrices / √2: full collapse at 0, none at √2"
    return Bar("NC2", WHAT["NC2"], number(distance, 3), beside, share, rule)


def alignment(values: Values) -> Bar | None:
    cosine = values.get(("nc3_cosine_mean", "train"))
    if cosine is None:
        return None
    least = values.get(("nc3_cosine_min", "train"))
    beside = [] if least is None else [f"least {number(least, 3)}"]
    rule = "mean cosine: full collapse at 1, none at 0"
    return Bar("NC3", WHAT["NC3"], number(cosine, 3), beside, clipped(cosine), rule)


def nearest_mean(values: Values) -> Bar | None:
    found = {split: values.get(("nc4_mismatch", split)) for split in ("test", "train")}
    known = {split: value for split, value in found.items() if value is not None}
    if not known:
        return None
    (split, first), *others = known.items()
    beside = [f"{percent(value, 2)} on {name}" for name, value in others]
    rule = f"1 - share of {split} images where the two disagree: full collapse at 0%"
    return Bar("NC4", WHAT["NC4"], f"{percent(first, 2)} {split}", beside, clipped(1 - first), rule)


def orthogonal(values: Values) -> Bar | None:
    """NC5, centred, as the mean over the OOD sets, with the ID test images as the null."""
    sets = {key[1]: value for key, value in values.items() if is_of_ood(key)}
    if not sets:
        return None
    mean = sum(sets.values()) / len(sets)
    null = values.get(("nc5_centred", "test"))
    beside = [] if null is None else [f"ID test images, the null: {number(null, 3)}"]
    over = "one OOD set" if len(sets) == 1 else f"mean of {len(sets)} OOD sets"
    rule = f"1 - |cosine|, {over}, centred at the global mean: full collapse at 0"
    return Bar("NC5", WHAT["NC5"], number(mean, 3), beside, clipped(1 - mean), rule)


def is_of_ood(key: tuple[str, str]) -> bool:
    metric, split = key
    return metric == "nc5_centred" and split.startswith("ood:")


BARS: dict[tuple[str, ...], Callable[[Values], Any]] = {
    ("nc1", "nc1_trace_ratio"): within_classes,
    ("nc2_means_gram_distance", "nc2_means_norm_cv"): simplex,
    ("nc3_cosine_mean",): alignment,
    ("nc4_mismatch",): nearest_mean,
    ("nc5_centred",): orthogonal,
}
