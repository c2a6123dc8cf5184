"""Training state: everything needed to rebuild the network and to resume an interrupted run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import utils
from images.preprocessing import Preprocessing
from images.sets import Set
from networks import checkpoints, classifiers, messages, registry
from processes import World
from training import parts, recipes
from training.recipes import Recipe

# One epoch's row of the curves: column -> number, None where there is nothing to measure.
Row = dict[str, float | None]

NEEDED = {"arguments", "recipe", "optimizer_state_dict", "epoch", "history", "best", "partial"}
SEEN_FIRST = 5000  # images that a network's `initialise` sees; Jordan (2024) takes as many
# What `load` raises for a state that does not fit the network or the optimiser.
MISFITS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Facts:
    """What every checkpoint and every sidecar of a run says about the run."""

    model: str
    model_args: dict[str, float]
    dataset: str
    mode: str
    held_out: list[str]
    val_size: int
    images: int  # training images
    source: str  # hash of the files that the images come from, or the name of their set
    folders: dict[str, dict[str, str]]  # folder of images -> fingerprint
    class_names: list[str]
    preprocessing: Preprocessing
    recipe: Recipe
    provenance: dict[str, Any]  # command, arguments, versions, commit and time
    leave_out: dict[str, Any] | None = None  # of an ensemble's member: images.members.Member
    images_from: dict[str, Any] | None = None  # memory or files: images.serving.Serving

    def as_dict(self) -> dict[str, Any]:
        """The entries as files hold them, those of the provenance at the end."""
        entries = {**vars(self)}
        provenance = entries.pop("provenance")
        for name in ("leave_out", "images_from"):
            if entries[name] is None:
                entries.pop(name)
        entries["preprocessing"] = self.preprocessing.as_dict()
        entries["recipe"] = asdict(self.recipe)
        return {**entries, **provenance}


@dataclass(frozen=True)
class Best:
    """The best epoch so far and its validation accuracy in [0, 1]; -1 without one."""

    val_acc: float = -1.0
    epoch: int = 0


@dataclass(frozen=True)
class Stretch:
    """A part of a run that so many processes trained: up to the next one, or to the end.

    from_epoch, step   epochs that were finished before it, and steps of the next one; None where
                       the state is of a version that did not keep this
    """

    from_epoch: int | None
    step: int | None
    processes: int

    def is_before(self, epochs: int, step: int) -> bool:
        """True if it began before this place, so that it has trained what is there."""
        if self.from_epoch is None or self.step is None:
            return True
        return (self.from_epoch, self.step) < (epochs, step)


@dataclass
class Partial:
    """How far the current epoch has come.

    step     number of the next step
    losses   (steps,) mean loss of each batch; of several processes each holds its own part
    correct  () number of right answers so far, likewise
    seconds  time that the epoch took before it was interrupted
    """

    step: int
    losses: torch.Tensor
    correct: torch.Tensor
    seconds: float = 0.0

    @classmethod
    def start(cls, steps: int, device: torch.device) -> Partial:
        """An epoch of this many steps, before the first."""
        losses = torch.zeros(steps, device=device)
        correct = torch.tensor(0, device=device)
        return cls(0, losses, correct)

    def all_reduce(self, world: World) -> Partial:
        """The sums over all processes, on every process."""
        losses = world.all_reduce(self.losses.clone())
        correct = world.all_reduce(self.correct.clone())
        return replace(self, losses=losses, correct=correct)

    def on_first(self, world: World) -> Partial:
        """Sums over all processes as parts that add up to them: the first process holds the sums,
        the others zeros."""
        losses = self.losses.to(world.device)
        correct = self.correct.to(world.device)
        return replace(self, losses=losses * world.first, correct=correct * world.first)

    def as_dict(self) -> dict[str, Any]:
        """The entries as a checkpoint holds them, tensors on the CPU."""
        return {
            "step": self.step,
            "losses": self.losses.cpu(),
            "correct": self.correct.cpu(),
            "seconds": self.seconds,
        }


class State:
    """Network, optimiser, moving average, history, and how far the epochs have come.

    With several processes each holds the same state, but for its part of `partial`.
    """

    def __init__(self, facts: Facts, world: World) -> None:
        self.facts = facts
        self.recipe = facts.recipe
        self.world = world
        classes = len(facts.class_names)
        network = registry.build(facts.model, classes, **facts.model_args)
        self.network: nn.Module = network.to(world.device).to(memory_format=torch.channels_last)
        if self.recipe.freeze:
            self.network.eval().requires_grad_(False)
            self.learner.requires_grad_(True)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.optimizer = parts.make_optimizer(self.recipe, self.learner)
        self.largest_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = parts.make_average(self.recipe, self.network)
        self.history: list[Row] = []
        self.best = Best()
        self.epoch = 0  # epochs that are finished
        self.partial: Partial | None = None  # progress through the next one, once it has begun
        self.stretches = [Stretch(0, 0, world.size)]  # by how many processes it was trained, when
        self.threads_before: int | None = None  # of the process that a resumed run goes on from
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)  # of the loss, by Run for fp16

    def initialise(self, images: Set) -> None:
        """Show a network that learns from images before its first step some of them.

        That is one with a method `initialise`, such as fastnet, whose first layer whitens. It gets
        training images as they are validated: normalised, and not augmented."""
        initialise = getattr(self.network, "initialise", None)
        if initialise is None:
            return
        some, _ = images.batch(range(min(SEEN_FIRST, len(images))))
        initialise(self.facts.preprocessing.normalise(some.to(self.world.device)))
        if self.average:
            self.average.network.load_state_dict(self.network.state_dict())

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and saved: the averaged one where the recipe averages."""
        if self.average:
            return self.average.network
        return self.network

    @property
    def learner(self) -> nn.Module:
        """What a step trains: the network, or its classifier where all else is frozen."""
        if not self.recipe.freeze:
            return self.network
        return classifiers.classifier(self.network, self.facts.model)

    @property
    def measured(self) -> nn.Module:
        """What is validated, of what the training sees: the kept network on images, or the
        classifier on the features of a frozen one."""
        return self.learner if self.recipe.freeze else self.kept

    @property
    def step(self) -> int:
        """Of a run by steps: those that are finished."""
        return self.recipe.steps_before(self.epoch) + self.steps_done

    @property
    def place(self) -> str:
        """How far the whole epochs have come, in words: "epoch 3", or "step 270"."""
        if self.recipe.steps:
            return f"step {self.recipe.steps_before(self.epoch)}"
        return f"epoch {self.epoch}"

    @property
    def steps_done(self) -> int:
        """Steps of the epoch that is not finished."""
        return self.partial.step if self.partial else 0

    def set_learning_rate(self, factor: float) -> None:
        """Every parameter group's learning rate: its largest one times the schedule's factor."""
        groups = self.optimizer.param_groups
        for group, largest in zip(groups, self.largest_rates, strict=True):
            group["lr"] = largest * factor

    def begin_epoch(self, steps: int) -> Partial:
        """The progress through an epoch of so many steps: from its start, or from where it was
        interrupted."""
        if self.partial is None:
            self.partial = Partial.start(steps, self.world.device)
        return self.partial

    # -- writing

    def save(self, path: Path, **more: Any) -> None:
        """Write the whole state, and the entries `more`. Every process calls; the first writes."""
        rng = self.world.gather_objects(self.random_states())
        partial = self.partial and self.partial.all_reduce(self.world).as_dict()
        if not self.world.first:
            return
        last = self.history[-1] if self.history else {"train_acc": None, "val_acc": None}
        content = {
            "epoch": self.epoch,
            **self.weights(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "train_acc": last["train_acc"],
            "val_acc": last["val_acc"],
            "test_acc": None,
            **self.facts.as_dict(),
            "scheduler": {
                "warmup_epochs": self.recipe.warmup_epochs,
                "milestones": self.recipe.milestones,
                "gamma": self.recipe.gamma,
            },
            "rng": rng,
            "processes": self.processes(),
            "history": self.history,
            "best": asdict(self.best),
            "partial": partial,
            **more,
        }
        if self.recipe.steps:
            content["step"] = self.step
        if self.scaler.is_enabled():
            content["scaler_state_dict"] = self.scaler.state_dict()
        checkpoints.write(path, content)

    def processes(self) -> list[dict[str, int | None]]:
        """How many processes trained the network up to here, and from when on, as files hold
        it."""
        place = self.epoch, self.steps_done
        return [asdict(stretch) for stretch in self.stretches if stretch.is_before(*place)]

    def weights(self) -> dict[str, Any]:
        """The weights that are kept and, where they are an average, those behind it."""
        weights = {"model_state_dict": self.kept.state_dict()}
        if not self.average:
            return weights
        trained = self.network.state_dict()
        return {**weights, "trained_state_dict": trained, "average_steps": self.average.steps}

    def random_states(self) -> dict[str, torch.Tensor | None]:
        """The states of this process's random number generators."""
        device = self.world.device
        on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": on_gpu}

    # -- reading

    def load(self, content: Mapping[str, Any]) -> None:
        """Weights, their average, and the optimiser's state, as `save` wrote them."""
        self.kept.load_state_dict(content["model_state_dict"])
        if self.average:
            self.network.load_state_dict(content["trained_state_dict"])
            self.average.steps = content["average_steps"]
        self.optimizer.load_state_dict(content["optimizer_state_dict"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(content["scaler_state_dict"])

    def resume(self, path: Path, arguments: Mapping[str, Any]) -> int:
        """Continue from the state in a file -> the number of processes that wrote it.

        ValueError where the file holds no state, or that of a run with other arguments than these.
        """
        content = checkpoints.read(path)
        self.check_content(path, content)
        self.check_same_run(path, content, arguments)
        self.restore(path, content)
        return len(content["rng"])

    def check_content(self, path: Path, content: Mapping[str, Any]) -> None:
        """ValueError for a file that is no state, or one of a run on other classes."""
        if not set(content) >= NEEDED or not isinstance(content.get("rng"), list):
            raise ValueError(
                f"{path} is no state that this version could resume; start over with --force"
            )
        names = self.facts.class_names
        if content["class_names"] != names:
            raise ValueError(
                f"{path} was started with {len(content['class_names'])} classes and the"
                f" data has {len(names)}, or others; give it the data it had,"
                " or start over with --force"
            )

    def check_same_run(
        self, path: Path, content: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> None:
        """ValueError that names each argument, data set and recipe value that differs."""
        before = what_counts(content)
        now = what_counts({**self.facts.as_dict(), "arguments": utils.plain(arguments)})
        different = []
        for name in {**before, **now}:
            then, today = before.get(name), now.get(name)
            if then != today:
                different.append(f"{name} {then} then, {today} now")
        if different:
            raise ValueError(
                f"{path} was started with other arguments, data, or recipe:"
                f" {'; '.join(different)}. Repeat those, or start over with --force"
            )

    def restore(self, path: Path, content: Mapping[str, Any]) -> None:
        """Weights, optimiser, place in the epochs, and this process's random states."""
        try:
            self.load(content)
        except MISFITS as error:
            said = messages.shown(" ".join(str(error).split()))
            raise ValueError(
                f"{path} is no state that could be resumed ({said}); start over with --force"
            ) from error
        self.epoch = content["epoch"]
        self.history = content["history"]
        self.threads_before = content.get("threads")
        best = content["best"]
        self.best = Best(best["val_acc"], best["epoch"])
        if content["partial"]:
            partial = Partial(**content["partial"])
            self.partial = partial.on_first(self.world)
        self.stretches = stretches_of(content)
        if not self.stretches or self.stretches[-1].processes != self.world.size:
            self.stretches.append(Stretch(self.epoch, self.steps_done, self.world.size))
        rank, states = self.world.rank, content["rng"]
        if rank < len(states):
            self.set_random_states(states[rank])

    def set_random_states(self, states: Mapping[str, Any]) -> None:
        """Random states of one process, as `random_states` returned them."""
        device = self.world.device
        torch.set_rng_state(states["cpu"])
        if device.type == "cuda" and states["cuda"] is not None:
            torch.cuda.set_rng_state(states["cuda"], device)


def stretches_of(content: Mapping[str, Any]) -> list[Stretch]:
    """The stretches of a state; of an older version's, only how many processes wrote it is
    known."""
    if "processes" not in content:
        return [Stretch(None, None, len(content["rng"]))]
    return [Stretch(**entry) for entry in content["processes"]]


def what_counts(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments, recipe and images of a run as one flat dict: a run resumes only where these are
    the same.

    A recipe's fields count by their values, whether a flag gave them or the mode did: where a later
    version's mode has other values, flags repeat what it was."""
    # A field that a later version added does what its default does, which changes nothing.
    recipe = utils.plain({**recipes.defaults(), **entries["recipe"]})
    # Nor does a flag that is off, which the version that began the run may not have had.
    arguments = {
        name: value
        for name, value in entries["arguments"].items()
        if name not in recipe and value is not False
    }
    return {
        **arguments,
        **{f"recipe {name}": value for name, value in recipe.items()},
        "images": entries.get("images"),
        "source": entries.get("source"),
    }
