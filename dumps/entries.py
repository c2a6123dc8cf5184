"""The arrays of a file, before any is read: what each is called, its shape, and how its rows come.

    dump = files.open_dump(Path("train.npz"))
    dump.entries["feat_list"].shape             # (50000, 512)
    for rows in dump.entries["feat_list"].blocks(): ...

A block has at most BLOCK rows, so that an array of any length needs little memory where its format
allows that: .npy, .npz, .safetensors and Parquet do, CSV and .pt files are read as a whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 4096  # rows
# Kinds of values: numbers with a fraction, whole numbers, text; pickled objects are never read.
FLOAT, WHOLE, TEXT, PICKLED, OTHER = "float", "whole", "text", "pickled objects", "other values"
KINDS = {"f": FLOAT, "i": WHOLE, "u": WHOLE, "b": WHOLE, "U": TEXT, "S": TEXT, "O": PICKLED}
SHOWN = 12  # entries that a message lists


@dataclass(frozen=True, eq=False)
class Entry:
    """One array of a file.

    key      its name in the file; "" in a file of one array
    shape    as the file says
    dtype    the type of its values, in the words of its format
    kind     of KINDS
    blocks   yields its rows in order, at most BLOCK at a time
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def rows(self) -> int:
        """N; 0 of a single number."""
        return self.shape[0] if self.shape else 0

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """The shape without axes of length 1 behind the first: (N, D, 1, 1) is (N, D)."""
        rows, others = self.shape[:1], self.shape[1:]
        long = tuple(length for length in others if length != 1)
        return rows + long

    @property
    def words(self) -> str:
        """ "feat_list (50000, 512) float32"."""
        shape = f"({', '.join(map(str, self.shape))})"
        return f"{self.key or 'one array'} {shape} {self.dtype}"

    def whole(self) -> np.ndarray:
        """All rows."""
        parts = list(self.blocks())
        return np.concatenate(parts) if parts else np.empty(self.shape)


@dataclass(frozen=True, eq=False)
class Dump:
    """A file and its arrays by key."""

    path: Path
    entries: dict[str, Entry]

    @property
    def words(self) -> str:
        """Its arrays, for a message."""
        listed = [entry.words for entry in self.entries.values()]
        more = f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""
        return "; ".join(listed[:SHOWN]) + more if listed else "no arrays"

    def entry(self, key: str) -> Entry:
        """The array of this key; ValueError that lists the keys where there is none, and where its
        values are pickled objects."""
        if key not in self.entries:
            raise ValueError(f"{self.path} has no {key!r}; it holds {self.words}")
        found = self.entries[key]
        if found.kind in (PICKLED, OTHER):
            raise ValueError(f"{self.named(found)} holds {found.kind} ({found.dtype}){mend(found)}")
        return found

    def named(self, entry: Entry) -> str:
        """FILE:KEY, as a person gives it; FILE where it holds one array."""
        return f"{self.path}:{entry.key}" if entry.key else str(self.path)


def mend(entry: Entry) -> str:
    """The end of a sentence about values that are not read."""
    if entry.kind == PICKLED:
        return (
            ", which would run code from the file when they are read, and are not; save plain"
            " numbers or texts, such as: np.savez(file, features=np.stack(list(features)))"
        )
    return "; save them as float32, such as: np.savez(file, features=x.astype(np.float32))"


def kind_of(dtype: np.dtype) -> str:
    """The kind of a NumPy type."""
    return KINDS.get(dtype.kind, OTHER)


def in_blocks(values: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    """The blocks of an array that is in memory."""

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(values), BLOCK):
            yield values[start : start + BLOCK]

    return blocks


def of_array(key: str, values: np.ndarray, dtype: str = "") -> Entry:
    """The entry of an array that is in memory."""
    return Entry(
        key, values.shape, dtype or str(values.dtype), kind_of(values.dtype), in_blocks(values)
    )
