"""Fitted states as plain JSON and arrays, and the file that holds them: safetensors, whose arrays
and text hold no code.

    arrays = {}
    tree = Packer(arrays).pack(states, "states")     # JSON, and {name: array} beside it
    states = Unpacker(arrays).unpack(tree)           # the same bits
    write("detector.safetensors", tree, arrays)
    tree, arrays = read("detector.safetensors", "the command that makes it")

The rule is by type and explicit. None, a switch, a number and a text stand for themselves. A dict,
a list, a NumPy number, an array, and an object of one of KINDS each become an object of JSON whose
first key says what they are. Nothing else can be packed, and reading makes nothing else."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import utils
from scores.bank import Bank
from scores.common import Fitted

# What a state may be made of, beside plain values: its fields are packed by their names.
KINDS: dict[str, type] = {"Fitted": Fitted, "Bank": Bank}
NUMBERS = "biuf"  # kinds of arrays: switches, whole numbers, decimals
FORMAT = "ood-detector"
VERSION = 1  # of the file; a reader refuses newer ones

Json = Any
Arrays = dict[str, np.ndarray]


# ---- values as JSON ------------------------------------------------------------------------------


class Packer:
    """Packs values, each object and each content of an array once.

    arrays  {name: array} that the packed values name
    """

    def __init__(self, arrays: Arrays):
        self.arrays = arrays
        self.names: dict[str, str] = {}  # {digest of an array: its name}
        self.objects: dict[int, str] = {}  # {id of an object of KINDS: its place}

    def pack(self, value: Any, place: str) -> Json:
        """A value -> JSON; `place` names its arrays. ValueError for a value without a rule."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float and math.isfinite(value):
            return value
        if type(value) is float:  # NaN or infinity, which JSON lacks
            return {"number": repr(value), "of": "float"}
        if isinstance(value, np.generic):
            return self.number(value, place)
        if isinstance(value, np.ndarray):
            return self.array(value, place)
        if isinstance(value, dict):
            parts = {str(key): self.pack(part, f"{place}/{key}") for key, part in value.items()}
            return {"dict": parts}
        if isinstance(value, (list, tuple)):
            listed = [self.pack(part, f"{place}/{row}") for row, part in enumerate(value)]
            return {"tuple" if isinstance(value, tuple) else "list": listed}
        return self.object(value, place)

    def number(self, value: np.generic, place: str) -> Json:
        """A NumPy number, whose type decides in which precision it is computed with."""
        if value.dtype.kind not in NUMBERS:
            raise ValueError(f"{place} is a {value.dtype}; expected a number")
        return {"number": repr(value.item()), "of": value.dtype.name}

    def array(self, values: np.ndarray, place: str) -> Json:
        """An array, with its order in memory, by which sums may differ in their last bit."""
        if values.dtype.kind not in NUMBERS:
            raise ValueError(f"{place} holds {values.dtype} values; expected numbers")
        order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
        plain = np.ascontiguousarray(values.T if order == "F" else values)
        key = f"{plain.dtype.str} {plain.shape} {digest(plain)}"
        name = self.names.setdefault(key, place)
        self.arrays[name] = plain
        return {"array": name, "order": order}

    def object(self, value: Any, place: str) -> Json:
        """An object of KINDS, by its fields."""
        kind = next((name for name, known in KINDS.items() if type(value) is known), None)
        if kind is None:
            raise ValueError(
                f"{place} is a {type(value).__name__}; expected numbers, texts, arrays, or one of"
                f" {', '.join(KINDS)} (detection/packing.py)"
            )
        first = self.objects.setdefault(id(value), place)
        if first != place:
            return {"same": first}
        fields = {key: self.pack(part, f"{place}/{key}") for key, part in vars(value).items()}
        return {"object": kind, "place": place, "fields": fields}


class Unpacker:
    """Makes values of what a Packer made."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        self.objects: dict[str, Any] = {}  # {place: object}

    def unpack(self, packed: Json) -> Any:
        """JSON -> the value. KeyError, TypeError or ValueError for what no Packer makes."""
        if not isinstance(packed, dict):
            return packed
        if "number" in packed:
            return number(packed["number"], packed["of"])
        if "array" in packed:
            values = self.arrays[packed["array"]]
            return values.T if packed["order"] == "F" else values
        if "dict" in packed:
            return {key: self.unpack(part) for key, part in packed["dict"].items()}
        if "list" in packed:
            return [self.unpack(part) for part in packed["list"]]
        if "tuple" in packed:
            return tuple(self.unpack(part) for part in packed["tuple"])
        if "same" in packed:
            return self.objects[packed["same"]]
        return self.object(packed)

    def object(self, packed: dict[str, Json]) -> Any:
        """An object of KINDS; no name in a file is looked up anywhere else."""
        kind: Any = KINDS[packed["object"]]
        made = kind.__new__(kind)
        for key, part in packed["fields"].items():
            vars(made)[key] = self.unpack(part)
        self.objects[packed["place"]] = made
        return made


def number(text: str, kind: str) -> Any:
    """The number that a text says, as Python's float or of a NumPy type."""
    if kind == "float":
        return float(text)
    dtype = np.dtype(kind)
    if dtype.kind == "b":
        return np.bool_(text == "True")
    if dtype.kind in "iu":
        return dtype.type(int(text))
    return dtype.type(float(text))


def digest(values: np.ndarray) -> str:
    """SHA-256 of the bytes of a contiguous array."""
    return hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()


# ---- the file ------------------------------------------------------------------------------------


def write(path: str | Path, content: Json, arrays: Arrays) -> None:
    """Write JSON and arrays as one safetensors file, whole or not at all, with a hash of both."""
    from safetensors.numpy import save_file

    text = json.dumps(content, allow_nan=False)
    header = {"format_version": VERSION, "sha256": whole_digest(text, arrays), "content": text}
    # one entry: safetensors writes several in any order, and the same content in other bytes
    metadata = {FORMAT: json.dumps(header)}
    with utils.replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as any new file's; safetensors lets its owner alone read
        save_file(arrays, temporary, metadata)
        temporary.chmod(mode)


def read(path: str | Path, remedy: str) -> tuple[Json, Arrays]:
    """The JSON and the arrays of a file.

    ValueError, with the command that makes it anew, for a file that is not there, is no detector,
    is of a newer format, or was changed since it was written.
    """
    import safetensors

    if not Path(path).is_file():
        raise ValueError(f"there is no detector {path}; make it with: {remedy}")
    try:
        with safetensors.safe_open(path, "np") as file:
            header = checked_header(path, file.metadata() or {}, remedy)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is cut short, or is no detector ({error}); make it anew with: {remedy}"
        ) from None
    if whole_digest(header["content"], arrays) != header["sha256"]:
        raise ValueError(
            f"{path} was changed after it was written: its content has another hash than it says;"
            f" make it anew with: {remedy}"
        )
    return json.loads(header["content"]), arrays


def checked_header(path: str | Path, metadata: Mapping[str, str], remedy: str) -> dict[str, Any]:
    """The detector's entry of a header; ValueError for a safetensors file of another kind, for a
    damaged entry, and for a newer version."""
    if FORMAT not in metadata:
        raise ValueError(
            f"{path} is a safetensors file, and no detector: such weights of a network are given to"
            f" run_networks.py; make a detector with: {remedy}"
        )
    try:
        header = json.loads(metadata[FORMAT])
        version, _, _ = (header[name] for name in ("format_version", "sha256", "content"))
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"{path} was changed after it was written; make it anew with: {remedy}"
        ) from None
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(
            f"{path} has format version {version}, and this code reads up to {VERSION}: update the"
            f" code, or make the file anew with: {remedy}"
        )
    return header


def whole_digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the JSON, and of the name, type, shape and bytes of every array."""
    whole = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        values = arrays[name]
        whole.update(f"\0{name} {values.dtype.str} {values.shape} {digest(values)}".encode())
    return whole.hexdigest()
