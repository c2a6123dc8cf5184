"""OOD scores from the nearest among all training features: KNN, NNGuide, Relation. The search is
exact.

Rows of `scores.registry.METHODS`; see `scores.activation` for the form. Kind "neighbour": the three
share one `Bank`, and `finish(near, logits, state)` takes from there on the k largest products of
each image, or all its cosines.

An exhaustive search costs one product of queries and training features, 2 D flops a pair: float32
makes it twice as fast as scikit-learn's float64, and no more. The rest is gained by not finishing
the product. The features are turned onto their principal axes, and Cauchy and Schwarz bound what
the last axes can add:

    cos = q[:m] . z[:m] + q[m:] . z[m:]  <=  q[:m] . z[:m] + |q[m:]| |z[m:]|

one product of width m + 1. Only where that bound reaches the k-th largest cosine within the image's
own predicted class is the product finished, and how many axes are enough is learned from block to
block. Nothing is approximate. It pays where classes are tight; white noise, of which it rules out
nothing, takes a seventh longer (4,096 queries, 50,000 x 512)."""

from itertools import pairwise

import numpy as np

from scores.activation import (
    SMALLEST,
    State,
    compute_logits,
    log_softmax,
    logsumexp,
    row_norm,
    undefined,
    warn,
)
from scores.blocks import shares, side_by_side, threads

ZERO = "the features of all training images are 0, and have no direction"
BLOCK = 4096  # rows turned at a time
SIMILARITIES = 2**23  # cosines at a time and thread, 32 MiB
GROUP = 32  # columns a group when the largest of a row are sought
SIXTEENTHS = range(
    1, 13
)  # of D: the numbers of leading axes that a bound may stop at; beyond, all are as cheap
START = 7  # of these, tried first: half the axes
QUERIES, TILE = 512, 1024  # of a bound's products: two megabytes
BIN = 4096  # queries of like difficulty
OWN_ROWS = (
    1024  # rows of the predicted class, at most, that the first guess at the k-th largest looks at
)
FEW, MANY, TOO_MANY = (
    0.005,
    0.04,
    0.25,
)  # share of training rows that the bound lets through: fewer axes, more, or all of them
SLACK = 1e-5  # above the rounding of a float32 cosine, some 1e-6: the bound stays one
SMALL = 4096  # training rows below which a search of all is quicker than a bound
# axes from which fewer are tried: of 64 (a half-trained network's) the bound ruled out little and
# cost a fifth more
WIDE = 128


class Bank:
    """Training features (N, D) as unit rows on their principal axes, ordered by class: `rows` (N, D
    + levels) float32.

    Behind each number of axes m in `levels` stands a column with the length of what follows, so
    that a leading slice of the rows is both the cosine's first part and the bound of the rest.
    `axes` (D, D) is any orthonormal basis, strongest first; the results do not depend on it, only
    the time does."""

    def __init__(self, features, labels, classes: int, axes):
        width = features.shape[1]
        self.levels = sorted({width * part // 16 for part in SIXTEENTHS} - {0, width})
        self.lengths = np.array(self.levels, int) + np.arange(len(self.levels))  # their columns
        self.places = np.setdiff1d(
            np.arange(width + len(self.levels)), self.lengths
        )  # those of the axes
        self.axes = axes.astype(np.float32)
        self.order = np.argsort(labels, kind="stable")
        self.starts = np.searchsorted(labels[self.order], np.arange(classes + 1))
        self.rows = np.empty((len(features), width + len(self.levels)), np.float32)
        for start in range(0, len(features), BLOCK):
            rows = slice(start, start + BLOCK)
            self.rows[rows], self.rows[rows, self.lengths] = self.turn(features[self.order[rows]])

    def __len__(self) -> int:
        return len(self.rows)

    def turn(self, features) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) -> (n, D + levels), 0 in the columns of lengths, and these lengths (n, levels); a
        zero row stays zero."""
        lengths = np.sqrt(np.einsum("nd,nd->n", features, features))[:, None]
        turned = (features / np.where(lengths > 0, lengths, 1)) @ self.axes
        rows = np.zeros((len(features), self.rows.shape[1]), np.float32)
        rows[:, self.places] = turned
        tails = [
            np.sqrt(np.einsum("nd,nd->n", turned[:, level:], turned[:, level:]))
            for level in self.levels
        ]
        return rows, np.stack(tails, axis=1) if tails else np.empty((len(features), 0), np.float32)

    def blocks(self, n: int):
        """Slices of n queries whose cosines fit one buffer."""
        size = self._block()
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    def buffer(self, n: int) -> np.ndarray:
        """For the cosines of a block, reused: fresh pages cost like the product."""
        return np.empty((min(self._block(), n), len(self)), np.float32)

    def _block(self) -> int:
        return max(16, SIMILARITIES // len(self))

    def cosines(self, queries):
        """(n, D + levels) -> pairs of a slice and all cosines of these queries, which the next pair
        overwrites."""
        buffer = self.buffer(len(queries))
        for rows in self.blocks(len(queries)):
            yield rows, np.matmul(queries[rows], self.rows.T, out=buffer[: rows.stop - rows.start])

    def search(self, features, classes, k: int, weights=None) -> np.ndarray:
        """Features and predicted classes of n images -> (n, k): the k largest cosines, times
        `weights` (N,), in no order."""
        queries, tails = self.turn(features)
        buffer = self.buffer(len(queries))
        if len(self.axes) < WIDE or not self.levels or len(self) < max(SMALL, GROUP * k):
            return self._all(queries, k, weights, buffer)
        level, lowest = min(START, len(self.levels) - 1), 0
        least = self._least(queries, classes, k, weights)
        order = self._order(least, tails[:, level], classes, level, weights)
        found, size = (
            np.empty((len(queries), k), np.float32),
            max(16, min(QUERIES, 4 * SIMILARITIES // len(self))),
        )
        for start in range(0, len(queries), size):
            rows = order[start : start + size]
            if level == len(self.levels):  # no bound pays for these, nor for those that follow
                rows = order[start:]
                found[rows] = self._all(queries[rows], k, weights, buffer)
                break
            found[rows], share = self._prune(
                queries[rows],
                tails[rows, level],
                classes[rows],
                least[rows],
                level,
                k,
                weights,
                buffer,
            )
            if share > MANY:
                lowest, level = (
                    level + 1,
                    min(level + (3 if share > TOO_MANY else 1), len(self.levels)),
                )
            elif share < FEW:
                level = max(level - 1, lowest)
        return found

    def _least(self, queries, classes, k: int, weights) -> np.ndarray:
        """(n, 1): the k-th largest within the predicted class, which that of all rows is at
        least."""
        least = np.empty((len(queries), 1), np.float32)
        for class_ in np.unique(classes):
            rows = np.flatnonzero(classes == class_)
            least[rows] = kth_largest(
                self._products(queries[rows], self._own(class_, k), weights), k
            )
        return least

    def _order(self, least, tails, classes, level: int, weights) -> np.ndarray:
        """Queries from those that a bound serves best to those that it serves least, in bins, and
        by class within a bin: what is hard asks for more axes, and like queries have like
        candidates."""
        scale = 1 if weights is None else np.abs(weights).mean() or 1
        margin = least[:, 0] / scale - tails * self.rows[:, self.lengths[level]].mean()
        bins = np.empty(len(least), int)
        bins[np.argsort(-margin, kind="stable")] = np.arange(len(least)) // BIN
        return np.lexsort((classes, bins))

    def _all(self, queries, k: int, weights, buffer) -> np.ndarray:
        found = np.empty((len(queries), k), np.float32)
        for rows in self.blocks(len(queries)):
            products = np.matmul(queries[rows], self.rows.T, out=buffer[: rows.stop - rows.start])
            if weights is not None:
                products *= weights
            found[rows] = largest(products, k)
        return found

    def _prune(self, queries, tails, classes, least, level: int, k: int, weights, buffer):
        """Queries in order of their classes -> the k largest (n, k), and the share of rows of other
        classes that the bound let through. A class that it helps little gets its whole product."""
        edges = np.flatnonzero(np.r_[True, classes[1:] != classes[:-1], True])
        groups = [slice(*pair) for pair in pairwise(edges)]
        found, passed, missed = (
            np.empty((len(queries), k), np.float32),
            0,
            np.zeros(len(queries), bool),
        )
        for group, reached in zip(
            groups, self._reach(queries, tails, level, groups, least, weights), strict=True
        ):
            candidates = np.flatnonzero(reached)
            outside = len(candidates) - np.count_nonzero(
                reached[self._own(classes[group.start], k)]
            )
            if outside > min(TOO_MANY * len(self), SIMILARITIES // self.rows.shape[1]):
                outside, missed[group] = len(self), True
            else:
                found[group] = largest(self._products(queries[group], candidates, weights), k)
            passed += outside * (group.stop - group.start)
        if missed.any():  # together: a product of a few rows at a time would run at half speed
            found[missed] = self._all(queries[missed], k, weights, buffer)
        return found, passed / len(queries) / len(self)

    def _reach(self, queries, tails, level: int, groups, least, weights) -> np.ndarray:
        """-> (groups, N) bool: whether the bound of any query of the group reaches the least that
        it asks; a tile at a time, for what stays in the cache is compared at no cost."""
        stop = self.lengths[level]
        leading, reached = queries[:, : stop + 1].copy(), np.empty((len(groups), len(self)), bool)
        leading[:, stop] = tails
        least = least - SLACK * (1 if weights is None else np.abs(weights).max())
        memory = np.empty(
            len(queries) * TILE, np.float32
        )  # for every tile, as fresh pages are not free
        for start in range(0, len(self), TILE):
            tile = slice(start, start + TILE)
            columns = self.rows[tile, : stop + 1].T
            bounds = np.matmul(
                leading,
                columns,
                out=memory[: len(leading) * columns.shape[1]].reshape(len(leading), -1),
            )
            if weights is not None:  # below 0, the bound is that of a cosine of -1
                bounds = np.where(weights[tile] > 0, bounds * weights[tile], -weights[tile])
            for row, group in zip(reached, groups, strict=True):
                (bounds[group] >= least[group]).any(axis=0, out=row[tile])
        return reached

    def _own(self, class_: int, k: int) -> slice:
        """At least k rows, of this class as far as it has them: their k-th largest cosine is at
        most that of all rows."""
        start = min(self.starts[class_], len(self) - k)
        return slice(start, max(start + k, min(self.starts[class_ + 1], start + OWN_ROWS)))

    def _products(self, queries, rows, weights) -> np.ndarray:
        products = queries @ self.rows[rows].T
        return products if weights is None else products * weights[rows]


def kth_largest(values, k: int) -> np.ndarray:
    """(n, N) -> (n, 1): the k-th largest of each row."""
    place = values.shape[1] - k
    return np.partition(values, place, axis=1)[:, place, None]


def largest(similarity, k: int) -> np.ndarray:
    """(n, N) -> (n, k): the k largest of each row, in no order.

    Where k groups of columns have a maximum of t or more, k values are at least t. Few are, and
    only those are partitioned: seven times as fast as to partition whole rows."""
    n, columns = similarity.shape
    groups = columns // GROUP
    if groups <= k:
        return np.partition(similarity, columns - k, axis=1)[:, columns - k :]
    maxima = similarity[:, : groups * GROUP].reshape(n, GROUP, groups).max(axis=1)
    maxima.partition(groups - k, axis=1)
    found = np.empty((n, k), similarity.dtype)
    for i, row in enumerate(similarity):
        candidates = row[row >= maxima[i, groups - k]]
        candidates.partition(len(candidates) - k)
        found[i] = candidates[-k:]
    return found


def score_neighbours(features, logits, states: dict) -> dict[str, np.ndarray]:
    """{name: (finish, state)} -> {name: (N,)}. Where a method needs all cosines, the others take
    them from its product; where none does, each searches. A feature vector of zeros, or nearly so,
    has no direction: NaN."""
    values = {name: np.full(len(features), np.nan) for name in states}
    alive = np.flatnonzero(row_norm(features) > SMALLEST)
    alive = alive[
        np.argsort(logits[alive].argmax(axis=1), kind="stable")
    ]  # a thread takes classes, and finds like queries
    score = (
        _search_each
        if all("k" in state.parameters for _, state in states.values())
        else _share_cosines
    )

    def part(share):
        rows = alive[share]
        for name, found in score(features[rows], logits[rows], states):
            values[name][rows] = found

    list(side_by_side(part, shares(len(alive), threads())))
    return values


def _search_each(features, logits, states):
    """-> pairs of a name and its scores (n,), each from a search of its own."""
    for name, (finish, state) in states.items():
        near = state.bank.search(
            features, logits.argmax(axis=1), state.parameters["k"], state.weights
        )
        yield name, finish(near, logits, state)


def _share_cosines(features, logits, states):
    """-> the same, all from one product."""
    bank = next(iter(states.values()))[1].bank
    weighted, values = (
        bank.buffer(len(features)),
        {name: np.empty(len(features)) for name in states},
    )
    for rows, cosines in bank.cosines(bank.turn(features)[0]):
        for name, (finish, state) in states.items():
            near = cosines
            if "k" in state.parameters:
                if state.weights is not None:
                    near = np.multiply(cosines, state.weights, out=weighted[: len(cosines)])
                near = largest(near, state.parameters["k"])
            values[name][rows] = finish(near, logits[rows], state)
    return values.items()


def neighbour(finish):
    """The stand-alone score of a neighbour method."""
    return lambda features, logits, state: score_neighbours(
        features, logits, {"": (finish, state)}
    )[""]


def _neighbours(method: str, k: int, train) -> int:
    if k < 1:
        raise ValueError(f"{method}: the number of neighbours is {k}; expected at least 1")
    if k > len(train):
        warn(method, f"{k} neighbours were asked of {len(train)} training images; all are taken")
    return int(min(k, len(train)))


def knn_fit(train, k: int = 50) -> State:
    """k = 50 as the authors for CIFAR-10 and OpenOOD for all; the authors have 200 for CIFAR-100,
    1000 for ImageNet."""
    parameters = {"k": _neighbours("KNN", k, train)}
    if train.zero:
        return undefined("KNN", ZERO, parameters)
    return State(parameters=parameters, bank=train.bank, weights=None)


def knn_finish(near, logits, state) -> np.ndarray:
    """Negative distance between unit features to the k-th neighbour (section 3); faiss, in OpenOOD,
    squares it."""
    return -np.sqrt((2 - 2 * near.min(axis=1).astype(np.float64)).clip(0))


def nnguide_fit(train, k: int = 10) -> State:
    """k = 10 as the authors; OpenOOD has 100. The bank is all training images; the authors keep 1%
    of ImageNet's."""
    parameters = {"k": _neighbours("NNGuide", k, train)}
    if train.zero:
        return undefined("NNGuide", ZERO, parameters)
    energies = train.passes(
        lambda features, labels: logsumexp(compute_logits(features, train.W, train.b))
    )
    weights = np.concatenate(list(energies)).astype(np.float32)[train.bank.order]
    return State(parameters=parameters, bank=train.bank, weights=weights)


def nnguide_finish(near, logits, state) -> np.ndarray:
    """Energy times the mean of the k largest (cosine times the neighbour's energy) (eq. 3-4)."""
    return near.mean(axis=1, dtype=np.float64) * logsumexp(logits)


def relation_fit(train, power: float = 1.0, threshold: float = 0.03) -> State:
    """Power 1 is the authors' choice for OOD detection (4 for label noise), 0.03 their cut for weak
    edges."""

    parameters = {"power": float(power), "threshold": float(threshold)}
    if train.zero:
        return undefined("Relation", ZERO, parameters)

    def part(features, labels):
        return np.exp(log_softmax(compute_logits(features, train.W, train.b))).astype(np.float32)

    probabilities = np.concatenate(list(train.passes(part)))[train.bank.order]
    return State(parameters=parameters, bank=train.bank, probabilities=probabilities)


def relation_finish(cosines, logits, state) -> np.ndarray:
    """Sum over training images of (positive cosine times inner product of softmaxes)^power, above
    the threshold.

    In tiles that stay in the cache, where the passes over the edges cost less than half of what
    they do in memory."""
    probabilities = np.exp(log_softmax(logits)).astype(np.float32)
    total, memory = np.zeros(len(cosines)), np.empty(len(cosines) * TILE, np.float32)
    for start in range(0, len(state.probabilities), TILE):
        tile = slice(start, start + TILE)
        columns = state.probabilities[tile].T
        edges = np.matmul(
            probabilities,
            columns,
            out=memory[: len(cosines) * columns.shape[1]].reshape(len(cosines), -1),
        )
        edges *= cosines[:, tile]
        edges *= (
            edges > state.parameters["threshold"]
        )  # a negative cosine falls with the weak edges
        if state.parameters["power"] != 1:
            edges **= state.parameters["power"]
        total += edges.sum(axis=1)
    return total
