"""A last layer in a file, as people keep it: weights (C, D) and a bias (C,) under any names, a
head.csv, or a whole state dict of which one layer is named."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts import csv_files
from dumps.entries import FLOAT, Dump, Entry
from dumps.sources import Source, divide, opened
from head import Head

BIAS_OF = (("weight", "bias"), ("kernel", "bias"), ("coef_", "intercept_"), ("W", "b"), ("w", "b"))


@dataclass(frozen=True, eq=False)
class Given:
    """A head that was read, and what to say of how it was read."""

    head: Head
    names_known: bool  # the file names the classes
    facts: dict[str, object]  # for the sidecar
    said: list[str]


def read(text: str, width: int) -> Given:
    """--head FILE or FILE:KEY -> the head of `width` features; ValueError where there is none."""
    path, _ = divide(text)
    if path.suffix.lower() == ".csv" and path.is_file():
        return read_csv(path, width)
    dump, key = opened(text, "--head")
    weight = weight_of(dump, key, width)
    bias = bias_of(dump, weight, width)
    rows, columns = weight.entry.plain_shape
    W = finite(weight).reshape(rows, columns)
    said = []
    if W.shape[1] != width:
        W = np.ascontiguousarray(W.T)
        said.append(f"{weight.name} is (D, C) {weight.entry.shape}, and is turned to (C, D)")
    b = np.zeros(len(W), np.float32)
    if bias is None:
        said.append(f"{dump.path} holds no bias of {len(W):,} numbers: it is taken as 0")
    else:
        b = finite(bias).reshape(len(W))
    facts: dict[str, object] = {"weight": weight.facts(), "bias": bias.facts() if bias else None}
    return Given(Head(W, b), False, facts, said)


def read_csv(path: Path, width: int) -> Given:
    """A head.csv: class, w0 .. w{D-1}, bias."""
    frame = csv_files.read_head(path)
    weights = [name for name in frame.columns if name not in ("class", "bias")]
    if len(weights) != width:
        raise ValueError(
            f"--head {path} has {len(weights):,} weights per class, and the features are"
            f" {width:,} wide; take both from one network"
        )
    W = frame.select(weights).to_numpy(order="c")
    head = Head(W, frame["bias"].to_numpy(), frame["class"].to_list())
    place = Source(Dump(path, {}), Entry("", W.shape, "decimals", FLOAT, lambda: iter([W])))
    return Given(head, True, {"weight": place.facts(), "bias": None}, [])


def weight_of(dump: Dump, key: str | None, width: int) -> Source:
    """The weight: the array that is named, or the only matrix that has D on one side."""
    if key is not None:
        entry = dump.entry(key)
        if not fits(entry, width):
            raise ValueError(
                f"--head {dump.named(entry)} has shape {entry.shape} of {entry.dtype}; expected"
                f" (C, {width}), as wide as the features"
            )
        return Source(dump, entry)
    found = [entry for entry in dump.entries.values() if fits(entry, width)]
    if len(found) == 1:
        return Source(dump, found[0])
    if not found:
        raise ValueError(
            f"--head {dump.path} holds no matrix (C, {width}), as wide as the features: it holds"
            f" {dump.words}; take features and head from one network"
        )
    raise ValueError(
        f"--head {dump.path} holds {len(found)} matrices with a side of {width}: {dump.words}; name"
        f" the last layer's as FILE:KEY, such as --head {dump.named(found[-1])}"
    )


def fits(entry: Entry, width: int) -> bool:
    """True for a matrix of numbers (C, D) or (D, C), C at least 2."""
    shape = entry.plain_shape
    return entry.kind == FLOAT and len(shape) == 2 and width in shape and min(shape) > 0


def bias_of(dump: Dump, weight: Source, width: int) -> Source | None:
    """The bias beside a weight: by its name, or the only array of C numbers; None without any."""
    rows, columns = weight.entry.plain_shape
    classes = rows if columns == width else columns
    beginning, dot, last = weight.entry.key.rpartition(".")
    for name, partner in BIAS_OF:
        entry = dump.entries.get(f"{beginning}{dot}{partner}")
        if last == name and entry is not None:
            return checked_bias(Source(dump, entry), classes)
    found = [
        entry
        for entry in dump.entries.values()
        if entry.kind == FLOAT and entry.plain_shape == (classes,)
    ]
    if len(found) > 1:
        raise ValueError(
            f"--head {dump.path} holds {len(found)} arrays of {classes:,} numbers, and which is the"
            f" bias of {weight.entry.key!r} is not clear: {dump.words}; save weight and bias alone,"
            " such as: np.savez('head.npz', weight=W, bias=b)"
        )
    return Source(dump, found[0]) if found else None


def checked_bias(bias: Source, classes: int) -> Source:
    """ValueError for a bias of another number of classes."""
    if bias.entry.plain_shape != (classes,):
        raise ValueError(
            f"--head {bias.name} has shape {bias.entry.shape}; expected ({classes},), one number"
            " per row of the weight"
        )
    return bias


def finite(source: Source) -> np.ndarray:
    """An array as float32; ValueError for NaN and infinity."""
    with np.errstate(over="ignore"):
        values = source.entry.whole().astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(
            f"--head {source.name} holds NaN or infinity; take the head of a sound checkpoint"
        )
    return values
