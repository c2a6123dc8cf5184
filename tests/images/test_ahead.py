"""images/ahead.py and the batches of images/sets.py: the same images from memory, from threads and
from any number of worker processes."""

import multiprocessing
import os
import signal

import pytest
import torch
from image_cases import noise, plainly, write

import data
from images import sets

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = [torch.tensor([3, 0]), [7, 7, 1], range(4, 6), torch.tensor([8])]


@pytest.fixture
def files(tmp_path):
    """Nine images of two classes in files of several kinds."""
    for number in range(9):
        ending = ("png", "jpg", "bmp")[number % 3]
        write(tmp_path / "ab"[number % 2] / f"{number}.{ending}", noise(14, 12, 3, seed=number))
    return data.image_folder(tmp_path, plainly(12))


def worked(images, workers):
    return sets.replace(images, workers=workers, hashes={})


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_stream_is_the_rows_that_were_asked_for(files, workers):
    whole = files.in_memory()
    images = worked(files, workers)
    found = list(images.stream(PARTS))
    for part, (pixels, labels) in zip(PARTS, found, strict=True):
        rows = [int(row) for row in part]
        assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
        assert torch.equal(pixels, torch.stack([whole.pixels[row] for row in rows]))
        assert labels.tolist() == [int(whole.labels[row]) for row in rows]
    seen = {files.paths[int(row)] for part in PARTS for row in part}
    assert set(images.hashes) == seen, "what was decoded was hashed"
    assert images.hashes == {path: files.hashes[path] for path in seen}
    assert len(images.unread()) == 9 - len(seen)


def test_memory_gives_the_same_stream(files):
    whole = files.in_memory()
    for one, other in zip(whole.stream(PARTS), files.stream(PARTS), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    one, other = whole.batch([5, 2]), worked(files, 2).batch([5, 2])
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_workers_leave_the_random_numbers_of_a_run_alone(files):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    list(worked(files, 2).stream(PARTS))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_live_through_signals_and_end_with_their_stream(files):
    stream = worked(files, 2).stream(PARTS)
    next(stream)
    next(stream)  # each worker has made one batch
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(worker.pid, number)
    assert len(next(stream)[0]) == 2 and len(next(stream)[0]) == 1
    stream.close()
    assert not multiprocessing.active_children()


def test_there_are_no_more_workers_than_batches(files):
    stream = worked(files, 5).stream([[0], [1]])
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_cannot_be_read_are_named_with_those_of_later_parts(files, workers):
    for path in (files.paths[0], files.paths[8]):
        (files.root / path).write_bytes(b"no image")
    stream = worked(files, workers).stream([[4, 5], [0, 1], [2], [8]])
    next(stream)
    with pytest.raises(ValueError, match=r"^2 files cannot be read as images: .*; mend or remove"):
        next(stream)


def test_an_empty_part_of_a_folder_may_be_held_in_memory(files):
    nothing = files.take([]).in_memory()
    assert nothing.pixels.shape == (0, 3, 12, 12) and len(nothing) == 0
    assert list(worked(files, 2).take([]).batches(4)) == []
