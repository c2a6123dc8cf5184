"""Sets of images, in memory and in files, and how a folder becomes one.

    images = image_folder("photographs", preprocessing)      # ImageFiles
    for pixels in images.batches(256): ...                   # uint8 (n, 3, S, S)

images/reading.py reads each file. What cannot be read is named, all such files of a set at once; a
kind of file that is left out is counted and said.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from images import reading
from images.folders import content_of, counted, file_hashes, listing
from images.reading import Failure

# files of a set that are read to their end before the long work; of more than these, the headers
# alone
THOROUGH = 20_000
TOGETHER = 64  # headers that a thread looks at; handing over one costs as much as the look


Progress = Callable[..., Iterable[Any]]  # such as cli.progress: (iterable, total, desc, unit)


class Preprocessing(Protocol):
    """What a set has to know of data.Preprocessing."""

    @property
    def resized(self) -> int:
        """Pixels of the shorter side before the centre is cropped."""

    def resize(self, image: Any) -> Any:
        """PIL image -> PIL image (S, S)."""


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
    """Images that lie in files: decoded in threads, batch by batch, so that memory stays small."""

    paths: list[str]  # below root
    labels: torch.Tensor  # (N,) int64; -1: none
    class_names: list[str]
    source: str
    preprocessing: Preprocessing
    root: Path
    left_out: str = ""  # what else lies there, such as "3 other files left out (.heic, no ending)"
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    # {path: SHA-256}; takes of this set share it
    hashes: dict[str, str] = field(default_factory=dict, repr=False)
    said: dict[str, str] = field(default_factory=dict, repr=False)  # of a list: {path: its label}
    skipped: dict[str, str] = field(default_factory=dict)  # {path: why} of broken files, left out

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: torch.Tensor | Sequence[int]) -> "ImageFiles":
        """The images at these indices (M,), in that order."""
        paths = [self.paths[index] for index in indices]
        return replace(self, paths=paths, labels=self.labels[indices])

    def content(self) -> str:
        """The text "sha256 <hex>", of these images' names and bytes.

        What was decoded was hashed then; other files are read now.
        """
        unread = [path for path in self.paths if path not in self.hashes]
        self.hashes.update(file_hashes(self.root, unread, self.threads))
        return content_of(self.paths, self.hashes, self.said)

    def decode(self, path: str) -> np.ndarray | str:
        """The image as uint8 (S, S, 3); where it cannot be read, why.

        The file is read once, so that the hash is of the very bytes that are decoded. Over 5,000
        PNGs of 32 x 32 pixels this took 0.57 s where decoding by path took 0.61 (one core, AMD
        EPYC); hashing 27 kB takes 16 us, decoding that JPEG 500."""
        try:
            # pathlib and a buffer would cost 10 us; decoding a small PNG takes 55.
            with open(f"{self.root}/{path}", "rb", buffering=0) as file:
                content = file.read()
            image = reading.read(io.BytesIO(content), self.preprocessing.resized)
        except Exception as error:
            return reading.reason(error)
        self.hashes[path] = sha256(content).hexdigest()
        return np.asarray(self.preprocessing.resize(image))

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield uint8 (n, 3, S, S) in order; ValueError names all files, from the first on, that
        cannot be read."""
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(self.paths), batch_size):
                # No batch ahead of the reader: on a CPU the decoding threads and the network's hold
                # each other up (10,000 images: 28 s on two cores, 6.5 s from memory).
                stop = start + batch_size
                decoded = list(pool.map(self.decode, self.paths[start:stop]))
                self.refuse_unread(decoded, start)
                # One tensor per batch: one per image costs more than its decoding.
                pixels = torch.from_numpy(np.stack(decoded))
                yield pixels.permute(0, 3, 1, 2).contiguous()

    def refuse_unread(self, decoded: Sequence[np.ndarray | str], start: int) -> None:
        """ValueError where `decode` gave reasons among the images from `start` on; it names all
        later files of the set that cannot be read, too."""
        stop = start + len(decoded)
        failed: list[Failure] = []
        for path, found in zip(self.paths[start:stop], decoded, strict=True):
            if isinstance(found, str):
                failed.append((self.root / path, found))
        if failed:
            later = replace(self, paths=self.paths[stop:])
            reading.refuse(failed + later.unreadable())

    def in_memory(self) -> Images:
        return Images(
            torch.cat(list(self.batches(256))),
            self.labels,
            self.class_names,
            self.source,
            left_out=self.left_out,
            hashed=self.content(),
        )

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


# ---- folders -------------------------------------------------------------------------------------


def image_folder(
    place: str | Path, preprocessing: Preprocessing, classes: Sequence[str] | None = None
) -> ImageFiles:
    """Any folder of images, at any depth, or a single file -> ImageFiles in sorted order.

    The first level of subfolders gives the labels; images that lie at the top have label -1.
    `classes` fixes the names (a test split must know those of its training split)."""
    found = listing(place)
    first = [path.split("/")[0] if "/" in path else None for path in found.paths]
    present = {name for name in first if name is not None}
    names = list(classes or sorted(present))
    unknown = sorted(present - set(names))
    if unknown:
        raise ValueError(
            f"{found.root} has the class folder {unknown[0]!r}, which the training "
            "images do not have"
        )
    number: dict[str | None, int] = {name: index for index, name in enumerate(names)}
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
