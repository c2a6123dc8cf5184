"""The largest batch that still fits, once a step has run out of memory."""

import copy
from collections.abc import Callable

import torch
from torch import nn


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
