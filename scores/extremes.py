"""OpenMax: how extreme an image's logits are among those of the class, by extreme value theory.

`scores.rows` describes it, with a link to the paper. The letters of the formula are those of
docs/methods.md.
"""

import numpy as np

from scores import limits
from scores.blocks import summed
from scores.common import Fitted, class_sums, logsumexp, row_max, warn
from scores.training_set import Training

FLATTEST, STEEPEST = 1e-2, 1e6  # shapes of a Weibull distribution that are tried
HALVINGS = 60  # of that range, on a logarithmic scale: to 1e-17 of it


def openmax_fit(train: Training, tail: int = 20, top: int = 3) -> Fitted:
    """max_c v_c - log(sum_c exp v_c + exp v_0), v_c = l_c (1 - o_c F_c(d_c)), v_0 = sum_c l_c - v_c
    (Bendale and Boult, CVPR 2016, algorithms 1 and 2).

    d_c is the distance of the logits to those of the mean of class c's right training images, F_c
    the Weibull distribution of the `tail` largest such distances, and o_c (top + 1 - rank) / top
    for the `top` largest logits, 0 for others. 20 and 3 as OpenOOD; the authors have 20 and 10 for
    ImageNet."""
    limits.check("OpenMax", "tail", tail)
    limits.check("OpenMax", "top", top)
    means, counts = _right_means(train)
    missing = np.count_nonzero(counts == 0)
    if missing:
        warn(
            "OpenMax",
            f"{missing} classes have no rightly classified training image; whatever is predicted"
            " as one of them counts as unknown",
        )
    least, shapes, scales = _weibulls(_right_distances(train, means), int(tail))
    return Fitted(
        parameters={"tail": int(tail), "top": int(min(top, train.classes))},
        means=means,
        least=least,
        shapes=shapes,
        scales=scales,
    )


def _right_means(train: Training) -> tuple[np.ndarray, np.ndarray]:
    """-> (C, C) the mean logits of the training images of each class that are classified right, NaN
    for a class without any, and their counts (C,)."""

    def part(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = train.logits(features)
        right = logits.argmax(axis=1) == labels
        sums = class_sums(logits, labels, train.classes, right.astype(np.float64))
        return sums, np.bincount(labels[right], minlength=train.classes)

    sums, counts = summed(train.passes(part))
    with np.errstate(invalid="ignore"):
        return sums / counts[:, None], counts


def _right_distances(train: Training, means: np.ndarray) -> list[np.ndarray]:
    """-> for each class the distances of its right training images to their mean."""

    def part(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        logits = train.logits(features)
        right = logits.argmax(axis=1) == labels
        distances = np.linalg.norm(logits[right] - means[labels[right]], axis=1)
        return np.stack([labels[right], distances])

    labels, distances = np.hstack(list(train.passes(part)))
    return [distances[labels == class_] for class_ in range(train.classes)]


def _weibulls(distances: list[np.ndarray], tail: int) -> tuple[np.ndarray, ...]:
    """Fit each class's largest distances, moved so that the least of them is 1, as libMR does ->
    that least, the shape and the scale, (C,) each; for a class without distances a least one
    of minus infinity, from which every image is far."""
    found = np.tile([[-np.inf], [1.0], [1.0]], len(distances))
    for class_, of_class in enumerate(distances):
        if len(of_class):
            largest = np.sort(of_class)[-tail:]
            found[:, class_] = largest[0], *_weibull(largest - largest[0] + 1)
    least, shapes, scales = found
    return least, shapes, scales


def _weibull(values: np.ndarray) -> tuple[float, float]:
    """Values (n,) of 1 or more -> the shape and scale of greatest likelihood.

    The slope of the likelihood falls with the shape, so that halving finds its zero. Values that
    are all the same have no finite shape: the distribution is then a step at the last one tried."""
    logarithms = np.log(values)
    relative = logarithms - logarithms.max()
    low, high = np.log(FLATTEST), np.log(STEEPEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        shape = np.exp(middle)
        weights = np.exp(shape * relative)
        slope = weights @ logarithms / weights.sum() - 1 / shape - logarithms.mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    shape = np.exp(high)
    mean_power = np.exp(shape * relative).mean()
    scale = np.exp(logarithms.max() + np.log(mean_power) / shape)
    return float(shape), float(scale)


def openmax_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """The log of the largest probability of a known class."""
    logits = logits.astype(np.float64)
    top = state.parameters["top"]
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    revised = logits.copy()
    unknown = np.zeros(len(logits))
    for place in range(top):
        classes = ranked[:, place]
        rows = np.arange(len(logits)), classes
        weight = (top - place) / top
        taken = logits[rows] * weight * _extremeness(logits, classes, state)
        revised[rows] -= taken
        unknown += taken
    all_of_them = np.column_stack([revised, unknown])
    return row_max(revised) - logsumexp(all_of_them)


def _extremeness(logits: np.ndarray, classes: np.ndarray, state: Fitted) -> np.ndarray:
    """(n, C), (n,) -> (n,) the share of the class's extreme distances that lie below the image's,
    by its Weibull distribution."""
    distances = np.linalg.norm(logits - np.nan_to_num(state.means[classes]), axis=1)
    moved = np.maximum(distances - state.least[classes] + 1, 0)
    with np.errstate(divide="ignore", over="ignore"):
        powers = state.shapes[classes] * np.log(moved / state.scales[classes])
        return -np.expm1(-np.exp(powers))
