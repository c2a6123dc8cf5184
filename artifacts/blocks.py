"""Features block by block: BLOCK rows by global row index, from a file or a folder of shards, in
memory that does not grow with them.

    for block in blocks("results/net/ID_cifar100_train.parquet"):
        block.features    # (n, D) float32; n is BLOCK but for the last block
        block.labels      # (n,) int64
        block.start       # the index of its first row in the whole set

What `store.read_features` refuses is refused here too, in the same pass. A file's content is known
at its end only: what was made of the blocks counts once the last one has been taken.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from arrays import BLOCK, first_outside
from artifacts import csv_files, current, frames, records, shards
from artifacts.frames import Digest


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a set."""

    start: int  # the global index of the first
    features: np.ndarray  # (n, D) float32
    labels: np.ndarray  # (n,) int64
    paths: list[str] | None  # [n] the image files, if the images came from files


class Room:
    """Arrays that frames fill from the top."""

    def __init__(self, rows: int, width: int):
        self.rows = 0  # filled so far
        self.features = np.empty((rows, width), np.float32)
        self.labels = np.empty(rows, np.int64)
        self.paths: list[str] | None = None

    @property
    def left(self) -> int:
        """The rows that are free."""
        return len(self.labels) - self.rows

    def add(self, frame: pl.DataFrame) -> None:
        """Append the rows of a frame, at most those that are free."""
        filled = slice(self.rows, self.rows + frame.height)
        numbers = frame.get_columns()[: self.features.shape[1]]
        self.features[filled] = pl.DataFrame(numbers).to_numpy(order="c")
        self.labels[filled] = frame["label"].to_numpy()
        if "path" in frame.columns:
            self.paths = self.paths or []
            self.paths += frame["path"].to_list()
        self.rows += frame.height

    def block(self, start: int) -> Block:
        """The rows that are filled, without a copy."""
        return Block(start, self.features[: self.rows], self.labels[: self.rows], self.paths)


# ---- read ----------------------------------------------------------------------------------------


def blocks(
    path: str | os.PathLike,
    stale: records.Stale | None = None,
    remedy: str = "the script that wrote it",
    check: bool = True,
) -> Iterator[Block]:
    """Yield the blocks of a set in order; the last may be shorter.

    ValueError as `store.read_features` raises it. With check=False the content is not compared with
    the sidecar again: for another pass over what this process has checked before."""
    width = width_of(path, remedy)
    start = 0
    room = Room(BLOCK, width)
    for frame in checked_frames(path, stale, remedy, check):
        while frame.height:
            fitting = min(room.left, frame.height)
            room.add(frame.head(fitting))
            frame = frame.slice(fitting)
            if not room.left:
                yield room.block(start)
                start += BLOCK
                room = Room(BLOCK, width)
    if room.rows:
        yield room.block(start)


def whole(
    path: str | os.PathLike,
    stale: records.Stale | None = None,
    remedy: str = "the script that wrote it",
) -> Block:
    """All rows of a set as one block. ValueError as `blocks` raises it."""
    width = width_of(path, remedy)
    room = Room(expected_rows(path, width), width)
    for frame in checked_frames(path, stale, remedy):
        if frame.height > room.left:
            room = larger(room, path)
        room.add(frame)
    return room.block(0)


def expected_rows(path: str | os.PathLike, width: int) -> int:
    """About as many rows as a set has, found without reading its values."""
    known = {shard.file: shard.rows for shard in shards.listed(records.read_sidecar(path))}
    rows = 0
    for part in shards.parts_of(path):
        said = known.get(part.name, records.read_sidecar(part).get("rows"))
        # a cell and its comma are two bytes at least: a sidecar may say anything
        most = os.path.getsize(part) // (2 * width) + 1
        if csv_files.is_parquet(part) or said is None or said > most:
            said = frames.count_rows(part)
        rows += said
    return rows


def larger(room: Room, path: str | os.PathLike) -> Room:
    """The same rows with room for all that the set has: its sidecar counted too few."""
    rows = sum(frames.count_rows(part) for part in shards.parts_of(path))
    more = Room(rows, room.features.shape[1])
    more.features[: room.rows] = room.features[: room.rows]
    more.labels[: room.rows] = room.labels[: room.rows]
    more.rows, more.paths = room.rows, room.paths
    return more


def width_of(path: str | os.PathLike, remedy: str) -> int:
    """D of a set, whose shards are looked through first. ValueError with the remedy."""
    if shards.is_folder(path):
        shards.check_folder(Path(path), remedy)
    first = shards.parts_of(path)[0]
    try:
        return csv_files.width_of(first)
    except ValueError as error:
        raise ValueError(f"{error}; make it anew with: {remedy}") from None


@dataclass(eq=False)
class Stored:
    """A set of features that is read block by block each time that it is asked for; the first pass
    compares it with its sidecar."""

    file: Path
    stale: records.Stale | None = None
    remedy: str = "the script that wrote it"
    classes: int | None = None  # labels are to be below; None: any labels
    labelled_by: str = ""  # the command that gives labels, where images may come without them
    checked: bool = False
    rows: int = 0  # known after the first pass

    @property
    def width(self) -> int:
        """D."""
        return width_of(self.file, self.remedy)

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks in order. ValueError also for a label that is no class."""
        rows = 0
        for block in blocks(self.file, self.stale, self.remedy, check=not self.checked):
            self.check_labels(block)
            rows += len(block.labels)
            yield block
        self.checked, self.rows = True, rows

    def read(self) -> Block:
        """All rows at once, for what cannot do with blocks."""
        return whole(self.file, self.stale, self.remedy)

    def check_labels(self, block: Block) -> None:
        """ValueError, with file and row, for a label that is not a class of the head."""
        if self.classes is None:
            return
        row = first_outside(block.labels, self.classes)
        if self.labelled_by and row is not None and (block.labels == -1).all():
            raise ValueError(
                f"{self.file} has no labels, and neural collapse is measured class by class; give"
                f" them with: {self.labelled_by}"
            )
        if row is not None:
            raise ValueError(
                f"{place(self.file, block.start + row, 'label')}: found label"
                f" {block.labels[row]}, and the head knows classes 0 to {self.classes - 1}"
            )


def place(path: Path, row: int, column: str) -> str:
    """The position of a cell in words, the shard with it where there are several."""
    for part in shards.parts_of(path):
        own = 0 if part == path else sum(frame.height for frame in frames.frames(part))
        if part == path or row < own:
            return csv_files.place(part, row, column)
        row -= own
    return f"{path}, column {column}"


# ---- checked -------------------------------------------------------------------------------------


def checked_frames(
    path: str | os.PathLike, stale: records.Stale | None, remedy: str, check: bool = True
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a set; behind each file ValueError where it is not what its sidecar, or
    that of the set, says."""
    if not shards.is_folder(path):
        sidecar = records.read_sidecar(path)
        yield from frames_of(Path(path), sidecar, stale, remedy, check)
        return
    known = {shard.file: shard for shard in shards.listed(records.read_sidecar(path))}
    for part in shards.parts_of(path):
        shard = known.get(part.name)
        yield from frames_of(part, vars(shard) if shard else {}, stale, remedy, check)


def frames_of(
    file: Path, sidecar: dict, stale: records.Stale | None, remedy: str, check: bool
) -> Iterator[pl.DataFrame]:
    """Yield the rows of one file; behind them ValueError where they are not what `sidecar` says."""
    digest = Digest() if check and sidecar.get("content_sha256") else None
    rows = 0
    try:
        for frame in frames.frames(file):
            rows += frame.height
            if digest:
                digest.update(frame)
            yield frame
    except ValueError as error:
        raise ValueError(f"{error}; make it anew with: {remedy}") from None
    if not check:
        return

    def content() -> str:
        return digest.hexdigest() if digest else ""

    if not current.check_against(file, sidecar, content, rows, stale, remedy):
        refuse_cut_short(file, remedy)


def refuse_cut_short(file: Path, remedy: str) -> None:
    """ValueError for a file that nothing vouches for, and that may have been cut short."""
    try:
        csv_files.check_end(file)
    except ValueError as error:
        raise ValueError(f"{error}; make it anew with: {remedy}") from None
