"""A training run: `Run.train_epoch` is the loop.

    with signals.caught() as stop, processes.join(device) as world:
        state = State(facts, world)
        outputs = Outputs(files, facts, world, tensorboard=False)
        run = Run(state, outputs, options, stop)
        run.resume(arguments)        # continue an interrupted run
        # False: a signal came; the state is saved
        done = run.fit(train, val, bar) and run.finish(train, test)

What a recipe decides is built in training/parts.py, what is measured in training/evaluation.py,
what a run resumes from in training/state.py, and what it writes besides in training/outputs.py.

With several processes (processes.World) each takes a shard of every batch, gradients are averaged
over the whole batch, and only the first process writes."""

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from images.sets import Batch, Set
from networks import checkpoints, classifiers
from training import batches, frozen, leave_out, memory, mixing, parts, precision, tta, winograd
from training.augment import Moment
from training.evaluation import Evaluator, Normalising, Result
from training.outputs import Outputs
from training.signals import Stopped, StopRequest
from training.state import Best, Partial, Row, State

CHECK_EVERY = 20  # steps between checks of the loss; each check makes a GPU wait
LAST = 1.0  # progress at the end of the run, when images are largest
SHOWN = ("epoch", "train_loss", "val_acc")  # beside the progress bar


@dataclass(frozen=True)
class Options:
    """Run options that are not part of the recipe."""

    seed: int
    precision: str | None = None  # of precision.NAMES; None: what the device gains by
    compile: bool = False
    save_every: int | None = None  # epochs
    track_nc: int | None = None  # epochs
    tta: str | None = None  # a row of tta.VIEWS
    winograd: bool = False


@dataclass
class Seen:
    """What a step saw of its images: their share of the batch's mean loss, and right answers."""

    loss: Any = 0.0
    correct: Any = 0


class Run:
    """Epochs of steps, what is measured and written after each, and what stops them.

    Batches and augmentation are drawn by generators seeded with (seed, epoch, step). A resumed run
    thus needs only its epoch and step to draw what the uninterrupted one would have drawn. Where a
    recipe counts steps, an epoch is what lies between two evaluations.
    """

    def __init__(self, state: State, outputs: Outputs, options: Options, stop: StopRequest) -> None:
        self.state = state
        self.outputs = outputs
        self.options = options
        self.stop = stop
        self.recipe = state.recipe
        self.world = state.world
        self.device = state.world.device
        asked = options.precision or ("fp32" if self.recipe.freeze else None)
        self.precision = precision.choose(asked, self.device)
        state.scaler = precision.scaler(self.precision, self.device)
        if options.winograd:
            winograd.replace(state.network)
        self.forward = self.wrapped_network()
        preprocessing = state.facts.preprocessing
        self.schedule = parts.make_schedule(self.recipe)
        self.augment = parts.make_augmentation(self.recipe, preprocessing)
        normalising: Normalising = preprocessing
        if self.recipe.freeze:
            normalising, self.augment = frozen.AsTheyAre(), frozen.unchanged
        self.mix = parts.make_mixing(self.recipe, len(state.facts.class_names))
        self.generator = torch.Generator(self.device)
        self.evaluator = Evaluator(
            self.world,
            normalising,
            self.autocast,
            self.stop_if_asked,
            self.recipe.batch_size // self.recipe.grad_accumulation,
        )
        self.epoch_start = 0.0  # time.perf_counter() of the current epoch's start
        self.images = 1  # that the run draws from
        if not self.world.first:  # equal weights everywhere, but every process has its own dropout
            torch.manual_seed(options.seed + self.world.rank)

    def wrapped_network(self) -> Any:
        """What a step calls: the network itself, in DistributedDataParallel, compiled, or both."""
        network = self.state.learner
        if self.world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            network = torch.nn.parallel.DistributedDataParallel(network, device_ids=ids)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches have at most two sizes
        if not self.options.compile:
            return network
        # Batch sizes differ by at most one image, and images may grow in a few steps. Compiling
        # each shape separately is faster than leaving the size dynamic.
        torch._dynamo.config.recompile_limit = 2 * parts.SIDE_STEPS
        return torch.compile(network, dynamic=False)

    def resume(self, arguments: Mapping[str, Any]) -> None:
        """Continue from the run's newest state; ValueError where that belongs to another run."""
        ranks = self.state.resume(self.outputs.files.last, arguments)
        state = self.state
        text = f"resumed after epoch {state.epoch}"
        if self.recipe.steps:
            text = f"resumed after step {state.step}"
        elif state.partial:
            text += f", step {state.partial.step}"
        if ranks != self.world.size:
            text += f"; {self.world.size} processes where it had {ranks}: not bit for bit"
        before, now = self.state.threads_before, torch.get_num_threads()
        if self.device.type == "cpu" and before not in (None, now):
            text += f"; {now} threads where it had {before}: not bit for bit"
        self.outputs.log(text)

    # -- the loop

    def fit(self, train: Set, val: Set, bar: Any) -> bool:
        """Train to the last epoch, or until patience runs out. False: a signal came first; the
        state is saved.

        Of a leave-out ensemble's member both sets are followed by outliers."""
        state, files = self.state, self.outputs.files
        train = train.to(self.device)
        val = val.to(self.device)
        while state.epoch < self.recipe.epochs and not self.out_of_patience():
            self.tell_epoch()
            try:
                row = self.train_epoch(train, val, bar)
            except torch.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)  # frees what the step has computed
                self.refuse_batch_size(train)
                raise
            except Stopped:
                if state.partial:
                    state.partial.seconds = time.perf_counter() - self.epoch_start
                state.save(files.last)
                self.outputs.log(f"stopped in {self.now()}; go on with --resume")
                return False
            self.end_epoch(row)
            shown = {name: row[name] for name in SHOWN if row[name] is not None}
            bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})
        return True

    def train_epoch(self, train: Set, val: Set, bar: Any) -> Row:
        """One epoch, or the steps up to an evaluation: a step for each batch of training images,
        then the measures -> its row of the curves. Raises Stopped where a signal came;
        `state.partial` then tells how far it came."""
        state, world, recipe = self.state, self.world, self.recipe
        drawn = self.draw_batches(train)
        partial = state.begin_epoch(len(drawn))
        shares = [self.share(batch) for batch in drawn]
        stream = train.stream(shares[partial.step :])
        self.epoch_start = time.perf_counter() - partial.seconds
        state.learner.train()
        for step in range(partial.step, len(drawn)):
            partial.step = step
            self.stop_if_asked(partial.losses[:step])

            # schedule
            progress = self.progress(step, len(drawn))
            state.set_learning_rate(self.schedule(progress))

            # forward and backward (the last step's gradients go first, to make room)
            state.optimizer.zero_grad(set_to_none=True)
            moment = Moment(shares[step], self.passes(step), progress, self.options.seed)
            images, targets = self.make_inputs(next(stream), moment, self.seeded_generator(step))
            made = self.gradients(images, targets, len(drawn[step]))
            partial.losses[step] = made.loss
            partial.correct += made.correct

            # step
            if recipe.clip:
                state.scaler.unscale_(state.optimizer)
                torch.nn.utils.clip_grad_norm_(state.learner.parameters(), recipe.clip)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            if state.average:
                state.average.update()

            if step % CHECK_EVERY == 0 or step == len(drawn) - 1:
                self.check_finite(partial.losses[: step + 1])
            bar.update()
        stream.close()  # its workers end

        # measures
        whole = replace(partial, step=len(drawn)).all_reduce(world)
        state.partial = whole.on_first(world)
        seen = sum(map(len, drawn))
        answers = leave_out.count_known(train) if recipe.folds else seen
        trained = averages(whole, drawn, answers)
        return self.measured(trained, len(train) if recipe.folds else seen, train, val)

    def gradients(self, images: torch.Tensor, targets: torch.Tensor, batch: int) -> Seen:
        """Forward and backward of this process's share (B, 3, S, S) of a `batch`, in the recipe's
        number of parts -> its loss, as a share of the batch's mean, and its right answers.

        Each part's mean loss counts by its images, so that gradients are those of the whole batch
        at once. DistributedDataParallel takes the plain mean of the processes' gradients, once,
        with the last part."""
        world, count = self.world, self.recipe.grad_accumulation
        pieces = list(zip(images.tensor_split(count), targets.tensor_split(count), strict=True))
        seen = Seen()
        for number, (part, wanted) in enumerate(pieces, start=1):
            with self.alone() if number < count else nullcontext():
                with self.autocast():
                    logits = self.forward(part)
                    loss = self.loss(logits, wanted)
                weight = len(part) / batch
                self.state.scaler.scale(loss * (weight * world.size)).backward()
            seen.loss = seen.loss + loss.detach() * weight
            seen.correct = seen.correct + (logits.argmax(1) == mixing.heavier(wanted)).sum()
        return seen

    def alone(self) -> AbstractContextManager[Any]:
        """Within the block gradients are added up and not shared with other processes yet."""
        return getattr(self.forward, "no_sync", nullcontext)()

    def measured(self, trained: Result, images: int, train: Set, val: Set) -> Row:
        """The row of an epoch whose steps are over: what they saw of so many images, and what is
        measured now."""
        state, recipe = self.state, self.recipe
        seconds = time.perf_counter() - self.epoch_start
        validated = self.evaluator.evaluate(state.measured, leave_out.known(val))
        step = {"step": recipe.steps_before(state.epoch + 1)} if recipe.steps else {}
        return {
            "epoch": state.epoch + 1,
            **step,
            "train_loss": trained.loss,
            "train_acc": trained.accuracy,
            "val_loss": validated.loss,
            "val_acc": validated.accuracy,
            "lr": state.optimizer.param_groups[0]["lr"],
            "seconds": seconds,
            "images_per_second": images / seconds,
            **self.entropy_columns(val),
            **self.collapse_columns(train),
        }

    def tell_epoch(self) -> None:
        """Tell a network that changes over the epochs which one begins (from 0).

        That is one with a method `begin_epoch`, such as fastnet, which freezes a bias after three.
        DistributedDataParallel expects a gradient of every parameter that learned when it wrapped
        the network, so that it wraps it anew after a change."""
        network = self.state.network
        begin = getattr(network, "begin_epoch", None)
        if begin is None:
            return
        before = [parameter.requires_grad for parameter in network.parameters()]
        begin(self.state.epoch)
        after = [parameter.requires_grad for parameter in network.parameters()]
        if after != before and self.world.size > 1:
            self.forward = self.wrapped_network()

    def draw_batches(self, train: Set) -> tuple[torch.Tensor, ...]:
        """The batches of the epoch, or of the steps up to the next evaluation: row numbers of
        training images. With --folds as many outliers join each."""
        seed, size, count = self.options.seed, self.recipe.batch_size, leave_out.count_known(train)
        if self.recipe.steps:
            before, after = map(self.recipe.steps_before, (self.state.epoch, self.state.epoch + 1))
            drawn = batches.of_steps(count, size, seed, before, after)
        else:
            generator = torch.Generator().manual_seed(batches.seed_of(seed, self.state.epoch))
            drawn = batches.of_epoch(count, size, generator)
            if self.recipe.folds:
                outliers = len(train) - count
                drawn = leave_out.beside_outliers(drawn, count, outliers, generator)
        self.images = count
        lengths = [len(batch) for batch in drawn]
        return torch.cat(drawn).to(self.device).split(lengths)

    def progress(self, step: int, steps: int) -> float:
        """The share of the run that lies before a step, of so many in the epoch."""
        if self.recipe.steps:
            return (self.recipe.steps_before(self.state.epoch) + step) / self.recipe.steps
        return (self.state.epoch + step / steps) / self.recipe.epochs

    def passes(self, step: int) -> int:
        """The passes over all images that are finished before a step of the current epoch."""
        if not self.recipe.steps:
            return self.state.epoch
        done = self.recipe.steps_before(self.state.epoch) + step
        return done * self.recipe.batch_size // self.images

    def seeded_generator(self, step: int) -> torch.Generator:
        """The generator of this process's augmentation and mixing, seeded for a step of the current
        epoch."""
        epoch_seed = self.options.seed * batches.SEEDS_APART + self.state.epoch
        step_seed = epoch_seed * batches.SEEDS_APART + step
        seed = step_seed * self.world.size + self.world.rank
        # The run's seed may be a date of fourteen digits; torch takes 64 bits.
        return self.generator.manual_seed(seed % 2**64)

    def share(self, batch: torch.Tensor) -> torch.Tensor:
        """The rows of a batch that this process takes."""
        return batch[self.world.shard(len(batch))]

    def make_inputs(
        self, batch: Batch, moment: Moment, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a step learns from: images (B, 3, S, S), augmented and mixed, and their labels (B,)
        or, of mixed ones, shares of the classes (B, C)."""
        pixels, labels = batch
        images = self.augment(pixels, generator, moment)
        return self.mix(images, labels, generator)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in float32 of targets as `make_inputs` returns them, with the recipe's
        label smoothing; with --folds, the entropies' margin too."""
        recipe, smoothing = self.recipe, self.recipe.label_smoothing
        if recipe.folds:
            return leave_out.margin_entropy_loss(
                logits.float(), targets, recipe.margin, recipe.beta, smoothing
            )
        return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    def autocast(self) -> AbstractContextManager:
        """Context of the run's precision: by default bfloat16 where the device gains by it, and
        float32 elsewhere."""
        return precision.autocast(self.precision, self.device)

    # -- the end of an epoch

    def entropy_columns(self, val: Set) -> dict[str, float | None]:
        """Of a leave-out ensemble's member, the mean entropies of validation images and of
        validation outliers, in nats; {} for other runs."""
        if not self.recipe.folds:
            return {}
        images, outliers = self.evaluator.entropies(self.state.kept, val)
        return {"val_entropy": images, "outlier_entropy": outliers}

    def collapse_columns(self, train: Set) -> dict[str, float | None]:
        """NC1 to NC4 of the kept network in every Nth epoch (--track-nc N) and in the last; {} in
        the others."""
        every = self.options.track_nc
        epoch = self.state.epoch + 1
        if not every or (epoch % every and epoch < self.recipe.epochs):
            return {}
        classifier = classifiers.classifier(self.state.kept, self.state.facts.model)
        return self.evaluator.collapse(self.state.measured, classifier, leave_out.known(train))

    def end_epoch(self, row: Row) -> None:
        """Count the epoch as finished, and write the curves, checkpoints and log; ValueError where
        it diverged."""
        state, outputs = self.state, self.outputs
        self.check_epoch(row)
        state.epoch += 1
        state.partial = None
        state.history.append(row)
        outputs.write_curves(state.history)
        # Without validation images the last epoch is the best: test labels select nothing.
        val_acc = row["val_acc"]
        if val_acc is None or val_acc > state.best.val_acc:
            state.best = Best(-1.0 if val_acc is None else val_acc, state.epoch)
            state.save(outputs.files.best)
        every = self.options.save_every
        if every and state.epoch % every == 0:
            path = outputs.files.epoch(state.epoch)
            if self.recipe.steps:
                path = outputs.files.step(state.step)
            state.save(path)
            outputs.write_epoch_sidecar(path, row)
        state.save(outputs.files.last)
        measured = {name: value for name, value in row.items() if value is not None}
        text = "  ".join(f"{name} {value:.4g}" for name, value in measured.items())
        outputs.log(text, quiet=True)

    def check_epoch(self, row: Row) -> None:
        """ValueError where the validation loss or a parameter is not finite."""
        unit, at = ("step", row["step"]) if self.recipe.steps else ("epoch", row["epoch"])
        if not math.isfinite(row["val_loss"] or 0.0):
            raise ValueError(
                f"validation loss is {row['val_loss']} after {unit} {at}; {self.last_good()}"
            )
        if not all(parameter.isfinite().all() for parameter in self.state.network.parameters()):
            raise ValueError(
                f"the parameters are NaN or infinite after {unit} {at}; {self.last_good()}"
            )

    def out_of_patience(self) -> bool:
        """True if the recipe's patience has run out: so many epochs have brought no better one."""
        waited = self.state.epoch - self.state.best.epoch
        return 0 < self.recipe.patience <= waited

    # -- what stops a run

    def stop_if_asked(self, losses: torch.Tensor | None = None) -> None:
        """Raise Stopped where a signal came to any process.

        losses: those of the epoch so far; ValueError where one is not finite, since the state would
        not be worth saving.
        """
        if not self.world.any_rank(self.stop.received):
            return
        if losses is not None:
            self.check_finite(losses)
        raise Stopped

    def check_finite(self, losses: torch.Tensor) -> None:
        """ValueError that names the first step of the epoch whose loss (steps,) is not finite."""
        with self.world.together():
            finite = losses.isfinite()
            if finite.all():
                return
            step = int((~finite).nonzero()[0])
            raise ValueError(
                f"the loss is {losses[step].item()} in {self.now(step)}; {self.last_good()}"
            )

    def last_good(self) -> str:
        """What is left of a run that diverged, and what to try, for the end of a message."""
        advice = f"train with a lower --lr (now {self.recipe.lr:g}), or --no-amp"
        return f"{self.saved() or f'no {self.unit} was finished'}; {advice}"

    @property
    def unit(self) -> str:
        """What the run's curves have a row of, and its files a whole state."""
        return "evaluation" if self.recipe.steps else "epoch"

    def now(self, step: int | None = None) -> str:
        """Where the run is, in words: "epoch 3", or with a step of it "epoch 3, step 12"; of a run
        by steps "step 282"."""
        if self.recipe.steps:
            done = self.state.steps_done if step is None else step
            return f"step {self.recipe.steps_before(self.state.epoch) + done + 1}"
        within = "" if step is None else f", step {step + 1}"
        return f"epoch {self.state.epoch + 1}{within}"

    def saved(self) -> str:
        """Where the newest state is, as a clause; "" before the first epoch has ended."""
        if not self.state.epoch:
            return ""
        return f"the state after {self.state.place} is kept in {self.outputs.files.last}"

    def refuse_batch_size(self, train: Set) -> None:
        """After a step that ran out of memory, ValueError with the largest batch that does fit.

        Returns where the steps of the epoch were over, so that their batches did fit.
        """
        drawn = self.draw_batches(train)
        step = self.state.partial.step if self.state.partial else 0
        if step == len(drawn):
            return
        parts = self.recipe.grad_accumulation
        rows = self.share(drawn[step]).tensor_split(parts)[0]
        self.state.optimizer.zero_grad(set_to_none=True)

        def attempt(network: torch.nn.Module, count: int) -> None:
            moment = Moment(rows[:count], self.passes(step), LAST, self.options.seed)
            batch = train.batch(moment.rows)
            images, targets = self.make_inputs(batch, moment, self.generator)
            with self.autocast():
                loss = self.loss(network(images), targets)
            loss.backward()

        fitting = memory.largest_fit(self.state.learner, len(rows), attempt)
        message = (
            f"{self.device} is out of memory with --batch-size {self.recipe.batch_size} in"
            f" {self.now()}: {self.advice(fitting, len(rows))}"
        )
        raise ValueError("; ".join(filter(None, [message, self.saved()]))) from None

    def advice(self, fitting: int, asked: int) -> str:
        """What to do where so many images of a process's share fit a step, of those asked for."""
        if not fitting:
            return "not even one image fits"
        whole = fitting * self.world.size * self.recipe.grad_accumulation
        parts = math.ceil(asked / fitting) * self.recipe.grad_accumulation
        same = f", or the same batch with --grad-accumulation {parts}"
        if self.recipe.folds:
            whole //= 2  # one image and one outlier each
            same = ""
        return f"--batch-size {whole} fits a step (with a proportionally lower --lr){same}"

    # -- the end of the run

    def finish(self, train: Set, test: Set) -> bool:
        """Evaluate the final and the best network once, on clean training and test images; write
        both checkpoints.

        False: a signal came first. Nothing is lost, since a resumed run evaluates again.
        """
        state = self.state
        history = state.history
        self.log_terminal_phase()
        try:
            accuracies = self.clean_accuracies(train, test)
            self.finish_checkpoint("final", accuracies)
            best = checkpoints.read(self.outputs.files.best)
            if best["epoch"] != state.epoch:
                state.load(best)
                state.epoch = best["epoch"]
                state.history = history[: state.epoch]
                accuracies = self.clean_accuracies(train, test)
            self.finish_checkpoint("best", accuracies)
        except Stopped:
            self.outputs.log("stopped while the trained network was measured; go on with --resume")
            return False
        state.history = history
        return True

    def clean_accuracies(self, train: Set, test: Set) -> dict[str, float | None]:
        """The kept network's exact accuracies on training and test images, by their names in a
        checkpoint."""
        accuracies = {}
        for split, images in (("train", train), ("test", test)):
            found = self.evaluator.evaluate(self.state.measured, images, exact=True)
            accuracies[f"{split}_acc"] = found.accuracy
        if self.options.tta:
            views = tta.VIEWS[self.options.tta]
            found = self.evaluator.evaluate(self.state.kept, test, exact=True, views=views)
            accuracies["test_acc_tta"] = found.accuracy
        return accuracies

    def finish_checkpoint(self, kind: str, accuracies: dict[str, float | None]) -> None:
        """Write the state as the checkpoint of a kind, with its accuracies and its summary."""
        self.state.save(self.outputs.files.checkpoint(kind), **accuracies)
        self.outputs.write_summary(kind, self.state, accuracies)

    def log_terminal_phase(self) -> None:
        """Log for how long all training images were right, or that a run for collapse never got
        there."""
        accuracies = [row["train_acc"] or 0.0 for row in self.state.history]
        below = [epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy < 1]
        first = max(below, default=0) + 1
        if first <= len(accuracies):
            self.outputs.log(
                f"every training image right since {self.unit} {first}: {len(accuracies) - first}"
                f" {self.unit}s of terminal phase"
            )
        elif self.state.facts.mode == "collapse":
            self.outputs.log(
                f"training accuracy ended at {accuracies[-1]:.2%}: the terminal"
                " phase was not reached; train for more --epochs"
            )


def averages(epoch: Partial, batches: Sequence[torch.Tensor], images: int) -> Result:
    """Mean loss of an epoch's batches and accuracy of its images, as its steps saw them."""
    lengths = [len(batch) for batch in batches]
    weighted = epoch.losses * torch.tensor(lengths, device=epoch.losses.device)
    loss = weighted.sum().item() / sum(lengths)
    accuracy = epoch.correct.item() / images
    return Result(loss, accuracy)
