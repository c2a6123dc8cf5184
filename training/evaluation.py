"""Passes over clean images in eval mode while a network is trained: loss, accuracy and collapse.

Several processes each take a shard of the images; a signal stops any of the passes."""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from collapse import etf, metrics
from images.sets import Set
from moments import Accumulator
from networks import classifiers
from processes import World
from training import leave_out, tta

BATCH = 500  # images per step of a pass without gradients, at most


class Normalising(Protocol):
    """What a pass has to know of images.preprocessing's."""

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Images as a set holds them -> as the network takes them."""


@dataclass(frozen=True)
class Result:
    """Mean cross-entropy and accuracy in [0, 1]; None for no images."""

    loss: float | None = None
    accuracy: float | None = None


class Evaluator:
    """Passes over images by all processes of `world`.

    autocast       context in which the network runs, for its precision
    stop_if_asked  raises signals.Stopped where a signal came to any process
    batch_size     images per training step of all processes: what fits with gradients fits without
    """

    def __init__(
        self,
        world: World,
        preprocessing: Normalising,
        autocast: Callable[[], AbstractContextManager],
        stop_if_asked: Callable[[], None],
        batch_size: int = BATCH,
    ) -> None:
        self.world = world
        self.preprocessing = preprocessing
        self.autocast = autocast
        self.stop_if_asked = stop_if_asked
        self.batch_size = max(1, min(BATCH, batch_size // world.size))

    def batches(self, images: Set) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield this process's shard of the images in batches, on its device: normalised (n, 3, S,
        S), and labels (n,)."""
        shard = self.world.shard(len(images))
        starts = range(shard.start, shard.stop, self.batch_size)
        parts = [range(at, min(at + self.batch_size, shard.stop)) for at in starts]
        stream = images.stream(parts)
        # The longest shard decides: every process must look for signals equally often.
        longest = math.ceil(len(images) / self.world.size)
        for number in range(math.ceil(longest / self.batch_size)):
            self.stop_if_asked()
            if number < len(parts):
                pixels, labels = next(stream)
                inputs = self.preprocessing.normalise(pixels.to(self.world.device))
                yield inputs, labels.to(self.world.device)

    def ready(self, network: nn.Module) -> nn.Module:
        """The network in eval mode, on every process with the first one's running statistics, which
        are those that are saved."""
        for buffer in network.buffers():
            self.world.broadcast(buffer)
        return network.eval()

    @torch.inference_mode()
    def evaluate(
        self,
        network: nn.Module,
        images: Set,
        exact: bool = False,
        views: Callable[[tta.Logits, torch.Tensor], torch.Tensor] = tta.plain,
    ) -> Result:
        """Loss and accuracy on images; `exact` computes in float32 throughout, `views` is a way of
        test-time augmentation."""
        if not len(images):
            return Result()
        network = self.ready(network)
        losses, correct = [], []
        for inputs, labels in self.batches(images):
            with contextlib.nullcontext() if exact else self.autocast():
                logits = views(network, inputs).float()
            losses.append(F.cross_entropy(logits, labels, reduction="sum"))
            correct.append((logits.argmax(1) == labels).sum())
        sums = torch.tensor([total(losses), total(correct)], dtype=torch.float64)
        means = self.world.all_reduce(sums) / len(images)
        loss, accuracy = means.tolist()
        return Result(loss, accuracy)

    @torch.inference_mode()
    def entropies(self, network: nn.Module, images: Set) -> tuple[float | None, float | None]:
        """The mean entropy of the softmax, in nats, over images and over the outliers among them;
        None for none."""
        network = self.ready(network)
        sums = torch.zeros(2, 2, dtype=torch.float64)  # of images and of outliers: sum, count
        for inputs, labels in self.batches(images):
            with self.autocast():
                logits = network(inputs).float()
            values = leave_out.entropy(logits).double().cpu()
            is_outlier = (labels == leave_out.OUTLIER).cpu()
            for row, chosen in zip(sums, (~is_outlier, is_outlier), strict=True):
                row += torch.stack((values[chosen].sum(), chosen.sum()))
        found = self.world.all_reduce(sums).tolist()
        means = [total / count if count else None for total, count in found]
        return means[0], means[1]

    @torch.inference_mode()
    def features(
        self, network: nn.Module, classifier: nn.Module, images: Set
    ) -> torch.Tensor | None:
        """What enters `classifier`, (N, D) float32 on the CPU, in the order of the images. Only the
        first process has it, the others get None."""
        network = self.ready(network)
        caught: list[torch.Tensor] = []
        features = []
        with classifier.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0])):
            for inputs, _ in self.batches(images):
                network(inputs)
                features.append(classifiers.vectors(caught.pop()).float().cpu())
        return self.world.gather(torch.cat(features))

    @torch.inference_mode()
    def collapse(
        self, network: nn.Module, classifier: nn.Module, images: Set
    ) -> dict[str, float | None]:
        """NC1 to NC4 of the features that enter `classifier`, in float32: columns of the curves
        (docs/neural_collapse.md). Only the first process has them, the others get {}."""
        gathered = self.features(network, classifier, images)
        if gathered is None:
            return {}
        labels = images.labels.cpu().numpy()
        return collapse_columns(gathered.numpy(), labels, *classifiers.head(classifier))


def total(parts: list[torch.Tensor]) -> float:
    """The sum of the batches' sums in float64; 0 for a shard without images.

    All move to the CPU at once, so that a GPU need not wait for each batch.
    """
    if not parts:
        return 0.0
    return torch.stack(parts).cpu().double().sum().item()


def collapse_columns(
    features: np.ndarray, labels: np.ndarray, W: np.ndarray, b: np.ndarray
) -> dict[str, float | None]:
    """Features (N, D), labels (N,), W (C, D), b (C,) -> NC1 to NC4 as columns of the curves."""
    moments = Accumulator(*W.shape).update(features, labels).finish()
    nc1 = metrics.nc1(moments)
    nc2 = etf.nc2(moments.centred)
    nc3 = metrics.nc3(moments, W)
    nc4 = metrics.nc4(features, labels, W, b, moments.means)
    return {
        "nc1": nc1["nc1"],
        "nc2_norm_cv": nc2["norm_cv"],
        "nc2_cosine_std": nc2["cosine_std"],
        "nc3_self_duality": nc3["nc3_self_duality"],
        "nc4_mismatch": nc4.agreement.mismatch,
    }
