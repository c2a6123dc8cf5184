"""The files of a training run: what each is called, in one place.

resnet18_best_cifar100_s0.pth       highest validation accuracy
resnet18_final_cifar100_s0.pth      last epoch
resnet18_last_cifar100_s0.pth       the newest complete state, while the run goes on
resnet18_epoch25_cifar100_s0.pth    every Nth epoch, with --save-every N
resnet18_step90_cifar100_s0.pth     of a run by steps: of an evaluation
resnet18_curves_cifar100_s0.csv     and .png
resnet18_training_history_cifar100_s0.json
resnet18_log_cifar100_s0.txt
.resnet18_cifar100_s0.lock          held by the process that writes them
"""

import re
from dataclasses import dataclass
from pathlib import Path

CHECKPOINTS = ("best", "final", "last")


@dataclass(frozen=True)
class RunFiles:
    """The files of one run: in `folder`, named after the model and the run's suffix."""

    folder: Path
    model: str
    suffix: str

    def checkpoint(self, kind: str) -> Path:
        """The checkpoint of a kind: best, final or last."""
        assert kind in CHECKPOINTS, kind
        return self.named(kind, "pth")

    @property
    def best(self) -> Path:
        return self.checkpoint("best")

    @property
    def final(self) -> Path:
        return self.checkpoint("final")

    @property
    def last(self) -> Path:
        return self.checkpoint("last")

    @property
    def curves(self) -> Path:
        return self.named("curves", "csv")

    @property
    def figure(self) -> Path:
        return self.named("curves", "png")

    @property
    def log(self) -> Path:
        return self.named("log", "txt")

    @property
    def history(self) -> Path:
        return self.named("training_history", "json")

    @property
    def lock(self) -> Path:
        name = f".{self.model}_{self.suffix}.lock"
        return self.folder / name

    @property
    def tensorboard(self) -> Path:
        name = f"{self.model}_{self.suffix}"
        return self.folder / "tensorboard" / name

    @property
    def all(self) -> list[Path]:
        """The files that every run has, without those of single epochs (--save-every)."""
        checkpoints = [self.checkpoint(kind) for kind in CHECKPOINTS]
        others = [self.curves, self.figure, self.log, self.history, self.lock]
        return checkpoints + others

    def epoch(self, number: int) -> Path:
        """The checkpoint of an epoch."""
        return self.named(f"epoch{number}", "pth")

    def step(self, number: int) -> Path:
        """The checkpoint after a step."""
        return self.named(f"step{number}", "pth")

    def is_epoch(self, name: str) -> bool:
        """True if a file of this name is the checkpoint of an epoch, or step, of this run."""
        model = re.escape(self.model)
        suffix = re.escape(self.suffix)
        pattern = rf"{model}_(epoch|step)\d+_{suffix}\.pth"
        return re.fullmatch(pattern, name) is not None

    def named(self, part: str, ending: str) -> Path:
        name = f"{self.model}_{part}_{self.suffix}.{ending}"
        return self.folder / name
