"""Checks of the arrays that users pass to scores, metrics and collapse.

Each check raises a ValueError that names what was found, what was expected, and the first wrong
row. Scores work in float32 and refuse values whose squares overflow float32. Collapse works in
float64 and accepts any finite number.
"""

from typing import NoReturn, cast

import numpy as np
from numpy.typing import ArrayLike

from disk_rows import DiskRows

# Limits of what float32 can square. A larger feature or weight makes sums of squares overflow; if
# the largest feature of a set is smaller than SMALLEST, all squares vanish.
LARGEST = 1e15
SMALLEST = 1e-15
BLOCK = 16_384  # rows checked at a time: a mask over all rows would need as much memory as they do


# ---- labels --------------------------------------------------------------------------------------


def first_outside(labels: np.ndarray, classes: int | None) -> int | None:
    """The first row of labels (n,) with a label below 0 or, if `classes` is given, not below it.

    None if all labels are valid.
    """
    wrong = labels < 0
    if classes is not None:
        wrong = wrong | (labels >= classes)
    if not wrong.any():
        return None
    return int(np.argmax(wrong))


def checked_labels(labels: ArrayLike, n: int, classes: int | None) -> np.ndarray:
    """Labels (n,) as int64.

    Every label must be a class of the head, or only at least 0 if `classes` is None.
    """
    labels = np.asarray(labels)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; expected {n} whole numbers, one"
            " per image"
        )
    row = first_outside(labels, classes)
    if row is not None:
        known = "below 0" if classes is None else f"outside the head's classes, 0 to {classes - 1}"
        raise ValueError(f"label {labels[row]} in row {row} is {known}")
    return labels.astype(np.int64)


def places_of_labels(labels: ArrayLike, n: int) -> tuple[np.ndarray, int]:
    """Number the k distinct labels 0 .. k-1, in ascending order.

    Labels (n,) -> (each label's number (n,), k).
    """
    names, places = np.unique(checked_labels(labels, n, None), return_inverse=True)
    return places, len(names)


# ---- features and head for scores: float32 -------------------------------------------------------


def as_float32(numbers: ArrayLike | DiskRows | None) -> np.ndarray:
    """Contiguous float32. A number too large for float32 becomes infinity, which later checks
    refuse. Rows on a disk stay there."""
    if isinstance(numbers, DiskRows):
        return cast(np.ndarray, numbers)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(numbers, dtype=np.float32)


def scorable_features(features: ArrayLike | DiskRows, width: int | None = None) -> np.ndarray:
    """Features (N, D) as float32, where D must equal the head's `width` if that is known.

    Refuses features that no score can be computed from: NaN, infinity, and values above LARGEST.
    """
    features = as_float32(features)
    fits = features.ndim == 2 and features.size > 0 and width in (None, features.shape[1])
    if not fits:
        expected = "(N, D), N and D at least 1"
        if width is not None:
            expected = f"(N, {width}), the head's width, N at least 1"
        raise ValueError(f"features have shape {features.shape}; expected {expected}")
    for start in range(0, len(features), BLOCK):
        block = features[start : start + BLOCK]
        # Unlike np.abs(block).max(), these two reductions make no copy.
        largest = max(-block.min(), block.max())
        if not largest <= LARGEST:  # True for NaN as well
            refuse_row(block, start)
    return features


def refuse_row(block: np.ndarray, start: int) -> NoReturn:
    """Raise a ValueError that names the first row that cannot be scored.

    `block` holds such a row; `start` is the row number of its first row.
    """
    sizes = np.abs(block).max(axis=1)
    row = int(np.argmax(~(sizes <= LARGEST)))
    if np.isfinite(sizes[row]):
        raise ValueError(
            f"features reach {sizes[row]:.3g}, first in row {start + row}; expected at most"
            f" {LARGEST:g}, for beyond it sums of squares overflow float32: divide all features by"
            " one number, and extract them anew"
        )
    raise ValueError(
        f"features hold NaN or infinity, first in row {start + row}; extract them again, in float32"
    )


def all_zero(features: np.ndarray) -> bool:
    """True if all features are 0.

    ValueError if they are not 0, but so small that their squares vanish in float32.
    """
    largest = max(-float(features.min()), float(features.max()))
    if 0 < largest < SMALLEST:
        raise ValueError(
            f"no training feature is above {largest:.3g}; expected some of at least {SMALLEST:g},"
            " for below it squares vanish in float32: multiply all features by one number, and"
            " extract them anew"
        )
    return largest == 0


def scorable_head(W: ArrayLike, b: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """W (C, D) and b (C,) as float32."""
    W, b = as_float32(W), as_float32(b)
    if W.ndim != 2 or b.shape != W.shape[:1]:
        raise ValueError(
            f"the head has weights {W.shape} and a bias {b.shape}; expected shapes (C, D) and (C,)"
        )
    refuse_not_finite(W, b)
    largest = max(np.abs(W).max(initial=0), np.abs(b).max(initial=0))
    if largest > LARGEST:
        raise ValueError(
            f"the head's weights reach {np.abs(W).max():.3g} and its biases {np.abs(b).max():.3g};"
            f" expected at most {LARGEST:g}, for beyond it products overflow float32"
        )
    return W, b


def refuse_not_finite(W: np.ndarray, b: np.ndarray) -> None:
    """Raise a ValueError if a head holds NaN or infinity."""
    if not (np.isfinite(W).all() and np.isfinite(b).all()):
        raise ValueError("the head holds NaN or infinity; extract it again from a sound checkpoint")


def checked_scores(scores: ArrayLike, what: str) -> np.ndarray:
    """Scores (N,) as float64. NaN is allowed; it makes metrics undefined."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(
            f"{what} scores have shape {scores.shape}; expected one number per image, at least one"
        )
    return scores


# ---- features and head for collapse: float64 -----------------------------------------------------


def measurable(
    features: ArrayLike, labels: ArrayLike, classes: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) in their own type, and labels (n,) as int64."""
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or features.shape[1] != width or features.dtype.kind not in "fiu":
        raise ValueError(
            f"features have shape {features.shape} and type {features.dtype}, expected numbers of"
            f" shape (n, {width}); take features and head from one checkpoint"
        )
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels have shape {labels.shape} and type {labels.dtype}, expected {len(features)}"
            " integers"
        )
    row = first_outside(labels, classes)
    if row is not None:
        raise ValueError(f"label {labels[row]} of row {row} is outside 0 to {classes - 1}")
    for start in range(0, len(features), BLOCK):
        finite = np.isfinite(features[start : start + BLOCK])
        if not finite.all():
            row = start + int(np.argmin(finite.all(axis=1)))
            raise ValueError(f"the features of row {row} hold NaN or infinity; extract them again")
    return features, labels.astype(np.int64, copy=False)


def measurable_head(
    W: ArrayLike, b: ArrayLike | None, classes: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """W (C, D) and b (C,) as float64, where C and D must be those of the features."""
    W, b = np.asarray(W, np.float64), np.asarray(b, np.float64)
    if W.shape != (classes, width) or b.shape != (classes,):
        raise ValueError(
            f"the head has weights {W.shape} and bias {b.shape}, the features need ({classes},"
            f" {width}) and ({classes},); take head.csv and features from one checkpoint"
        )
    refuse_not_finite(W, b)
    return W, b
