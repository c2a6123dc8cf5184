"""Training on images in files: bit for bit what training on the same images in memory is."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import blank_figures, clean, equal, fork, signalled, timeless
from image_cases import noise, plainly, write

import data
import train
from artifacts import records
from images import reading
from processes import World
from training.evaluation import Evaluator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
]

WORDS = (
    *("--image-size", "8", "--model", "resnet_cifar", "--device", "cpu", "--batch-size", "16"),
    *("--val-size", "13", "--epochs", "2", "--no-amp", "--suffix", "run"),
)
BEST = ("--mode", "best", "--augment", "crop", "alternating_flip", "--track-nc", "1")
FOLDS = ("--mode", "leave-out", "--folds", "2", "--fold", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/ and test/ of four classes; 60 and 20 photographs of noise around the class's grey."""
    root = tmp_path_factory.mktemp("set")
    for split, count in (("train", 15), ("test", 5)):
        for label in range(4):
            for number in range(count):
                grey = 60 * label + noise(10, 9, 3, seed=number) // 4
                write(root / split / f"class{label}" / f"{number}.png", grey.astype(np.uint8))
    return root


def start(place, folder, *words):
    with pytest.MonkeyPatch.context() as patch:
        blank_figures(patch)
        places = ["--dataset", f"mine={folder}", "--output-dir", str(place)]
        return train.main([*places, *WORDS, *words])


def checkpoint_of(place, kind="final"):
    (path,) = Path(place).glob(f"*_{kind}_run*.pth")
    return torch.load(path, weights_only=True)


def assert_same(one, other):
    """Two runs ended in the same bits."""
    for kind in ("final", "best"):
        first, second = checkpoint_of(one, kind), checkpoint_of(other, kind)
        for key in ("model_state_dict", "optimizer_state_dict", "rng", "best", "source"):
            assert equal(first[key], second[key]), f"{kind}: {key}"
        for key in ("epoch", "train_acc", "val_acc", "test_acc", "arguments", "folders"):
            assert first[key] == second[key], f"{kind}: {key}"
        assert timeless(first["history"]) == timeless(second["history"])


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory, folder, one_thread):
    """in_memory(*words) -> the folder of a run that held its images in memory."""
    made = {}

    def run(*words):
        if words not in made:
            made[words] = tmp_path_factory.mktemp("memory")
            assert start(made[words], folder, *words, "--cache", "memory") is None
        return made[words]

    return run


@pytest.mark.parametrize("workers", ["0", "1", "3"])
def test_no_number_of_workers_changes_a_bit(tmp_path, folder, in_memory, workers):
    start(tmp_path, folder, *BEST, "--cache", "none", "--workers", workers)
    assert_same(tmp_path, in_memory(*BEST))


def test_a_member_of_an_ensemble_and_its_outliers_come_from_files_too(tmp_path, folder, in_memory):
    start(tmp_path, folder, *FOLDS, "--cache", "none")
    assert_same(tmp_path, in_memory(*FOLDS))


def test_a_run_goes_on_in_mid_epoch_from_files_or_from_memory(
    tmp_path, folder, in_memory, monkeypatch
):
    signalled(monkeypatch, signal.SIGTERM, {2, 5})
    files = ("--cache", "none", "--workers", "2")
    assert start(tmp_path, folder, *BEST, *files) == 75
    assert start(tmp_path, folder, *BEST, "--cache", "memory", "--resume") == 75
    assert start(tmp_path, folder, *BEST, *files, "--resume") is None
    assert_same(tmp_path, in_memory(*BEST))


def test_what_serves_and_why_is_in_the_log_and_the_sidecar(tmp_path, folder, in_memory):
    place = in_memory(*BEST)
    log = next(place.glob("*_log_run.txt")).read_text()
    assert "images: in memory, as --cache memory asks" in log
    path = next(place.glob("*_final_run.pth"))
    wanted = {"cache": "memory", "workers": 0, "why": "as --cache memory asks"}
    assert records.read_sidecar(path)["images_from"] == wanted
    assert checkpoint_of(place)["images_from"] == wanted
    assert not {"cache", "workers"} & set(records.read_sidecar(path)["arguments"])


@pytest.mark.parametrize("flag", [("--cache", "none"), ("--workers", "2")])
def test_a_flag_of_files_is_refused_for_a_set_that_is_read_whole(tmp_path, flag):
    with pytest.raises(ValueError, match=f"^{' '.join(flag)} is of images in files, and digits"):
        train.main(["--dataset", "digits", "--output-dir", str(tmp_path), *flag])
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read_are_named_before_the_first_epoch(tmp_path, folder):
    root = tmp_path / "set"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for path in (folder / split).iterdir():
            (root / split / path.name).symlink_to(path)
    write(root / "test" / "odd" / "broken.png").write_bytes(b"no image")
    write(root / "train" / "odd" / "good.png")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image"):
        start(tmp_path / "out", root, *BEST, "--cache", "none")
    assert not list((tmp_path / "out").iterdir())


def test_training_images_are_looked_through_once(tmp_path, folder, monkeypatch):
    """They were decoded for their mean; the test images were not."""
    seen = []
    real = reading.complaint
    monkeypatch.setattr(
        reading, "complaint", lambda path, *rest: seen.append(path) or real(path, *rest)
    )
    start(tmp_path, folder, *BEST, "--cache", "none", "--workers", "0")
    assert len(seen) == 20 and all("test" in str(path) for path in seen)


def test_a_process_decodes_its_own_share_alone(folder):
    images = data.image_folder(folder / "train", plainly(8))
    images = images.take(torch.randperm(60, generator=torch.Generator().manual_seed(1)))
    for rank in range(3):
        images.hashes.clear()
        world = World(rank, 3, torch.device("cpu"))
        evaluator = Evaluator(world, plainly(8), None, lambda: None, batch_size=21)
        sizes = [len(labels) for _, labels in evaluator.batches(images)]
        assert sizes == [7, 7, 6]
        assert set(images.hashes) == set(images.paths[20 * rank : 20 * rank + 20])


def test_two_processes_with_files_end_like_two_with_memory(tmp_path, folder):
    runs = []
    for number, cache in enumerate(("memory", "none")):
        address = {
            **{"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "LOCAL_WORLD_SIZE": "2"},
            "MASTER_PORT": str(24000 + os.getpid() % 2000 * 4 + number),
        }
        ranks = [clean(**address, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)]
        words = ["--dataset", f"mine={folder}", "--output-dir", tmp_path / cache, *WORDS, *BEST]
        runs.append(
            (tmp_path / f"{cache}_said", train.__file__, [*words, "--cache", cache], *ranks)
        )
    assert fork(runs) == [[0, 0], [0, 0]]
    assert_same(tmp_path / "memory", tmp_path / "none")
