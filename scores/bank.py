"""The bank of training features that the neighbour scores search exactly, by bounds."""

from itertools import pairwise

import numpy as np

BLOCK = 4096  # rows turned at a time
SIMILARITIES = 2**23  # cosines at a time and thread, 32 MiB
GROUP = 32  # columns per group when the largest of a row are sought
# of D: the numbers of leading axes that a bound may stop at; beyond, all are as cheap
SIXTEENTHS = range(1, 13)
START = 7  # of these, tried first: half the axes
QUERIES, TILE = 512, 1024  # of a bound's products: two megabytes
BIN = 4096  # queries of like difficulty
# rows of the predicted class, at most, that the first guess at the k-th largest looks at
OWN_ROWS = 1024
# share of training rows that the bound lets through: fewer axes, more, or all of them
FEW, MANY, TOO_MANY = (
    0.005,
    0.04,
    0.25,
)
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
        # those of the axes
        self.places = np.setdiff1d(np.arange(width + len(self.levels)), self.lengths)
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
        # for every tile, as fresh pages are not free
        memory = np.empty(len(queries) * TILE, np.float32)
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
