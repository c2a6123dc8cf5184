"""OOD scores from the nearest among all training features: KNN, NNGuide, Relation. The search is
exact.

`scores.rows` describes them, with a link to each paper. The three share one `Bank`, and
`finish(near, logits, fitted)` receives each image's k largest similarities, or all of them. The
letters of the formulas are those of docs/methods.md. An equation number is given where the paper's
text could be checked.

An exhaustive search costs one product of queries and training features, 2 D flops per pair: float32
makes it twice as fast as scikit-learn's float64, and no more. The rest is gained by not finishing
the product. The features are turned onto their principal axes, and Cauchy and Schwarz bound what
the last axes can add:

    cos = q[:m] . z[:m] + q[m:] . z[m:]  <=  q[:m] . z[:m] + |q[m:]| |z[m:]|

one product of width m + 1. Only where that bound reaches the k-th largest cosine within the image's
own predicted class is the product finished, and how many axes are enough is learned from block to
block. Nothing is approximate. It pays where classes are tight; white noise, of which it rules out
nothing, takes a seventh longer (4,096 queries, 50,000 x 512)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from arrays import SMALLEST
from scores import limits
from scores.bank import TILE, Bank, largest
from scores.blocks import blocks, shares, side_by_side, threads
from scores.common import (
    ZERO,
    Fitted,
    NeighbourFinish,
    logsumexp,
    row_norm,
    softmax,
    undefined,
    warn,
)
from scores.training_set import Training

# ---- the search that they share ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Searcher:
    """One method that searches: how its score follows from what is found, and its state."""

    finish: NeighbourFinish
    state: Fitted

    @property
    def bank(self) -> Bank:
        return self.state.bank

    @property
    def k(self) -> int | None:
        """The number of neighbours; None for a method that needs all cosines."""
        return self.state.parameters.get("k")


def score_neighbours(
    features: np.ndarray, logits: np.ndarray, searchers: list[Searcher]
) -> list[np.ndarray]:
    """Features (N, D) and logits (N, C) -> the scores (N,) of each searcher, in their order.

    Where one needs all cosines, the others take them from its product; where none does, each
    searches. A feature vector of zeros, or nearly so, has no direction: NaN."""
    values = [np.full(len(features), np.nan) for _ in searchers]
    alive = np.flatnonzero(row_norm(features) > SMALLEST)
    # a thread takes classes, and finds like queries
    alive = alive[np.argsort(logits[alive].argmax(axis=1), kind="stable")]
    each_alone = all(searcher.k is not None for searcher in searchers)
    score = _search_each if each_alone else _share_cosines

    def part(share: slice) -> None:
        rows = alive[share]
        scored = score(features[rows], logits[rows], searchers)
        for own_values, found in zip(values, scored, strict=True):
            own_values[rows] = found

    list(side_by_side(part, shares(len(alive), threads())))
    return values


def _search_each(
    features: np.ndarray, logits: np.ndarray, searchers: list[Searcher]
) -> Iterator[np.ndarray]:
    """-> the scores (n,) of each, from a search of its own."""
    predicted = logits.argmax(axis=1)
    for searcher in searchers:
        assert searcher.k is not None
        near = searcher.bank.search(features, predicted, searcher.k, searcher.state.weights)
        yield searcher.finish(near, logits, searcher.state)


def _share_cosines(
    features: np.ndarray, logits: np.ndarray, searchers: list[Searcher]
) -> list[np.ndarray]:
    """-> the same, all from one product."""
    bank = searchers[0].bank
    turned, _ = bank.turn(features)
    memory = bank.buffer(len(features))  # for weighted cosines
    values = [np.empty(len(features)) for _ in searchers]
    for rows, cosines in bank.cosines(turned):
        for own_values, searcher in zip(values, searchers, strict=True):
            near = _near(cosines, searcher, memory)
            own_values[rows] = searcher.finish(near, logits[rows], searcher.state)
    return values


def _near(cosines: np.ndarray, searcher: Searcher, memory: np.ndarray) -> np.ndarray:
    """All cosines (n, N) -> what a method's `finish` receives, (n, k) or all."""
    if searcher.k is None:
        return cosines
    weights = searcher.state.weights
    if weights is None:
        return largest(cosines, searcher.k)
    weighted = np.multiply(cosines, weights, out=memory[: len(cosines)])
    return largest(weighted, searcher.k)


# ---- the methods ---------------------------------------------------------------------------------


def number_of_neighbours(method: str, k: int, train: Training) -> int:
    """k, or all training images that are searched where there are fewer."""
    limits.check(method, "k", k)
    count = len(train.bank_rows)
    if k > count:
        warn(method, f"{k} neighbours were asked of {count} training images; all are taken")
    return int(min(k, count))


def knn_fit(train: Training, k: int = 50) -> Fitted:
    """- sqrt(2 - 2 c), c the k-th largest cos_i: the distance between unit features to the k-th
    neighbour (Sun et al., ICML 2022, section 3).

    k = 50 as the authors for CIFAR-10 and OpenOOD for all; the authors have 200 for CIFAR-100, 1000
    for ImageNet."""
    parameters = {"k": number_of_neighbours("KNN", k, train)}
    if train.zero:
        return undefined("KNN", ZERO, parameters)
    return Fitted(parameters=parameters, bank=train.bank, weights=None, note=train.bank_note)


def knn_finish(near: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Negative distance to the k-th neighbour, which faiss, in OpenOOD, squares."""
    cosines = near.min(axis=1).astype(np.float64)
    squares = (2 - 2 * cosines).clip(0)
    return -np.sqrt(squares)


def nnguide_fit(train: Training, k: int = 10) -> Fitted:
    """lse(l) times the mean of the k largest cos_i lse(l_i) (Park et al., ICCV 2023, eq. 3-4).

    k = 10 as the authors; OpenOOD has 100. The bank is all training images; the authors keep 1% of
    ImageNet's."""
    parameters = {"k": number_of_neighbours("NNGuide", k, train)}
    if train.zero:
        return undefined("NNGuide", ZERO, parameters)

    def energy(features: np.ndarray) -> np.ndarray:
        return logsumexp(train.logits(features)).astype(np.float32)

    energies = of_bank(train, energy)
    weights = energies[train.bank.order]
    return Fitted(parameters=parameters, bank=train.bank, weights=weights, note=train.bank_note)


def of_bank(train: Training, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """function(features (n, D)) of the images that are searched, in the order of their rows."""
    rows = train.bank_rows
    searches_all = len(rows) == len(train)

    def part(share: slice) -> np.ndarray:
        chosen = share if searches_all else rows[share]
        return function(train.features[chosen])

    return np.concatenate(list(side_by_side(part, blocks(len(rows)))))


def nnguide_finish(near: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Energy times the mean of the k largest (cosine times the neighbour's energy)."""
    guidance = near.mean(axis=1, dtype=np.float64)
    return guidance * logsumexp(logits)


def relation_fit(train: Training, power: float = 1.0, threshold: float = 0.03) -> Fitted:
    """sum over i of r_i^power where r_i = cos_i (p . p_i) is above the threshold (Kim et al.,
    NeurIPS 2023).

    Power 1 is the authors' choice for OOD detection (4 for label noise), 0.03 their cut for weak
    edges."""
    parameters = {"power": float(power), "threshold": float(threshold)}
    if train.zero:
        return undefined("Relation", ZERO, parameters)

    def softmaxes(features: np.ndarray) -> np.ndarray:
        return softmax(train.logits(features)).astype(np.float32)

    probabilities = of_bank(train, softmaxes)
    return Fitted(
        parameters=parameters,
        bank=train.bank,
        probabilities=probabilities[train.bank.order],
        note=train.bank_note,
    )


def relation_finish(cosines: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
    """Sum over training images of (positive cosine times inner product of softmaxes)^power, above
    the threshold.

    In tiles that stay in the cache, where the passes over the edges cost less than half of what
    they do in memory."""
    power, threshold = state.parameters["power"], state.parameters["threshold"]
    n = len(cosines)
    probabilities = softmax(logits).astype(np.float32)
    total = np.zeros(n)
    memory = np.empty(n * TILE, np.float32)
    for tile in blocks(len(state.probabilities), TILE):
        columns = state.probabilities[tile].T
        out = memory[: n * columns.shape[1]].reshape(n, -1)
        edges = np.matmul(probabilities, columns, out=out)
        edges *= cosines[:, tile]
        # a negative cosine falls with the weak edges
        edges *= edges > threshold
        if power != 1:
            edges **= power
        total += edges.sum(axis=1)
    return total
