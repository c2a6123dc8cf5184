"""What is measured while a network is trained: loss, accuracy and collapse, of clean images in eval
mode.

Several processes share the images; a signal stops any of the passes.
"""

import contextlib
import math

import torch
from torch.nn import functional as F

from collapse import etf, metrics
from moments import Accumulator
from networks import classifiers

BATCH = 500  # images per step of a pass without gradients, at the most


class Stopped(Exception):
    """A signal asked the run to stop."""


class Measures:
    """Passes over images (data.Images) by `world`, in the precision of `autocast()`;
    `stop_if_asked()` raises Stopped."""

    def __init__(self, world, preprocessing, autocast, stop_if_asked, batch_size=BATCH):
        self.world, self.preprocessing, self.autocast, self.stop_if_asked = (
            world,
            preprocessing,
            autocast,
            stop_if_asked,
        )
        # what fits with gradients fits without
        self.batch_size = max(1, min(BATCH, batch_size // world.size))

    def batches(self, images):
        """Yield this process's share of the images, normalised (n, 3, S, S), on its device, with
        their labels (n,)."""
        rows = self.world.shard(len(images))
        for start in range(
            0, math.ceil(len(images) / self.world.size), self.batch_size
        ):  # as many turns for each process
            self.stop_if_asked()
            part = slice(rows.start + start, min(rows.start + start + self.batch_size, rows.stop))
            if part.start < part.stop:
                pixels = images.pixels[part].to(self.world.device)
                labels = images.labels[part].to(self.world.device)
                yield self.preprocessing.normalise(pixels), labels

    def ready(self, network):
        """The network in eval mode; on every process with the running statistics of the first,
        which are those that are saved."""
        for buffer in network.buffers():
            self.world.broadcast(buffer)
        return network.eval()

    @torch.inference_mode()
    def evaluate(self, network, images, exact=False):
        """-> (mean cross-entropy, accuracy), (None, None) of no images; `exact` keeps float32."""
        if not len(images):
            return None, None
        network, losses, correct = self.ready(network), [], []
        for inputs, labels in self.batches(images):
            with contextlib.nullcontext() if exact else self.autocast():
                logits = network(inputs).float()
            losses.append(F.cross_entropy(logits, labels, reduction="sum"))
            correct.append((logits.argmax(1) == labels).sum())
        # A shard without images has nothing to stack. In float64 on the CPU, once: a GPU need not
        # wait for each batch.
        sums = [
            torch.stack(part).cpu().double().sum() if part else 0.0 for part in (losses, correct)
        ]
        loss, accuracy = (
            self.world.all_reduce(torch.tensor(sums, dtype=torch.float64)) / len(images)
        ).tolist()
        return loss, accuracy

    @torch.inference_mode()
    def collapse(self, network, classifier, images):
        """NC1 to NC4 of float32 features, what enters `classifier` (docs/neural_collapse.md); {}
        but on the first process."""
        network, caught, rows = self.ready(network), [], []
        with classifier.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0])):
            for inputs, _ in self.batches(images):
                network(inputs)
                rows.append(classifiers.vectors(caught.pop()).float().cpu())
        features = self.world.gather(torch.cat(rows))
        if not self.world.first:
            return {}
        features, labels = features.numpy(), images.labels.cpu().numpy()
        W, b = classifiers.head(classifier)
        moments = Accumulator(*W.shape).update(features, labels).finish()
        means = etf.nc2(moments.centred)
        decided = metrics.nc4(features, labels, W, b, moments.means)
        return {
            "nc1": metrics.nc1(moments)["nc1"],
            "nc2_norm_cv": means["norm_cv"],
            "nc2_cosine_std": means["cosine_std"],
            "nc3_self_duality": metrics.nc3(moments, W)["nc3_self_duality"],
            "nc4_mismatch": decided.agreement.mismatch,
        }
