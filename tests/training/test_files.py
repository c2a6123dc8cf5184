"""Names of a run's files: made and recognised in one place."""

from pathlib import Path

import pytest

import train
from training.files import CHECKPOINTS, RunFiles

FILES = RunFiles(Path("results"), "resnet18", "cifar100_s0")


def test_the_names_are_those_that_the_readme_shows():
    assert FILES.best == Path("results/resnet18_best_cifar100_s0.pth")
    assert FILES.final.name == "resnet18_final_cifar100_s0.pth"
    assert FILES.last.name == "resnet18_last_cifar100_s0.pth"
    assert FILES.epoch(25).name == "resnet18_epoch25_cifar100_s0.pth"
    assert FILES.curves.name == "resnet18_curves_cifar100_s0.csv"
    assert FILES.figure.name == "resnet18_curves_cifar100_s0.png"
    assert FILES.history.name == "resnet18_training_history_cifar100_s0.json"
    assert FILES.log.name == "resnet18_log_cifar100_s0.txt"
    assert FILES.lock.name == ".resnet18_cifar100_s0.lock"
    assert FILES.tensorboard == Path("results/tensorboard/resnet18_cifar100_s0")


def test_no_two_files_have_one_name():
    paths = [*FILES.all, FILES.epoch(1), FILES.epoch(11)]
    assert len(set(paths)) == len(paths)
    assert [FILES.checkpoint(kind) for kind in CHECKPOINTS] == FILES.all[:3]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("resnet18_epoch25_cifar100_s0.pth", True),
        ("resnet18_epoch_cifar100_s0.pth", False),
        ("resnet18_epoch25_cifar100_s01.pth", False),
        ("resnet18_epoch2x_cifar100_s0.pth", False),
        ("resnet18_epoch25_cifar100_s0xpth", False),
        ("a_resnet18_epoch25_cifar100_s0.pth", False),
        ("resnet18_best_cifar100_s0.pth", False),
    ],
)
def test_a_checkpoint_of_an_epoch_is_recognised(name, ours):
    assert FILES.is_epoch(name) is ours


def test_a_suffix_is_text_and_no_pattern():
    odd = RunFiles(Path("results"), "net", "a.b[1]")
    assert odd.is_epoch(odd.epoch(3).name) and not odd.is_epoch("net_epoch3_axb[1].pth")


def test_a_network_of_your_own_is_named_by_file_and_function():
    files = train.run_files("results", "path/to/my_network.py:build", "x")
    assert files.best == Path("results/my_network_build_best_x.pth")
