"""Which training images each step sees: row numbers, drawn by the run's seed alone.

    of_epoch(len(train), 128, generator)             # one pass over all images
    of_steps(len(train), 512, seed, 90, 180)         # the steps 90 to 179 of a run by steps

A run that goes on after an interruption draws the same again."""

import math

import torch

SEEDS_APART = 1_000_003  # between the seeds of two runs, so that their passes have others


def seed_of(seed: int, number: int) -> int:
    """A seed for one pass or epoch of a run, counted from 0, in the 64 bits that torch takes.

    The run's own may be a date of fourteen digits."""
    return (seed * SEEDS_APART + number) % 2**64


def of_epoch(count: int, batch_size: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """`count` row numbers in a drawn order, in parts whose lengths differ by at most one."""
    order = torch.randperm(count, generator=generator)
    return order.tensor_split(math.ceil(count / batch_size))


def of_steps(
    count: int, batch_size: int, seed: int, first: int, last: int
) -> tuple[torch.Tensor, ...]:
    """The row numbers, below `count`, of the steps `first` to `last` - 1: `batch_size` each.

    Passes over all images follow each other without a gap, each in an order of its own. A step at
    the seam takes the end of one and the start of the next."""
    start, stop = first * batch_size, last * batch_size
    passes = range(start // count, math.ceil(stop / count))
    orders = []
    for number in passes:
        generator = torch.Generator().manual_seed(seed_of(seed, number))
        orders.append(torch.randperm(count, generator=generator))
    begin = start - passes.start * count
    rows = torch.cat(orders)[begin : begin + stop - start]
    return rows.split(batch_size)
