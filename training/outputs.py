"""What a run writes beside its checkpoints: log, curves, history, sidecars, TensorBoard's events.

Every process calls; the first alone writes."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import utils
from artifacts import current, records, store
from networks import checkpoints, source_files
from processes import World
from training.files import RunFiles
from training.state import Facts, Row, State


class Outputs:
    """The files of one run (`files`), each with the run's facts; with `tensorboard`, its events
    too."""

    def __init__(self, files: RunFiles, facts: Facts, world: World, tensorboard: bool) -> None:
        self.files = files
        self.facts = facts
        self.world = world
        self.tensorboard = tensorboard
        self.board: Any = None  # TensorBoard's writer, from the first epoch on

    def log(self, text: str, quiet: bool = False) -> None:
        """Add a line to the log file and print it; `quiet`: not where a progress bar already shows
        it."""
        if not self.world.first:
            return
        if not quiet or not sys.stderr.isatty():
            print(text, flush=True)
        utils.append_text(self.files.log, text + "\n")

    def write_curves(self, history: list[Row]) -> None:
        """Write the curves and the training history again, whole, and hand TensorBoard the last
        row."""
        if not self.world.first:
            return
        facts = self.facts.as_dict()
        store.write_table(self.files.curves, pd.DataFrame(history), facts)
        utils.write_json(self.files.history, {**facts, "history": history})
        if self.tensorboard:
            self.show_on_board(history[-1])

    def show_on_board(self, row: Row) -> None:
        """Hand TensorBoard an epoch's row; what it holds of later epochs, from before a resume, is
        dropped."""
        from torch.utils.tensorboard import SummaryWriter  # a package of its own

        epoch = row["epoch"]
        if self.board is None:
            self.board = SummaryWriter(self.files.tensorboard, purge_step=epoch)
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.board.add_scalar(name, value, epoch)
        self.board.flush()

    def write_epoch_sidecar(self, path: Path, row: Row) -> None:
        """The sidecar of an epoch's checkpoint (--save-every), or an evaluation's: its row of the
        curves."""
        if not self.world.first:
            return
        digest = records.sha256(path)
        content = {**self.facts.as_dict(), **row, "checkpoint_sha256": digest}
        utils.write_json(records.sidecar_path(path), content)

    def write_summary(self, kind: str, state: State, accuracies: Mapping[str, Any]) -> None:
        """The sidecar of a finished checkpoint, and its line in the log.

        kind: "final" or "best"; state: the one that the checkpoint holds; accuracies: train_acc,
        test_acc and, with test-time augmentation, test_acc_tta.
        """
        if not self.world.first:
            return
        path = self.files.checkpoint(kind)
        facts, val_acc = self.facts, state.history[-1]["val_acc"]
        code = source_files.files(facts.model)
        weights = checkpoints.weights_sha256(facts.model, facts.model_args, state.kept.state_dict())
        content = {
            **facts.as_dict(),
            "epoch": state.epoch,
            "epochs": facts.recipe.epochs,
            **({"step": state.step, "steps": facts.recipe.steps} if facts.recipe.steps else {}),
            **accuracies,
            "val_acc": val_acc,
            "processes": state.processes(),
            "checkpoint_sha256": records.sha256(path),
            "weights_sha256": weights,
            "curves": self.files.curves.name,
            **current.all_files(path, code, [path], folders=facts.folders),
            "seconds": round(sum(row["seconds"] or 0.0 for row in state.history), 3),
        }
        utils.write_json(records.sidecar_path(path), content)
        shown = [f"train {accuracies['train_acc']:.2%}"]
        if val_acc is not None:
            shown.append(f"validation {val_acc:.2%}")
        shown.append(f"test {accuracies['test_acc']:.2%}")
        if "test_acc_tta" in accuracies:
            shown.append(f"with test-time augmentation {accuracies['test_acc_tta']:.2%}")
        self.log(f"{kind}: {state.place}, {', '.join(shown)} -> {path}")
