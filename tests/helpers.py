"""What test files share: scripts run as the shell runs them, small networks, runs and folders of
features, and several processes."""

import contextlib
import functools
import inspect
import io
import json
import os
import select
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import cli
import figures
import ood_methods
import run_networks
import train
import utils
from artifacts import records, store
from detection import recommending
from networks import registry
from scores import registry as scores_registry
from training.state import State

ROOT = Path(__file__).resolve().parents[1]
named = utils.SetName.parse


# ---- the shell -----------------------------------------------------------------------------------


# pandas reads decimals exactly by itself from 3.1 on, and warns of the option.
EXACT = (
    {"float_precision": "round_trip"}
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
    else {}
)


def read_csv(path):
    """A CSV by pandas: decimals exactly, and only an empty cell is a missing value."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""], **EXACT)


@dataclass(frozen=True)
class Ended:
    """What a script left at the shell."""

    code: int
    out: str
    err: str


def shell(main, *words):
    """Run a script's main under cli.run as the shell would run it, but in this process: importing
    torch costs seconds."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["script.py", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        try:
            cli.run(main)
        except SystemExit as stop:
            code = stop.code
    if isinstance(code, str):  # as the interpreter does with a text
        print(code, file=err)
    return Ended(1 if isinstance(code, str) else code or 0, out.getvalue(), err.getvalue())


def write_blank(path, figure):
    """In place of utils.write_figure where figures are not what is tested: drawing takes most of
    the time."""
    utils.write_text(path, "a figure")


def undrawn(draw):
    """A function that takes what `draw` takes, and gives an empty figure."""
    parameters = inspect.signature(draw)

    def blank(*given, **named):
        parameters.bind(*given, **named)
        return Figure()

    return blank


def blank_figures(patch):
    """Draw nothing, not even in memory, and write blank files: for tests of data that are drawn in
    other tests."""
    for name, draw in list(vars(figures).items()):
        if hasattr(draw, "captions"):
            patch.setattr(figures, name, undrawn(draw))
    patch.setattr(utils, "write_figure", write_blank)


# ---- networks and checkpoint files ---------------------------------------------------------------


def tiny(classes=4, seed=0):
    torch.manual_seed(seed)
    return registry.build("resnet_cifar", classes)


def same(state, other):
    return state.keys() == other.keys() and all(
        torch.equal(state[key], other[key]) for key in state
    )


def ours(network, **facts):
    """What train.py writes, as far as it counts: all that makes a file recognisably ours."""
    classes = len(network.fc.weight)
    return {
        "model_state_dict": network.state_dict(),
        "model": "resnet_cifar",
        "model_args": {"dropout": 0.0},
        "dataset": "digits",
        "class_names": [str(index) for index in range(classes)],
        "held_out": [],
        "val_size": 96,
        "recipe": {},
        "versions": {},
        "preprocessing": {
            "size": 16,
            "mean": (0.3,) * 3,
            "std": (0.3,) * 3,
            "interpolation": "bilinear",
        },
        **facts,
    }


def saved(tmp_path, content, name="network.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


# ---- small training runs -------------------------------------------------------------------------


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


def start_training(folder, *words):
    """train.py on SMALL; its curves are not drawn, which would take half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        blank_figures(patch)
        return train.main([*SMALL, "--output-dir", str(folder), *words])


def files_of(folder):
    return train.run_files(folder, "resnet_cifar", "run")


def read_checkpoint(folder, kind="final"):
    return torch.load(files_of(folder).checkpoint(kind), weights_only=True)


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
    """True if two nests of dicts and lists hold the same numbers, bit for bit."""
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
        one, two = read_checkpoint(folder, kind), read_checkpoint(other, kind)
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
        summaries = [
            records.read_sidecar(files_of(place).checkpoint(kind)) for place in (folder, other)
        ]
        for key in ("epoch", "epochs", "train_acc", "val_acc", "test_acc"):
            assert summaries[0][key] == summaries[1][key]
    curves = [pd.read_csv(files_of(place).curves).drop(columns=TIMES) for place in (folder, other)]
    pd.testing.assert_frame_equal(*curves, check_exact=True)
    assert sorted(path.name for path in Path(folder).iterdir()) == sorted(
        path.name for path in Path(other).iterdir()
    )


def signalled(monkeypatch, number, at):
    """Send this process a signal within the optimiser steps of these numbers, counted over the
    run."""
    real, count = State.set_learning_rate, [0]

    def set_learning_rate(state, factor):  # once per step
        count[0] += 1
        if count[0] in at:
            os.kill(os.getpid(), number)
        return real(state, factor)

    monkeypatch.setattr(State, "set_learning_rate", set_learning_rate)


# dropout and every augmentation: 6 steps an epoch
REGULARISED = (
    "--mode",
    "regularised",
    "--epochs",
    "3",
    "--no-amp",
)

# ---- folders of images ---------------------------------------------------------------------------


def class_folders(root, names, count, shape):
    """train/<class>/ and test/<class>/ in `root`, each with `count` PNGs of noise."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")


# ---- folders of features -------------------------------------------------------------------------


def random_run(
    folder, width=4, classes=3, checkpoint_sha256="a" * 64, ood=("svhn",), suffix=".csv", seed=0
):
    """A folder such as run_networks.py leaves, of random features."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    W, b = generator.normal(size=(classes, width)), generator.normal(size=classes)
    store.write_head(
        folder / "head.csv",
        W,
        b,
        [f"class {c}" for c in range(classes)],
        {"checkpoint_sha256": checkpoint_sha256},
    )
    sidecar = {
        "checkpoint_sha256": checkpoint_sha256,
        "head_sha256": records.sha256(folder / "head.csv"),
    }
    for stem in ("ID_toy_train", "ID_toy_test", *(f"OOD_{name}_test" for name in ood)):
        store.write_features(
            folder / f"{stem}{suffix}",
            generator.normal(size=(6, width)),
            np.arange(6) % classes,
            sidecar=sidecar,
        )
    return folder


def change_json(path, change):
    """Change a sidecar's content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


CLASSES, WIDTH = 4, 12


def toy_run(folder, ood=("far_noise", "near"), suffix=".csv", seed=0):
    """A folder such as run_networks.py leaves: ReLU-like features around class centres; one OOD set
    far, one near."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(CLASSES, WIDTH)) * 2
    store.write_head(
        folder / "head.csv",
        centres / 4,
        generator.normal(size=CLASSES) / 10,
        ["cat", "dog", "bird", "frog"],
        {"checkpoint_sha256": "a" * 64},
    )
    sidecar = {"checkpoint_sha256": "a" * 64, "head_sha256": records.sha256(folder / "head.csv")}

    def write(stem, labels, spread, pull, paths=None):
        noise = generator.normal(size=(len(labels), WIDTH)) * spread
        features = np.maximum(pull * centres[labels % CLASSES] + noise, 0)
        store.write_features(folder / f"{stem}{suffix}", features, labels, paths, sidecar)

    write("ID_toy_train", np.arange(240) % CLASSES, 1.0, 1.0)
    write("ID_toy_val", np.arange(40) % CLASSES, 1.0, 1.0)
    write("ID_toy_test", np.arange(100) % CLASSES, 1.0, 1.0)
    for number, name in enumerate(ood):
        write(
            f"OOD_{name}_test",
            np.arange(60 + 20 * number),
            1.5,
            0.3 + 0.3 * number,
            [f"{name}/{n:03}.png" for n in range(60)] if number == 0 else None,
        )
    return folder


def score(folder, *words):
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert ended.code == 0, ended.err
    return read_csv(folder / "ood_metrics.csv"), ended.out


# ---- extraction ----------------------------------------------------------------------------------


def extract(run, *words):
    return run_networks.main(
        [
            "--checkpoint",
            str(run.checkpoint),
            "--device",
            "cpu",
            "--output-dir",
            str(run.output_dir),
            *map(str, words),
        ]
    )


def modified(folder):
    return {
        path.name: path.stat().st_mtime_ns
        for path in folder.iterdir()
        if path.suffix in (".csv", ".parquet")
    }


def by_two(tmp_path, run, *runs):
    """run_networks.py in two processes, once for each list of words -> [(exit codes by rank,
    [(stdout, stderr) by rank])]."""
    starts = []
    for number, words in enumerate(runs):
        address = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(32000 + os.getpid() % 2000 * 8 + number),
        }
        ranks = [
            address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
            for rank in (0, 1)
        ]
        words = [
            "--checkpoint",
            run.checkpoint,
            "--device",
            "cpu",
            "--output-dir",
            run.output_dir,
            *words,
        ]
        starts.append((tmp_path / f"ranks{number}", Path(run_networks.__file__), words, *ranks))
    said = [
        [tuple((folder / f"{rank}.{name}") for name in ("out", "err")) for rank in (0, 1)]
        for folder, *_ in starts
    ]
    return [
        (codes, [tuple(path.read_text() for path in rank) for rank in ranks])
        for codes, ranks in zip(fork(starts), said, strict=True)
    ]


# ---- several processes ---------------------------------------------------------------------------


FORKED = """
import os, runpy, sys
import pytest
import sklearn.datasets, torch._dynamo  # what a rank of train.py imports late
import helpers

helpers.blank_figures(pytest.MonkeyPatch())
# folder, script, words; then the ranks' environments: one import of torch and ours serves them all
for line in sys.stdin:
    folder, script, words, *environments = eval(line)
    children = []
    for rank, environment in enumerate(environments):
        if (child := os.fork()) == 0:
            os.environ.update(environment)
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{folder}/{rank}.{name}", os.O_CREAT | os.O_WRONLY), number)
            sys.argv = [script, *words]
            runpy.run_path(script, run_name="__main__")
        children.append(child)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
"""


def launch(script, *words, processes=2):
    """Start a script by torchrun on this machine -> the finished process; one that hangs fails the
    test."""
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        processes,
        script,
        *words,
    ]
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=600, env=clean(), cwd=ROOT
    )


@functools.cache
def forking():
    """The process that forks ranks: one for all tests of this process, as importing torch takes
    seconds. It ends where its input does."""
    return subprocess.Popen(
        [sys.executable, "-c", FORKED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}"),
        cwd=ROOT,
    )


def fork(runs):
    """[(folder, script, words, environment of each rank ...)] -> [exit codes]; <folder>/<rank>.out
    and .err hold what was said. Their figures are blank. A run that hangs fails the test."""
    process, codes = forking(), []
    for folder, script, words, *ranks in runs:
        folder.mkdir(exist_ok=True)
        line = repr((str(folder), str(script), list(map(str, words)), *ranks))
        print(line, file=process.stdin, flush=True)
        assert select.select([process.stdout], [], [], 600)[0], f"{folder.name} hangs"
        codes.append(list(map(int, process.stdout.readline().split())))
    return codes


def clean(**more):
    """This environment with nothing of a launcher in it, and `more`."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in names and not name.startswith("SLURM_")
    }
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


# ---- folders of features and their tables --------------------------------------------------------


def score_columns(methods, first=(), led_by=None, held_out=True, head=True):
    """The columns of a file of scores; `led_by` is the recommended method."""
    led_by = led_by or recommending.recommend(methods)[0]
    named, predicted = (["predicted_class"], ["prediction"]) if head else ([], [])
    others = [name for name in methods if name != led_by]
    p_values = [f"{name}_p" for name in methods] if held_out else []
    lead = [*first, "verdict", *named, "percentile", "p_value", led_by]
    return [*lead, "label", *predicted, *others, *p_values]


def logits_of(folder, stem):
    """Features and logits in float64, from the CSVs alone and by pandas alone."""
    head = read_csv(folder / "head.csv")
    table = read_csv(folder / f"{stem}.csv")
    features = table.filter(regex=r"^ct\d+$").to_numpy(np.float32).astype(float)
    weights = head.filter(regex=r"^w\d+$").to_numpy(np.float32).astype(float)
    return features, features @ weights.T + head["bias"].to_numpy()


def printed_rows(text):
    """{method: numbers} of a printed table."""
    rows = {}
    for line in text.splitlines():
        first, *numbers = line.split() or [""]
        if first in scores_registry.METHODS:
            rows[first] = [float(number) for number in numbers]
    return rows


def write_ood(folder, name, features):
    """One more OOD set of a toy run."""
    sidecar = records.read_sidecar(folder / "OOD_near_test.csv")
    store.write_features(
        folder / f"OOD_{name}_test.csv", features, np.full(len(features), -1), sidecar=sidecar
    )
