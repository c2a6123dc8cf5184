"""train.py: schedules, recipes, determinism, exact resume after any interruption, what is kept, and
what is refused."""

import dataclasses
import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    COLUMNS,
    REGULARISED,
    SMALL,
    assert_same_end,
    class_folders,
    equal,
    files_of,
    read_checkpoint,
    signalled,
    start_training,
    timeless,
)

import cli
import data
import figures
import train
import utils
from artifacts import records
from figures.style import read_caption
from networks import loading, registry
from training import parts, recipes

pytestmark = [
    pytest.mark.slow,  # most tests train a small network
    pytest.mark.usefixtures("one_thread"),
]


# ---- learning-rate schedules ---------------------------------------------------------------------


def test_every_step_takes_the_learning_rate_of_its_place(tmp_path, monkeypatch):
    taken, real = [], torch.optim.SGD.step

    def step(optimizer, *arguments):
        taken.append(optimizer.param_groups[0]["lr"])
        return real(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    # 3 steps an epoch
    start_training(
        tmp_path, "--mode", "best", "--epochs", "2", "--lr", "0.2", "--batch-size", "110"
    )
    assert taken == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 6)) for step in range(6)])
    assert pd.read_csv(files_of(tmp_path).curves)["lr"].tolist() == pytest.approx(
        [taken[2], taken[5]]
    )


# ---- recipes -------------------------------------------------------------------------------------


# A leave-out ensemble's members have other files: tests/training/test_leave_out_runs.py.
SINGLE = [mode for mode, recipe in recipes.RECIPES.items() if not recipe.folds]


@pytest.mark.parametrize("mode", SINGLE)
def test_every_recipe_trains(finished, mode):
    short = ("--epochs", "1")
    if recipes.RECIPES[mode].steps:
        short = ("--from-scratch", "--steps", "6", "--warmup-steps", "1")
    folder = finished("--mode", mode, *short)
    checkpoint = read_checkpoint(folder)
    torch.manual_seed(0)
    fresh = registry.build("resnet_cifar", 3)
    assert (
        checkpoint["mode"] == mode
        and checkpoint["epoch"] == 1
        and math.isfinite(checkpoint["history"][0]["train_loss"])
    )
    weights = checkpoint["model_state_dict"]
    assert weights.keys() == fresh.state_dict().keys() and all(
        value.isfinite().all() for value in weights.values()
    )
    assert not torch.equal(weights["fc.weight"], fresh.fc.weight)


def test_recipes_are_those_of_the_issue():
    table = recipes.RECIPES
    best = table["best"]
    assert (best.lr, best.momentum, best.weight_decay, best.epochs) == (0.1, 0.9, 5e-4, 200)
    assert best.augment == ("crop", "flip") and best.milestones == () and best.nesterov
    assert (table["adamw"].optimizer, table["adamw"].lr, table["adamw"].milestones) == (
        "adamw",
        1e-3,
        (),
    )
    assert table["collapse"].augment == () and table["collapse"].keep == "final"
    regularised = table["regularised"]
    assert regularised.augment == (
        "crop",
        "flip",
        "rotation_nearest",
        "colour_jitter",
        "hue",
        "erasing",
    )
    assert (regularised.dropout, regularised.weight_decay, regularised.gamma) == (0.5, 5e-4, 0.2)
    assert table["sgd"].weight_decay == 1e-4 and table["sgd"].gamma == 0.1


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ([], {}),
        (
            [
                "--lr",
                "0.5",
                "--momentum",
                "0.5",
                "--weight-decay",
                "0.25",
                "--batch-size",
                "7",
                "--epochs",
                "9",
                "--patience",
                "3",
            ],
            {
                "lr": 0.5,
                "momentum": 0.5,
                "weight_decay": 0.25,
                "batch_size": 7,
                "epochs": 9,
                "patience": 3,
            },
        ),
        (["--weight_decay", "0", "--lr", "0"], {"weight_decay": 0.0, "lr": 0.0}),
        (["--patience", "5", "--no-stop"], {"patience": 0}),
        (["--nesterov"], {"nesterov": True}),
        (["--no-nesterov"], {}),
    ],
)
def test_the_command_line_overrides_the_recipe(words, changes):
    args = train.parse_args(["--dataset", "cifar100", "--mode", "sgd", *words])
    assert train.resolve(args, data.ID["cifar100"]) == dataclasses.replace(
        recipes.RECIPES["sgd"], **changes
    )


@pytest.mark.parametrize(
    ("words", "dropout"),
    [
        ("--model wide_resnet28_10", 0.3),
        ("--model wide_resnet28_10 --dropout 0", 0.0),
        ("--model wide_resnet28_10 --mode regularised", 0.5),
        ("--model wide_resnet40_2", 0.0),
    ],
)
def test_a_network_trains_with_the_dropout_of_its_authors_unless_told_otherwise(words, dropout):
    args = train.parse_args(["--dataset", "cifar100", *words.split()])
    assert train.resolve(args, data.ID["cifar100"]).dropout == dropout


def test_the_overrides_reach_the_optimiser(finished):
    group = read_checkpoint(
        finished(
            "--mode",
            "sgd",
            "--epochs",
            "1",
            "--lr",
            "0.01",
            "--momentum",
            "0.5",
            "--weight-decay",
            "0.125",
        )
    )["optimizer_state_dict"]["param_groups"][0]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.125)
    assert group["lr"] == pytest.approx(1e-4)  # after both steps of the schedule


def test_mirrored_digits_are_not_trained_on():
    for mode, flip in (("best", "flip"), ("fast", "alternating_flip")):
        for dataset, flips in (("digits", False), ("cifar10", True), ("cifar100", True)):
            args = train.parse_args(["--dataset", dataset, "--mode", mode])
            recipe = train.resolve(args, data.ID[dataset])
            assert recipe.augment == (("crop", flip) if flips else ("crop",))


@pytest.mark.parametrize("words", [["--best-optim"], ["--best_optim"], ["--mode", "adamw"]])
def test_old_spellings_of_the_mode(words):
    args = train.parse_args([*words, "--output_dir", "there"])
    assert args.mode == "adamw" and args.output_dir == "there"


def test_the_suffix_names_data_set_and_seed_where_none_is_given():
    assert train.parse_args(["--dataset", "digits", "--seed", "3"]).suffix == "digits_s3"
    assert train.parse_args(["--dataset", "mine=some/folder"]).suffix == "mine_s0"


# ---- determinism ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("--mode", "regularised", "--epochs", "2", "--no-amp"), ("--mode", "best", "--epochs", "2")],
    ids=["float32", "autocast"],
)
def test_the_same_seed_gives_the_same_bits(tmp_path, finished, words):
    start_training(tmp_path, *words)
    assert_same_end(tmp_path, finished(*words))


def test_another_seed_gives_other_weights_and_the_same_validation_images(tmp_path, finished):
    words = ("--mode", "collapse", "--epochs", "1", "--no-amp")
    start_training(tmp_path, *words, "--seed", "1")
    one, other = read_checkpoint(tmp_path), read_checkpoint(finished(*words))
    assert not torch.equal(
        one["model_state_dict"]["conv1.weight"], other["model_state_dict"]["conv1.weight"]
    )
    assert one["val_size"] == other["val_size"] == 32 and one["arguments"]["seed"] == 1


def test_test_labels_select_nothing(tmp_path, finished, monkeypatch):
    words = ("--mode", "regularised", "--epochs", "2", "--no-amp")
    untouched, real = finished(*words), data.ID["digits"].load

    def shifted(split, *arguments):
        images = real(split, *arguments)
        return (
            images
            if split == "train"
            else dataclasses.replace(images, labels=(images.labels + 1) % 3)
        )

    monkeypatch.setitem(data.ID, "digits", dataclasses.replace(data.ID["digits"], load=shifted))
    start_training(tmp_path, *words)
    for kind in ("final", "best"):
        one, other = read_checkpoint(tmp_path, kind), read_checkpoint(untouched, kind)
        assert (
            equal(one["model_state_dict"], other["model_state_dict"])
            and one["best"] == other["best"]
        )
        network, _, checkpoint = loading.load(files_of(tmp_path).checkpoint(kind))
        preprocessing = data.Preprocessing(**checkpoint["preprocessing"])
        # with shifted labels
        images = data.load_id(data.ID["digits"], "test", preprocessing, None, tuple("3456789"))
        with torch.inference_mode():
            right = network(preprocessing.normalise(images.pixels)).argmax(1) == images.labels
        assert one["test_acc"] == pytest.approx(right.float().mean().item(), abs=1e-6)


# ---- exact resume --------------------------------------------------------------------------------


class Killed(BaseException):
    """What a killed process does not survive."""


@pytest.mark.parametrize(
    ("number", "at"),
    [("SIGTERM", {3}), ("SIGUSR1", {8}), ("SIGINT", {12}), ("SIGTERM", {1, 2, 9, 16, 17})],
    ids=["first epoch", "second epoch", "last step of an epoch", "five times"],
)
def test_a_run_stopped_by_a_signal_and_resumed_ends_bit_for_bit_like_one_that_was_not(
    tmp_path, finished, monkeypatch, number, at
):
    before = signal.getsignal(getattr(signal, number))
    signalled(monkeypatch, getattr(signal, number), at)
    codes = [start_training(tmp_path, *REGULARISED, "--resume")]
    while codes[-1] is not None:
        assert files_of(tmp_path).last.exists() and not files_of(tmp_path).final.exists()
        codes.append(start_training(tmp_path, *REGULARISED, "--resume"))
    assert codes == [75] * len(at) + [None]
    assert signal.getsignal(getattr(signal, number)) == before
    assert_same_end(tmp_path, finished(*REGULARISED))


@pytest.mark.parametrize(
    "words",
    [("--mode", "adamw", "--epochs", "2"), ("--mode", "sgd", "--epochs", "2", "--val-size", "0")],
    ids=["adamw, autocast", "without validation"],
)
def test_resume_is_exact_for_other_recipes_too(tmp_path, finished, monkeypatch, words):
    signalled(monkeypatch, signal.SIGTERM, {4, 9})
    assert [start_training(tmp_path, *words, "--resume") for _ in range(3)] == [75, 75, None]
    assert_same_end(tmp_path, finished(*words))


def test_a_run_of_a_version_without_newer_fields_and_flags_goes_on(tmp_path, finished, monkeypatch):
    signalled(monkeypatch, signal.SIGTERM, {8})
    assert start_training(tmp_path, *REGULARISED) == 75
    content = read_checkpoint(tmp_path, "last")
    newer = ("betas", "clip", "decay", "decay_norm", "lr_min", "norm_lr")
    for name in (*newer, "rand_ops", "rand_magnitude", "mixup", "cutmix", "mix_prob"):
        del content["recipe"][name]
        del content["arguments"][name]
    del content["processes"]
    torch.save(content, files_of(tmp_path).last)
    assert start_training(tmp_path, *REGULARISED, "--resume") is None
    assert_same_end(tmp_path, finished(*REGULARISED))
    unknown = {"from_epoch": None, "step": None, "processes": 1}
    assert records.read_sidecar(files_of(tmp_path).final)["processes"] == [unknown]


def test_a_run_of_a_recipe_as_it_was_is_refused_and_goes_on_with_the_flags_that_repeat_it(
    tmp_path, finished, monkeypatch
):
    signalled(monkeypatch, signal.SIGTERM, {8})
    before = ("--augment", "crop", "rotation", "colour_jitter", "erasing")  # of digits: no flip
    assert start_training(tmp_path, *REGULARISED, *before) == 75
    content = read_checkpoint(tmp_path, "last")
    content["arguments"]["augment"] = None  # it was the mode's
    torch.save(content, files_of(tmp_path).last)
    with pytest.raises(ValueError, match=r"recipe augment \['crop', 'rotation', .* now"):
        start_training(tmp_path, *REGULARISED, "--resume")
    assert start_training(tmp_path, *REGULARISED, *before, "--resume") is None
    assert_same_end(tmp_path, finished(*REGULARISED, *before))


def test_gradients_are_clipped_to_the_norm_that_is_given(tmp_path, monkeypatch):
    norms = []
    real = torch.optim.SGD.step

    def step(optimizer, *given):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return real(optimizer, *given)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    start_training(tmp_path, "--mode", "collapse", "--epochs", "1", "--no-amp", "--clip", "0.05")
    assert len(norms) == 6 and max(norms) == pytest.approx(0.05, rel=1e-3)


def test_patience_without_validation_images_is_refused(tmp_path):
    words = ("--mode", "collapse", "--epochs", "1", "--val-size", "0", "--patience", "3")
    with pytest.raises(ValueError, match=r"--patience 3 waits .* holds back no validation images"):
        start_training(tmp_path, *words)


def test_a_stop_says_where_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    signalled(monkeypatch, signal.SIGTERM, {8})
    assert start_training(tmp_path, *REGULARISED) == train.RESUME_ME == 75
    assert "stopped in epoch 2; go on with --resume" in capsys.readouterr().out
    start_training(tmp_path, *REGULARISED, "--resume")
    assert "resumed after epoch 1, step 2" in capsys.readouterr().out


def count_replacements(monkeypatch, kill_at=None):
    """Count the files that come into being by os.replace; the one numbered `kill_at` (from 0) does
    not: the process dies."""
    real, names = os.replace, []

    def replace(source, target):
        names.append(Path(target).name)
        if len(names) - 1 == kill_at:
            raise Killed
        real(source, target)

    monkeypatch.setattr(utils.os, "replace", replace)
    return names


WRITTEN = [
    "curves_run.csv",
    "curves_run.json",
    "training_history_run.json",
    "best_run.pth",
    "last_run.pth",
    "final_run.pth",
    "final_run.json",
    "best_run.pth",
    "best_run.json",
    "curves_run.png",
]


def test_a_run_of_one_epoch_writes_these_files_in_this_order(tmp_path, monkeypatch):
    names = count_replacements(monkeypatch)
    start_training(tmp_path, "--mode", "collapse", "--epochs", "1", "--no-amp")
    assert names == [f"resnet_cifar_{name}" for name in WRITTEN]


@pytest.mark.parametrize(
    "kill_at", range(len(WRITTEN)), ids=[f"{index} {name}" for index, name in enumerate(WRITTEN)]
)
def test_a_run_killed_before_any_of_its_files_and_resumed_ends_like_one_that_was_not(
    tmp_path, finished, monkeypatch, kill_at
):
    words = ("--mode", "collapse", "--epochs", "1", "--no-amp")
    untouched = finished(*words)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        count_replacements(patch, kill_at)
        start_training(tmp_path, *words)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert start_training(tmp_path, *words, "--resume") is None
    assert_same_end(tmp_path, untouched)


@pytest.mark.slow
def test_a_process_that_gets_sigterm_exits_with_75_and_its_run_can_be_resumed(tmp_path, finished):
    words = ("--mode", "collapse", "--epochs", "8", "--no-amp")
    # as here: sums in the same order
    child = subprocess.Popen(
        [sys.executable, str(Path(train.__file__)), *SMALL, *words, "--output-dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while (
            not files_of(tmp_path).last.exists()
            and child.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        child.send_signal(signal.SIGTERM)
        errors = child.communicate(timeout=60)[1]
    finally:
        child.kill()
    assert (child.returncode, errors) == (75, "")
    assert 1 <= read_checkpoint(tmp_path, "last")["epoch"] < 8
    assert start_training(tmp_path, *words, "--resume") is None
    assert_same_end(tmp_path, finished(*words))


def test_resume_where_there_is_nothing_starts(tmp_path, finished):
    words = ("--mode", "collapse", "--epochs", "1", "--no-amp")
    start_training(tmp_path, *words, "--resume")
    assert_same_end(tmp_path, finished(*words))


def test_a_resume_with_contradicting_arguments_names_them(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signalled(patch, signal.SIGTERM, {8})
        start_training(tmp_path, *REGULARISED)
    before = files_of(tmp_path).last.read_bytes()
    with pytest.raises(
        ValueError, match=r"started with other arguments, data, or recipe: .*lr 0\.1 then, 0\.5 now"
    ):
        start_training(tmp_path, *REGULARISED, "--resume", "--lr", "0.5")
    with pytest.raises(ValueError, match="mode regularised then, collapse now"):
        start_training(tmp_path, *REGULARISED, "--mode", "collapse", "--resume")
    with pytest.raises(
        ValueError, match=r"is an interrupted run; go on with --resume, or start over with --force"
    ):
        start_training(tmp_path, *REGULARISED)
    assert files_of(tmp_path).last.read_bytes() == before


def test_a_finished_run_is_not_replaced_unasked(tmp_path, capsys):
    words = ("--mode", "collapse", "--epochs", "1", "--no-amp")
    start_training(tmp_path, *words)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=r"there already, finished with these arguments; .*--suffix.*--force"
    ):
        start_training(tmp_path, *words)
    with pytest.raises(ValueError, match="there already, from another run"):
        start_training(tmp_path, *words, "--lr", "0.3")
    with pytest.raises(ValueError, match="there already, from another run"):
        start_training(tmp_path, *words, "--lr", "0.3", "--resume")
    capsys.readouterr()
    assert start_training(tmp_path, *words, "--resume") is None
    assert "is finished; nothing to resume" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
    start_training(tmp_path, *words, "--lr", "0.3", "--force")
    assert read_checkpoint(tmp_path)["recipe"]["lr"] == 0.3


# ---- what stops a run ----------------------------------------------------------------------------


def exit_code(monkeypatch, *words):
    """What the shell would see."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # cli.run replaces it
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: train.main(list(words)))
    return caught.value.code


@pytest.mark.parametrize("lr", ["inf", "1e20"])
def test_a_loss_that_is_not_finite_stops_with_epoch_and_step_and_exit_code_2(
    tmp_path, monkeypatch, capsys, lr
):
    code = exit_code(
        monkeypatch,
        *SMALL,
        "--output-dir",
        str(tmp_path),
        "--mode",
        "collapse",
        "--epochs",
        "5",
        "--lr",
        lr,
    )
    errors = capsys.readouterr().err
    assert code == 2 and errors.count("\n") == 1 and "Traceback" not in errors
    assert (
        errors.startswith("error: the loss is ")
        and " in epoch " in errors
        and ", step " in errors
        and "--lr" in errors
    )
    assert not files_of(tmp_path).final.exists()


def explode(monkeypatch, after):
    """From this share of the run on, the learning rate is infinite."""
    real = parts.make_schedule

    def make_schedule(recipe):
        schedule = real(recipe)
        return lambda progress: schedule(progress) if progress < after else math.inf

    monkeypatch.setattr(parts, "make_schedule", make_schedule)


def test_a_run_that_diverges_keeps_its_last_good_state_and_names_the_step(
    tmp_path, finished, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(ValueError) as caught:
        explode(patch, (1 + 2 / 6) / 3)
        start_training(tmp_path, *REGULARISED)
    # The infinite step is the third of epoch 2; the loss after it is the first that is not finite.
    assert "in epoch 2, step 4" in str(caught.value)
    assert f"the state after epoch 1 is kept in {files_of(tmp_path).last}" in str(caught.value)
    last = read_checkpoint(tmp_path, "last")
    assert last["epoch"] == 1 and all(
        value.isfinite().all() for value in last["model_state_dict"].values()
    )
    start_training(tmp_path, *REGULARISED, "--resume")
    assert_same_end(tmp_path, finished(*REGULARISED))


def test_a_signal_after_a_step_that_diverged_does_not_save_what_is_not_finite(
    tmp_path, monkeypatch
):
    explode(monkeypatch, (1 + 2 / 6) / 3)
    signalled(monkeypatch, signal.SIGTERM, {6 + 5})
    with pytest.raises(ValueError, match="in epoch 2, step 4"):
        start_training(tmp_path, *REGULARISED)
    assert all(
        value.isfinite().all()
        for value in read_checkpoint(tmp_path, "last")["model_state_dict"].values()
    )


@pytest.mark.parametrize("val_size", ["32", "0"])
def test_a_run_whose_very_last_step_diverges_is_no_finished_run(tmp_path, monkeypatch, val_size):
    # the loss of that step, the sixth, is still finite: it stands before the update
    explode(monkeypatch, 5 / 6)
    with pytest.raises(ValueError, match="--lr"):
        start_training(tmp_path, "--mode", "collapse", "--epochs", "1", "--val-size", val_size)
    assert not files_of(tmp_path).final.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "327"], "--batch-size 327 is larger than the training set of 326 images"),
        (
            ["--val-size", "358"],
            "--val-size 358 leaves no image to train on: the training set has 358",
        ),
        (["--val-size", "-1"], "--val-size -1"),
        (["--held-out", "x"], "held-out class 'x' is not among the classes"),
        (["--held-out", *"012345678"], "leaves 1 classes to train on"),
        (
            ["--dataset", "digit"],
            "unknown data set 'digit'; expected one of digits, cifar10, cifar100",
        ),
        (["--model", "resnet"], "unknown model 'resnet'; expected one of resnet_cifar"),
        (["--device", "cuda:99"], "--device cuda:99 is not available here"),
        (["--device", "gpu"], "--device gpu is not available here"),
        (["--lr", "-1"], "[Ll]earning rate"),
        (["--dataset", "mine=absent"], "absent/train is not a folder"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_code_2_before_anything_is_written(
    tmp_path, monkeypatch, capsys, words, message
):
    assert exit_code(monkeypatch, *SMALL, "--output-dir", str(tmp_path), *words) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert re.search(message, errors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--mode", "worst"],
        ["--epochs", "0"],
        ["--batch-size", "-3"],
        ["--lr", "fast"],
        ["--epoch", "3"],
    ],
)
def test_arguments_that_cannot_be_read_are_usage_errors(words, capsys):
    with pytest.raises(SystemExit) as caught:
        train.parse_args(words)
    assert caught.value.code == 2 and words[0] in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_into_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write into .*file.*--output-dir"):
        start_training(tmp_path / "file")


def test_patience_stops_after_so_many_epochs_without_a_better_one(tmp_path):
    # Two validation images: three accuracies are possible, so that there are ties, and the first of
    # equals is the best.
    start_training(
        tmp_path,
        "--mode",
        "collapse",
        "--epochs",
        "40",
        "--lr",
        "0",
        "--patience",
        "3",
        "--no-amp",
        "--val-size",
        "2",
    )
    history = read_checkpoint(tmp_path)["history"]
    accuracies = [row["val_acc"] for row in history]
    assert len(history) == accuracies.index(max(accuracies)) + 1 + 3 < 40
    assert (
        read_checkpoint(tmp_path)["epoch"] == len(history)
        and read_checkpoint(tmp_path, "best")["epoch"] == len(history) - 3
    )


# ---- what is kept --------------------------------------------------------------------------------


def test_the_best_epoch_is_the_first_with_the_highest_validation_accuracy(finished):
    folder = finished(*REGULARISED)
    history = read_checkpoint(folder)["history"]
    accuracies = [row["val_acc"] for row in history]
    best = read_checkpoint(folder, "best")
    assert best["epoch"] == accuracies.index(max(accuracies)) + 1 and best["val_acc"] == max(
        accuracies
    )
    assert timeless(best["history"]) == timeless(history[: best["epoch"]])


def test_without_validation_images_the_last_epoch_is_kept(finished):
    folder = finished("--mode", "sgd", "--epochs", "2", "--val-size", "0")
    final, best = read_checkpoint(folder), read_checkpoint(folder, "best")
    assert final["epoch"] == best["epoch"] == 2 and equal(
        final["model_state_dict"], best["model_state_dict"]
    )
    assert final["val_acc"] is None and final["val_size"] == 0
    curves = pd.read_csv(files_of(folder).curves)
    assert (
        curves["val_acc"].isna().all()
        and curves["val_loss"].isna().all()
        and curves["train_acc"].notna().all()
    )


def test_a_checkpoint_holds_all_that_rebuilds_the_run(finished):
    checkpoint = read_checkpoint(finished(*REGULARISED))  # read with weights_only=True
    for key in (
        "epoch",
        "model_state_dict",
        "optimizer_state_dict",
        "train_acc",
        "val_acc",
        "test_acc",
        "model",
        "model_args",
        "class_names",
        "preprocessing",
        "arguments",
        "scheduler",
        "rng",
        "history",
        "versions",
        "dataset",
        "mode",
        "held_out",
        "val_size",
        "command",
    ):
        assert key in checkpoint, key
    assert checkpoint["model"] == "resnet_cifar" and checkpoint["model_args"] == {"dropout": 0.5}
    assert checkpoint["class_names"] == ["0", "1", "2"] and checkpoint["held_out"] == list(
        "3456789"
    )
    assert checkpoint["preprocessing"] == {
        "size": 8,
        "mean": data.ID["digits"].mean,
        "std": data.ID["digits"].std,
        "interpolation": "bilinear",
        "crop_share": 1.0,
    }
    assert (
        len(checkpoint["history"]) == checkpoint["epoch"] == 3
        and list(checkpoint["history"][0]) == COLUMNS
    )
    assert checkpoint["arguments"]["batch_size"] == 64 and checkpoint["arguments"]["no_amp"] is True
    assert torch.__version__.startswith(checkpoint["versions"]["torch"])


@pytest.mark.parametrize("kind", ["final", "best"])
def test_the_accuracies_are_those_of_the_network_on_clean_images(finished, kind):
    folder = finished(*REGULARISED)
    network, _, checkpoint = loading.load(files_of(folder).checkpoint(kind))
    preprocessing = data.Preprocessing(**checkpoint["preprocessing"])
    images = data.load_id(data.ID["digits"], "train", preprocessing, None, tuple("3456789"))
    rows, val_rows = data.split_validation(len(images), 32)
    test = data.load_id(data.ID["digits"], "test", preprocessing, None, tuple("3456789"))
    for name, part in (
        ("train_acc", images.take(rows)),
        ("val_acc", images.take(val_rows)),
        ("test_acc", test),
    ):
        with torch.inference_mode():
            right = network(preprocessing.normalise(part.pixels)).argmax(1) == part.labels
        assert checkpoint[name] == pytest.approx(right.float().mean().item(), abs=1e-6), name


def test_the_curves_are_the_history(finished):
    folder = finished(*REGULARISED)
    curves, history = pd.read_csv(files_of(folder).curves), read_checkpoint(folder)["history"]
    assert list(curves.columns) == COLUMNS and curves["epoch"].tolist() == [1, 2, 3]
    pd.testing.assert_frame_equal(curves, pd.DataFrame(history))
    assert curves[["train_acc", "val_acc"]].stack().between(0, 1).all()
    assert (curves["images_per_second"] * curves["seconds"]).tolist() == pytest.approx([326] * 3)


def test_the_curves_are_drawn(tmp_path):
    words = ("--mode", "collapse", "--epochs", "1", "--no-amp")
    assert train.main([*SMALL, "--output-dir", str(tmp_path), *words]) is None
    png = files_of(tmp_path).figure.read_bytes()
    assert png.startswith(b"\x89PNG") and read_caption(png) in figures.training_curves.captions


def test_the_sidecar_of_a_checkpoint_sums_it_up(finished):
    folder = finished(*REGULARISED)
    for kind in ("final", "best"):
        path = files_of(folder).checkpoint(kind)
        summary, checkpoint = records.read_sidecar(path), read_checkpoint(folder, kind)
        for key in (
            "model",
            "model_args",
            "dataset",
            "mode",
            "epoch",
            "train_acc",
            "val_acc",
            "test_acc",
            "arguments",
            "class_names",
        ):
            assert summary[key] == utils.plain(checkpoint[key]), key
        assert summary["epochs"] == 3 and summary["checkpoint_sha256"] == records.sha256(path)
        whole = [{"from_epoch": 0, "step": 0, "processes": 1}]
        assert summary["processes"] == checkpoint["processes"] == whole
        assert set(summary) >= {
            "command",
            "versions",
            "git_commit",
            "git_dirty",
            "seconds",
            "created",
        }


def test_the_log_names_the_augmentation_and_what_would_never_be_saved(tmp_path, capsys):
    words = ("--mode", "collapse", "--epochs", "1", "--no-amp")
    start_training(tmp_path, *words, "--augment", "crop", "erasing", "--save-every", "2")
    first, second, third = capsys.readouterr().out.splitlines()[:3]
    assert first.endswith(", 1 epochs on cpu, augmentation: crop erasing")
    assert second == "images: in memory, as digits is read whole"
    assert third == "--save-every 2 writes nothing: the run ends after 1 epochs"
    start_training(tmp_path, *words, "--force")
    assert capsys.readouterr().out.splitlines()[0].endswith(", augmentation: none")
    start_training(tmp_path, *words, "--force", "--augment", "crop", "--cutmix", "1")
    assert capsys.readouterr().out.splitlines()[0].endswith(", augmentation: crop cutmix")


def test_mirrored_images_of_a_folder_are_a_choice_that_is_said(tmp_path, capsys):
    class_folders(tmp_path / "letters", ("b", "d"), 8, (16, 16))
    words = ("--dataset", f"letters={tmp_path / 'letters'}", "--image-size", "16", "--epochs", "1")
    words += ("--model", "resnet_cifar", "--batch-size", "8", "--val-size", "0", "--device", "cpu")
    words += ("--output-dir", str(tmp_path / "out"))
    train.main([*words])
    said = "half of the training images are mirrored; where that changes what an image is, as of"
    assert f"{said} digits or signs, train with --augment crop\n" in capsys.readouterr().out
    for choice in (["--augment", "crop"], ["--augment", "crop", "flip"]):
        train.main([*words, "--force", *choice])
        assert said not in capsys.readouterr().out
    train.main([*words, "--force", "--mode", "fast"])
    assert f"{said} digits or signs, train with --augment crop\n" in capsys.readouterr().out


def test_save_every_keeps_the_checkpoints_of_those_epochs_and_changes_nothing_else(
    tmp_path, finished
):
    start_training(tmp_path, *REGULARISED, "--save-every", "2")
    kept = tmp_path / "resnet_cifar_epoch2_run.pth"
    assert [path.name for path in tmp_path.glob("*_epoch*.pth")] == [kept.name]
    checkpoint, final = torch.load(kept, weights_only=True), read_checkpoint(tmp_path)
    assert checkpoint["epoch"] == 2 and timeless(checkpoint["history"]) == timeless(
        final["history"][:2]
    )
    assert not equal(checkpoint["model_state_dict"], final["model_state_dict"])
    assert equal(
        final["model_state_dict"], read_checkpoint(finished(*REGULARISED))["model_state_dict"]
    )
    assert loading.load(kept)[2]["class_names"] == ["0", "1", "2"]
    assert records.read_sidecar(kept)["checkpoint_sha256"] == records.sha256(kept)


def test_force_removes_the_epochs_of_this_run_and_of_no_other(tmp_path):
    words = ("--mode", "collapse", "--epochs", "1", "--no-amp")
    start_training(tmp_path, *words, "--save-every", "1")
    mine, another = (tmp_path / f"resnet_cifar_epoch{name}_run.pth" for name in ("1", "5_other"))
    another.write_bytes(b"of the run with --suffix other_run")
    start_training(tmp_path, *words, "--force")
    assert another.exists() and not mine.exists()


def test_track_nc_writes_collapse_into_the_curves_and_changes_nothing_else(tmp_path, finished):
    start_training(tmp_path, *REGULARISED, "--track-nc", "2", "--save-every", "2")
    curves, final = pd.read_csv(files_of(tmp_path).curves), read_checkpoint(tmp_path)
    measures = ["nc1", "nc2_norm_cv", "nc2_cosine_std", "nc3_self_duality", "nc4_mismatch"]
    assert list(curves.columns) == COLUMNS + measures
    # every second epoch, and the last
    assert curves[measures].notna().all(axis=1).tolist() == [
        False,
        True,
        True,
    ]
    assert equal(
        final["model_state_dict"], read_checkpoint(finished(*REGULARISED))["model_state_dict"]
    )
    # The slow way for epoch 2: class means, NC1 with a full pseudo-inverse cut at rank C - 1, NC4
    # by distances.
    network, layer, checkpoint = loading.load(tmp_path / "resnet_cifar_epoch2_run.pth")
    preprocessing, caught = data.Preprocessing(**checkpoint["preprocessing"]), []
    layer.register_forward_pre_hook(
        lambda module, inputs: caught.append(inputs[0].double().numpy())
    )
    images = data.load_id(data.ID["digits"], "train", preprocessing, None, tuple("3456789"))
    images = images.take(data.split_validation(len(images), 32)[0])
    with torch.inference_mode():
        predicted = network(preprocessing.normalise(images.pixels)).argmax(1).numpy()
    features, labels = caught[0], images.labels.numpy()
    means = np.stack([features[labels == label].mean(0) for label in range(3)])
    within = np.cov((features - means[labels]).T, bias=True)
    between = np.cov(means.T, bias=True)
    eigenvalues, vectors = np.linalg.eigh(between)
    inverse = vectors[:, -2:] / eigenvalues[-2:] @ vectors[:, -2:].T
    nearest = ((features[:, None] - means) ** 2).sum(2).argmin(1)
    assert curves["nc1"][1] == pytest.approx(np.trace(within @ inverse) / 3, rel=1e-3)
    assert curves["nc4_mismatch"][1] == pytest.approx((nearest != predicted).mean(), abs=1 / 300)


def test_track_nc_takes_a_classifier_without_bias(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n\ndef build(num_classes):\n    return nn.Sequential(nn.Flatten(),"
        " nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, num_classes, bias=False))\n"
    )
    start_training(
        tmp_path,
        "--model",
        f"{file}:build",
        "--mode",
        "collapse",
        "--epochs",
        "1",
        "--track-nc",
        "1",
        "--lr",
        "0.01",
    )
    assert pd.read_csv(tmp_path / "net_build_curves_run.csv")["nc1"].notna().all()


@pytest.mark.parametrize("place", ["{}", "a{b}"])
def test_braces_in_names_are_taken_as_they_are(tmp_path, place):
    start_training(
        tmp_path / place,
        "--mode",
        "collapse",
        "--epochs",
        "1",
        "--suffix",
        place,
        "--save-every",
        "1",
    )
    assert (tmp_path / place / f"resnet_cifar_epoch1_{place}.pth").exists()
    assert (tmp_path / place / f"resnet_cifar_final_{place}.pth").exists()


def test_the_log_tells_the_run(finished):
    text = files_of(finished(*REGULARISED)).log.read_text()
    assert "digits: 326 training, 32 validation" in text and "3 classes; resnet_cifar" in text
    assert "epoch 3  train_loss" in text and "final: epoch 3" in text and "best: epoch" in text


def test_a_finished_run_leaves_no_state_of_an_unfinished_one(finished):
    folder = finished(*REGULARISED)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"resnet_cifar_{name}" for name in {*WRITTEN, "log_run.txt"} - {"last_run.pth"}
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_learns_and_can_be_resumed(tmp_path, monkeypatch):
    signalled(monkeypatch, signal.SIGTERM, {8})
    words = ("--mode", "regularised", "--epochs", "3", "--device", "cuda")
    assert [start_training(tmp_path, *words, "--resume") for _ in range(2)] == [75, None]
    assert read_checkpoint(tmp_path)["epoch"] == 3 and files_of(tmp_path).best.exists()
