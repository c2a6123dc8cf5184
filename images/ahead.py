"""Worker processes that decode images ahead of whoever takes them: a torch DataLoader.

    for found in ahead.decoded(read, [["a.png", "b.png"], ["c.png"]], workers=2):
        found.pixels                # (n, 3, S, S), in the order that was asked for

A worker gets the paths of a whole batch and only decodes: nothing random happens in it, so that the
number of workers changes no bit.
"""

import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

# What asks a run to stop is for the process that trains; a terminal sends it to workers too.
IGNORED = ("SIGTERM", "SIGINT", "SIGUSR1")  # Windows has no SIGUSR1
# Batches that are decoded or under way for each worker, beside the one that is taken.
PREFETCH = 2


class Decoded(NamedTuple):
    """A batch of images that was decoded, or why it was not."""

    pixels: torch.Tensor  # uint8 (n, 3, S, S); (0,) where an image cannot be read
    hashes: dict[str, str]  # {path: SHA-256 of the file}
    failed: dict[str, str]  # {path: why it cannot be read}


Read = Callable[[Sequence[str]], Decoded]


@dataclass
class Files(Dataset[Any]):
    """What the DataLoader sees: it is indexed by paths, a batch at a time."""

    read: Read

    def __getitems__(self, paths: Sequence[str]) -> Decoded:
        return self.read(paths)


def decoded(
    read: Read, batches: Iterable[Sequence[str]], workers: int, pinned: bool = False
) -> Iterator[Decoded]:
    """Yield what `read` makes of each batch of paths, in their order; `workers` (1 or more)
    processes are PREFETCH batches each ahead.

    pinned  in memory from which a GPU copies while it computes
    """
    with warnings.catch_warnings():
        # More workers than cores: as asked for. The images are few where there is one core.
        warnings.simplefilter("ignore", UserWarning)
        loader = DataLoader(
            Files(read),
            batch_sampler=batches,  # type: ignore[arg-type]  # of paths, not of numbers
            num_workers=workers,
            prefetch_factor=PREFETCH,
            pin_memory=pinned,
            collate_fn=as_it_is,
            worker_init_fn=settle,
            # Its own: the DataLoader draws a seed, which would move the run's random numbers.
            generator=torch.Generator(),
            multiprocessing_context=start_method(),
        )
        found = iter(loader)
    yield from found


def as_it_is(batch: Any) -> Any:
    """The batch as `read` made it."""
    return batch


def start_method() -> str | None:
    """How workers start: on Linux as copies of this process, which takes milliseconds where a new
    one would import torch for seconds; elsewhere as Python does."""
    return "fork" if sys.platform == "linux" else None


def settle(number: int) -> None:
    """Let a worker go on when a signal comes: the run ends its step, and then its workers."""
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
