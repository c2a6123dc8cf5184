"""ActSub: the features' part that decides the class, and the part that hardly does.

`scores.rows` describes it, with a link to the paper. It is a variant, computed where it is named,
for it searches among all training images as KNN does. The letters of the formula are those of
docs/methods.md.
"""

import numpy as np

from arrays import SMALLEST
from scores import limits
from scores.bank import Bank
from scores.common import ZERO, Fitted, logsumexp, row_norm, undefined
from scores.neighbours import number_of_neighbours, of_bank
from scores.shaping import sharpening
from scores.spectra import CUTOFF, spectrum
from scores.training_set import Training

ONE_FEATURE = "it needs at least 2 features to tell a part from the rest, and there is 1"


def actsub_fit(
    train: Training,
    percentile: float = 90.0,
    power: float = 2.0,
    k: int = 10,
    dim: int | None = None,
) -> Fitted:
    """lse(W d exp(sum d / sum d') + b) (- log(1 - s))^power, d the part of h along the `dim`
    strongest right singular vectors of W, d' its largest activations, s the mean of the k largest
    cosines of the rest of h with that of training images (Zöngür et al., ICCV 2025, eq. 4 to 10).

    `dim` makes both parts equally long, on average over training images. 90 as the authors for
    CIFAR-100, 95 for CIFAR-10 and ImageNet. They search a tenth of a sample of the training
    images, we all. Beyond the rank of W a singular vector is any: there the directions stand by
    their training features, strongest first."""
    limits.check("ActSub", "percentile", percentile)
    if dim is not None:
        limits.check("ActSub", "dim", dim)
    parameters = {
        "percentile": float(percentile),
        "power": float(power),
        "k": number_of_neighbours("ActSub", k, train),
        "dim": dim,
    }
    if train.zero:
        return undefined("ActSub", ZERO, parameters)
    if train.width == 1:
        return undefined("ActSub", ONE_FEATURE, parameters)
    W, b = train.last_layer
    basis = _directions(train)
    if dim is None:
        dim = _equal_split(train, basis)
    if not 1 <= dim < train.width:
        raise ValueError(
            f"ActSub: the number of directions is {dim}; expected 1 to {train.width - 1} for"
            f" {train.width} features"
        )
    strong, weak = basis[:, :dim], basis[:, dim:]
    return Fitted(
        parameters=parameters | {"dim": int(dim)},
        W=W,
        b=b,
        strong=(strong @ strong.T).astype(np.float32),
        weak=weak.astype(np.float32),
        bank=_weak_bank(train, weak),
        note=train.bank_note,
    )


def _directions(train: Training) -> np.ndarray:
    """(D, D) float64: the right singular vectors of W, strongest first, then the rest of the
    space by the training features' second moment."""
    W = train.last_layer[0].astype(np.float64)
    _, values, vectors = np.linalg.svd(W)
    rank = int(np.count_nonzero(values > CUTOFF * values.max()))
    unseen = vectors[rank:].T
    if not unseen.size:
        return vectors.T
    moment = train.second_moment(np.zeros(train.width))
    _, turned = spectrum(unseen.T @ moment @ unseen)
    return np.hstack([vectors[:rank].T, unseen @ turned[:, ::-1]])


def _equal_split(train: Training, basis: np.ndarray) -> int:
    """How many directions make both parts of the training features most nearly of one mean
    length, from 1 to D - 1."""
    turn = basis.astype(np.float32)

    def part(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        squares = (features @ turn).astype(np.float64) ** 2
        before = np.cumsum(squares, axis=1)
        after = before[:, -1:] - before
        lengths = np.sqrt(before) - np.sqrt(after.clip(0))
        return lengths.sum(axis=0)

    gaps = np.abs(train.sum_of(part))[: train.width - 1]
    return int(gaps.argmin()) + 1


def _weak_bank(train: Training, weak: np.ndarray) -> Bank:
    """The training features without their strong part, to search."""
    projection = weak.astype(np.float32)
    moment = train.second_moment(np.zeros(train.width))
    _, axes = spectrum(weak.T @ moment @ weak)
    rows = of_bank(train, lambda features: features @ projection)
    return Bank(rows, train.labels[train.bank_rows], train.classes, axes[:, ::-1])


def actsub_score(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """The energy of the scaled strong part, times the likeness of the weak part."""
    given = state.parameters
    strong = features @ state.strong
    kept = max(1, strong.shape[1] - int(np.round(strong.shape[1] * given["percentile"] / 100)))
    largest = np.partition(strong, -kept, axis=1)[:, -kept:]
    energy = logsumexp((strong @ state.W.T) * sharpening(strong, largest) + state.b)
    weak = features @ state.weak
    near = state.bank.search(weak, logits.argmax(axis=1), given["k"])
    cosines = near.mean(axis=1, dtype=np.float64)
    cosines[row_norm(weak) <= SMALLEST] = np.nan
    return energy * (-np.log1p(-cosines)) ** given["power"]
