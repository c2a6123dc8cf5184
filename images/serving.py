"""Where a run's images come from: memory, or their files, decoded ahead by worker processes.

    serving = serving.choose((train, test), cache=None, workers=None, device=device)
    train = serving.serve(train)      # Images, or ImageFiles with workers
    print(serving)                    # which of the two, and why

Both give the same batches, bit for bit."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import machine_memory
from images.sets import ImageFiles, Images, Set

CACHES = ("memory", "none")
# Of what is free, the share that images may take. The network, its activations and other programs
# need the rest, and so does the system, which caches files.
SHARE = 1 / 4
FEWEST_WORKERS, MOST_WORKERS = 2, 16
MB, GB = 10**6, 10**9


@dataclass(frozen=True)
class Serving:
    """How the images of a run are had, and why."""

    cache: str  # of CACHES
    workers: int  # that decode ahead; 0 in memory, and where this process decodes
    why: str
    threads: int | None = None  # that decode what is held in memory; None: one for each core

    def serve(self, images: Set) -> Set:
        """The images, held in memory or read by workers."""
        if isinstance(images, Images):
            return images
        if self.cache == "memory":
            return replace(images, threads=self.threads or images.threads).in_memory()
        return replace(images, workers=self.workers)

    def __str__(self) -> str:
        """The line for a log."""
        if self.cache == "memory":
            return f"images: in memory, {self.why}"
        by = f"{self.workers} worker{'s' * (self.workers != 1)}" if self.workers else "this process"
        return f"images: decoded from their files by {by}, {self.why}"

    def as_dict(self) -> dict[str, Any]:
        """As a sidecar has it."""
        return {"cache": self.cache, "workers": self.workers, "why": self.why}


def choose(
    sets: Sequence[Set],
    cache: str | None,
    workers: int | None,
    device: torch.device,
    copies: int = 1,
) -> Serving:
    """How the images of these sets are had; `cache` and `workers` are what flags ask for, or None.

    copies  processes on this machine, each of which would hold the images

    Without flags: memory where all images take at most SHARE of what is free, of a GPU that holds
    them too. ValueError for a flag that would do nothing."""
    files = [images for images in sets if isinstance(images, ImageFiles)]
    if not files:
        return whole(sets, cache, workers)
    threads = None if workers is None else max(1, workers)
    if cache == "memory":
        return Serving("memory", 0, "as --cache memory asks", threads)
    needed = sum(bytes_of(images) for images in files)
    why = "as --cache none asks" if cache else too_large(needed, device, copies)
    if why is None:
        return Serving("memory", 0, fits(needed, copies), threads)
    if workers is None:
        workers = usual_workers(device, copies)
    return Serving("none", workers, why)


def whole(sets: Sequence[Set], cache: str | None, workers: int | None) -> Serving:
    """Of sets that are read whole; ValueError for a flag that is of images in files."""
    name = sets[0].source
    given = "--cache none" if cache == "none" else f"--workers {workers}"
    if cache == "none" or workers is not None:
        raise ValueError(
            f"{given} is of images in files, and {name} is read into memory as a whole; leave it"
            " out"
        )
    return Serving("memory", 0, f"as {name} is read whole")


def bytes_of(images: ImageFiles) -> int:
    """What the images take in memory, uint8."""
    return 3 * images.preprocessing.size**2 * len(images)


def too_large(needed: int, device: torch.device, copies: int) -> str | None:
    """Why images that need so many bytes are not held in memory; None where they are."""
    free = machine_memory.free()
    if free is not None and needed * copies > SHARE * free:
        return f"since {amount(needed, copies)} is more than a quarter of the {said(free)} free"
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if needed > SHARE * free:
            return (
                f"since {said(needed)} is more than a quarter of the {said(free)} free on {device}"
            )
    return None


def fits(needed: int, copies: int) -> str:
    """Why images that need so many bytes are held in memory."""
    free = machine_memory.free()
    if free is None:
        return f"{amount(needed, copies)}; this system does not say how much is free"
    return f"{amount(needed, copies)}, at most a quarter of the {said(free)} free"


def amount(needed: int, copies: int) -> str:
    """ "1.4 GB", or "4 x 1.4 GB" of several processes."""
    return f"{copies} x {said(needed)}" if copies > 1 else said(needed)


def said(count: int) -> str:
    """Bytes in words: "1.4 GB", "0.2 MB"."""
    if count < GB:
        return f"{count / MB:,.1f} MB"
    return f"{count / GB:,.1f} GB"


def usual_workers(device: torch.device, copies: int) -> int:
    """Workers where nobody says: two beside a CPU's own work, which is far more than decoding; this
    process's share of the cores, up to MOST_WORKERS, where a GPU computes."""
    if device.type == "cpu":
        return FEWEST_WORKERS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_WORKERS, max(FEWEST_WORKERS, (cores or 1) // copies))
