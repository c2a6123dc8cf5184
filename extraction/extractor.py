"""One pass of a network over this process's share of the images: features are kept row by row, or
handed on layer by layer.

    extractor = Extractor(network, classifier, preprocessing, world, batch_size=500)
    # (N, D) on the first rank, None on the others
    features = extractor.gather(extractor.run(job, kept=[""]), [""])[""]

Several processes share the images by whole batches, which makes every batch identical to the one of
a single process. That matters, because features depend slightly on the size of the batch: on a CPU
with AVX-512 and AMX, a batch of 1 or 3 moves them by 1e-6 against one of 500, since other kernels
are chosen. Batches of 37 to 1,000, other positions in the batch, and one or two threads gave the
same bits. Equal bits also need the same kind of device on every rank. A set with fewer batches than
processes leaves some of them idle.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from collapse import layers
from extraction import perturbation

SAY_WHICH = (
    "Where another layer is the classifier, the network file says so with a line such as:"
    ' classifier = "head"'
)
# rows that a layer's tally takes at once: its products by class cost little then, and so does
# holding the rows
BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network, hooked at the input of its classifier and behind its stages {name: module}; ""
    names the former."""

    network: torch.nn.Module
    classifier: torch.nn.Module  # a Linear, or a 1x1 Conv2d
    preprocessing: object
    world: object
    batch_size: int
    amp: bool = False
    stages: dict = field(default_factory=dict)
    progress: Callable = lambda batches, **_: batches

    def share(self, count):
        """This rank's slice of `count` images: whole batches, in the order of ranks."""
        batches = self.world.shard(-(-count // self.batch_size))
        return slice(
            min(batches.start * self.batch_size, count), min(batches.stop * self.batch_size, count)
        )

    def run(self, job, kept, tallies=()):
        """One pass over this rank's images -> {name: (n, D) float32} of `kept`; `tallies` {name:
        layers.Tally} take theirs.

        ValueError where the hooked layer does not make the network's output, since logits = W h + b
        would not hold then, and where its input is not finite."""
        own = self.share(len(job.images))
        rows, labels = own.stop - own.start, job.images.labels[own].numpy()
        found, held, done, taken = {}, {name: [] for name in tallies}, 0, 0
        for caught in (
            self.forward(job, own, {name: self.stages[name] for name in (*kept, *tallies) if name})
            if rows
            else ()
        ):
            for name in kept:
                whole = found.setdefault(name, np.empty((rows, caught[name].shape[1]), np.float32))
                whole[done : done + len(caught[name])] = caught[name]
            done += len(caught[""])
            for name in held:
                held[name].append(caught[name])
            if held and (done - taken >= BLOCK or done == rows):
                for name in held:
                    tallies[name].update(np.concatenate(held[name]), labels[taken:done])
                    held[name].clear()
                taken = done
        return found

    @torch.no_grad()  # not inference_mode: ODIN's step needs a gradient
    def forward(self, job, own, stages):
        """Yield {"": what enters the classifier (n, D), stage: its output, averaged over positions}
        batch by batch."""
        caught, done = {}, own.start
        hooks = [
            self.classifier.register_forward_pre_hook(
                lambda module, inputs: caught.update({"": inputs[0]})
            )
        ]
        hooks += [
            module.register_forward_hook(
                lambda module, inputs, output, name=name: caught.update({name: output})
            )
            for name, module in stages.items()
        ]
        images = (
            job.images.take(torch.arange(own.start, own.stop))
            if self.world.size > 1
            else job.images
        )
        batches = self.progress(
            images.batches(self.batch_size),
            total=-(-len(images) // self.batch_size),
            desc=job.stem,
            unit="batch",
        )
        try:
            for batch in batches:
                batch = self.preprocessing.normalise(batch.to(self.world.device))
                if job.odin:
                    batch = perturbation.perturb(
                        self.network, batch, *job.odin.values(), self.preprocessing.std
                    )
                with (
                    torch.autocast(self.world.device.type, torch.bfloat16)
                    if self.amp
                    else nullcontext()
                ):
                    logits = self.logits(batch)
                if done == own.start:
                    check_hook(caught.get(""), logits, self.classifier, self.amp)
                    check_stages(stages, caught)
                rows = {name: pooled(values) for name, values in caught.items()}
                check_finite(rows[""], job.stem, done)
                yield rows
                done += len(batch)
        finally:
            for hook in hooks:
                hook.remove()

    def logits(self, batch):
        """The network's output; ValueError where images of this size do not pass through it."""
        try:
            return self.network(batch)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"the network fails on images of {batch.shape[3]} x {batch.shape[2]} pixels"
                f" ({said}); was it made for another size, --image-size?"
            ) from error

    def gather(self, found, names):
        """{name: (n, D)} of every rank -> {name: (N, D)} in the order of the images on the first
        rank, None on the others."""
        gathered = {}
        for name in names:
            whole = self.world.gather(torch.from_numpy(found[name]) if name in found else None)
            gathered[name] = None if whole is None else whole.numpy()
        return gathered

    def tally(self, job, classes, probes, kept=("",)):
        """One pass, or two over training images -> ({name: (n, D)} of `kept`, {stage:
        layers.Summary}), nothing stored of a stage.

        The first pass over training images gathers the moments of each stage, and the second counts
        what NC4 of their probe needs; of other ID images `probes` {stage: probe} serve in one pass.
        Each rank has the same summaries in the end."""
        training = job.in_distribution and job.split == "train"
        probes = probes if job.in_distribution and not training else {}
        tallies = {
            name: layers.Tally(classes if training else None, probes.get(name))
            for name in self.stages
        }
        with self.world.together():
            found = self.run(job, kept, tallies)
        merged = self.merge(tallies)
        if training:
            second = {
                name: layers.Tally(probe=layers.probe(tally.moments))
                for name, tally in merged.items()
            }
            with self.world.together():
                self.run(job, (), second)
            second = self.merge(second)
            return found, {
                name: layers.Summary.of(second[name], merged[name].moments) for name in merged
            }
        return found, {name: layers.Summary.of(tally) for name, tally in merged.items()}

    def merge(self, tallies):
        """{stage: tally} of every rank -> all of them as one, the same on each rank."""
        parts, merged = self.world.gather_objects(tallies), None
        if self.world.first:
            merged = parts[0]
            for part in parts[1:]:
                for name, tally in part.items():
                    merged[name].merge(tally)
        return self.world.broadcast_object(merged)


def pooled(values):
    """A layer's output (n, D), or (n, D, H, W), which is averaged over its positions -> (n, D)
    float32."""
    values = values.float()
    if values.ndim == 4:
        values = values.flatten(2).mean(2)
    return values.cpu().numpy()


def check_finite(features, stem, start):
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{stem}: the network's features are NaN or infinite, first in image"
            f" {start + int(np.argmin(finite))}: it has diverged; train it with a lower learning"
            " rate"
        )


def check_stages(stages, caught):
    for name in stages:
        if not isinstance(caught.get(name), torch.Tensor) or caught[name].ndim not in (2, 4):
            raise ValueError(
                f"the stage {name} of the network gives no output (N, D) or (N, D, H, W); extract"
                " without --layers"
            )


def check_hook(features, logits, classifier, amp):
    """The classifier was run, once, on one vector per image, and what it made is what the network
    returns."""
    if not isinstance(logits, torch.Tensor):
        raise ValueError(
            f"the network returns a {type(logits).__name__}; expected logits (N, C) alone: let its"
            " forward return what the classifier makes"
        )
    if features is None:
        raise ValueError(
            f"the hooked layer does not make the network's output: it is never run. {SAY_WHICH}"
        )
    if features.ndim == 4 and classifier.weight.ndim == 4:
        features = features.flatten(2).mean(2)
    features, logits = features.float(), logits.float()
    if features.ndim != 2:
        raise ValueError(
            f"the classifier's input has shape {tuple(features.shape)}; expected (N, D), one vector"
            " per image"
        )
    expected = torch.nn.functional.linear(
        features, classifier.weight.float().flatten(1), classifier.bias
    )
    if expected.shape != logits.shape:
        raise ValueError(
            "the hooked layer does not make the network's output: it makes"
            f" {tuple(expected.shape)}, and the network returns {tuple(logits.shape)}. {SAY_WHICH}"
        )
    error, largest = (expected - logits).abs().max().item(), logits.abs().max().item()
    if not error <= (0.05 if amp else 1e-3) * max(largest, 1.0):
        raise ValueError(
            f"the hooked layer does not make the network's output (they differ by {error:.3g}):"
            f" nothing may stand behind the classifier. {SAY_WHICH}"
        )


@torch.no_grad()
def rehearse(network, classifier, batch):
    """-> (what enters the classifier, logits) of a small batch, as an extraction will meet them;
    for `check_hook`."""
    caught = []
    with classifier.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0])):
        logits = network.eval()(batch)
    return caught[-1] if caught else None, logits
