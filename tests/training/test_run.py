"""training/run.py: several processes, moving averages, signals outside the steps, memory that runs
out, and what is written."""

import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    REGULARISED,
    SMALL,
    assert_same_end,
    equal,
    files_of,
    fork,
    read_checkpoint,
    signalled,
    start_training,
    timeless,
)

import data
import machine_memory
import train
from artifacts import records
from networks import loading
from training import parts, precision, recipes, signals, state
from training import run as training_run
from training.evaluation import Evaluator

pytestmark = [
    pytest.mark.slow,  # most tests train a small network
    pytest.mark.usefixtures("one_thread"),
]

SHORT = ("--mode", "collapse", "--epochs", "2", "--no-amp")
EMA = (*SHORT, "--ema", "0.9")


PLAIN = (
    "from torch import nn\n\n\ndef build(num_classes):\n    return nn.Sequential(nn.Flatten(),"
    " nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, num_classes))\n"
)

# A network that looks at images before it trains, and changes after its first epoch.
CHANGING = """
import torch
from torch import nn


class Changing(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(()))
        self.fc = nn.Linear(192, num_classes)
        self.register_buffer("epochs", torch.zeros(()))

    def initialise(self, images):
        with torch.no_grad():
            self.centre.copy_(images.mean((0, 2, 3)))

    def begin_epoch(self, epoch):
        self.epochs.fill_(epoch)
        self.scale.requires_grad_(epoch < 1)

    def forward(self, x):
        x = (x - self.centre.view(1, 3, 1, 1)) * self.scale
        return self.fc(x.flatten(1))


def build(num_classes):
    return Changing(num_classes)
"""

# ---- networks that change during training --------------------------------------------------------


@pytest.fixture
def changing(tmp_path):
    """FILE.py:FUNCTION of the network above."""
    file = tmp_path / "changing.py"
    file.write_text(CHANGING)
    return f"{file}:build"


def test_a_network_sees_images_before_its_first_step_and_is_told_each_epoch(tmp_path, changing):
    folder = tmp_path / "results"
    start_training(folder, *EMA, "--save-every", "1", "--model", changing)
    states = [
        torch.load(path, weights_only=True)["trained_state_dict"]
        for path in sorted(folder.glob("changing_build_epoch*.pth"))
    ]
    first, second = states
    content = torch.load(folder / "changing_build_final_run.pth", weights_only=True)
    preprocessing = data.Preprocessing(**content["preprocessing"])
    images = data.load_id(data.ID["digits"], "train", preprocessing, None, content["held_out"])
    rows, _ = data.split_validation(len(images), content["val_size"])
    seen = preprocessing.normalise(images.pixels[rows]).mean((0, 2, 3))
    assert torch.allclose(first["centre"], seen, atol=1e-6), "normalised training images"
    assert torch.equal(first["centre"], second["centre"]), "and once only"
    assert torch.equal(content["model_state_dict"]["centre"], first["centre"]), "the average too"
    assert first["epochs"] == 0 and second["epochs"] == 1
    assert first["scale"] != 1 and first["scale"] == second["scale"], "frozen after one epoch"


@pytest.mark.slow
def test_two_processes_go_on_after_a_network_has_frozen_a_parameter(tmp_path, changing):
    words = (*SHORT, "--model", changing)
    ((codes, output),) = together(tmp_path, (tmp_path / "two", train.__file__, *words))
    assert codes == [0, 0], output
    start_training(tmp_path / "one", *words)
    name = "changing_build_final_run.pth"
    two, one = (
        torch.load(tmp_path / folder / name, weights_only=True)["model_state_dict"]
        for folder in ("two", "one")
    )
    assert two["epochs"] == 1
    for key, value in one.items():
        assert torch.allclose(two[key], value, atol=1e-4), key


# ---- the moving average --------------------------------------------------------------------------


def test_the_average_is_what_is_validated_and_kept(finished):
    folder = finished(*EMA)
    final = read_checkpoint(folder)
    assert (
        not equal(final["model_state_dict"], final["trained_state_dict"])
        and final["average_steps"] == 12
    )
    # The average does not lead the training: the weights behind it are those of the run without.
    assert equal(final["trained_state_dict"], read_checkpoint(finished(*SHORT))["model_state_dict"])
    network, _, checkpoint = loading.load(files_of(folder).final)
    preprocessing = data.Preprocessing(**checkpoint["preprocessing"])
    images = data.load_id(data.ID["digits"], "train", preprocessing, None, tuple("3456789"))
    images = images.take(data.split_validation(len(images), 32)[1])
    with torch.inference_mode():
        right = network(preprocessing.normalise(images.pixels)).argmax(1) == images.labels
    assert checkpoint["val_acc"] == pytest.approx(right.float().mean().item(), abs=1e-6)


REST = (
    "--mode",
    "best",
    "--epochs",
    "2",
    "--nesterov",
    "--warmup",
    "0.5",
    "--label-smoothing",
    "0.2",
    "--augment",
    "crop",
    "trivial",
    "cutout",
)
MIXED = (
    *("--mode", "best", "--epochs", "2", "--no-amp", "--augment", "crop", "rand"),
    *("--rand-ops", "1", "--mixup", "0.5", "--cutmix", "1", "--mix-prob", "0.8"),
)


@pytest.mark.parametrize("words", [EMA, REST, MIXED], ids=["ema", "the rest", "mixed"])
def test_what_the_flags_add_is_resumed_exactly_too(tmp_path, finished, monkeypatch, words):
    signalled(monkeypatch, signal.SIGTERM, {4, 9})
    assert [start_training(tmp_path, *words, "--resume") for _ in range(3)] == [75, 75, None]
    assert_same_end(tmp_path, finished(*words))
    if "--ema" in words:
        assert equal(
            read_checkpoint(tmp_path)["trained_state_dict"],
            read_checkpoint(finished(*words))["trained_state_dict"],
        )


def test_label_smoothing_spreads_the_label_over_all_classes(tmp_path, monkeypatch):
    seen, real = [], training_run.F.cross_entropy

    def cross_entropy(logits, labels, **options):
        loss = real(logits, labels, **options)
        if options.get("label_smoothing"):
            log = logits.detach().double().log_softmax(1)
            target = torch.full_like(log, 0.3 / 3)
            target[torch.arange(len(labels)), labels] += 0.7
            seen.append((loss.item(), -(target * log).sum(1).mean().item()))
        return loss

    monkeypatch.setattr(training_run.F, "cross_entropy", cross_entropy)
    start_training(
        tmp_path, "--mode", "collapse", "--epochs", "1", "--no-amp", "--label-smoothing", "0.3"
    )
    assert len(seen) == 6  # the training steps alone: validation loss is the plain one
    assert [one for one, _ in seen] == pytest.approx([other for _, other in seen], rel=1e-5)


def test_a_mixed_batch_is_learned_by_its_own_targets_and_counted_by_the_heavier_label(
    tmp_path, monkeypatch
):
    seen, real = [], training_run.F.cross_entropy

    def cross_entropy(logits, targets, **options):
        if logits.requires_grad:
            seen.append((logits.detach().double(), targets))
        return real(logits, targets, **options)

    monkeypatch.setattr(training_run.F, "cross_entropy", cross_entropy)
    words = ("--mode", "collapse", "--epochs", "1", "--no-amp", "--label-smoothing", "0.3")
    start_training(tmp_path, *words, "--mixup", "0.4", "--cutmix", "1")
    assert len(seen) == 6 and sum(len(targets) for _, targets in seen) == 326
    loss, right = 0.0, 0
    for logits, targets in seen:
        largest, heavier = targets.max(1)
        assert (targets.sum(1) - 1).abs().max() < 1e-6 and largest.min() >= 0.499
        smooth = 0.7 * targets.double() + 0.3 / 3
        loss -= (smooth * logits.log_softmax(1)).sum().item()
        right += (logits.argmax(1) == heavier).sum().item()
    row = read_checkpoint(tmp_path)["history"][0]
    assert row["train_loss"] == pytest.approx(loss / 326, rel=1e-5)
    assert row["train_acc"] == pytest.approx(right / 326)


def test_augmentations_of_the_command_line_replace_those_of_the_recipe():
    args = train.parse_args(["--dataset", "digits", "--augment", "trivial", "flip"])
    # asked for by name: not taken away again
    assert train.resolve(args, data.ID["digits"]).augment == (
        "trivial",
        "flip",
    )
    assert (
        train.resolve(
            train.parse_args(["--dataset", "cifar100", "--augment"]), data.ID["cifar100"]
        ).augment
        == ()
    )


# ---- signals outside the steps -------------------------------------------------------------------


def interrupt(monkeypatch, method, at):
    """Send SIGTERM within the call of this number of a method of Evaluator."""
    real, count = getattr(training_run.Evaluator, method), [0]

    def interrupted(evaluator, *arguments, **options):
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(evaluator, *arguments, **options)

    monkeypatch.setattr(training_run.Evaluator, method, interrupted)


@pytest.mark.parametrize(
    ("method", "at", "where"),
    [
        ("evaluate", 1, "stopped in epoch 1"),
        ("collapse", 2, "stopped in epoch 2"),
        ("evaluate", 3, "stopped while the trained network was measured"),
        ("evaluate", 4, "stopped while the trained network was measured"),
    ],
    ids=["validation", "collapse", "training images measured", "test images measured"],
)
def test_a_signal_while_something_is_measured_loses_nothing(
    tmp_path, finished, monkeypatch, capsys, method, at, where
):
    words = (*SHORT, "--track-nc", "1")
    with monkeypatch.context() as patch:
        interrupt(patch, method, at)
        assert start_training(tmp_path, *words) == 75
    assert where in capsys.readouterr().out and files_of(tmp_path).last.exists()
    assert start_training(tmp_path, *words, "--resume") is None
    assert_same_end(tmp_path, finished(*words))


def test_a_best_epoch_that_is_the_last_is_measured_once(tmp_path, monkeypatch):
    real, exact = Evaluator.evaluate, []

    def evaluate(self, *arguments, **options):
        exact.append(options.get("exact", False))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    assert start_training(tmp_path, *SHORT) is None
    files = files_of(tmp_path)
    final, best = (records.read_sidecar(path) for path in (files.final, files.best))
    assert best["epoch"] == final["epoch"] == 2
    assert exact == [False, False, True, True]
    assert (best["train_acc"], best["test_acc"]) == (final["train_acc"], final["test_acc"])


def test_a_second_interrupt_from_the_keyboard_is_not_waited_with():
    with signals.caught() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received
        with pytest.raises(KeyboardInterrupt, match="run the same command with --resume"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


# ---- what stops a run ----------------------------------------------------------------------------


def test_two_runs_do_not_write_the_same_files(tmp_path, finished):
    with (
        filelock.FileLock(files_of(tmp_path).lock),
        pytest.raises(ValueError, match=r"another process is writing .*--suffix"),
    ):
        start_training(tmp_path, *SHORT)
    assert [path.name for path in tmp_path.iterdir()] == [files_of(tmp_path).lock.name]
    # a lock that nobody holds, as a killed process leaves it, stops nobody
    assert start_training(tmp_path, *SHORT) is None
    assert_same_end(tmp_path, finished(*SHORT))


def test_a_run_that_another_process_finished_in_the_meantime_is_left_alone(tmp_path, monkeypatch):
    start_training(tmp_path, *SHORT)
    before = files_of(tmp_path).final.read_bytes()
    answers, real = [False], train.refuse_or_skip
    monkeypatch.setattr(
        train, "refuse_or_skip", lambda *given: answers.pop() if answers else real(*given)
    )
    with pytest.raises(ValueError, match="finished by another process just now"):
        start_training(tmp_path, *SHORT, "--resume")
    assert files_of(tmp_path).final.read_bytes() == before


def test_force_with_a_mistake_removes_nothing(tmp_path):
    start_training(tmp_path, *SHORT)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for words in (
        ("--batch-size", "9999"),
        ("--lr", "-1"),
        ("--val-size", "358"),
        ("--warmup", "2"),
        ("--augment", "rotation", "trivial"),
    ):
        with pytest.raises(ValueError, match=words[0]):
            start_training(tmp_path, *SHORT, "--force", *words)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_network_without_dropout_or_a_classifier_is_refused_before_anything_is_written(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(PLAIN + "\n\ndef headless(num_classes):\n    return nn.Flatten()\n")
    with pytest.raises(
        ValueError, match=r"--mode regularised has dropout, and .*net\.py:build takes none"
    ):
        start_training(tmp_path / "out", "--mode", "regularised", "--model", f"{file}:build")
    with pytest.raises(ValueError, match="has no linear layer"):
        start_training(tmp_path / "out", "--mode", "collapse", "--model", f"{file}:headless")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_seed_may_be_a_date(tmp_path):
    start_training(tmp_path, "--mode", "best", "--epochs", "1", "--seed", "20261124235959")
    assert read_checkpoint(tmp_path)["epoch"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state["recipe"].update(nesterov=True),
            "recipe nesterov True then, False now",
        ),
        (lambda state: state.update(images=7), "images 7 then, 326 now"),
        (lambda state: state["arguments"].update(gone=1), "gone 1 then, None now"),
        (lambda state: state.pop("history"), "is no state that this version could resume"),
        (
            lambda state: state.update(rng={"cpu": torch.zeros(3)}),
            "is no state that this version could resume",
        ),
        (
            lambda state: state.update(class_names=["0", "1"]),
            "was started with 2 classes and the data has 3",
        ),
    ],
)
def test_a_state_that_cannot_be_gone_on_from_is_refused(tmp_path, monkeypatch, change, message):
    signalled(monkeypatch, signal.SIGTERM, {3})
    start_training(tmp_path, *SHORT)
    state = read_checkpoint(tmp_path, "last")
    change(state)
    torch.save(state, files_of(tmp_path).last)
    before = files_of(tmp_path).last.read_bytes()
    with pytest.raises(ValueError, match=f"{message}.*--force"):
        start_training(tmp_path, *SHORT, "--resume")
    assert files_of(tmp_path).last.read_bytes() == before


def test_memory_that_runs_out_names_a_batch_size_that_fits(tmp_path, monkeypatch):
    real, steps = parts.make_augmentation, [0]

    def make_augmentation(*arguments):
        augment = real(*arguments)

        def augmented(images, *draws):
            steps[0] += 1
            if steps[0] > 6 and len(images) > 20:  # from the second epoch on
                raise torch.OutOfMemoryError("CUDA out of memory")
            return augment(images, *draws)

        return augmented

    monkeypatch.setattr(parts, "make_augmentation", make_augmentation)
    with pytest.raises(ValueError) as caught:
        start_training(tmp_path, *SHORT)
    # Steps of 54 or 55 images: halves of them are tried, and 13 is the first below 21.
    assert re.search(
        r"out of memory with --batch-size 64 in epoch 2: --batch-size 13 fits a step",
        str(caught.value),
    )
    assert (
        "the state after epoch 1 is kept" in str(caught.value)
        and read_checkpoint(tmp_path, "last")["epoch"] == 1
    )


def test_memory_for_not_even_one_image(tmp_path, monkeypatch):
    def augmented(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(parts, "make_augmentation", lambda *_: augmented)
    with pytest.raises(ValueError, match="not even one image fits"):
        start_training(tmp_path, *SHORT)


@pytest.mark.parametrize(
    ("flag", "missing", "message"),
    [
        (
            "--tensorboard",
            "find_spec",
            "needs the package tensorboard; install it with: pip install tensorboard",
        ),
        ("--compile", "which", r"needs a C\+\+ compiler"),
    ],
)
def test_a_flag_whose_package_is_missing_says_so_at_once(
    tmp_path, monkeypatch, flag, missing, message
):
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    monkeypatch.setattr(train.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=message):
        start_training(tmp_path / "none", *SHORT, flag)
    assert not (tmp_path / "none").exists()


# ---- what is written -----------------------------------------------------------------------------


def test_the_training_history_is_the_run_as_json(finished):
    folder = finished(*REGULARISED)
    history = json.loads(files_of(folder).history.read_text())
    assert (
        timeless(history["history"]) == timeless(read_checkpoint(folder)["history"])
        and len(history["history"]) == 3
    )
    assert (
        history["recipe"]["dropout"] == 0.5
        and history["arguments"]["seed"] == 0
        and history["versions"]["torch"]
    )


def test_tensorboard_is_handed_the_curves_once_an_epoch(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((Path(folder).relative_to(tmp_path).as_posix(), purge_step))

        def add_scalar(self, name, value, epoch):
            written.append((name, value, epoch))

        def flush(self):
            pass

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", type(sys)("torch.utils.tensorboard")
    )
    sys.modules["torch.utils.tensorboard"].SummaryWriter = Writer
    monkeypatch.setattr(train, "find_spec", lambda name: True)
    start_training(tmp_path, *SHORT, "--tensorboard")
    assert written[0] == ("tensorboard/resnet_cifar_run", 1)
    curves = pd.read_csv(files_of(tmp_path).curves)
    for name in set(curves.columns) - {"epoch"}:
        assert [(value, epoch) for key, value, epoch in written[1:] if key == name] == list(
            zip(curves[name], [1, 2], strict=True)
        )


def test_real_tensorboard_files_hold_the_curves(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    start_training(tmp_path, *SHORT, "--tensorboard")
    events = accumulator(str(tmp_path / "tensorboard" / "resnet_cifar_run")).Reload()
    curves = pd.read_csv(files_of(tmp_path).curves)
    assert [event.value for event in events.Scalars("val_acc")] == pytest.approx(
        curves["val_acc"].tolist()
    )
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2]


# ---- several processes ---------------------------------------------------------------------------

# Sends a signal to one of the ranks within a step of the second epoch.
SIGNALLED = """
import os, signal
import cli, train
from training.state import State

real, count = State.set_learning_rate, [0]

def set_learning_rate(state, factor):
    count[0] += 1
    if count[0] == 8 and state.world.rank == 1:
        os.kill(os.getpid(), signal.{signal})
    return real(state, factor)

State.set_learning_rate = set_learning_rate
cli.run(train.main)
"""


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return str(found.getsockname()[1])


def together(tmp_path, *runs):
    """[(folder, script, words ...)] by two ranks each, one run after the other -> [(exit codes, all
    that was printed)].

    One import of torch serves them all.
    """
    starts = []
    for number, (folder, script, *words) in enumerate(runs):
        place = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": free_port(),
        }
        ranks = [place | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
        starts.append(
            (tmp_path / f"ranks{number}", script, [*SMALL, "--output-dir", folder, *words], *ranks)
        )
    codes = fork(starts)
    said = ["".join(path.read_text() for path in sorted(folder.iterdir())) for folder, *_ in starts]
    return list(zip(codes, said, strict=True))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """The same batches, rate and gradients: without batch norm and augmentation, the same weights
    but for rounding."""
    file = tmp_path / "net.py"
    file.write_text(PLAIN)
    # Batches of 65 or 66 images: where they are odd, one process has an image more, which must not
    # count for less.
    words = (
        *SHORT,
        "--model",
        f"{file}:build",
        "--lr",
        "0.01",
        "--batch-size",
        "66",
        "--track-nc",
        "2",
        "--ema",
        "0.5",
    )
    ((codes, output),) = together(tmp_path, (tmp_path / "two", train.__file__, *words))
    assert codes == [0, 0], output
    start_training(tmp_path / "one", *words)
    one, two = (
        torch.load(tmp_path / name / "net_build_final_run.pth", weights_only=True)
        for name in ("one", "two")
    )
    for key in ("model_state_dict", "trained_state_dict"):
        for name in one[key]:
            torch.testing.assert_close(one[key][name], two[key][name], rtol=1e-4, atol=1e-5)
    for split, images in (
        ("test", 179),
        ("val", 32),
        ("train", 326),
    ):  # rounding may turn one image
        assert one[f"{split}_acc"] == pytest.approx(two[f"{split}_acc"], abs=1.5 / images)
    curves = [pd.read_csv(tmp_path / name / "net_build_curves_run.csv") for name in ("one", "two")]
    for column in ("train_loss", "train_acc", "val_loss", "nc1", "nc4_mismatch"):
        np.testing.assert_allclose(curves[0][column], curves[1][column], rtol=1e-3, atol=1e-6)
    # the first alone speaks
    assert (
        "2 x cpu" in output and output.count("326 training") == output.count("final: epoch 2") == 1
    )
    processes = records.read_sidecar(tmp_path / "two" / "net_build_final_run.pth")["processes"]
    assert processes == [{"from_epoch": 0, "step": 0, "processes": 2}]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        path.name for path in (tmp_path / "two").iterdir()
    )


@pytest.mark.slow
def test_two_processes_that_are_stopped_and_resumed_end_bit_for_bit_like_two_that_were_not(
    tmp_path,
):
    (tmp_path / "stopped.py").write_text(SIGNALLED.format(signal="SIGTERM"))
    # dropout: each process has random states of its own
    words = (
        "--mode",
        "regularised",
        "--epochs",
        "2",
        "--no-amp",
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    first, second = together(
        tmp_path, (whole, train.__file__, *words), (stopped, tmp_path / "stopped.py", *words)
    )
    assert first[0] == [0, 0], first[1]
    assert second[0] == [75, 75] and "stopped in epoch 2; go on with --resume" in second[1]
    assert not files_of(stopped).final.exists()
    state = read_checkpoint(stopped, "last")
    assert state["epoch"] == 1 and len(state["rng"]) == 2 and not equal(*state["rng"])
    ((codes, output),) = together(tmp_path, (stopped, train.__file__, *words, "--resume"))
    assert codes == [0, 0] and "resumed after epoch 1, step 2" in output
    assert_same_end(stopped, whole)


@pytest.mark.slow
def test_a_mistake_of_several_processes_is_said_once(tmp_path):
    run = (tmp_path / "none", train.__file__, "--batch-size", "3")
    ((codes, output),) = together(tmp_path, run)
    assert sorted(codes) == [0, 2], "the one that says so fails"
    assert output.count("error: --batch-size 3 is shared by 2 processes; expected 2 each") == 1


@pytest.mark.slow
def test_where_one_process_is_killed_the_other_says_so_and_what_was_saved_is_kept(tmp_path):
    """As srun starts them: torchrun would end the other one itself."""
    step = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
    }
    ranks = [{**step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
    script = tmp_path / "killed.py"
    script.write_text(SIGNALLED.format(signal="SIGKILL"))
    folder, said = tmp_path / "run", tmp_path / "ranks"
    words = [*SMALL, *SHORT, "--output-dir", folder]
    assert fork([(said, script, words, *ranks)]) == [[2, -signal.SIGKILL]]
    errors = (said / "0.err").read_text()
    assert "Traceback" not in errors
    assert (
        "error: rank 1 of 2 was killed, most likely because memory ran out" in errors
        and "; run the same with --resume: what was saved is kept" in errors
    )
    assert read_checkpoint(folder, "last")["epoch"] == 1


def test_a_run_that_goes_on_with_other_threads_says_so(tmp_path):
    folder = tmp_path / "run"
    words = (*SHORT, "--save-every", "1", "--device", "cpu")
    start_training(folder, *words)
    state = torch.load(folder / "resnet_cifar_epoch1_run.pth", weights_only=True)
    assert state["threads"] == torch.get_num_threads() == 1
    torch.save({**state, "threads": 2}, files_of(folder).last)
    files_of(folder).best.write_bytes(files_of(folder).last.read_bytes())
    files_of(folder).final.unlink()
    start_training(folder, *words, "--resume")
    said = "resumed after epoch 1; 1 threads where it had 2: not bit for bit"
    assert said in files_of(folder).log.read_text()


@pytest.mark.slow
def test_a_run_of_two_processes_may_go_on_alone(tmp_path):
    words = (*SHORT, "--save-every", "1")
    folder = tmp_path / "run"
    ((codes, output),) = together(tmp_path, (folder, train.__file__, *words))
    assert codes == [0, 0], output
    for kind in ("final", "best"):
        files_of(folder).checkpoint(kind).unlink()
    os.replace(folder / "resnet_cifar_epoch1_run.pth", files_of(folder).last)
    files_of(folder).best.write_bytes(files_of(folder).last.read_bytes())
    assert start_training(folder, *words, "--resume") is None
    assert "1 processes where it had 2: not bit for bit" in files_of(folder).log.read_text()
    final = read_checkpoint(folder)
    two, one = (
        {"from_epoch": 0, "step": 0, "processes": 2},
        {"from_epoch": 1, "step": 0, "processes": 1},
    )
    assert final["epoch"] == 2 and final["processes"] == [two, one]
    assert records.read_sidecar(files_of(folder).final)["processes"] == [two, one]
    best = records.read_sidecar(files_of(folder).best)
    assert best["processes"] == [two, one][: best["epoch"]]


@pytest.mark.slow
def test_a_compiled_network_trains_alike_and_its_checkpoint_is_like_any_other(
    tmp_path, monkeypatch
):
    # torch's cache takes no notice of ATEN_CPU_CAPABILITY: code made for another one computes
    # something else, or nothing.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "net.py"
    file.write_text(PLAIN)
    # Otherwise a pool of processes is started, each of which imports torch.
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    # Two batches of 163 images: each shape is compiled for itself, which takes most of the time.
    words = (*SHORT, "--model", f"{file}:build", "--lr", "0.01", "--batch-size", "163")
    start_training(tmp_path / "eager", *words)
    start_training(tmp_path / "compiled", *words, "--compile")
    one, other = (
        torch.load(tmp_path / name / "net_build_final_run.pth", weights_only=True)[
            "model_state_dict"
        ]
        for name in ("eager", "compiled")
    )
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_recipes_reach_the_run(finished):
    assert (
        read_checkpoint(finished(*EMA))["recipe"]["ema"] == 0.9
        and recipes.RECIPES["collapse"].ema == 0.0
    )


# ---- test-time augmentation and Winograd's algorithm ---------------------------------------------


def test_augmented_test_accuracy_is_a_number_beside_the_others(tmp_path):
    start_training(tmp_path / "plain", *SHORT)
    start_training(tmp_path / "views", *SHORT, "--tta", "flip+shift")
    for kind in ("best", "final"):
        plain = read_checkpoint(tmp_path / "plain", kind)
        found = read_checkpoint(tmp_path / "views", kind)
        summary = records.read_sidecar(files_of(tmp_path / "views").checkpoint(kind))
        assert equal(plain["model_state_dict"], found["model_state_dict"])
        assert plain["test_acc"] == found["test_acc"] == summary["test_acc"]
        assert 0 < summary["test_acc_tta"] == found["test_acc_tta"] <= 1
        assert "test_acc_tta" not in plain
    log = files_of(tmp_path / "views").log.read_text()
    assert f"with test-time augmentation {summary['test_acc_tta']:.2%}" in log


@pytest.mark.slow
def test_two_processes_by_steps_and_in_parts_learn_what_one_does(tmp_path):
    """Gradients of parts are added up before the processes share them: equal weights but for
    rounding."""
    file = tmp_path / "net.py"
    file.write_text(PLAIN)
    words = ("--mode", "finetune", "--from-scratch", "--steps", "8", "--warmup-steps", "2")
    words = (*words, "--no-amp", "--model", f"{file}:build", "--batch-size", "66", "--augment")
    two = (tmp_path / "two", train.__file__, *words, "--grad-accumulation", "3")
    ((codes, output),) = together(tmp_path, two)
    assert codes == [0, 0], output
    start_training(tmp_path / "one", *words)
    one, other = (
        torch.load(tmp_path / name / "net_build_final_run.pth", weights_only=True)
        for name in ("one", "two")
    )
    for name, value in one["model_state_dict"].items():
        torch.testing.assert_close(value, other["model_state_dict"][name], rtol=1e-4, atol=1e-5)
    assert one["history"][0]["train_loss"] == pytest.approx(other["history"][0]["train_loss"])


def test_a_run_by_winograds_algorithm_ends_near_the_other(tmp_path):
    words = ("--mode", "sgd", "--epochs", "1", "--no-amp", "--lr", "0.01")
    start_training(tmp_path / "plain", *words)
    start_training(tmp_path / "winograd", *words, "--winograd")
    plain = read_checkpoint(tmp_path / "plain")
    found = read_checkpoint(tmp_path / "winograd")
    assert found["arguments"]["winograd"] and not plain["arguments"]["winograd"]
    assert not equal(plain["model_state_dict"], found["model_state_dict"])
    for name, weights in plain["model_state_dict"].items():
        assert torch.allclose(weights, found["model_state_dict"][name], rtol=1e-2, atol=1e-3), name


def test_a_run_goes_on_that_an_earlier_version_without_a_flag_began():
    recipe = {"epochs": 3}
    now = state.what_counts({"arguments": {"winograd": False, "lr": 0.1}, "recipe": recipe})
    assert now == state.what_counts({"arguments": {"lr": 0.1}, "recipe": recipe})
    on = state.what_counts({"arguments": {"winograd": True, "lr": 0.1}, "recipe": recipe})
    assert on["winograd"] and on != now


@pytest.mark.parametrize(
    ("words", "native", "message"),
    [
        (["--compile"], False, "do not go together"),
        ([], True, "add --no-amp"),
        (["--model", "plain.py:build"], False, "does nothing for plain.py:build"),
    ],
)
def test_winograd_is_refused_where_it_would_not_pay(tmp_path, monkeypatch, words, native, message):
    monkeypatch.chdir(tmp_path)
    Path("plain.py").write_text(PLAIN)
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: native)
    with pytest.raises(ValueError, match=message):
        start_training(tmp_path, "--winograd", *words)
    assert not list(tmp_path.glob("*.pth"))


def test_what_is_freed_is_kept_where_the_library_is_glibc(monkeypatch):
    monkeypatch.setattr(machine_memory.platform, "libc_ver", lambda: ("", ""))
    assert not machine_memory.keep_freed()
    monkeypatch.undo()
    assert machine_memory.keep_freed() is (machine_memory.platform.libc_ver()[0] == "glibc")
