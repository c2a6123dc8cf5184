"""Rows of float32 that lie in a file without a name, for features that are larger than memory.

    rows = Writer(folder, width=768)
    rows.add(block)                      # (n, 768), block by block
    features = rows.finished()           # a DiskRows: len(features), features.shape
    features[1024:2048]                  # (1024, 768), read from the file into memory

The file is gone when nobody reads it any more, however the program ends. A pass over it costs what
the disk takes, or no more than memory where the system has kept it."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

CHUNK = 16_384  # rows that are read at a time where single ones are wanted
KIND = np.dtype(np.float32)


class DiskRows:
    """Rows (N, D) of float32 in a file. A slice, a mask or row numbers give an array in memory."""

    ndim = 2
    dtype = KIND

    def __init__(self, file: Any, shape: tuple[int, int], lowest: float, highest: float) -> None:
        self.file = file
        self.shape = shape
        self.lowest, self.highest = lowest, highest
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def min(self) -> float:
        """The smallest value; NaN where one is NaN."""
        return self.lowest

    def max(self) -> float:
        """The largest value; NaN where one is NaN."""
        return self.highest

    def __getitem__(self, chosen: Any) -> np.ndarray:
        """A slice, a mask (N,) or row numbers (k,) -> (k, D)."""
        if isinstance(chosen, slice):
            start, stop, step = chosen.indices(len(self))
            if step == 1:
                return self.read(start, max(start, stop))
            chosen = np.arange(start, stop, step)
        numbers = np.asarray(chosen)
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        return self.gathered(numbers)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Row by row, as an array gives them."""
        for start in range(0, len(self), CHUNK):
            yield from self[start : start + CHUNK]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory, for what cannot do with less."""
        return self.read(0, len(self)).astype(dtype or KIND, copy=False)

    def gathered(self, numbers: np.ndarray) -> np.ndarray:
        """Rows (k,) by their numbers from 0, in any order -> (k, D)."""
        assert not len(numbers) or numbers.min() >= 0, "no caller counts from the end"
        found = np.empty((len(numbers), self.shape[1]), KIND)
        chunks = numbers // CHUNK
        for chunk in np.unique(chunks):
            places = np.flatnonzero(chunks == chunk)
            own = numbers[places] - chunk * CHUNK
            low, high = int(own.min()), int(own.max()) + 1
            rows = self.read(int(chunk) * CHUNK + low, int(chunk) * CHUNK + high)
            found[places] = rows[own - low]
        return found

    def read(self, start: int, stop: int) -> np.ndarray:
        """The rows from start to stop, as they lie."""
        rows = np.empty((min(stop, len(self)) - start, self.shape[1]), KIND)
        if not rows.size:
            return rows
        left = rows.data.cast("B")
        place = start * self.shape[1] * KIND.itemsize
        while len(left):
            count = self.read_into(left, place)
            assert count, "the file is as long as it was written"
            left, place = left[count:], place + count
        return rows

    def read_into(self, room: memoryview, place: int) -> int:
        """Fill room with what lies at a place of the file -> the bytes that came; several threads
        may read at once."""
        if hasattr(os, "preadv"):
            return os.preadv(self.file.fileno(), [room], place)
        with self.lock:
            self.file.seek(place)
            return self.file.readinto(room)


class Writer:
    """Takes rows block by block into a file in `folder`, which should not lie in memory, as the
    system's folder for temporary files may."""

    def __init__(self, folder: Path, width: int) -> None:
        self.file = TemporaryFile(dir=folder)  # noqa: SIM115 (DiskRows reads it)
        self.width = width
        self.rows = 0
        self.lowest, self.highest = np.inf, -np.inf

    def add(self, rows: np.ndarray) -> None:
        """Append rows (n, D). OSError where the disk is full."""
        block = np.ascontiguousarray(rows, KIND)
        if not block.size:
            return
        self.file.write(block.data.cast("B"))
        self.rows += len(block)
        self.lowest = float(np.minimum(self.lowest, block.min()))  # NaN stays NaN
        self.highest = float(np.maximum(self.highest, block.max()))

    def finished(self) -> DiskRows:
        """The rows, to be read."""
        self.file.flush()
        return DiskRows(self.file, (self.rows, self.width), self.lowest, self.highest)
