"""One pass of a network over this process's share of the images: features are kept row by row, or
handed on layer by layer.

    extractor = Extractor(network, classifier, preprocessing, world, batch_size=500)
    rows = extractor.gather(extractor.run(job))    # None on all ranks but the first
    rows.features                                  # (N, D) float32

Several processes share the images by whole batches, which makes every batch identical to the one of
a single process. That matters, because features depend slightly on the size of the batch: on a CPU
with AVX-512 and AMX, a batch of 1 or 3 moves them by 1e-6 against one of 500, since other kernels
are chosen. Batches of 37 to 1,000, other positions in the batch, and one or two threads gave the
same bits. Equal bits also need the same kind of device on every rank. A set with fewer batches than
processes leaves some of them idle.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

import processes
from collapse import layers
from extraction import perturbation
from extraction.plan import Job
from images import serving
from images.preprocessing import Preprocessing
from images.sets import ImageFiles, Set
from networks import classifiers, source_files
from networks.classifiers import NoClassifier
from processes import World

SAY_WHICH = (
    "Where another layer is the classifier, the network file says so with a line such as:"
    ' classifier = "head"'
)
# rows that a layer's tally takes at once: its products by class cost little then, and so does
# holding the rows
BLOCK = 4096
# largest difference between a network's logits and what its classifier makes, as a share of the
# largest logit
TOLERANCE = 1e-3
TOLERANCE_BFLOAT16 = 0.05
# what a network raises on images of another size than it was made for
MISFITS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, AssertionError)


# ---- what a pass yields --------------------------------------------------------------------------


@dataclass
class Caught:
    """What the hooks saw of the last batch, as the network made it: the input of the classifier
    (None until it was run), and the output of each stage by name."""

    features: Any = None
    stages: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Batch:
    """The rows of one batch: `features` (n, D) enter the classifier, and `stages` {name: (n, D)}
    are outputs averaged over positions; float32."""

    features: np.ndarray
    stages: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that a pass kept: `features` (n, D) float32 enter the classifier, and `stages`
    {name: (n, D)} are outputs averaged over positions. None stands for what was not kept, and for
    a share without images."""

    features: np.ndarray | None
    stages: dict[str, np.ndarray | None]


class Buffer:
    """The rows of one layer, filled batch by batch; the first batch tells the width."""

    def __init__(self, rows: int):
        self.rows = rows
        self.done = 0
        self.whole: np.ndarray | None = None

    def add(self, part: np.ndarray) -> None:
        """Append the rows (n, D) of a batch."""
        if self.whole is None:
            self.whole = np.empty((self.rows, part.shape[1]), np.float32)
        self.whole[self.done : self.done + len(part)] = part
        self.done += len(part)


class Blocks:
    """Hands the rows of one layer to its tally, BLOCK rows or a little more at a time."""

    def __init__(self, tally: layers.Tally, labels: np.ndarray):
        self.tally = tally
        self.labels = labels  # (n,) of all rows to come
        self.parts: list[np.ndarray] = []
        self.taken = 0  # rows that the tally has
        self.done = 0  # rows that were added

    def add(self, part: np.ndarray) -> None:
        """Append the rows (n, D) of a batch."""
        self.parts.append(part)
        self.done += len(part)
        if self.done - self.taken >= BLOCK or self.done == len(self.labels):
            self.tally.update(np.concatenate(self.parts), self.labels[self.taken : self.done])
            self.parts.clear()
            self.taken = self.done


class Silent:
    """Shows no progress."""

    def update(self, count: int) -> None:
        """So many more images are done."""


def silent(**options: Any) -> AbstractContextManager[Silent]:
    """In place of console.progress: shows nothing."""
    return nullcontext(Silent())


# ---- the pass ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network, hooked at the input of its classifier and behind its `stages` {name: module}."""

    network: torch.nn.Module
    classifier: torch.nn.Module  # a Linear, or a 1x1 Conv2d
    preprocessing: Preprocessing
    world: World
    batch_size: int
    amp: bool = False
    stages: dict[str, torch.nn.Module] = field(default_factory=dict)
    progress: Callable[..., AbstractContextManager[Any]] = silent  # such as console.progress
    batch_size_from: str = "--batch-size"
    workers: int | None = None  # that decode images in files; None: as many as suit the device
    directions: perturbation.Directions = field(default_factory=perturbation.Directions)

    def shard(self, count: int, span: slice | None = None) -> slice:
        """This rank's slice of `count` images, or of those of them in `span`: whole batches, in the
        order of ranks."""
        covered = self.whole_batches(count, span or slice(0, count))
        batches = self.world.shard(self.count_batches(covered.stop - covered.start))
        start = min(covered.start + batches.start * self.batch_size, covered.stop)
        stop = min(covered.start + batches.stop * self.batch_size, covered.stop)
        return slice(start, stop)

    def whole_batches(self, count: int, span: slice) -> slice:
        """The images of all batches that a span of `count` images touches."""
        start = span.start // self.batch_size * self.batch_size
        stop = min(self.count_batches(span.stop) * self.batch_size, count)
        return slice(start, stop)

    def count_batches(self, count: int) -> int:
        """The number of batches that `count` images make."""
        return -(-count // self.batch_size)

    def run(
        self,
        job: Job,
        stages: Iterable[str] = (),
        tallies: Mapping[str, layers.Tally] | None = None,
        keep_features: bool = True,
        own: slice | None = None,
    ) -> Rows:
        """One pass over this rank's images, or over `own` -> the rows of what enters the
        classifier, unless `keep_features` is False, and of `stages`; `tallies` {stage: tally} take
        theirs in passing.

        ValueError where the hooked layer does not make the network's output, since logits = W h + b
        would not hold then, and where its input is not finite."""
        own = own or self.shard(len(job.images))
        count = own.stop - own.start
        labels = job.images.labels[own].numpy()
        features = Buffer(count)
        buffers = {name: Buffer(count) for name in stages}
        blocks = {name: Blocks(tally, labels) for name, tally in (tallies or {}).items()}
        hooked = {name: self.stages[name] for name in (*buffers, *blocks)}
        for batch in self.forward(job, own, hooked):
            if keep_features:
                features.add(batch.features)
            for name, buffer in buffers.items():
                buffer.add(batch.stages[name])
            for name, block in blocks.items():
                block.add(batch.stages[name])
        return Rows(features.whole, {name: buffer.whole for name, buffer in buffers.items()})

    def run_span(
        self, job: Job, span: slice, stages: Iterable[str], alone: bool
    ) -> tuple[Rows, slice]:
        """The images of a span, in whole batches -> (rows, which images they are of).

        alone   by this rank; otherwise its share of them, which `gather` joins
        """
        count = len(job.images)
        covered = self.whole_batches(count, span)
        own = covered if alone else self.shard(count, span)
        return self.run(job, stages, own=own), covered

    @torch.no_grad()  # not inference_mode: perturbation needs a gradient
    def forward(
        self, job: Job, own: slice, stages: Mapping[str, torch.nn.Module]
    ) -> Iterator[Batch]:
        """Yield what the network makes of the images `own` of a job, batch by batch."""
        if own.start == own.stop:
            return
        caught = Caught()
        hooks = self.hook(caught, stages)
        done = own.start
        try:
            for pixels in self.batches(job, own):
                images = self.prepared(job, pixels, done)
                with self.precision():
                    logits = self.logits(images)
                if done == own.start and not isinstance(self.classifier, NoClassifier):
                    check_hook(caught.features, logits, self.classifier, self.amp)
                if done == own.start:
                    check_stages(stages, caught.stages)
                features = pooled(caught.features)
                outputs = {name: self.pooled(name, rows) for name, rows in caught.stages.items()}
                check_finite(features, job.stem, done)
                yield Batch(features, outputs)
                done += len(images)
        finally:
            for hook in hooks:
                hook.remove()

    def hook(self, caught: Caught, stages: Mapping[str, torch.nn.Module]) -> list[Any]:
        """Let every run of the network leave in `caught` what enters the classifier and what the
        stages return -> handles that remove the hooks."""

        def keep_input(module, inputs):
            caught.features = inputs[0]

        def keep_output(name, module, inputs, output):
            caught.stages[name] = output

        handles = [self.classifier.register_forward_pre_hook(keep_input)]
        for name, module in stages.items():
            handles.append(module.register_forward_hook(partial(keep_output, name)))
        return handles

    def batches(self, job: Job, own: slice) -> Iterator[torch.Tensor]:
        """Yield the images `own` of a job as uint8 (n, 3, S, S), with their progress shown."""
        images: Set = job.images
        if isinstance(images, ImageFiles):
            images = self.decoding(images)
        if own != slice(0, len(images)):
            images = images.take(torch.arange(own.start, own.stop))
        with self.progress(total=len(images), desc=job.stem, unit=" images") as bar:
            for pixels in images.batches(self.batch_size):
                yield pixels
                bar.update(len(pixels))

    def decoding(self, images: ImageFiles) -> ImageFiles:
        """Images in files, decoded as suits the device.

        By threads beside a CPU's own work: worker processes would take it no time off, and twice
        the time themselves (docs/extraction.md); ahead by workers where a GPU computes."""
        device = self.world.device
        if device.type != "cuda":
            threads = images.threads if self.workers is None else max(1, self.workers)
            return replace(images, threads=threads)
        workers = self.workers
        if workers is None:
            workers = serving.usual_workers(device, processes.count_here())
        return replace(images, workers=workers, device=device)

    def prepared(self, job: Job, pixels: torch.Tensor, row: int = 0) -> torch.Tensor:
        """uint8 (n, 3, S, S), the images of a job from `row` on -> what goes into the network:
        normalised, and perturbed where the job says so."""
        images = self.preprocessing.normalise(pixels.to(self.world.device))
        step = job.step
        if step is None:
            return images
        if step.kind == perturbation.ADASCALE:
            return perturbation.change_least(self.network, images, step.epsilon)
        signs = self.directions.find(self.network, images, step, job.name, row)
        return perturbation.move(images, signs, step.epsilon, self.preprocessing.std)

    def precision(self) -> AbstractContextManager[Any]:
        """Within the block the network computes in bfloat16, where --amp asks for it."""
        if not self.amp:
            return nullcontext()
        return torch.autocast(self.world.device.type, torch.bfloat16)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """The network's output; ValueError where images of this size do not pass through it."""
        try:
            return self.network(images)
        except torch.OutOfMemoryError:
            raise
        except (*MISFITS, LookupError, ImportError, ArithmeticError) as error:
            place = source_files.where_in(error, self.network)
            said = " ".join(f"{type(error).__name__}: {error}".split())
            at = f" at {place}" if place else ""
            size = "; was it made for another size, --image-size?"
            raise ValueError(
                f"the network fails on images of {images.shape[3]} x {images.shape[2]} pixels{at}"
                f" ({said}){size if isinstance(error, MISFITS) else ''}"
            ) from error

    def pooled(self, stage: str, values: torch.Tensor) -> np.ndarray:
        """A stage's output, averaged over its positions -> (n, D) float32. timm's networks, or
        their parts, say under `output_fmt` where channels come last."""
        places = (self.stages[stage], self.network)
        forms = [str(getattr(place, "output_fmt", "")) for place in places]
        if values.ndim == 4 and any(form.endswith("NHWC") for form in forms):
            values = values.permute(0, 3, 1, 2)
        return pooled(values)

    def gather(self, rows: Rows) -> Rows | None:
        """The rows of every rank -> all of them, in the order of the images, on the first rank;
        None on the others."""
        features = self.gather_layer(rows.features)
        stages = {name: self.gather_layer(values) for name, values in rows.stages.items()}
        return Rows(features, stages) if self.world.first else None

    def gather_layer(self, own: np.ndarray | None) -> np.ndarray | None:
        """The rows (n, D) of every rank, None for no rows -> (N, D) on the first rank, None on the
        others."""
        whole = self.world.gather(None if own is None else torch.from_numpy(own))
        return None if whole is None else whole.numpy()

    # ---- layers that are summarised and not stored -----------------------------------------------

    def tally(
        self, job: Job, classes: int, probes: Mapping[str, layers.Probe]
    ) -> tuple[Rows, dict[str, layers.Summary]]:
        """One pass, or two over training images -> (rows of features, {stage: summary}); of a stage
        no rows are stored.

        The first pass over training images gathers the moments of each stage, and the second counts
        what NC4 of their probe needs; of other ID images `probes` {stage: layers.probe} serve in
        one pass.
        Each rank has the same summaries in the end."""
        if job.in_distribution and job.split == "train":
            return self.tally_training(job, classes)
        known = probes if job.in_distribution else {}
        tallies = {name: layers.Tally(probe=known.get(name)) for name in self.stages}
        with self.world.together():
            rows = self.run(job, tallies=tallies)
        merged = self.merge(tallies)
        return rows, {name: layers.Summary.of(tally) for name, tally in merged.items()}

    def tally_training(self, job: Job, classes: int) -> tuple[Rows, dict[str, layers.Summary]]:
        """Two passes over the training images, as `tally` describes them."""
        tallies = {name: layers.Tally(classes=classes) for name in self.stages}
        with self.world.together():
            rows = self.run(job, tallies=tallies)
        first = self.merge(tallies)
        moments = {name: tally.moments for name, tally in first.items()}
        counting = {name: layers.Tally(probe=layers.probe(moments[name])) for name in first}
        with self.world.together():
            self.run(job, tallies=counting, keep_features=False)
        second = self.merge(counting)
        return rows, {name: layers.Summary.of(second[name], moments[name]) for name in first}

    def merge(self, tallies: dict[str, layers.Tally]) -> dict[str, layers.Tally]:
        """{stage: tally} of every rank -> all of them as one, the same on each rank."""
        parts = self.world.gather_objects(tallies)
        merged = None
        if parts is not None:  # on the first rank
            merged, *others = parts
            for part in others:
                for name, tally in part.items():
                    merged[name].merge(tally)
        return self.world.broadcast_object(merged)


def pooled(values: torch.Tensor) -> np.ndarray:
    """A layer's output (n, D), or (n, D, H, W) or (n, tokens, D), which are averaged over their
    positions -> (n, D) float32."""
    values = values.float()
    if values.ndim == 3:
        values = values.mean(1)
    if values.ndim == 4:
        values = values.flatten(2).mean(2)
    return values.cpu().numpy()


# ---- checks --------------------------------------------------------------------------------------


def check_finite(features: np.ndarray, stem: str, start: int) -> None:
    """ValueError where features (n, D), of images from number `start` on, are NaN or infinite."""
    finite = np.isfinite(features).all(axis=1)
    if finite.all():
        return
    first = start + int(np.argmin(finite))
    raise ValueError(
        f"{stem}: the network's features are NaN or infinite, first in image {first}: it has"
        " diverged; train it with a lower learning rate"
    )


def check_stages(stages: Iterable[str], caught: Mapping[str, Any]) -> None:
    """ValueError for a stage that does not return one tensor (N, D), (N, D, H, W) or (N, tokens,
    D)."""
    for name in stages:
        output = caught.get(name)
        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
            raise ValueError(
                f"the stage {name} of the network gives no output (N, D), (N, D, H, W) or"
                " (N, tokens, D); name modules that do with --stages, or extract without --layers"
            )


def check_hook(
    features: torch.Tensor | None, logits: Any, classifier: torch.nn.Module, amp: bool
) -> None:
    """ValueError unless the classifier was run on one vector per image, and what it made of
    `features` is what the network returns, `logits`."""
    if not isinstance(logits, torch.Tensor):
        raise ValueError(
            f"the network returns a {type(logits).__name__}; expected logits (N, C) alone: let its"
            " forward return what the classifier makes"
        )
    if features is None:
        raise ValueError(
            f"the hooked layer does not make the network's output: it is never run. {SAY_WHICH}"
        )
    weight, bias = classifiers.weight_of(classifier), classifiers.bias_of(classifier)
    if features.ndim == 4 and weight.ndim == 4:
        features = features.flatten(2).mean(2)
    features, logits = features.float(), logits.float()
    if features.ndim != 2:
        raise ValueError(
            f"the classifier's input has shape {tuple(features.shape)}; expected (N, D), one vector"
            " per image"
        )
    expected = torch.nn.functional.linear(features, weight.float().flatten(1), bias)
    if expected.shape != logits.shape:
        raise ValueError(
            "the hooked layer does not make the network's output: it makes"
            f" {tuple(expected.shape)}, and the network returns {tuple(logits.shape)}. {SAY_WHICH}"
        )
    error = (expected - logits).abs().max().item()
    largest = max(logits.abs().max().item(), 1.0)
    tolerance = TOLERANCE_BFLOAT16 if amp else TOLERANCE
    if not error <= tolerance * largest:  # NaN is an error too
        raise ValueError(
            f"the hooked layer does not make the network's output (they differ by {error:.3g}):"
            f" nothing may stand behind the classifier. {SAY_WHICH}"
        )


@torch.no_grad()
def rehearse(
    network: torch.nn.Module, classifier: torch.nn.Module, batch: torch.Tensor
) -> tuple[torch.Tensor | None, Any]:
    """-> (what enters the classifier, logits) of a small batch, as an extraction will meet them;
    for `check_hook`."""
    caught: list[torch.Tensor] = []

    def keep(module, inputs):
        caught.append(inputs[0])

    with classifier.register_forward_pre_hook(keep):
        logits = network.eval()(batch)
    return (caught[-1] if caught else None), logits
