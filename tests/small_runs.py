"""Small training runs that test files share: three digits of 8 x 8 pixels, by train.py itself, and
how to compare them."""

import os
from pathlib import Path

import pandas as pd
import torch

import records
import train
import training

# Three digits at 8 x 8 pixels: 326 training, 32 validation and 179 test images; an epoch is a
# fraction of a second.
SMALL = [
    "--dataset",
    "digits",
    "--held-out",
    *"3456789",
    "--image-size",
    "8",
    "--model",
    "resnet_cifar",
    "--device",
    "cpu",
    "--batch-size",
    "64",
    "--val-size",
    "32",
    "--suffix",
    "run",
]
COLUMNS = [
    "epoch",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "lr",
    "seconds",
    "images_per_second",
]
TIMES = ["seconds", "images_per_second"]


def start(folder, *words):
    return train.main([*SMALL, "--output-dir", str(folder), *words])


def files_of(folder):
    return train.run_files(folder, "resnet_cifar", "run")


def read(folder, kind="final"):
    return torch.load(files_of(folder)[kind], weights_only=True)


def another_checkpoint(run):
    """A checkpoint beside a DigitsRun's, of surely other features: the best epoch may well be the
    last one."""
    path = run.output_dir / "resnet_cifar_another_digits_s0.pth"
    state = torch.load(run.checkpoint, weights_only=True)
    weights = state["model_state_dict"]
    flipped = {**weights, "conv1.weight": weights["conv1.weight"].flip(0)}
    torch.save({**state, "model_state_dict": flipped}, path)
    return path


def equal(one, other):
    """Whether two nests of dicts and lists hold the same numbers, bit for bit."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def timeless(history):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in history]


def assert_same_end(folder, other):
    """Two runs ended in the same weights, optimiser, random state, history, accuracies, choice of
    epoch and curves."""
    for kind in ("final", "best"):
        one, two = read(folder, kind), read(other, kind)
        for key in (
            "epoch",
            "model_state_dict",
            "optimizer_state_dict",
            "rng",
            "best",
            "train_acc",
            "val_acc",
            "test_acc",
            "class_names",
            "preprocessing",
            "recipe",
            "arguments",
        ):
            assert equal(one[key], two[key]), f"{kind}: {key}"
        assert timeless(one["history"]) == timeless(two["history"])
        summaries = [records.read_sidecar(files_of(place)[kind]) for place in (folder, other)]
        for key in ("epoch", "epochs", "train_acc", "val_acc", "test_acc"):
            assert summaries[0][key] == summaries[1][key]
    curves = [
        pd.read_csv(files_of(place)["curves"]).drop(columns=TIMES) for place in (folder, other)
    ]
    pd.testing.assert_frame_equal(*curves, check_exact=True)
    assert sorted(path.name for path in Path(folder).iterdir()) == sorted(
        path.name for path in Path(other).iterdir()
    )


def signalled(monkeypatch, number, at):
    """Send this process a signal within the optimiser steps of these numbers, counted over the
    run."""
    real, count = training.Run.step, [0]

    def step(run, *arguments):
        count[0] += 1
        if count[0] in at:
            os.kill(os.getpid(), number)
        return real(run, *arguments)

    monkeypatch.setattr(training.Run, "step", step)


REGULARISED = (
    "--mode",
    "regularised",
    "--epochs",
    "3",
    "--no-amp",
)  # dropout and every augmentation: 6 steps an epoch
