"""Memory of a training run: what is freed is kept for the next step; and the largest batch that
still fits, once a step has run out of memory."""

import copy
import ctypes
import platform
from collections.abc import Callable, Mapping

import torch
from torch import nn

# Options of glibc's malloc, as its malloc.h numbers them.
M_TRIM_THRESHOLD = -1  # bytes at the heap's end above which they go back to the system
M_MMAP_THRESHOLD = -3  # bytes from which a block is mapped by itself
M_MMAP_MAX = -4  # blocks that may be mapped by themselves

KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}


def keep_freed() -> bool:
    """Have the C library keep the memory that is freed -> True where it does, which is with glibc.

    Otherwise each large tensor's memory goes back to the system, which fills it with zeros page by
    page when the next step asks for it. No result changes (docs/training.md has the times)."""
    return set_malloc(KEPT)


def set_malloc(options: Mapping[int, int]) -> bool:
    """Give glibc's malloc these options -> True where it took them; another C library has none."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) for option, value in options.items())


def largest_fit(network: nn.Module, count: int, attempt: Callable[[nn.Module, int], None]) -> int:
    """Halve `count` images until `attempt(network, count)`, a forward and a backward pass, fits ->
    that count, or 0 where not even one image does.

    A copy of the network makes the attempts: the hooks of DistributedDataParallel sit on the
    parameters themselves, and would wait for the other processes.
    """
    while count := count // 2:
        if fits(network, count, attempt):
            return count
    return 0


def fits(network: nn.Module, count: int, attempt: Callable[[nn.Module, int], None]) -> bool:
    """True if a copy of the network and its gradients for so many images fit into memory."""
    try:
        attempt(copy.deepcopy(network), count)
    except torch.OutOfMemoryError:
        return False
    return True
