"""extraction/batching.py: the rule for the images of a batch."""

import pytest
from helpers import extract
from image_cases import noise, write

import console
import main
from artifacts import records
from extraction import batching

CPU, GPU = "cpu", "cuda"
GIB = 2**30


@pytest.mark.parametrize(
    ("side", "device", "memory", "images"),
    [
        (16, CPU, 16 * GIB, 500),
        (32, CPU, 16 * GIB, 500),  # as features always were
        (64, CPU, 16 * GIB, 125),
        (224, CPU, 16 * GIB, 10),
        (384, CPU, None, 3),
        (4096, CPU, 16 * GIB, 1),
        (32, CPU, GIB, 262),
        (32, GPU, 8 * GIB, 500),
        (224, GPU, 8 * GIB, 42),
        (224, GPU, 80 * GIB, 427),
        (224, GPU, 200 * GIB, 500),
    ],
)
def test_the_rule(side, device, memory, images):
    assert batching.choose(None, side, device, memory)[0] == images


def test_a_flag_wins_and_the_reason_is_said():
    assert batching.choose(7, 224, CPU, GIB) == (7, "--batch-size")
    assert batching.choose(None, 32, GPU, None) == (500, "at most 500 images")
    assert batching.choose(None, 224, CPU, None)[1] == "at most 512,000 pixels on a CPU"
    assert "a quarter of the device's memory" in batching.choose(None, 224, CPU, 10**8)[1]


# ---- a run ---------------------------------------------------------------------------------------


class Bar:
    """A progress bar that only counts."""

    def __init__(self, seen, options):
        self.seen, self.options, self.count = seen, options, 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.seen.append((self.options["desc"], self.count, self.options["total"]))

    def update(self, count):
        self.count += count


def photographs(folder, count=7):
    for number in range(count):
        write(folder / f"{number}.png", noise(20, 18, 3, seed=number))
    return f"mine={folder}"


def test_the_batch_and_its_reason_are_on_record(own_digits_run, capsys):
    extract(own_digits_run, "--ood", "held_out", "--force")
    sidecar = records.read_sidecar(own_digits_run.folder / "OOD_held_out_test.csv")
    assert (sidecar["batch_size"], sidecar["batch_size_from"]) == (500, "at most 500 images")
    assert "batches of 500 images (at most 500 images)" in capsys.readouterr().out
    extract(own_digits_run, "--ood", "held_out", "--force", "--batch-size", "7")
    sidecar = records.read_sidecar(own_digits_run.folder / "OOD_held_out_test.csv")
    assert (sidecar["batch_size"], sidecar["batch_size_from"]) == (7, "--batch-size")


def test_workers_change_no_byte_and_progress_is_in_images(own_digits_run, tmp_path, monkeypatch):
    mine, found = photographs(tmp_path / "mine"), []
    file = own_digits_run.folder / "OOD_mine_test.csv"
    for workers in ((), ("--workers", "0"), ("--workers", "3")):
        seen = []
        with monkeypatch.context() as patch:
            patch.setattr(
                console,
                "progress",
                lambda items=None, seen=seen, **options: (
                    items if items is not None else Bar(seen, options)
                ),
            )
            extract(own_digits_run, "--ood", mine, "--batch-size", "3", *workers)
        assert seen == [("OOD_mine_test", 7, 7)]
        found.append(file.read_bytes())
        assert len(records.read_sidecar(file)["source_content"]) == len("sha256 ") + 64
        file.unlink()
    assert found[0] == found[1] == found[2]


def test_workers_without_images_in_files_are_refused(own_digits_run):
    with pytest.raises(ValueError, match=r"^--workers 2 is of images in files, and digits, photos"):
        extract(own_digits_run, "--ood", "photos", "--workers", "2")


def test_the_chain_hands_workers_to_the_stages_that_read_files(tmp_path):
    words = ["--dataset", "digits", "--ood", photographs(tmp_path), "--workers", "2"]
    _, stages = main.parse_args(words)
    assert "--workers" in stages["extract"] and "--workers" not in stages["train"]
    _, stages = main.parse_args(["--dataset", f"own={tmp_path}", *words[2:]])
    assert "--workers" in stages["extract"] and "--workers" in stages["train"]
