"""Blocks side by side: every row once, in order, the same numbers from any number of threads, and
errors that stop the rest."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from scores import blocks

CORES = {"one": 1, "two": 2, "five": 5}


@pytest.fixture(params=CORES, ids=list(CORES))
def number(request, monkeypatch):
    monkeypatch.setattr(blocks, "threads", lambda: CORES[request.param])
    return CORES[request.param]


@pytest.mark.parametrize("n", [0, 1, 7, 21, 22])
def test_blocks_and_shares_cover_every_row_once_in_order(n):
    for parts in (blocks.blocks(n, 7), blocks.shares(n, 4)):
        assert [row for part in parts for row in range(n)[part]] == list(range(n))
    assert len(blocks.shares(n, 4)) <= 4 and all(
        part.stop - part.start <= 7 for part in blocks.blocks(n, 7)
    )


def test_results_come_in_the_order_of_the_parts_though_the_first_takes_longest(number):
    def slow_at_first(part):
        time.sleep(0.05 if part == 0 else 0)
        return part

    assert list(blocks.side_by_side(slow_at_first, range(40))) == list(range(40))


def test_parts_run_at_the_same_time_on_one_core_each(monkeypatch):
    monkeypatch.setattr(blocks, "threads", lambda: 3)
    together = threading.Barrier(3, timeout=20)

    def part(_):
        together.wait()  # passes only where three are under way
        return [
            library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
        ]

    before = [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]
    assert all(count == 1 for counts in blocks.side_by_side(part, range(3)) for count in counts)
    assert [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ] == before


def test_no_more_results_wait_than_a_few_a_thread(monkeypatch):
    monkeypatch.setattr(blocks, "threads", lambda: 2)
    begun = []
    results = blocks.side_by_side(begun.append, range(100))
    next(results)
    time.sleep(0.2)
    assert len(begun) <= 2 * blocks.AHEAD + 2
    results.close()
    assert len(begun) < 100


def test_an_error_is_raised_here_and_the_rest_does_not_begin(number):
    begun = []

    def part(index):
        begun.append(index)
        if index == 3:
            raise ValueError("part 3")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="part 3"):
        list(blocks.side_by_side(part, range(100)))
    assert len(begun) < 40


def test_sums_are_the_same_to_the_last_bit_on_any_number_of_threads(monkeypatch):
    x = np.random.default_rng(0).normal(size=(1000, 8))

    def total(number):
        monkeypatch.setattr(blocks, "threads", lambda: number)
        parts = blocks.side_by_side(
            lambda rows: (x[rows].T @ x[rows], len(x[rows])), blocks.blocks(1000, 30)
        )
        return blocks.summed(parts)

    (product, count), (other, _) = total(1), total(4)
    assert count == 1000 and np.array_equal(product, other)
    np.testing.assert_allclose(product, x.T @ x)


def test_threads_follow_what_matrix_products_may_use(monkeypatch):
    assert 1 <= blocks.threads() <= blocks.MOST
    monkeypatch.setattr(blocks, "MOST", 1)
    assert blocks.threads() == 1
