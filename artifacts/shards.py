"""A set of features as a folder of shards, which every reader takes in place of a file.

    ID_cifar100_train.parquet/      a folder, named as the file would be
        00000.parquet               the first rows; every shard is a feature file by itself
        00001.parquet
    ID_cifar100_train.json          one sidecar for all: rows, width, rows and hashes of each shard

A shard has a sidecar of its own, 00001.json, until the set is whole. So a set without its sidecar
whose shards have theirs is not finished, and what makes it can go on where it stopped. A folder
without any sidecar comes from elsewhere, and is taken on trust, as a file would be.

The hash of a set is made of those of its shards: no shard is read again when another one is.
"""

import contextlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arrays import BLOCK
from artifacts import csv_files, records
from utils import write_json

# What tells two extractions apart, and how a message calls it.
SAME = {
    "checkpoint_sha256": "checkpoint",
    "weights_sha256": "weights",
    "preprocessing": "preprocessing",
    "width": "width",
    "shard_rows": "--shard-rows",
}


@dataclass(frozen=True)
class Shard:
    """One shard as the sidecar of its set lists it."""

    file: str  # its name in the folder
    rows: int
    sha256: str
    content_sha256: str


# ---- names and sizes -----------------------------------------------------------------------------


def is_folder(path: str | os.PathLike) -> bool:
    """True for a folder of shards, False for a file."""
    return os.path.isdir(path)


def shard_path(folder: str | os.PathLike, number: int) -> Path:
    """The path of a shard, counted from 0."""
    folder = Path(folder)
    return folder / f"{number:05d}{folder.suffix}"


def parts_of(path: str | os.PathLike) -> list[Path]:
    """The files of a set in order: the shards of a folder, or the file itself."""
    if not is_folder(path):
        return [Path(path)]
    return [Path(path) / name for name in records.shard_names(path)]


def spans(rows: int, shard_rows: int) -> list[slice]:
    """Which rows each shard of a set holds."""
    return [slice(start, min(start + shard_rows, rows)) for start in range(0, rows, shard_rows)]


def complaint(shard_rows: int) -> str | None:
    """What is wrong with a number of rows for shards, or None.

    Shards end where blocks of rows end: then sums over images are the same to the last bit whether
    they go over a file or over shards.
    """
    below = shard_rows // BLOCK * BLOCK
    if shard_rows > 0 and shard_rows == below:
        return None
    nearest = f"{BLOCK}" if below <= 0 else f"{below} or {below + BLOCK}"
    return (
        f"--shard-rows {shard_rows} is not a multiple of {BLOCK:,}, the rows that are summed at"
        f" once; give {nearest}"
    )


def remove(path: str | os.PathLike) -> None:
    """Remove a feature file, or a folder of shards with the sidecars of its shards; nothing else in
    the folder is touched."""
    path = Path(path)
    if not is_folder(path):
        path.unlink(missing_ok=True)
        return
    for part in parts_of(path):
        records.sidecar_path(part).unlink(missing_ok=True)
        part.unlink()
    with contextlib.suppress(OSError):  # others' files are left in it
        path.rmdir()


# ---- the sidecar of a set ------------------------------------------------------------------------


def listed(sidecar: Mapping[str, Any]) -> list[Shard]:
    """The shards that the sidecar of a set lists."""
    return [Shard(**entry) for entry in sidecar.get("shards") or []]


def together(shards: Sequence[Shard]) -> dict[str, Any]:
    """What the sidecar of a set says of its shards."""
    contents = [shard.content_sha256 for shard in shards]
    hashes = [[shard.file, shard.sha256] for shard in shards]
    return {
        "rows": sum(shard.rows for shard in shards),
        "shards": [asdict(shard) for shard in shards],
        "sha256": records.hash_of(hashes),
        "content_sha256": records.hash_of(contents),
    }


def of_sidecar(part: Path) -> Shard | None:
    """A shard as its own sidecar has it; None where there is none."""
    own = records.read_sidecar(part)
    if not {"rows", "sha256", "content_sha256"} <= set(own):
        return None
    return Shard(part.name, own["rows"], own["sha256"], own["content_sha256"])


def is_intact(folder: Path, shard: Shard) -> bool:
    """True if the file of a shard is there, to the byte."""
    path = folder / shard.file
    return path.is_file() and records.sha256(path) == shard.sha256


def finish(folder: Path, sidecar: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    """Write the sidecar of a whole set; those of its shards go."""
    write_json(records.sidecar_path(folder), {**sidecar, **together(shards)})
    for shard in shards:
        records.sidecar_path(folder / shard.file).unlink(missing_ok=True)


# ---- what can be wrong with a folder -------------------------------------------------------------


def check_folder(path: Path, remedy: str) -> None:
    """ValueError for a folder whose shards are not those of its sidecar, or not of one kind.

    No row is read; `remedy` is the command that makes what is missing."""
    names = [part.name for part in parts_of(path)]
    sidecar = records.read_sidecar(path)
    again = f"make it anew with: {remedy}"
    if not names and not sidecar:
        raise ValueError(f"{path} is a folder without shards; {again}")
    if sidecar:
        check_listed(path, names, sidecar, again)
    else:
        refuse_unfinished(path, names, remedy)
    check_widths(path, again)


def check_listed(path: Path, names: list[str], sidecar: Mapping[str, Any], again: str) -> None:
    """ValueError unless the sidecar lists just these shards, and as many rows as it counts."""
    shards = listed(sidecar)
    place = records.sidecar_path(path)
    if not shards:
        raise ValueError(f"{place} lists no shards, and {path} is a folder of them; {again}")
    expected = [shard.file for shard in shards]
    missing = [name for name in expected if name not in names]
    if missing:
        some = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise ValueError(
            f"{path} lacks {some}: {len(missing)} of {len(expected)} shards that its sidecar lists;"
            f" {again}"
        )
    more = [name for name in names if name not in expected]
    if more:
        files = shlex.join(str(path / name) for name in more)
        raise ValueError(
            f"{path} holds {more[0]}, which its sidecar does not list: its rows may be there twice;"
            f" remove it with: rm {files}"
        )
    rows = sum(shard.rows for shard in shards)
    if sidecar.get("rows") != rows:
        raise ValueError(
            f"{place} counts {sidecar.get('rows')} rows, and its shards have {rows} together;"
            f" {again}"
        )


def refuse_unfinished(path: Path, names: Iterable[str], remedy: str) -> None:
    """ValueError for a set without a sidecar whose shards have theirs."""
    own = {name: records.read_sidecar(path / name) for name in names}
    own = {name: sidecar for name, sidecar in own.items() if sidecar}
    if not own:
        return
    (first, one), *others = own.items()
    for name, other in others:
        for key, word in SAME.items():
            if one.get(key) != other.get(key):
                raise ValueError(
                    f"{path}: {first} and {name} are of another {word} each, and no set; make it"
                    f" anew with: {remedy} --force"
                )
    raise ValueError(
        f"{path} is not finished: {len(own)} shards are there, and no sidecar of the set; go on"
        f" with: {remedy}"
    )


def check_widths(path: Path, again: str) -> None:
    """ValueError for shards of different widths."""
    parts = parts_of(path)
    try:
        widths = {part: csv_files.width_of(part) for part in parts}
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from None
    first = parts[0]
    for part, found in widths.items():
        if found != widths[first]:
            raise ValueError(
                f"{part} is {found} features wide where {first.name} has {widths[first]}: they come"
                f" from different networks; {again}"
            )
