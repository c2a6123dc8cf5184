"""What a flag names, FILE or FILE:KEY, and which array of the file that is.

Nothing is guessed: one two-dimensional array is the features, and of several the person names one.
Labels are the array that a flag names, the one array of a usual name beside the features, or the
only one of whole numbers or texts that has one value per row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts import records
from dumps import files
from dumps.entries import FLOAT, PICKLED, TEXT, WHOLE, Dump, Entry

# Usual names of labels and of the images' paths, in any case.
LABELS = (
    "label",
    "labels",
    "label_list",
    "target",
    "targets",
    "class",
    "classes",
    "y",
    "gt",
)
PATHS = ("path", "paths", "filename", "filenames", "image_path", "image_paths")


@dataclass(frozen=True, eq=False)
class Source:
    """One array of a file, chosen and not yet read."""

    dump: Dump
    entry: Entry

    @property
    def name(self) -> str:
        """FILE:KEY, or FILE."""
        return self.dump.named(self.entry)

    def facts(self) -> dict[str, object]:
        """What a sidecar says of it: file, key, shape, type, and the file's SHA-256."""
        return {
            "file": str(self.dump.path),
            "key": self.entry.key,
            "shape": list(self.entry.shape),
            "dtype": self.entry.dtype,
            "sha256": records.sha256(self.dump.path),
        }


def divide(text: str) -> tuple[Path, str | None]:
    """FILE, or FILE:KEY -> (file, key); the longest beginning that is a file counts as FILE."""
    if Path(text).exists():
        return Path(text), None
    start = len(text)
    while (start := text.rfind(":", 0, start)) > 0:
        if Path(text[:start]).is_file():
            return Path(text[:start]), text[start + 1 :]
    return Path(text), None


def opened(text: str, flag: str) -> tuple[Dump, str | None]:
    """The file that a flag names, and the key behind it; ValueError in the name of the flag."""
    path, key = divide(text)
    try:
        return files.open_dump(path), key
    except ValueError as error:
        raise ValueError(f"{flag} {text}: {error}") from None


# ---- features ------------------------------------------------------------------------------------


def matrix(dump: Dump, key: str | None, flag: str) -> Source:
    """The two-dimensional array of a file: the one that is named, or the only one.

    ValueError that lists what is there where there is none, or several."""
    if key is not None:
        return Source(dump, two_dimensional(dump, dump.entry(key), flag))
    found = [entry for entry in dump.entries.values() if len(entry.plain_shape) == 2]
    floats = [entry for entry in found if entry.kind == FLOAT]
    candidates = floats or [entry for entry in found if entry.kind == WHOLE]
    if len(candidates) == 1:
        return Source(dump, candidates[0])
    if not candidates:
        raise ValueError(f"{flag} {dump.path}: {nothing_there(dump)}; it holds {dump.words}")
    example = dump.named(candidates[0])
    raise ValueError(
        f"{flag} {dump.path} holds {len(candidates)} two-dimensional arrays, and one of them is"
        f" meant: {dump.words}; name it as FILE:KEY, such as {flag} {example}"
    )


def nothing_there(dump: Dump) -> str:
    """Why a file has no matrix, in words."""
    if any(entry.kind == PICKLED for entry in dump.entries.values()):
        return (
            "no two-dimensional array of numbers; what is pickled would run code when it is read,"
            " and is not; save plain arrays, such as: np.savez(file, features=x, labels=y)"
        )
    if dump.path.suffix.lower() in (".csv", ".parquet"):
        return "no columns that are numbered through, such as f0, f1, f2 ..."
    return "no two-dimensional array of numbers"


def two_dimensional(dump: Dump, entry: Entry, flag: str) -> Entry:
    """An entry that is named; ValueError unless it is (N, D), or (N, D, 1, 1)."""
    if len(entry.plain_shape) == 2 and entry.kind in (FLOAT, WHOLE):
        return entry
    if len(entry.shape) == 2 and entry.kind in (FLOAT, WHOLE):  # (N, 1): one feature
        return entry
    advice = ""
    if len(entry.plain_shape) > 2:
        advice = "; average feature maps over their positions first, such as: x.mean((2, 3))"
    raise ValueError(
        f"{flag} {dump.named(entry)} has shape {entry.shape} of {entry.dtype}; expected numbers"
        f" (N, D), or (N, D, 1, 1){advice}"
    )


def width_of(entry: Entry) -> int:
    """D of a matrix."""
    return int(np.prod(entry.shape[1:], dtype=np.int64))


def float32_blocks(source: Source) -> Iterator[np.ndarray]:
    """The rows of a matrix as float32 (n, D).

    ValueError for NaN, infinity, and numbers beyond float32, with the first such row."""
    done = 0
    for block in source.entry.blocks():
        with np.errstate(over="ignore", invalid="ignore"):
            rows = np.ascontiguousarray(block.reshape(len(block), -1), np.float32)
        finite = np.isfinite(rows)
        if not finite.all():
            row = int(np.argmin(finite.all(axis=1)))
            value = block.reshape(len(block), -1)[row][~finite[row]][0]
            raise ValueError(
                f"{source.name}, data row {done + row + 1}: found {value}, expected a finite"
                " number of float32; leave such rows out, or compute them again"
            )
        done += len(rows)
        yield rows


# ---- what stands beside them ---------------------------------------------------------------------


def column(dump: Dump, key: str | None, flag: str) -> Source:
    """The labels of a file of labels: the array that is named, the only one, the only one of a
    usual name, or the only one of one value per row."""
    if key is not None:
        return Source(dump, dump.entry(key))
    readable = [entry for entry in dump.entries.values() if entry.kind in (FLOAT, WHOLE, TEXT)]
    single = [entry for entry in readable if len(entry.plain_shape) == 1]
    named = [entry for entry in readable if last_name(entry.key) in LABELS]
    for candidates in (named, single, readable):
        if len(candidates) == 1:
            return Source(dump, candidates[0])
    raise ValueError(
        f"{flag} {dump.path}: which of its arrays holds the labels is not clear: {dump.words};"
        f" name one as FILE:KEY, such as {flag} {example_of(dump, readable)}"
    )


def beside(features: Source, flag: str) -> Source | None:
    """The labels in the file of the features; None where there are none.

    ValueError where several arrays could be labels."""
    dump, count = features.dump, features.entry.rows
    found = [
        entry
        for entry in dump.entries.values()
        if entry is not features.entry
        and entry.plain_shape == (count,)
        and entry.kind in (FLOAT, WHOLE, TEXT)
        and last_name(entry.key) not in PATHS
    ]
    named = [entry for entry in found if last_name(entry.key) in LABELS]
    candidates = named or [entry for entry in found if entry.kind != FLOAT or is_whole(entry)]
    if len(candidates) < 2:
        return Source(dump, candidates[0]) if candidates else None
    raise ValueError(
        f"{dump.path} holds {len(candidates)} arrays that could be its labels: {dump.words}; name"
        f" them as FILE:KEY, such as {flag} {example_of(dump, candidates)}"
    )


def is_whole(entry: Entry) -> bool:
    """True where all numbers of a column of floats are whole, as labels kept as floats are."""
    values = entry.whole()
    return bool((values == np.round(values)).all())


def paths_beside(features: Source) -> Source | None:
    """The images' paths in the file of the features, under a usual name; None without any."""
    for entry in features.dump.entries.values():
        is_path = last_name(entry.key) in PATHS and entry.kind == TEXT
        if is_path and entry.plain_shape == (features.entry.rows,):
            return Source(features.dump, entry)
    return None


def example_of(dump: Dump, candidates: Sequence[Entry]) -> str:
    """FILE:KEY of the first candidate."""
    return dump.named(candidates[0]) if candidates else f"{dump.path}:KEY"


def last_name(key: str) -> str:
    """The last part of a key in lower case: "train.Labels" -> "labels"."""
    return key.rpartition(".")[2].strip().lower()
