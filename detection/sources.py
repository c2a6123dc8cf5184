"""What detect.py is asked about: image files, folders of them, lines of standard input, files of
features, and a folder that is watched.

    for found in sources.images(["photo.jpg", "more/", "-"], sys.stdin):
        found.path, found.fault          # the fault is "" where nothing is wrong so far

Nothing is held but the names in a folder, so that a stream may be of any length."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO, TypeVar

import numpy as np

from images import folders

STANDARD_INPUT = "-"
FEATURES = {".csv", ".parquet", ".npz"}
NPZ_FORM = "features (N, D), and, if you like, paths (N,)"

Part = TypeVar("Part")


@dataclass(frozen=True)
class Found:
    """A path, and what is wrong with it; "" where nothing is, as far as its name goes."""

    path: str
    fault: str = ""


def is_features(place: str) -> bool:
    """True for a file of features, by its ending."""
    return Path(place).suffix.lower() in FEATURES


# ---- images --------------------------------------------------------------------------------------


def images(places: Iterable[str], standard_input: TextIO | None) -> Iterator[Found]:
    """The images of files, of folders at any depth, and, for "-", of lines of standard input."""
    for place in places:
        if place == STANDARD_INPUT:
            yield from lines(standard_input)
        elif os.path.isdir(place):
            yield from in_folder(place)
        elif not os.path.isfile(place):
            yield Found(place, "there is no such file or folder")
        else:
            yield Found(place)


def lines(standard_input: TextIO | None) -> Iterator[Found]:
    """Each line as the path of an image or a folder; empty ones are passed over."""
    count = 0
    for line in standard_input or ():
        place = line.rstrip("\r\n")
        if place:
            count += 1
            yield from images([f"./{place}" if place == STANDARD_INPUT else place], None)
    if not count:
        yield Found(STANDARD_INPUT, "standard input ended without naming an image")


def in_folder(place: str) -> Iterator[Found]:
    """The images of a folder, in the order of their names."""
    stamps, others = folders.list_files(Path(place))
    if not stamps:
        kinds = folders.counted(others) or "nothing"
        yield Found(place, f"holds no images ({folders.endings()}), but {kinds}")
    for path in sorted(stamps, key=lambda name: name.split("/")):
        yield Found(os.path.join(place, path))


def arrivals(folder: str, seconds: float) -> Iterator[list[Found]]:
    """The images of a folder, and then those that come to it, looked for every so many seconds.

    A file is taken when it has been the same for two looks, so that none is read half written; one
    that is written anew is taken again. An empty list where a look found none to take."""
    taken: dict[str, str] = {}
    before: dict[str, str] = {}
    while True:
        stamps, _ = folders.list_files(Path(folder))
        settled = [
            path
            for path, stamp in stamps.items()
            if before.get(path) == stamp and taken.get(path) != stamp
        ]
        taken = {path: taken[path] for path in stamps if path in taken}  # those that are gone go
        taken |= {path: stamps[path] for path in settled}
        before = stamps
        yield [Found(os.path.join(folder, path)) for path in sorted(settled)]
        time.sleep(seconds)


def parts(stream: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """A stream of any length in lists of `size`, the last of which may be shorter."""
    stream = iter(stream)
    while part := list(islice(stream, size)):
        yield part


# ---- features ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rows:
    """Features (N, D) of a file, and what each row is called."""

    names: list[str]
    features: np.ndarray


def rows(place: str, width: int, network: dict) -> Rows:
    """The features of a file, D = `width` of them.

    network  what the detector says of its network: a file whose sidecar names another is refused

    ValueError for a file that is none, of another width, or of another network."""
    is_npz = Path(place).suffix.lower() == ".npz"
    found = of_npz(place) if is_npz else of_table(place, network)
    if found.features.ndim != 2 or found.features.shape[1] != width:
        raise ValueError(
            f"{place} holds features of shape {found.features.shape}, and the detector knows"
            f" (N, {width}): they are of another network"
        )
    return found


def of_npz(place: str) -> Rows:
    """The features of an .npz, under `features` or alone in it; `paths` names its rows."""
    try:
        with np.load(place, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{place} is no .npz that can be read ({error})") from None
    except Exception as error:  # zipfile and zlib have kinds of their own
        raise ValueError(f"{place} is damaged ({error})") from None
    names = arrays.pop("paths", None)
    labels = ("labels", "label")
    others = {name: values for name, values in arrays.items() if name not in labels}
    values = others.get("features", next(iter(others.values())) if len(others) == 1 else None)
    if values is None or values.dtype.kind not in "fiu":
        raise ValueError(f"{place} holds {', '.join(arrays) or 'nothing'}; expected {NPZ_FORM}")
    if names is not None and len(names) != len(values):
        raise ValueError(f"{place} holds {len(values)} rows of features and {len(names)} paths")
    return Rows(row_names(place, len(values), names), values)


def of_table(place: str, network: dict) -> Rows:
    """The features of a CSV or Parquet file, as run_networks.py writes them."""
    from artifacts import records, store  # they import polars, which an .npz does without

    found = store.read_features(place)
    sidecar = records.read_sidecar(place)
    knows = any(sidecar.get(name) for name in records.NETWORK)
    known = any(network.get(name) for name in records.NETWORK)
    if knows and known and not records.same_network(sidecar, network):
        raise ValueError(
            f"{place} was made by another network than the detector was fitted to: its sidecar"
            f" names {sidecar.get('checkpoint')}, the detector {network.get('checkpoint')}"
        )
    return Rows(row_names(place, len(found.labels), found.paths), found.features)


def row_names(place: str, count: int, paths: Sequence[str] | np.ndarray | None) -> list[str]:
    """The path of each row's image; where the file has none, "test.npz:1" for its first row."""
    if paths is not None:
        return [str(path) for path in paths]
    return [f"{place}:{row + 1}" for row in range(count)]
