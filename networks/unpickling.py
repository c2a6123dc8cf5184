"""Reading what torch.save wrote, without running code from the file.

    content = unpickling.unpickled(Path("elsewhere.pth"))

A file is read with weights_only=True, always. The few types that people store beside their weights
(argparse.Namespace, paths, NumPy scalars ...) are replaced by harmless values of this module: their
own classes are neither imported nor called."""

import contextlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from networks.messages import SAVE, shown

# ---- stand-ins -----------------------------------------------------------------------------------


class Record:
    """Stands for an object that only holds attributes, such as argparse.Namespace. Nothing reads
    them."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Array(Record):
    """Stands for what rebuilds a NumPy array: its `values`, where they are plain numbers or texts.

    Objects in an array stay unread: `values` is then None."""

    values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            return
        _, shape, dtype, fortran, raw = state
        plain = isinstance(dtype, Dtype) and re.fullmatch(r"[biufSU]\d{1,4}", str(dtype.code))
        if not plain or not isinstance(raw, bytes) or not isinstance(shape, tuple):
            return
        of_type = np.dtype(dtype.order + dtype.code)
        if not raw or not of_type.itemsize:
            return
        flat = np.frombuffer(raw, of_type)
        if flat.size == np.prod(shape, dtype=np.int64):
            self.values = flat.reshape(shape, order="F" if fortran else "C")


class Dtype:
    """Stands for numpy.dtype: the code of its type, such as "f8", and its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        known = order in ("<", ">", "=")
        self.order = order if known else "="


def scalar(dtype: Any, raw: Any = b"") -> bool | int | float | str | bytes | None:
    """Stands for NumPy's function of that name: it makes Python's own number or text.

    Another kind, such as a complex number or a date, becomes None. UnpicklingError if the type or
    the value is missing."""
    if not isinstance(dtype, Dtype) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a NumPy scalar without a type or a value")
    if not re.fullmatch(r"[biufSU]\d{1,4}", str(dtype.code)):
        return None
    of_type = np.dtype(dtype.order + dtype.code)
    values = np.frombuffer(raw, of_type, count=1)
    return values[0].item()


def path_text(*parts: Any) -> str:
    """Stands for the classes of pathlib."""
    texts = map(str, parts)
    return str(PurePosixPath(*texts))


def plain_dict(*_: Any) -> dict[Any, Any]:
    """Stands for collections.defaultdict; the function that makes its missing values is left
    out."""
    return {}


def plain_list(items: Any = (), *_: Any) -> list[Any]:
    """Stands for collections.deque, and for a frozenset."""
    if not isinstance(items, (list, tuple)):
        return []
    return list(items)


RECORDS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "numpy.ndarray",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
    "builtins.list",
    "builtins.dict",
    "builtins.tuple",
)
ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
PATH_MODULES = ("pathlib", "pathlib._local")
PATH_CLASSES = (
    "Path",
    "PosixPath",
    "WindowsPath",
    "PurePath",
    "PurePosixPath",
    "PureWindowsPath",
)
PATHS = tuple(f"{module}.{name}" for module in PATH_MODULES for name in PATH_CLASSES)

# (what stands in, the name in the file). The stand-ins above are all that a file can call beside
# torch's own rebuilding of tensors: none looks at a file, imports, or makes more than it was given.
INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((Record, name) for name in RECORDS),
    *((Array, name) for name in ARRAYS),
    *((scalar, name) for name in SCALARS),
    (Dtype, "numpy.dtype"),
    *((path_text, name) for name in PATHS),
    (plain_dict, "collections.defaultdict"),
    (plain_list, "collections.deque"),
    (plain_list, "builtins.frozenset"),
]


# ---- reading -------------------------------------------------------------------------------------


def unpickled(path: Path) -> Any:
    """What torch.save wrote into a file, without running code. A ValueError says in one line why a
    file cannot be read, and what can be."""
    with open(path, "rb"):
        pass  # if it may not be read, the system's own message says so
    check_archive(path)
    try:
        with only_inert(), warnings.catch_warnings():
            # torch's remarks on the pickle; what matters ends in an error
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise ValueError(f"{path} does not fit into this machine's memory") from None
    except Exception as error:
        # A file that is no checkpoint makes torch.load raise whatever it stumbles on.
        raise ValueError(refusal(path, str(error))) from None


@contextlib.contextmanager
def only_inert() -> Iterator[None]:
    """Within the block a file may name INERT beside torch's tensors, and nothing else.

    Importing parts of torch allows dozens of classes meanwhile, such as DeviceMesh, which starts
    process groups."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(INERT):
            yield
    finally:
        torch.serialization.add_safe_globals(before)


def check_archive(path: Path) -> None:
    """ValueError for an empty file, a damaged archive, TorchScript, and an archive that unpacks to
    more than its own size."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is not a checkpoint: it is empty")
    if not zipfile.is_zipfile(path):
        return  # the format before torch 1.6, or no checkpoint at all
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely: the archive is damaged"
        ) from None
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise ValueError(
            f"{path} is a TorchScript archive, which holds code, and code is not run; save its "
            f'weights alone with: torch.save(torch.jit.load("{path}").state_dict(), "weights.pth")'
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely: it holds compressed records, "
            f"which torch.save never writes; save the weights again with: {SAVE}"
        )


def refusal(path: Path, text: str) -> str:
    """torch's many lines -> one of ours, without its advice to trust the file."""
    unsafe = f"{path} is not a checkpoint that can be read safely"
    found = re.search(
        r"GLOBAL (\S+)|unrecognized function (.+)|allowlisted via .* but got (.+)", text
    )
    if found:
        name = shown(next(filter(None, found.groups())))
        return (
            f"{unsafe}: it holds {name}, which is code, and code from a file is not run; where the "
            f"network was trained, save its weights alone with: {SAVE}"
        )
    if "allocate memory" in text:
        return f"{path} does not fit into this machine's memory"
    return (
        f"{unsafe}: it is damaged or cut short, or was not written by torch.save in its default "
        f"form; save the weights with: {SAVE}"
    )
