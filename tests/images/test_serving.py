"""images/serving.py: when images are held in memory, and when workers decode them."""

import pytest
import torch
from image_cases import noise, plainly, write

import data
import machine_memory
from images import serving
from images.sets import ImageFiles, Images

CPU = torch.device("cpu")
NEEDED = 3 * 12 * 12 * 4  # bytes of four images


@pytest.fixture
def files(tmp_path):
    for number in range(4):
        write(tmp_path / f"{number}.png", noise(12, 12, 3, seed=number))
    return data.image_folder(tmp_path, plainly(12))


@pytest.fixture
def whole(files):
    return files.in_memory()


def free(monkeypatch, count):
    monkeypatch.setattr(machine_memory, "free", lambda: count)


@pytest.mark.parametrize(
    ("count", "copies", "cache"),
    [
        (4 * NEEDED, 1, "memory"),
        (4 * NEEDED - 1, 1, "none"),
        (8 * NEEDED, 2, "memory"),
        (8 * NEEDED - 1, 2, "none"),
        (None, 1, "memory"),
    ],
)
def test_memory_serves_where_the_images_take_a_quarter_of_what_is_free(
    files, monkeypatch, count, copies, cache
):
    free(monkeypatch, count)
    found = serving.choose((files,), None, None, CPU, copies)
    assert (found.cache, found.workers) == (cache, {"memory": 0, "none": 2}[cache])
    assert "quarter" in found.why or count is None


def test_all_sets_count_together(files, monkeypatch):
    free(monkeypatch, 4 * NEEDED)
    assert serving.choose((files, files), None, None, CPU).cache == "none"


def test_flags_decide(files, monkeypatch):
    free(monkeypatch, 0)
    asked = serving.choose((files,), "memory", 3, CPU)
    assert str(asked) == "images: in memory, as --cache memory asks" and asked.threads == 3
    held = asked.serve(files)
    assert isinstance(held, Images) and len(held) == 4
    free(monkeypatch, 10**9)
    asked = serving.choose((files,), "none", 3, CPU)
    assert str(asked) == "images: decoded from their files by 3 workers, as --cache none asks"
    assert asked.as_dict() == {"cache": "none", "workers": 3, "why": "as --cache none asks"}
    read = asked.serve(files)
    assert isinstance(read, ImageFiles) and read.workers == 3
    assert "by this process" in str(serving.choose((files,), "none", 0, CPU))


def test_the_line_says_how_much_there_is(files, monkeypatch):
    free(monkeypatch, 2_000_000_000)
    said = str(serving.choose((files,), None, None, CPU))
    assert said == "images: in memory, 0.0 MB, at most a quarter of the 2.0 GB free"
    free(monkeypatch, 1000)
    said = str(serving.choose((files,), None, 1, CPU, copies=4))
    assert said == (
        "images: decoded from their files by 1 worker,"
        " since 4 x 0.0 MB is more than a quarter of the 0.0 MB free"
    )


def test_a_set_that_is_read_whole_stays_in_memory_and_has_no_workers(whole):
    found = serving.choose((whole,), "memory", None, CPU)
    assert found.serve(whole) is whole and found.cache == "memory"
    for cache, workers, flag in (("none", None, "--cache none"), (None, 2, "--workers 2")):
        with pytest.raises(ValueError, match=f"^{flag} is of images in files"):
            serving.choose((whole,), cache, workers, CPU)


def test_workers_of_a_gpu_are_its_share_of_the_cores(monkeypatch):
    for cores, copies, expected in ((64, 1, 16), (64, 8, 8), (4, 8, 2), (12, 1, 12)):
        monkeypatch.setattr(serving.os, "sched_getaffinity", lambda _, n=cores: range(n))
        assert serving.usual_workers(torch.device("cuda"), copies) == expected
        assert serving.usual_workers(CPU, copies) == 2
