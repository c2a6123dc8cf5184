""".npy and .npz files, a block of rows at a time and never with allow_pickle.

Only headers are read at first: they say shape and type of each array. An array of Python objects is
seen there, and is not opened."""

import functools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import numpy as np

from dumps.entries import BLOCK, Dump, Entry, kind_of

Open = Callable[[], AbstractContextManager[IO[bytes]]]
DAMAGED = (ValueError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError, SyntaxError)


def read_npy(path: Path) -> Dump:
    """A file of one array."""
    return Dump(path, {"": entry_of(path, "", lambda: open(path, "rb"))})


def read_npz(path: Path) -> Dump:
    """An archive of arrays by name; ValueError where it is damaged or none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
    except DAMAGED as error:
        raise ValueError(cannot(path, error)) from None
    entries = {}
    for name in names:
        key = name.removesuffix(".npy")
        entries[key] = entry_of(path, key, functools.partial(member, path, name))
    return Dump(path, entries)


def member(path: Path, name: str) -> IO[bytes]:
    """A file in an archive, open; the archive is closed with it."""
    with zipfile.ZipFile(path) as archive:
        return archive.open(name)  # it holds the archive's file open by itself


def cannot(path: Path, error: Exception) -> str:
    """The message about a file that is none of NumPy's."""
    return (
        f"{path} is not a file that np.save or np.savez wrote ({error or type(error).__name__}): it"
        " is damaged, cut short, or has another format; copy or save it again"
    )


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran's order or not, and type, from the start of a .npy file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"format {version[0]}.{version[1]} of .npy, expected 1.0 or 2.0")


def entry_of(path: Path, key: str, opened: Open) -> Entry:
    """The entry of one array, by its header."""
    try:
        with opened() as file:
            shape, fortran, dtype = header(file)
    except DAMAGED as error:
        raise ValueError(cannot(path, error)) from None

    def blocks() -> Iterator[np.ndarray]:
        try:
            with opened() as file:
                if fortran or len(shape) < 1:
                    yield np.lib.format.read_array(file, allow_pickle=False)
                    return
                header(file)
                yield from rows_of(file, shape, dtype)
        except DAMAGED as error:
            raise ValueError(cannot(path, error)) from None

    return Entry(key, shape, str(dtype), kind_of(dtype), blocks)


def rows_of(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The rows behind a header; ValueError where the file ends before the last."""
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    for start in range(0, shape[0], BLOCK):
        count = min(BLOCK, shape[0] - start)
        raw = file.read(count * row_bytes)
        if len(raw) < count * row_bytes:
            raise ValueError(f"it ends before row {start + count:,} of {shape[0]:,}")
        yield np.frombuffer(raw, dtype).reshape(count, *shape[1:])
