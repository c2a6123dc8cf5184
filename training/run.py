"""A training run: its loop. What it measures is in training/measures.py, the
state that it resumes from in training/state.py.

    with signals() as signalled, processes.join(device) as world:
        run = Run(files, facts, recipe, preprocessing, world, signalled, options)
        run.resume(arguments)        # where it was stopped before
        # False: stopped by a signal, its state kept
        done = run.fit(train, val, bar) and run.finish(train, test)

Alone or as one of several processes (processes.World): each takes its share of every batch,
gradients are averaged over the whole batch, and the first process alone writes."""

import contextlib
import copy
import math
import signal
import time
from dataclasses import dataclass

import pandas as pd
import torch
from torch.nn import functional as F

import utils
from artifacts import current, records, store
from networks import checkpoints, classifiers, source_files
from training import augment, recipes
from training.measures import Measures, Stopped
from training.state import State

CHECK_EVERY = 20  # steps between looks at the loss; each look makes a GPU wait


@dataclass(frozen=True)
class Options:
    """Run options that are not part of the recipe."""

    seed: int
    amp: bool = True
    compile: bool = False
    save_every: int | None = None  # epochs
    track_nc: int | None = None  # epochs
    tensorboard: str | None = None  # folder


class Run(State):
    """The loop: epochs of steps, what is measured and written after each, and what stops them.

    Batches and augmentation are drawn by generators seeded with (seed, epoch, step), so that a
    resumed run needs no more than its epoch and step to draw what the uninterrupted one would have
    drawn."""

    def __init__(self, files, facts, recipe, preprocessing, world, signalled, options):
        super().__init__(files, facts, recipe, world)
        self.preprocessing, self.signalled, self.options = preprocessing, signalled, options
        self.amp = options.amp and has_bfloat16(self.device)
        self.forward = self.wrapped(options.compile)
        self.generator = torch.Generator(self.device)
        self.measures = Measures(
            world, preprocessing, self.autocast, self.stop_if_asked, recipe.batch_size
        )
        self.board = None  # TensorBoard's writer, from the first epoch on
        if not world.first:  # the same weights everywhere, but each process drops out for itself
            torch.manual_seed(options.seed + world.rank)

    def wrapped(self, compiled):
        """What a step calls: the network itself, within DistributedDataParallel, compiled, or
        both."""
        network = self.network
        if self.world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            network = torch.nn.parallel.DistributedDataParallel(network, device_ids=ids)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches have at most two sizes
        # Batches differ by one image at most: two shapes, each compiled for itself, are faster than
        # one that is left open.
        return torch.compile(network, dynamic=False) if compiled else network

    # -- the loop

    def fit(self, train, val, bar):
        """Train to the last epoch, or to the patience's end. False where a signal came first; the
        state is kept then."""
        train, val = (images.to(self.device) for images in (train, val))
        while self.epoch < self.recipe.epochs and not self.out_of_patience():
            start = time.perf_counter() - (self.partial or {}).get("seconds", 0.0)
            try:
                loss, accuracy = self.train_epoch(train, bar)
                seconds = time.perf_counter() - start
                row = {"epoch": self.epoch + 1, "train_loss": loss, "train_acc": accuracy}
                row |= dict(
                    zip(
                        ("val_loss", "val_acc"), self.measures.evaluate(self.kept, val), strict=True
                    )
                )
                row |= {
                    "lr": self.optimizer.param_groups[0]["lr"],
                    "seconds": seconds,
                    "images_per_second": len(train) / seconds,
                }
                row |= self.measure_collapse(train)
            except Stopped:
                self.partial["seconds"] = time.perf_counter() - start
                self.save(self.files.last)
                self.log(f"stopped in epoch {self.epoch + 1}; go on with --resume")
                return False
            self.end_epoch(row)
            bar.set_postfix(
                {
                    name: f"{row[name]:.3g}"
                    for name in ("epoch", "train_loss", "val_acc")
                    if row[name] is not None
                }
            )
        return True

    def train_epoch(self, train, bar):
        """One pass -> (mean loss, accuracy) as the steps saw them; the pass stays in `partial`
        until its epoch has ended."""
        self.network.train()
        seed = (self.options.seed * 1_000_003 + self.epoch) % 2**64
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        batches = order.to(self.device).tensor_split(math.ceil(len(train) / self.recipe.batch_size))
        state = self.partial or {
            "step": 0,
            "losses": torch.zeros(len(batches)),
            "correct": torch.tensor(0),
        }
        # A resumed state holds the sums over processes: the first goes on from them, the others
        # from nothing.
        losses, correct = (
            state[name].to(self.device) * self.world.first for name in ("losses", "correct")
        )
        for step in range(state["step"], len(batches)):
            self.partial = {"step": step, "losses": losses, "correct": correct}
            self.stop_if_asked(losses[:step])
            losses[step], hits = self.step(train, batches[step], step, len(batches))
            correct += hits
            if step % CHECK_EVERY == 0 or step == len(batches) - 1:
                self.check_finite(losses[: step + 1])
            bar.update()
        losses, correct = (
            self.world.all_reduce(losses.clone()),
            self.world.all_reduce(correct.clone()),
        )
        self.partial = {
            "step": len(batches),
            "losses": losses * self.world.first,
            "correct": correct * self.world.first,
        }
        sizes = torch.tensor([len(batch) for batch in batches], device=self.device)
        return (losses * sizes).sum().item() / len(train), correct.item() / len(train)

    def step(self, train, batch, step, steps):
        """One optimiser step -> (this process's part of the batch's mean loss, its right answers),
        both on the device."""
        seed = (self.options.seed * 1_000_003 + self.epoch) * 1_000_003 + step
        # a seed may be a date
        self.generator.manual_seed((seed * self.world.size + self.world.rank) % 2**64)
        lr = self.recipe.lr * recipes.scale(
            self.recipe, (self.epoch + step / steps) / self.recipe.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        rows = batch[self.world.shard(len(batch))]
        self.optimizer.zero_grad(set_to_none=True)
        try:
            logits, loss = self.learn(self.forward, train, rows, len(batch))
            self.optimizer.step()
            if self.average:
                self.average.update()
            return loss, (logits.argmax(1) == train.labels[rows]).sum()
        except torch.OutOfMemoryError:
            logits = loss = None  # and their graph, before a smaller batch is tried
            raise ValueError(self.out_of_memory(train, rows)) from None

    def learn(self, network, train, rows, whole):
        """Gradients of this process's rows of a batch of `whole` images -> (logits, their part of
        the batch's mean loss).

        Processes' gradients are averaged, so that a part counts by its share of the batch times
        their number."""
        images = augment.apply(
            train.pixels[rows], self.recipe.augment, self.generator, self.preprocessing
        )
        with self.autocast():
            logits = network(images)
            loss = F.cross_entropy(
                logits.float(), train.labels[rows], label_smoothing=self.recipe.label_smoothing
            )
        share = len(rows) / whole
        (loss * (share * self.world.size) if self.world.size > 1 else loss).backward()
        return logits, loss.detach() * share

    # -- the end of an epoch

    def measure_collapse(self, train):
        """NC1 to NC4 of the kept network where this epoch is to have them, else {}."""
        every = self.options.track_nc
        if not every or ((self.epoch + 1) % every and self.epoch + 1 < self.recipe.epochs):
            return {}
        return self.measures.collapse(
            self.kept, classifiers.classifier(self.kept, self.facts["model"]), train
        )

    def end_epoch(self, row):
        if not math.isfinite(row["val_loss"] or 0.0):
            raise ValueError(
                f"validation loss is {row['val_loss']} after epoch {self.epoch + 1};"
                f" {self.last_good()}"
            )
        if not all(parameter.isfinite().all() for parameter in self.network.parameters()):
            raise ValueError(
                f"the parameters are NaN or infinite after epoch {self.epoch + 1};"
                f" {self.last_good()}"
            )
        self.epoch, self.partial = self.epoch + 1, None
        self.history.append(row)
        if self.world.first:
            self.write_history(row)
        # Without validation images the last epoch is the best: test labels select nothing.
        if row["val_acc"] is None or row["val_acc"] > self.best["val_acc"]:
            self.best = {
                "val_acc": -1.0 if row["val_acc"] is None else row["val_acc"],
                "epoch": self.epoch,
            }
            self.save(self.files.best)
        if self.options.save_every and self.epoch % self.options.save_every == 0:
            path = self.files.epoch(self.epoch)
            self.save(path)
            if self.world.first:
                utils.write_json(
                    records.sidecar_path(path),
                    {**self.facts, **row, "checkpoint_sha256": records.sha256(path)},
                )
        self.save(self.files.last)
        self.log(
            "  ".join(f"{name} {value:.4g}" for name, value in row.items() if value is not None),
            quiet=True,
        )

    def write_history(self, row):
        """The curves and the training history anew, whole; the epoch's row to TensorBoard."""
        store.write_table(self.files.curves, pd.DataFrame(self.history), self.facts)
        utils.write_json(self.files.history, {**self.facts, "history": self.history})
        if self.options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # a package of its own

            self.board = self.board or SummaryWriter(
                self.options.tensorboard, purge_step=row["epoch"]
            )
            for name in [
                name for name, value in row.items() if name != "epoch" and value is not None
            ]:
                self.board.add_scalar(name, row[name], row["epoch"])
            self.board.flush()

    def out_of_patience(self):
        return 0 < self.recipe.patience <= self.epoch - self.best["epoch"]

    # -- what stops a run

    def stop_if_asked(self, losses=None):
        """Stopped where a signal came to any process; its losses so far must be finite, or the
        state is not worth keeping."""
        if self.world.any_rank(self.signalled.now):
            if losses is not None:
                self.check_finite(losses)
            raise Stopped

    def check_finite(self, losses):
        with self.world.together():
            finite = losses.isfinite()
            if not finite.all():
                step = int((~finite).nonzero()[0])
                raise ValueError(
                    f"the loss is {losses[step].item()} in epoch {self.epoch + 1}, step"
                    f" {step + 1}; " + self.last_good()
                )

    def last_good(self):
        kept = (
            f"the state after epoch {self.epoch} is kept in {self.files.last}"
            if self.epoch
            else "no epoch was finished"
        )
        return f"{kept}; train with a lower --lr (now {self.recipe.lr:g}), or --no-amp"

    def out_of_memory(self, train, rows):
        """The message of a step that did not fit; smaller batches are tried until one does."""
        self.optimizer.zero_grad(set_to_none=True)
        # A copy: DistributedDataParallel's hooks sit on the parameters themselves, and would wait
        # for the other processes.
        network, count, fits = None, len(rows), 0
        while (count := count // 2) and not fits:
            with contextlib.suppress(torch.OutOfMemoryError):
                network = network or copy.deepcopy(self.network)
                self.learn(network, train, rows[:count], count)
                fits = count * self.world.size
            if network:
                network.zero_grad(set_to_none=True)
        advice = (
            f"--batch-size {fits} fits a step (with a proportionally lower --lr)"
            if fits
            else "not even one image fits"
        )
        kept = (
            f"; the state after epoch {self.epoch} is kept in {self.files.last}"
            if self.epoch
            else ""
        )
        return (
            f"{self.device} is out of memory with --batch-size {self.recipe.batch_size} in epoch"
            f" {self.epoch + 1}: {advice}" + kept
        )

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)

    # -- the end of the run

    def finish(self, train, test):
        """Measure the final and the best network once, on clean training and test images; write
        both checkpoints.

        False where a signal came first: nothing is lost, a resumed run measures again.
        """
        whole = self.history
        try:
            for kind in ("final", "best"):
                if kind == "best":
                    state = checkpoints.read(self.files.best)
                    self.load(state)
                    self.epoch, self.history = state["epoch"], whole[: state["epoch"]]
                accuracy = {}
                for split, images in (("train", train), ("test", test)):
                    _, share = self.measures.evaluate(self.kept, images, exact=True)
                    accuracy[f"{split}_acc"] = share
                self.save(self.files.checkpoint(kind), **accuracy)
                self.summarise(kind, accuracy)
        except Stopped:
            self.log("stopped while the trained network was measured; go on with --resume")
            return False
        self.history = whole
        fitted = 1 + max((row["epoch"] for row in self.history if row["train_acc"] < 1), default=0)
        if fitted <= len(self.history):
            self.log(
                f"every training image right since epoch {fitted}: {len(self.history) - fitted}"
                " epochs of terminal phase"
            )
        elif self.facts["mode"] == "collapse":
            self.log(
                f"training accuracy ended at {self.history[-1]['train_acc']:.2%}: the terminal"
                " phase was not reached; train for more --epochs"
            )
        return True

    def summarise(self, kind, accuracy):
        """The sidecar of a finished checkpoint, and its line in the log."""
        if not self.world.first:
            return
        path, val_acc = self.files.checkpoint(kind), self.history[-1]["val_acc"]
        weights = checkpoints.weights_sha256(
            self.facts["model"], self.facts["model_args"], self.kept.state_dict()
        )
        utils.write_json(
            records.sidecar_path(path),
            {
                **self.facts,
                "epoch": self.epoch,
                "epochs": self.recipe.epochs,
                **accuracy,
                "val_acc": val_acc,
                "processes": self.world.size,
                "checkpoint_sha256": records.sha256(path),
                "weights_sha256": weights,
                "curves": self.files.curves.name,
                **current.all_files(
                    path,
                    source_files.files(self.facts["model"]),
                    [path],
                    folders=self.facts["folders"],
                ),
                "seconds": round(sum(row["seconds"] for row in self.history), 3),
            },
        )
        said = [f"train {accuracy['train_acc']:.2%}"]
        if val_acc is not None:
            said.append(f"validation {val_acc:.2%}")
        said.append(f"test {accuracy['test_acc']:.2%}")
        self.log(f"{kind}: epoch {self.epoch}, {', '.join(said)} -> {path}")


def has_bfloat16(device):
    """True if the device multiplies bfloat16 matrices natively, so that autocast gains."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


# ---- signals -------------------------------------------------------------------------------------


@dataclass
class Signalled:
    """True if a signal has asked to stop."""

    now: bool = False

    def __call__(self, number, frame):
        if self.now and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C means at once, as where a download hangs
        self.now = True


@contextlib.contextmanager
def signals():
    """Within the block SIGTERM, SIGUSR1 and Ctrl-C set the yielded `now`; afterwards they do what
    they did before."""
    asked = Signalled()
    wanted = [
        getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
    ]
    before = {number: signal.signal(number, asked) for number in wanted}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)
