"""Training state: everything needed to rebuild the network and to resume an interrupted run."""

import sys

import torch

import utils
from networks import checkpoints, messages, registry
from training import recipes


class State:
    """Network, optimiser, moving average, history, and where in the epochs the run stands; several
    processes hold one state.

    files: {part: path} of the run; facts: what every checkpoint says of itself.
    """

    def __init__(self, files, facts, recipe, world):
        self.files, self.facts, self.recipe, self.world, self.device = (
            files,
            facts,
            recipe,
            world,
            world.device,
        )
        network = registry.build(facts["model"], len(facts["class_names"]), **facts["model_args"])
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.optimizer = recipes.make_optimizer(recipe, self.network)
        self.average = recipes.Average(self.network, recipe.ema) if recipe.ema else None
        self.history, self.best, self.epoch, self.partial = (
            [],
            {"val_acc": -1.0, "epoch": 0},
            0,
            None,
        )

    @property
    def kept(self):
        """The network that is validated and saved: the averaged one where the recipe averages."""
        return self.average.network if self.average else self.network

    def save(self, path, **more):
        """The whole state: what rebuilds the network, and all that a resumed run needs. Every
        process calls, the first writes."""
        device_rng = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        rng = self.world.gather_objects({"cpu": torch.get_rng_state(), "cuda": device_rng})
        partial = self.partial
        if partial:
            sums = {}
            for name in ("losses", "correct"):
                sums[name] = self.world.all_reduce(partial[name].clone()).cpu()
            partial = partial | sums
        if not self.world.first:
            return
        last = self.history[-1] if self.history else {"train_acc": None, "val_acc": None}
        averaged = (
            {"trained_state_dict": self.network.state_dict(), "average_steps": self.average.steps}
            if self.average
            else {}
        )
        state = {
            "epoch": self.epoch,
            "model_state_dict": self.kept.state_dict(),
            **averaged,
            "optimizer_state_dict": self.optimizer.state_dict(),
            "train_acc": last["train_acc"],
            "val_acc": last["val_acc"],
            "test_acc": None,
            **self.facts,
            "scheduler": {
                name: getattr(self.recipe, name)
                for name in ("warmup_epochs", "milestones", "gamma")
            },
            "rng": rng,
            "history": self.history,
            "best": self.best,
            "partial": partial,
            **more,
        }
        checkpoints.write(path, state)

    def load(self, state):
        """Weights, their average, and the optimiser's state, as `save` wrote them."""
        self.kept.load_state_dict(state["model_state_dict"])
        if self.average:
            self.network.load_state_dict(state["trained_state_dict"])
            self.average.steps = state["average_steps"]
        self.optimizer.load_state_dict(state["optimizer_state_dict"])

    def resume(self, arguments):
        """Go on from the newest state; ValueError where it was begun with other arguments than
        these."""
        state = checkpoints.read(self.files.last)
        self.check_state(state)
        self.check_same_run(state, arguments)
        self.restore(state)
        ranks = len(state["rng"])
        other = (
            f"; {self.world.size} processes where it had {ranks}: not bit for bit"
            if ranks != self.world.size
            else ""
        )
        self.log(
            f"resumed after epoch {self.epoch}"
            + (f", step {self.partial['step']}" if self.partial else "")
            + other
        )

    def check_state(self, state):
        """ValueError for a file that is no state, or one of a run on other classes."""
        needed = {
            "arguments",
            "recipe",
            "optimizer_state_dict",
            "epoch",
            "history",
            "best",
            "partial",
        }
        if not needed <= set(state) or not isinstance(state.get("rng"), list):
            raise ValueError(
                f"{self.files.last} is no state that this version could resume; start over with"
                " --force"
            )
        if state["class_names"] != self.facts["class_names"]:
            raise ValueError(
                f"{self.files.last} was started with {len(state['class_names'])} classes and the"
                f" data has {len(self.facts['class_names'])}, or others; give it the data it had,"
                " or start over with --force"
            )

    def check_same_run(self, state, arguments):
        """ValueError that names each argument, data set and recipe value that differs."""
        before = what_counts(state)
        now = what_counts({**self.facts, "arguments": utils.plain(arguments)})
        different = []
        for name in {**before, **now}:
            then, today = before.get(name), now.get(name)
            if then != today:
                different.append(f"{name} {then} then, {today} now")
        if different:
            raise ValueError(
                f"{self.files.last} was started with other arguments, data, or recipe:"
                f" {'; '.join(different)}. Repeat those, or start over with --force"
            )

    def restore(self, state):
        """Weights, optimiser, place in the epochs, and this process's random numbers."""
        try:
            self.load(state)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            said = messages.shown(" ".join(str(error).split()))
            raise ValueError(
                f"{self.files.last} is no state that could be resumed ({said}); start over with"
                " --force"
            ) from error
        self.epoch, self.history, self.best, self.partial = (
            state[key] for key in ("epoch", "history", "best", "partial")
        )
        ranks = len(state["rng"])
        if self.world.rank < ranks:
            own = state["rng"][self.world.rank]
            torch.set_rng_state(own["cpu"])
            if self.device.type == "cuda" and own["cuda"] is not None:
                torch.cuda.set_rng_state(own["cuda"], self.device)

    def log(self, text, quiet=False):
        """Print, unless a progress bar shows it already, and keep in the log file."""
        if not self.world.first:
            return
        if not quiet or not sys.stderr.isatty():
            print(text, flush=True)
        utils.append_text(self.files.log, text + "\n")


def what_counts(facts):
    """Arguments, recipe and images of a run as one flat dict: a run resumes only where these are
    the same."""
    recipe = {f"recipe {name}": value for name, value in facts["recipe"].items()}
    images = {name: facts.get(name) for name in ("images", "source")}
    return {**facts["arguments"], **utils.plain(recipe), **images}
