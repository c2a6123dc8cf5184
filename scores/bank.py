"""The bank of training features that the neighbour scores search exactly, by bounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scores.blocks import blocks

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
# shares of the training rows that a bound lets through: below FEW, fewer axes are tried; above
# MANY, more; above TOO_MANY, a class gets its whole product
FEW, MANY, TOO_MANY = 0.005, 0.04, 0.25
SLACK = 1e-5  # above the rounding of a float32 cosine, some 1e-6: the bound stays one
SMALL = 4096  # training rows below which a search of all is quicker than a bound
# axes from which fewer are tried: of 64 (a half-trained network's) the bound ruled out little and
# cost a fifth more
WIDE = 128


@dataclass(frozen=True, eq=False)
class Queries:
    """Images to search for.

    turned    (n, D + levels) on the bank's axes
    tails     (n, levels) the lengths of what follows each level
    classes   (n,) the predicted classes
    least     (n, 1) what the k-th largest is at least
    """

    turned: np.ndarray
    tails: np.ndarray
    classes: np.ndarray
    least: np.ndarray

    def __len__(self) -> int:
        return len(self.turned)

    def take(self, rows: np.ndarray) -> "Queries":
        """Some of them."""
        return Queries(
            turned=self.turned[rows],
            tails=self.tails[rows],
            classes=self.classes[rows],
            least=self.least[rows],
        )

    def groups(self) -> list[slice]:
        """Runs of queries of one class."""
        changes = self.classes[1:] != self.classes[:-1]
        edges = np.flatnonzero(np.r_[True, changes, True])
        return [slice(start, stop) for start, stop in pairwise(edges)]


class Bank:
    """Training features (N, D) as unit rows on their principal axes, ordered by class: `rows` (N, D
    + levels) float32.

    Behind each number of axes m in `levels` stands a column with the length of what follows, so
    that a leading slice of the rows is both the cosine's first part and the bound of the rest.
    `axes` (D, D) is any orthonormal basis, strongest first; the results do not depend on it, only
    the time does."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int, axes: np.ndarray):
        width = features.shape[1]
        levels = {width * part // 16 for part in SIXTEENTHS}
        self.levels = sorted(levels - {0, width})
        columns = width + len(self.levels)
        # the columns of the lengths, and those of the axes
        self.lengths = np.array(self.levels, int) + np.arange(len(self.levels))
        self.places = np.setdiff1d(np.arange(columns), self.lengths)
        self.axes = axes.astype(np.float32)
        self.order = np.argsort(labels, kind="stable")
        self.starts = np.searchsorted(labels[self.order], np.arange(classes + 1))
        self.rows = np.empty((len(features), columns), np.float32)
        for rows in blocks(len(features), BLOCK):
            turned, tails = self.turn(features[self.order[rows]])
            turned[:, self.lengths] = tails
            self.rows[rows] = turned

    def __len__(self) -> int:
        return len(self.rows)

    def turn(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) -> (n, D + levels), 0 in the columns of lengths, and these lengths (n, levels); a
        zero row stays zero."""
        lengths = _row_lengths(features)[:, None]
        divisors = np.where(lengths > 0, lengths, 1)
        turned = (features / divisors) @ self.axes
        rows = np.zeros((len(features), self.rows.shape[1]), np.float32)
        rows[:, self.places] = turned
        tails = np.empty((len(features), len(self.levels)), np.float32)
        for place, level in enumerate(self.levels):
            tails[:, place] = _row_lengths(turned[:, level:])
        return rows, tails

    def buffer(self, n: int) -> np.ndarray:
        """For the cosines of a block, reused: fresh pages cost like the product."""
        height = min(self._block(), n)
        return np.empty((height, len(self)), np.float32)

    def _block(self) -> int:
        """The number of queries whose cosines fit one buffer."""
        return max(16, SIMILARITIES // len(self))

    def cosines(
        self, queries: np.ndarray, buffer: np.ndarray | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """(n, D + levels) -> pairs of a slice and all cosines of these queries, which the next pair
        overwrites."""
        if buffer is None:
            buffer = self.buffer(len(queries))
        for rows in blocks(len(queries), self._block()):
            out = buffer[: rows.stop - rows.start]
            yield rows, np.matmul(queries[rows], self.rows.T, out=out)

    def own(self, class_: int, k: int) -> slice:
        """At least k rows, of this class as far as it has them: their k-th largest cosine is at
        most that of all rows."""
        start = min(self.starts[class_], len(self) - k)
        end_of_class = min(self.starts[class_ + 1], start + OWN_ROWS)
        return slice(start, max(start + k, end_of_class))

    def search(
        self, features: np.ndarray, classes: np.ndarray, k: int, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Features and predicted classes of n images -> (n, k): the k largest cosines, times
        `weights` (N,), in no order."""
        turned, tails = self.turn(features)
        search = Search(self, k, weights, self.buffer(len(turned)))
        few_rows = len(self) < max(SMALL, GROUP * k)
        if few_rows or len(self.axes) < WIDE or not self.levels:
            return search.exhaustive(turned)
        least = search.least(turned, classes)
        return search.bounded(Queries(turned, tails, classes, least))


@dataclass(frozen=True, eq=False)
class Search:
    """One search of a bank: the k largest cosines, times `weights` (N,) where there are any.

    `buffer` holds the cosines of a block.
    """

    bank: Bank
    k: int
    weights: np.ndarray | None
    buffer: np.ndarray

    def exhaustive(self, turned: np.ndarray) -> np.ndarray:
        """(n, D + levels) -> (n, k), by the whole product."""
        found = np.empty((len(turned), self.k), np.float32)
        for rows, products in self.bank.cosines(turned, self.buffer):
            if self.weights is not None:
                products *= self.weights
            found[rows] = largest(products, self.k)
        return found

    def least(self, turned: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """(n, 1): the k-th largest within the predicted class, which that of all rows is at
        least."""
        least = np.empty((len(turned), 1), np.float32)
        for class_ in np.unique(classes):
            rows = np.flatnonzero(classes == class_)
            products = self._products(turned[rows], self.bank.own(class_, self.k))
            least[rows] = kth_largest(products, self.k)
        return least

    def bounded(self, queries: Queries) -> np.ndarray:
        """-> (n, k): a block of queries at a time, at a level that is learned from block to
        block."""
        last = len(self.bank.levels)
        level, lowest = min(START, last - 1), 0
        order = self._order(queries, level)
        size = max(16, min(QUERIES, 4 * SIMILARITIES // len(self.bank)))
        found = np.empty((len(queries), self.k), np.float32)
        for start in range(0, len(queries), size):
            if level == last:  # no bound pays for these, nor for those that follow
                rest = order[start:]
                found[rest] = self.exhaustive(queries.turned[rest])
                break
            rows = order[start : start + size]
            found[rows], share = self.prune(queries.take(rows), level)
            if share > MANY:
                step = 3 if share > TOO_MANY else 1
                lowest = level + 1
                level = min(level + step, last)
            elif share < FEW:
                level = max(level - 1, lowest)
        return found

    def _order(self, queries: Queries, level: int) -> np.ndarray:
        """Queries from those that a bound serves best to those that it serves least, in bins, and
        by class within a bin: what is hard asks for more axes, and like queries have like
        candidates."""
        scale = 1
        if self.weights is not None:
            scale = np.abs(self.weights).mean() or 1
        typical_tail = self.bank.rows[:, self.bank.lengths[level]].mean()
        margin = queries.least[:, 0] / scale - queries.tails[:, level] * typical_tail
        places = np.argsort(-margin, kind="stable")
        bins = np.empty(len(queries), int)
        bins[places] = np.arange(len(queries)) // BIN
        return np.lexsort((queries.classes, bins))

    def prune(self, queries: Queries, level: int) -> tuple[np.ndarray, float]:
        """Queries in order of their classes -> the k largest (n, k), and the share of rows of other
        classes that the bound let through. A class that it helps little gets its whole product."""
        total = len(self.bank)
        most = min(TOO_MANY * total, SIMILARITIES // self.bank.rows.shape[1])
        groups = queries.groups()
        found = np.empty((len(queries), self.k), np.float32)
        missed = np.zeros(len(queries), bool)
        passed = 0
        for group, reached in zip(groups, self._reach(queries, groups, level), strict=True):
            candidates = np.flatnonzero(reached)
            own = self.bank.own(queries.classes[group.start], self.k)
            outside = len(candidates) - np.count_nonzero(reached[own])
            if outside > most:
                outside = total
                missed[group] = True
            else:
                products = self._products(queries.turned[group], candidates)
                found[group] = largest(products, self.k)
            passed += outside * (group.stop - group.start)
        if missed.any():  # together: a product of a few rows at a time would run at half speed
            found[missed] = self.exhaustive(queries.turned[missed])
        return found, passed / len(queries) / total

    def _reach(self, queries: Queries, groups: list[slice], level: int) -> np.ndarray:
        """-> (groups, N) bool: whether the bound of any query of the group reaches the least that
        it asks; a tile at a time, for what stays in the cache is compared at no cost."""
        n, total = len(queries), len(self.bank)
        stop = self.bank.lengths[level]
        leading = queries.turned[:, : stop + 1].copy()
        leading[:, stop] = queries.tails[:, level]
        largest_weight = 1 if self.weights is None else np.abs(self.weights).max()
        least = queries.least - SLACK * largest_weight
        reached = np.empty((len(groups), total), bool)
        # for every tile, as fresh pages are not free
        memory = np.empty(n * TILE, np.float32)
        for tile in blocks(total, TILE):
            columns = self.bank.rows[tile, : stop + 1].T
            out = memory[: n * columns.shape[1]].reshape(n, -1)
            bounds = np.matmul(leading, columns, out=out)
            if self.weights is not None:  # below 0, the bound is that of a cosine of -1
                weights = self.weights[tile]
                bounds = np.where(weights > 0, bounds * weights, -weights)
            for row, group in zip(reached, groups, strict=True):
                (bounds[group] >= least[group]).any(axis=0, out=row[tile])
        return reached

    def _products(self, turned: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
        """(n, D + levels) and m rows of the bank -> (n, m)."""
        products = turned @ self.bank.rows[rows].T
        if self.weights is None:
            return products
        return products * self.weights[rows]


def _row_lengths(rows: np.ndarray) -> np.ndarray:
    """(n, D) -> (n,) Euclidean, in the rows' own type."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows))


def kth_largest(values: np.ndarray, k: int) -> np.ndarray:
    """(n, N) -> (n, 1): the k-th largest of each row."""
    place = values.shape[1] - k
    return np.partition(values, place, axis=1)[:, place, None]


def largest(similarity: np.ndarray, k: int) -> np.ndarray:
    """(n, N) -> (n, k): the k largest of each row, in no order.

    Where k groups of columns have a maximum of t or more, k values are at least t. Few are, and
    only those are partitioned: seven times as fast as to partition whole rows."""
    n, columns = similarity.shape
    groups = columns // GROUP
    if groups <= k:
        return np.partition(similarity, columns - k, axis=1)[:, columns - k :]
    grouped = similarity[:, : groups * GROUP].reshape(n, GROUP, groups)
    maxima = grouped.max(axis=1)
    maxima.partition(groups - k, axis=1)
    thresholds = maxima[:, groups - k]
    found = np.empty((n, k), similarity.dtype)
    for i, row in enumerate(similarity):
        candidates = row[row >= thresholds[i]]
        candidates.partition(len(candidates) - k)
        found[i] = candidates[-k:]
    return found
