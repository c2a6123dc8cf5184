"""The moving average of a network's weights."""

import copy

import torch
from torch import nn


class Average:
    """Exponential moving average of a network's parameters and buffers, kept in a network of its
    own.

    After each step a <- d a + (1 - d) w, with d = min(decay, (1 + t) / (10 + t)) after t steps.
    Without this warm-up of d the first, random weights would count for 1 / (1 - decay) steps.

    Batch norm's running statistics are averaged too, so that the averaged network can be used
    without another pass over the images. They describe the activations of the trained network and
    not of the averaged one; in a network that changes slowly the two agree.

    All parameters move in one fused call. torch's own AveragedModel asks a GPU for its step count
    at each step, and so waits for it.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.averaged: list[torch.Tensor] = []
        self.trained: list[torch.Tensor] = []
        self.counters: list[tuple[torch.Tensor, torch.Tensor]] = []
        own = self.network.state_dict().values()
        theirs = network.state_dict().values()
        for averaged, trained in zip(own, theirs, strict=True):
            if averaged.is_floating_point():
                self.averaged.append(averaged)
                self.trained.append(trained)
            else:
                self.counters.append((averaged, trained))

    @torch.no_grad()
    def update(self) -> None:
        """Move by one step towards the network as it now is."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averaged, self.trained, 1 - decay)
        for averaged, trained in self.counters:
            averaged.copy_(trained)
