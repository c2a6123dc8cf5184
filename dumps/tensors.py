"""What torch.save wrote (.pt, .pth), read with weights_only=True alone, and .safetensors.

A .pt file may hold a tensor, a tuple or list, or a dict of these, nested: the key of an entry joins
the names, or the numbers of a tuple's parts, with a dot: `train.features`, `0`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dumps.entries import BLOCK, FLOAT, OTHER, WHOLE, Dump, Entry, kind_of, of_array
from networks import unpickling

DEEPEST = 4  # containers within containers
# Types of .safetensors, as its header names them.
KINDS = {"F16": FLOAT, "BF16": FLOAT, "F32": FLOAT, "F64": FLOAT, "BOOL": WHOLE}
KINDS |= {f"{letter}{bits}": WHOLE for letter in "IU" for bits in (8, 16, 32, 64)}


def read_torch(path: Path) -> Dump:
    """The tensors and lists of a .pt file; ValueError for one that would have to run code."""
    content = unpickling.unpickled(path)
    return Dump(path, {entry.key: entry for entry in entries_of(content, ())})


def entries_of(content: Any, names: tuple[str, ...]) -> Iterator[Entry]:
    """The arrays in what a file holds, each under the names that lead to it."""
    key = ".".join(names)
    if isinstance(content, unpickling.Array):
        content = content.values
    if isinstance(content, torch.Tensor):
        content = content.detach()
        yield of_array(key, as_numpy(content), str(content.dtype).removeprefix("torch."))
    elif isinstance(content, np.ndarray):
        yield of_array(key, content)
    elif is_column(content):
        values = np.array(content)
        yield Entry(key, values.shape, "list", kind_of(values.dtype), lambda: iter([values]))
    elif len(names) < DEEPEST and isinstance(content, Mapping):
        for name, value in content.items():
            yield from entries_of(value, (*names, str(name)))
    elif len(names) < DEEPEST and isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            yield from entries_of(value, (*names, str(number)))


def is_column(content: Any) -> bool:
    """True for a list of texts, or of whole numbers: labels, or paths."""
    if not isinstance(content, Sequence) or isinstance(content, (str, bytes)) or not content:
        return False
    return any(all(type(value) is kind for value in content) for kind in (str, int))


def as_numpy(values: torch.Tensor) -> np.ndarray:
    """A tensor as an array; bfloat16, which NumPy has not, as float32, exactly."""
    if values.layout != torch.strided:
        values = values.to_dense()
    if values.dtype == torch.bfloat16:
        values = values.float()
    return values.cpu().numpy()


def read_safetensors(path: Path) -> Dump:
    """The tensors of a .safetensors file by name; ValueError where it is damaged or none."""
    import safetensors

    try:
        with safetensors.safe_open(path, "pt") as file:
            entries = {key: lazy(path, key, file.get_slice(key)) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a .safetensors file that can be read ({error}): it is damaged or cut"
            " short, or has another format; copy it again"
        ) from None
    return Dump(path, entries)


def lazy(path: Path, key: str, described: Any) -> Entry:
    """The entry of one tensor, whose rows are read from the file when they are asked for."""
    import safetensors

    shape = tuple(described.get_shape())
    dtype = described.get_dtype()

    def blocks() -> Iterator[np.ndarray]:
        with safetensors.safe_open(path, "pt") as file:
            if not shape:
                yield as_numpy(file.get_tensor(key))
                return
            rows = file.get_slice(key)
            for start in range(0, shape[0], BLOCK):
                yield as_numpy(rows[start : start + BLOCK])

    return Entry(key, shape, dtype, KINDS.get(dtype, OTHER), blocks)
