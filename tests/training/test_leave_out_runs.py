"""train.py --mode leave-out: what a member's run makes, members in turn, interruption, and bad
input."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import COLUMNS, blank_figures, equal, same

import train
from artifacts import records
from training import evaluation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
]

# Four digits at 8 x 8 pixels in two folds.
FOUR = (
    "--dataset digits --held-out 4 5 6 7 8 9 --image-size 8 --model resnet_cifar --device cpu"
    " --val-size 40 --mode leave-out --folds 2 --suffix run --batch-size 32"
)


def start(folder, *words):
    with pytest.MonkeyPatch.context() as patch:
        blank_figures(patch)
        return train.main([*FOUR.split(), "--output-dir", str(folder), *words])


def files_of(folder, fold, folds=2):
    return train.run_files(folder, "resnet_cifar", f"run_fold{fold}of{folds}")


def checkpoint_of(folder, fold, kind="final"):
    return torch.load(files_of(folder, fold).checkpoint(kind), weights_only=True)


def test_a_members_files_know_its_fold_and_its_classes(tmp_path, capsys):
    start(tmp_path, "--epochs", "1", "--fold", "2")
    order = np.random.RandomState(3).permutation(4)
    left_out = sorted(str(number) for number in order[2:])
    known = sorted(str(number) for number in order[:2])
    wanted = {"fold": 2, "folds": 2, "classes": ["0", "1", "2", "3"], "left_out": left_out}
    content = checkpoint_of(tmp_path, 2)
    sidecar = records.read_sidecar(files_of(tmp_path, 2).final)
    history = json.loads(files_of(tmp_path, 2).history.read_text())
    for facts in (content, sidecar, history):
        assert facts["leave_out"] == wanted and facts["class_names"] == known
        assert facts["held_out"] == ["4", "5", "6", "7", "8", "9"]
    assert content["model_state_dict"]["fc.weight"].shape == (2, 64)
    assert sidecar["test_acc"] is not None
    curves = pd.read_csv(files_of(tmp_path, 2).curves)
    assert list(curves) == [*COLUMNS, "val_entropy", "outlier_entropy"]
    said = capsys.readouterr().out
    assert "(4 classes in 2 folds of 2) leaves out " + ", ".join(left_out) in said


def test_another_run_says_nothing_of_folds(tmp_path):
    words = [word for word in FOUR.split() if word not in ("--folds", "2", "--mode", "leave-out")]
    train.main([*words, "--epochs", "1", "--output-dir", str(tmp_path)])
    files = train.run_files(tmp_path, "resnet_cifar", "run")
    assert "leave_out" not in torch.load(files.final, weights_only=True)
    assert list(pd.read_csv(files.curves)) == COLUMNS


def test_the_loss_raises_the_entropy_of_what_is_left_out(tmp_path):
    gaps = {}
    for beta in ("0", "1"):
        folder = tmp_path / beta
        start(folder, "--epochs", "8", "--fold", "1", "--beta", beta, "--lr", "0.05")
        last = pd.read_csv(files_of(folder, 1).curves).iloc[-1]
        gaps[beta] = last["outlier_entropy"] - last["val_entropy"]
        assert last["val_acc"] > 0.8
    assert gaps["1"] > gaps["0"] + 0.15


def test_members_start_from_weights_of_their_own_and_repeat_bit_for_bit(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert start(one, "--epochs", "1", "--fold", "all") is None
    start(two, "--epochs", "1", "--fold", "2")
    states = [checkpoint_of(one, fold)["model_state_dict"] for fold in (1, 2)]
    assert not torch.equal(states[0]["conv1.weight"], states[1]["conv1.weight"])
    assert same(states[1], checkpoint_of(two, 2)["model_state_dict"])


def test_all_in_turn_passes_over_finished_members(tmp_path, capsys):
    start(tmp_path, "--epochs", "1", "--fold", "1")
    before = files_of(tmp_path, 1).final.read_bytes()
    capsys.readouterr()
    start(tmp_path, "--epochs", "1", "--fold", "all")
    assert "run_fold1of2.pth is finished; nothing to resume" in capsys.readouterr().out
    assert files_of(tmp_path, 1).final.read_bytes() == before
    assert files_of(tmp_path, 2).final.exists()
    start(tmp_path, "--epochs", "1", "--fold", "all")
    said = capsys.readouterr().out
    assert said.count("nothing to resume") == 2
    with pytest.raises(ValueError, match=r"run_fold2of2\.pth is there already"):
        start(tmp_path, "--epochs", "1", "--fold", "2")
    with pytest.raises(ValueError, match=r"run_fold1of2\.pth is there already, from another run"):
        start(tmp_path, "--epochs", "2", "--fold", "all")
    start(tmp_path, "--epochs", "2", "--fold", "all", "--force")
    assert checkpoint_of(tmp_path, 1)["epoch"] == checkpoint_of(tmp_path, 2)["epoch"] == 2


def test_a_signal_in_the_second_member_stops_all_and_the_same_command_goes_on(
    tmp_path, monkeypatch
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    start(whole, "--epochs", "2", "--fold", "all")
    real, count = evaluation.Evaluator.entropies, [0]

    def interrupted(evaluator, *arguments):
        count[0] += 1
        if count[0] == 3:  # the first epoch of the second member
            os.kill(os.getpid(), signal.SIGTERM)
        return real(evaluator, *arguments)

    monkeypatch.setattr(evaluation.Evaluator, "entropies", interrupted)
    assert start(stopped, "--epochs", "2", "--fold", "all") == train.RESUME_ME
    assert files_of(stopped, 1).final.exists() and files_of(stopped, 2).last.exists()
    assert not files_of(stopped, 2).final.exists()
    assert start(stopped, "--epochs", "2", "--fold", "all") is None
    for fold in (1, 2):
        one, other = checkpoint_of(whole, fold), checkpoint_of(stopped, fold)
        for key in ("model_state_dict", "optimizer_state_dict", "rng", "leave_out"):
            assert equal(one[key], other[key]), f"member {fold}: {key}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "one of the 2 members of a leave-out ensemble; name it with --fold 1 to 2"),
        ("--fold 3", "--fold is 3; expected 1 to 2, or all"),
        ("--fold 0", "--fold is 0; expected 1 to 2, or all"),
        ("--fold two", "--fold is two; expected 1 to 2, or all"),
        ("--fold 1 --folds 5", "--folds is 5; expected 2 to 4, the number of classes"),
        ("--fold 1 --folds 1", "--folds is 1; expected 2 to 4"),
        ("--fold 1 --held-out 3 4 5 6 7 8 9 --folds 2", "--folds 2 leaves 1 of 3 classes"),
        ("--fold 1 --margin 0.7", "--margin is 0.7 nats, and the entropy over 2 classes is 0.693"),
        ("--fold 1 --margin -1", "--margin is -1; expected at least 0"),
        ("--fold 1 --mixup 0.2", "--mixup and --cutmix would mix images with outliers"),
        ("--fold 1 --beta -1", "--beta is -1; expected at least 0"),
        ("--fold 1 --mode best --folds 0", "--fold 1 is of a leave-out ensemble"),
        ("--mode best --folds 0 --beta 1", "--beta needs --folds, or --mode leave-out"),
        ("--fold 1 --batch-size 900", "--batch-size 900 is larger than the training set of"),
    ],
)
def test_bad_input_is_one_message_before_any_file(tmp_path, words, message):
    with pytest.raises(ValueError) as caught:
        start(tmp_path, *words.split())
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
