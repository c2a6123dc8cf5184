"""Sets of images, in memory and in files, and how a folder becomes one.

    images = image_folder("photographs", preprocessing)      # ImageFiles
    for pixels in images.batches(256): ...                   # uint8 (n, 3, S, S), in order
    pixels, labels = images.batch([3, 1, 4])                 # of these rows
    for pixels, labels in images.stream(parts): ...          # of each part's rows, decoded ahead

Whoever trains, measures or extracts asks a set for batches, and need not know whether it lies in
memory or in files. images/reading.py reads each file, images/ahead.py has the workers. What cannot
be read is named, all such files of a set at once; a kind of file that is left out is counted and
said.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from images import ahead, reading
from images.ahead import Decoded
from images.folders import content_of, counted, file_hashes, first_folder, listing
from images.preprocessing import Preprocessing, decoded
from images.reading import Failure

# files of a set that are read to their end before the long work; of more than these, the headers
# alone
THOROUGH = 20_000
CPU = torch.device("cpu")
TOGETHER = 64  # headers that a thread looks at; handing over one costs as much as the look


Progress = Callable[..., Iterable[Any]]  # such as console.progress: (iterable, total, desc, unit)
Rows = torch.Tensor | Sequence[int]  # (n,) numbers of images; a range is a part as it lies
Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 (n, 3, S, S), labels (n,)


@dataclass
class Images:
    """uint8 images (N, 3, S, S) in memory, labels (N,) int64 (-1: none), and what the classes are
    called."""

    pixels: torch.Tensor
    labels: torch.Tensor
    class_names: list[str]
    source: str
    paths: list[str] | None = None
    left_out: str = ""
    hashed: str = ""  # of files that were decoded: their content

    def __len__(self) -> int:
        return len(self.labels)

    def content(self) -> str:
        """The hash of the files that these images, or the set that they were taken from, came from.

        For a named set it is the name, which is enough: torchvision compares the MD5 of what it
        reads, and the embedded sets are computed. (MNIST has no published MD5 once it is unpacked.)
        """
        return self.hashed or self.source

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield uint8 (n, 3, S, S) in order."""
        yield from self.pixels.split(batch_size)

    def batch(self, rows: Rows) -> Batch:
        """The images at these indices and their labels, on the device of the set."""
        chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        return self.pixels[chosen], self.labels[chosen]

    def stream(self, parts: Iterable[Rows]) -> Generator[Batch, None, None]:
        """Yield the `batch` of each of these parts, when it is asked for."""
        for rows in parts:
            yield self.batch(rows)

    def take(self, indices: torch.Tensor | Sequence[int]) -> "Images":
        """The images at these indices (M,), in that order."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "Images":
        """The same images on a device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def in_memory(self) -> "Images":
        return self

    def unreadable(
        self, progress: Progress | None = None, to_the_end: bool = False
    ) -> list[Failure]:
        """None: what is in memory has been read."""
        return []


@dataclass
class ImageFiles:
    """Images that lie in files, decoded batch by batch, so that memory stays small: by threads
    when a batch is asked for, or ahead of that by `workers`."""

    paths: list[str]  # below root
    labels: torch.Tensor  # (N,) int64; -1: none
    class_names: list[str]
    source: str
    preprocessing: Preprocessing
    root: Path
    left_out: str = ""  # what else lies there, such as "3 other files left out (.heic, no ending)"
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    workers: int = 0  # processes
    device: torch.device = CPU  # on which batches are handed over
    # {path: SHA-256}; takes of this set share it
    hashes: dict[str, str] = field(default_factory=dict, repr=False)
    said: dict[str, str] = field(default_factory=dict, repr=False)  # of a list: {path: its label}
    skipped: dict[str, str] = field(default_factory=dict)  # {path: why} of broken files, left out

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: torch.Tensor | Sequence[int]) -> "ImageFiles":
        """The images at these indices (M,), in that order."""
        numbers = torch.as_tensor(indices, dtype=torch.int64)
        paths = [self.paths[index] for index in numbers.tolist()]
        return replace(self, paths=paths, labels=self.labels[numbers])

    def to(self, device: torch.device | str) -> "ImageFiles":
        """The same images, handed over on a device."""
        return replace(self, device=torch.device(device))

    def content(self) -> str:
        """The text "sha256 <hex>", of these images' names and bytes.

        What was decoded was hashed then; other files are read now.
        """
        unread = [path for path in self.paths if path not in self.hashes]
        self.hashes.update(file_hashes(self.root, unread, self.threads))
        return content_of(self.paths, self.hashes, self.said)

    # -- batches

    def batch(self, rows: Rows) -> Batch:
        """The images at these indices and their labels; decoded now, without workers."""
        return next(replace(self, workers=0).stream([rows]))

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield uint8 (n, 3, S, S) in order; ValueError names all files, from the first on, that
        cannot be read."""
        count = len(self)
        starts = range(0, count, batch_size)
        for pixels, _ in self.stream([range(at, min(at + batch_size, count)) for at in starts]):
            yield pixels

    def stream(self, parts: Iterable[Rows]) -> Generator[Batch, None, None]:
        """Yield the `batch` of each of these parts, in their order. Workers begin when the first is
        asked for, and end with the last.

        ValueError names all files of this and later parts that cannot be read."""
        numbers = [torch.as_tensor(rows, dtype=torch.int64).cpu() for rows in parts]
        batches = ([self.paths[row] for row in part.tolist()] for part in numbers)
        reader = self.reader()
        found: Iterator[Decoded]
        if self.workers:
            pinned = self.device.type == "cuda"
            workers = min(self.workers, max(1, len(numbers)))
            found = ahead.decoded(reader.read, batches, workers, pinned)
        else:
            found = reader.decoded(batches)
        for at, part in enumerate(found):
            self.hashes.update(part.hashes)
            self.refuse_failed(part, numbers[at + 1 :])
            pixels, labels = part.pixels, self.labels[numbers[at]]
            yield pixels.to(self.device, non_blocking=True), labels.to(self.device)

    def reader(self) -> "Reader":
        """What decodes the files of this set."""
        return Reader(str(self.root), self.preprocessing, self.threads)

    def refuse_failed(self, part: Decoded, later: Sequence[torch.Tensor]) -> None:
        """ValueError where files cannot be read; it names all of the `later` parts, too."""
        if not part.failed:
            return
        failed: list[Failure] = [(self.root / path, why) for path, why in part.failed.items()]
        others = self.take(torch.cat(tuple(later))).unreadable() if later else []
        reading.refuse(failed + others)

    def in_memory(self) -> Images:
        """All images, decoded now into one tensor."""
        size = self.preprocessing.size
        pixels = torch.empty((len(self), 3, size, size), dtype=torch.uint8)
        done = 0
        for part in self.batches(TOGETHER):
            pixels[done : done + len(part)] = part
            done += len(part)
        return Images(
            pixels,
            self.labels,
            self.class_names,
            self.source,
            left_out=self.left_out,
            hashed=self.content(),
        )

    # -- what cannot be read

    def unread(self) -> "ImageFiles":
        """The images that have not been decoded yet."""
        rows = [row for row, path in enumerate(self.paths) if path not in self.hashes]
        return self.take(rows)

    def unreadable(
        self, progress: Progress = lambda found, **_: found, to_the_end: bool = False
    ) -> list[Failure]:
        """[(path, why)] of the files that cannot be read as images, found at a fraction of what it
        takes to decode them. Of more than THOROUGH files the headers alone are read, unless
        `to_the_end`."""
        thorough = to_the_end or len(self.paths) <= THOROUGH
        side = self.preprocessing.resized

        def look(paths: list[Path]) -> list[Failure]:
            found: list[Failure] = []
            for path in paths:
                why = reading.complaint(path, thorough, side)
                if why:
                    found.append((path, why))
            return found

        paths = [self.root / path for path in self.paths]
        parts = [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]
        with ThreadPoolExecutor(self.threads) as pool:
            looked = progress(
                pool.map(look, parts),
                total=len(parts),
                desc=f"reading {self.root}",
                unit=f"{TOGETHER} files",
            )
            return [failure for part in looked for failure in part]


@dataclass(frozen=True)
class Reader:
    """Decodes files below `root`, in threads or in a worker process."""

    root: str
    preprocessing: Preprocessing
    threads: int = 1

    def image(self, path: str) -> tuple[np.ndarray | str, str | None]:
        """`decoded` of a path below the root."""
        return decoded(f"{self.root}/{path}", self.preprocessing)

    def read(self, paths: Sequence[str]) -> Decoded:
        """These files as a batch, one after the other."""
        return self.together(paths, map(self.image, paths))

    def decoded(self, batches: Iterable[Sequence[str]]) -> Iterator[Decoded]:
        """Yield these batches of files, each decoded by threads when it is asked for."""
        with ThreadPoolExecutor(self.threads) as pool:
            for paths in batches:
                # No batch ahead of the reader: on a CPU the decoding threads and the network's hold
                # each other up (10,000 images: 28 s on two cores, 6.5 s from memory).
                yield self.together(paths, pool.map(self.image, paths))

    def together(
        self, paths: Sequence[str], images: Iterable[tuple[np.ndarray | str, str | None]]
    ) -> Decoded:
        """What `image` made of each of these paths, as a batch."""
        arrays: list[np.ndarray] = []
        hashes: dict[str, str] = {}
        failed: dict[str, str] = {}
        for path, (found, digest) in zip(paths, images, strict=True):
            if isinstance(found, str):
                failed[path] = found
                continue
            assert digest is not None, "of what was decoded"
            arrays.append(found)
            hashes[path] = digest
        if failed:
            return Decoded(torch.empty(0, dtype=torch.uint8), hashes, failed)
        # One tensor per batch: one per image costs more than its decoding.
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        return Decoded(pixels, hashes, failed)


Set = Images | ImageFiles


# ---- folders -------------------------------------------------------------------------------------


def image_folder(
    place: str | Path, preprocessing: Preprocessing, classes: Sequence[str] | None = None
) -> ImageFiles:
    """Any folder of images, at any depth, or a single file -> ImageFiles in sorted order.

    The first level of subfolders gives the labels; images that lie at the top have label -1.
    `classes` fixes the names (a test split must know those of its training split)."""
    found = listing(place)
    first = list(map(first_folder, found.paths))
    present = set(first) - {""}
    names = list(classes or sorted(present))
    unknown = sorted(present - set(names))
    if unknown:
        raise ValueError(
            f"{found.root} has the class folder {unknown[0]!r}, which the training "
            "images do not have"
        )
    number = {name: index for index, name in enumerate(names)}
    labels = torch.tensor([number.get(name, -1) for name in first])
    return ImageFiles(
        found.paths,
        labels,
        names,
        found.source,
        preprocessing,
        found.root,
        counted(found.others, " left out"),
    )
