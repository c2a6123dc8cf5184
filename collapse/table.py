"""The tables of collapse: the lines of nc_metrics.csv and the columns of nc_per_class.csv.

lines = nc1_to_nc3(moments, W, b) + nc4(decisions.agreement, "train")
pd.DataFrame(lines)
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arrays import measurable_head
from collapse import etf, metrics
from collapse.etf import plain, rank_bound
from collapse.rows import ROWS
from moments import Moments

UNDEFINED = {"nc1": "class means coincide, or no class has two images", "nc4": "no images"}
ZERO_VECTOR = "a vector of length zero"
NO_HEAD = "needs the classifier, head.csv"
NULL = "null: the ID set's own mean"


@dataclass(frozen=True)
class Line:
    """One line of nc_metrics.csv; the fields are its columns."""

    metric: str
    value: float | None
    split: str
    centring: str
    source: str
    note: str


def line(metric: str, value: float | None, split: str, note: str = "", absent: str = "") -> Line:
    """A metric's line, with the centring and source of its row in collapse.rows.

    An undefined value without a note gets its reason; `absent`, about classes without images, is
    added."""
    if value is None and not note:
        reason = UNDEFINED.get(metric[:3], ZERO_VECTOR)
        note = f"undefined: {reason}"
    notes = [text for text in (note, absent) if text]
    row = ROWS[metric]
    return Line(metric, value, split, row.centring, row.source, "; ".join(notes))


# ---- nc_metrics.csv ------------------------------------------------------------------------------


def nc1_to_nc3(
    moments: Moments, W: np.ndarray | None, b: np.ndarray | None, split: str = "train"
) -> list[Line]:
    """NC1, NC2 and NC3 of moments of C classes and W (C, D), b (C,); what rests on W or b alone has
    split "head".

    Without a head, W and b None, the lines that take one are undefined, and their note says so.
    """
    classes, width = moments.means.shape
    if W is not None:
        W, b = measurable_head(W, b, classes, width)
    absent = ""
    if len(moments.present) < classes:
        absent = f"means of {len(moments.present)} of {classes} classes"
    lines = nc1(moments, split, absent)
    lines += nc2("means", moments.centred, split, absent)
    if W is None or b is None:
        return lines + of_missing_head(split)
    lines += nc2("weights", W, "head")
    for name, value in metrics.nc3(moments, W).items():
        lines.append(line(name, value, split, absent=absent))
    lines.append(line("head_bias_std", float(b.std()), "head", "in units of the logits"))
    return lines


def nc1(moments: Moments, split: str, absent: str) -> list[Line]:
    """The lines of NC1; that of `nc1` notes the rank of the pseudo-inverse."""
    values = metrics.nc1(moments)
    rank = f"rank {values['nc1_rank']} of {rank_bound(moments.centred)}"
    lines = []
    for name, value in values.items():
        is_cut = name == "nc1" and value is not None
        lines.append(line(name, value, split, rank if is_cut else "", absent))
    return lines


def nc2(kind: str, vectors: np.ndarray, split: str, absent: str = "") -> list[Line]:
    """The lines of NC2 of vectors (C, D); `kind` is "means" or "weights". Warns where no simplex
    ETF exists."""
    classes, width = vectors.shape
    no_simplex = ""
    if rank_bound(vectors) < classes - 1:
        no_simplex = f"no simplex ETF of {classes} classes exists in {width} dimensions"
        warnings.warn(
            f"NC2 of the {kind}: {no_simplex}; the generalised metrics stand in",
            UserWarning,
            stacklevel=2,
        )
    lines = []
    for name, value in etf.nc2(vectors).items():
        depends_on_width = name in (*etf.SIMPLEX, *etf.GENERALISED)
        note = no_simplex if depends_on_width else ""
        lines.append(line(f"nc2_{kind}_{name}", value, split, note, absent))
    return lines


def of_missing_head(split: str) -> list[Line]:
    """The lines of NC2 of the weights, NC3 and the bias, undefined, in the order of
    `nc1_to_nc3`."""
    lines = [line(f"nc2_weights_{name}", None, "head", NO_HEAD) for name in etf.NC2]
    lines += [line(name, None, split, NO_HEAD) for name in metrics.NC3]
    lines.append(line("head_bias_std", None, "head", NO_HEAD))
    return lines


def nc4(found: metrics.Agreement, split: str) -> list[Line]:
    """The lines of NC4; split is "train" or "test"."""
    has_head = found.mismatches is not None
    counted = f"{found.mismatches} of {found.images} images" if has_head else NO_HEAD
    head_note = "" if has_head else NO_HEAD
    return [
        line("nc4_mismatch", found.mismatch, split, counted),
        line("nc4_nearest_mean_accuracy", found.nearest_mean_accuracy, split),
        line("nc4_head_accuracy", found.head_accuracy, split, head_note),
    ]


def nc5(found: metrics.Alignment, split: str) -> list[Line]:
    """The lines of NC5; split is "ood:<name>", or "test" for the ID test set, the null."""
    note = NULL if split in ("train", "test") else ""
    lines = []
    for name, value in found.values.items():
        lines.append(line(name, value, split, note))
    return lines


def whole(
    first: list[Line],
    agreements: dict[str, metrics.Agreement],
    alignments: dict[str, metrics.Alignment],
) -> list[Line]:
    """One table: the lines of `nc1_to_nc3`, and NC4 and NC5 of each split."""
    lines = list(first)
    for split, agreement in agreements.items():
        lines += nc4(agreement, split)
    for split, alignment in alignments.items():
        lines += nc5(alignment, split)
    return lines


# ---- nc_per_class.csv ----------------------------------------------------------------------------


def per_class(
    moments: Moments,
    W: np.ndarray | None,
    class_names: Sequence[str] | None = None,
    train: metrics.Decisions | None = None,
    test: metrics.Decisions | None = None,
) -> dict[str, list]:
    """Columns of nc_per_class.csv, lists of C entries, None where undefined; W is (C, D), None
    without a head."""
    classes, width = moments.means.shape
    if W is None:
        W = np.full((classes, width), np.nan)
    else:
        W, _ = measurable_head(W, np.zeros(classes), classes, width)
    if class_names is None:
        class_names = [str(number) for number in range(classes)]
    centred = moments.deviations
    nearest, closest = nearest_classes(centred)
    columns = {
        "class": np.arange(classes),
        "class_name": class_names,
        "images": moments.counts,
        "within_class_variance": moments.within_class_variance,
        "mean_norm": np.linalg.norm(centred, axis=1),
        "weight_norm": np.linalg.norm(W, axis=1),
        "cosine_weight_mean": metrics.cosine(W, centred),
        "nearest_class_cosine": closest,
        "nearest_class": nearest,
        "train_mismatch": mismatch_by_class(train, classes),
        "test_mismatch": mismatch_by_class(test, classes),
    }
    return {name: [plain(value) for value in column] for name, column in columns.items()}


def nearest_classes(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred class means (C, D) -> the class (C,) at the smallest angle to each, None where
    there is none, and that cosine (C,), NaN."""
    classes = len(centred)
    norms = np.linalg.norm(centred, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / norms[:, None]
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, np.nan)
    comparable = np.where(np.isnan(cosines), -np.inf, cosines)
    nearest = comparable.argmax(axis=1)
    closest = cosines[np.arange(classes), nearest]
    known = nearest.astype(object)
    known[np.isnan(closest)] = None
    return known, closest


def mismatch_by_class(decisions: metrics.Decisions | None, classes: int) -> np.ndarray:
    """(C,) the share of each class's images on which the two rules of NC4 disagree; NaN without
    images or head."""
    mismatch = np.full(classes, np.nan)
    if decisions is None or decisions.mismatches is None:
        return mismatch
    seen = decisions.images > 0
    mismatch[seen] = decisions.mismatches[seen] / decisions.images[seen]
    return mismatch
