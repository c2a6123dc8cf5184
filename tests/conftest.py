"""What several test files share: one thread for torch, and one tiny run of the chain's first two
stages.

`digits_run` is made once for the whole session: read it, change nothing. `own_digits_run` is a copy
for the tests that do."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

# of the scripts that tests start, too: threads change the last bits of sums
os.environ.setdefault("OMP_NUM_THREADS", "1")
# onnxruntime, where a test imports it before the code does
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@dataclass(frozen=True)
class DigitsRun:
    """Where a run's files are: results/, its last epoch's checkpoint, and results/<stem>/ with
    features and head.csv."""

    output_dir: Path
    checkpoint: Path
    folder: Path


@pytest.fixture(scope="session")
def one_thread():
    """Small networks are quicker on one thread, and their sums always come in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory, one_thread):
    """resnet_cifar after 5 epochs on digits without 8 and 9, and its features of ID and four OOD
    sets.

    866 training, 96 validation and 481 test images; 118, 456, 1,000 and 1,000 images in the OOD
    sets below.

    .output_dir    holds the checkpoints resnet_cifar_{final,best}_digits_s0.pth with their
    sidecars, curves and log .checkpoint    the one of the last epoch, about 92% right, D = 64, C =
    8 .folder        its head.csv, ID_digits_{train,val,test}.csv,
    OOD_{held_out,photos,uniform,gaussian}_test.csv and sidecars"""
    import run_networks
    import train

    output_dir = tmp_path_factory.mktemp("digits") / "results"
    train.main(
        [
            "--dataset",
            "digits",
            "--model",
            "resnet_cifar",
            "--mode",
            "collapse",
            "--epochs",
            "5",
            "--no-amp",
            "--device",
            "cpu",
            "--output-dir",
            str(output_dir),
        ]
    )
    checkpoint = output_dir / "resnet_cifar_final_digits_s0.pth"
    run_networks.main(
        ["--checkpoint", str(checkpoint), "--device", "cpu", "--output-dir", str(output_dir)]
    )
    return DigitsRun(output_dir, checkpoint, output_dir / checkpoint.stem)


@pytest.fixture
def own_digits_run(digits_run, tmp_path):
    """A copy of `digits_run` that a test may change (modification times are kept)."""
    output_dir = tmp_path / "results"
    shutil.copytree(digits_run.output_dir, output_dir)
    return DigitsRun(
        output_dir, output_dir / digits_run.checkpoint.name, output_dir / digits_run.folder.name
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory, one_thread):
    """finished(*words) -> the folder of a small run that nothing interrupted; made once for each
    set of words."""
    from helpers import start_training

    made = {}

    def folder_of(*words):
        if words not in made:
            made[words] = tmp_path_factory.mktemp("finished")
            assert start_training(made[words], *words) is None
        return made[words]

    return folder_of
