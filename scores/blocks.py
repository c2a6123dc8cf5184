"""Rows a block at a time, and blocks side by side on the processor's cores: how `scores` passes
over features.

NumPy's sorts, exponentials and comparisons take one core and release Python's lock. Where only the
matrix products are shared among cores, these others are most of the time. So each thread takes a
whole block, its products included."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, reduce
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

BLOCK = 1024  # rows at a time: the working copies stay small beside the features
MOST = 16  # threads: each has working copies of its own, and all share the memory
# results per thread that wait to be taken: a pass over a million rows must not hold them all
AHEAD = 2

Part = TypeVar("Part")
Result = TypeVar("Result")


def blocks(n: int, size: int | None = None) -> list[slice]:
    """Slices of `size` rows that cover n rows in order."""
    size = size or BLOCK
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def side_by_side(function: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """function(part) of each part, in the order of the parts; each runs in a thread of its own, its
    products on one core.

    The results do not depend on the number of threads. What a function raises is raised here, and
    no further part begins."""
    parts = list(parts)
    number = min(threads(), len(parts))
    if number < 2:
        yield from map(function, parts)
        return
    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(number) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(function, part))
                if len(waiting) > AHEAD * number:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def summed(parts: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Tuples of arrays or numbers -> the sum of each item over the tuples, of which one at a time
    is held."""

    def add(total, part):
        return [one + other for one, other in zip(total, part, strict=True)]

    return list(reduce(add, parts))


def threads() -> int:
    """As many as matrix products may use, which follows OMP_NUM_THREADS and the cores of this
    process; MOST at most."""
    numbers = [library.num_threads for library in _blas().lib_controllers]
    return min(MOST, max(numbers, default=1))


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def shares(n: int, number: int) -> list[slice]:
    """n rows in `number` equal parts, or fewer where there are not as many rows."""
    if not n:
        return []
    return blocks(n, math.ceil(n / number))
