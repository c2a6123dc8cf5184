"""Lists of images: text files with one line `path label` per image, as OpenOOD and NECO have them.

    found = read("lists/train.txt@photographs")     # paths are below photographs/
    classes(found)                                  # {0: "tench", 1: "goldfish"}

The last field of a line is the label if it is a whole number, and all before it is the path, which
may hold spaces. Without a number the whole line is the path. Nothing here opens an image or imports
torch.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from utils import SPLIT

SHOWN = 10  # bad lines that a message names
PLACE = re.compile(r"(?P<file>.*?\.txt)@(?P<root>.*)", re.DOTALL | re.IGNORECASE)
FORM = "PATH LABEL, a path below the root and the number of its class"


@dataclass(frozen=True)
class Fault:
    """A line that cannot be used, and why."""

    line: int  # from 1
    why: str


@dataclass(frozen=True)
class ImageList:
    """What a list says, in its order; each image stands there once."""

    file: Path
    root: Path
    lines: list[int]  # the number of each line, from 1
    paths: list[str]  # below root
    labels: list[int | None]
    repeated: int  # lines that say again what an earlier one says
    faults: list[Fault]

    @property
    def said(self) -> dict[str, str]:
        """{path: its label as text, "-" where there is none}."""
        texts = ["-" if label is None else str(label) for label in self.labels]
        return dict(zip(self.paths, texts, strict=True))


# ---- places --------------------------------------------------------------------------------------


def parts(place: str | os.PathLike) -> tuple[str, str] | None:
    """ "train.txt@root" -> ("train.txt", "root"); None for a place that is no list.

    The first .txt@ in the text divides it, whatever lies on the disk.
    """
    found = PLACE.fullmatch(os.fspath(place))
    return (found["file"], found["root"]) if found else None


def exists(place: str | os.PathLike) -> bool:
    """True if a folder, a file, or a list and its root are there."""
    found = parts(place)
    if found is None:
        return os.path.exists(place)
    file, root = found
    return os.path.isfile(file) and os.path.isdir(root)


def resolved(place: str | os.PathLike) -> list[Path]:
    """The absolute paths of a folder, or of a list and its root: two places with the same ones are
    one."""
    return [Path(part).resolve() for part in parts(place) or (place,)]


def check_place(file: str, root: str) -> None:
    """ValueError where a list or its root is not there."""
    if SPLIT.search(f"{file}@{root}"):
        raise ValueError(
            f"{file}@{root} names the lists of several splits with {{split}}; that is of an"
            " in-distribution set, and an OOD set has one list"
        )
    if not root:
        raise ValueError(
            f"{file}@ does not say which folder its paths are below; expected {file}@ROOT"
        )
    if not os.path.isfile(file):
        raise ValueError(f"{file} is not a file; expected a list of images, lines of {FORM}")
    if not os.path.isdir(root):
        raise ValueError(
            f"{root} is not a folder; expected the root of the paths in {file}, as in {file}@ROOT"
        )


# ---- reading -------------------------------------------------------------------------------------


def read(place: str | os.PathLike) -> ImageList:
    """The list at a place; ValueError if it is not there, not UTF-8, or names no image.

    Lines that cannot be used are among its `faults`: `refuse` raises for them.
    """
    found = parts(place)
    assert found is not None, f"{place} is no list"
    file, root = found
    check_place(file, root)
    status = os.stat(file)
    return parsed(file, root, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def parsed(file: str, root: str, size: int, time: int) -> ImageList:
    """The list in a file; the size in bytes and the time say which version of it is remembered."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 ({error}); convert it, such as with: iconv -f latin1 -t utf8"
        ) from None
    top = os.path.abspath(root)
    seen: dict[str, int] = {}  # {path: its place among those that are kept}
    lines: list[int] = []
    labels: list[int | None] = []
    repeated = 0
    faults: list[Fault] = []
    for number, line in enumerate(text.split("\n"), start=1):
        written, label = path_and_label(line.strip())
        if not written:
            continue
        path = below(written, top)
        if path is None:
            faults.append(Fault(number, f"leaves the root ({written})"))
        elif path not in seen:
            seen[path] = len(lines)
            lines.append(number)
            labels.append(label)
        elif labels[seen[path]] == label:
            repeated += 1
        else:
            first = lines[seen[path]]
            faults.append(Fault(number, f"gives {path} another label than line {first}"))
    if not seen and not faults:
        raise ValueError(f"{file} names no images; expected lines of {FORM}")
    return ImageList(Path(file), Path(root), lines, list(seen), labels, repeated, faults)


def path_and_label(line: str) -> tuple[str, int | None]:
    """ "a cat.png 3" -> ("a cat.png", 3); "a cat.png" -> ("a cat.png", None)."""
    fields = line.rsplit(None, 1)
    if len(fields) == 2 and is_whole_number(fields[1]):
        return fields[0], int(fields[1])
    return line, None


def is_whole_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal()


def below(path: str, top: str) -> str | None:
    """A path as it is below the folder `top`, which is absolute; None where it leaves it."""
    if "\0" in path:
        return None
    if os.path.isabs(path):
        path = os.path.relpath(path, top)
    elif "./" not in path and "//" not in path and not path.endswith("."):
        return path  # nearly all are: normpath would double the time
    path = os.path.normpath(path)
    outside = path in (".", "..") or path.startswith("../")
    return None if outside else path


# ---- what is wrong with it -----------------------------------------------------------------------


def unlabelled(found: ImageList) -> list[Fault]:
    """Lines without a label, or with a negative one: an ID image needs its class."""
    faults = []
    for line, path, label in zip(found.lines, found.paths, found.labels, strict=True):
        if label is None:
            faults.append(Fault(line, f"has no label ({path})"))
        elif label < 0:
            faults.append(Fault(line, f"has the label {label}, and an ID image needs its class"))
    return faults


def outside(found: ImageList, names: dict[int, str]) -> list[Fault]:
    """Lines of test images whose label the training list does not have, or whose folder is another
    class there."""
    number = {name: label for label, name in names.items()}
    faults = []
    folders = folder_names(found.paths)
    for line, label, folder in zip(found.lines, found.labels, folders, strict=True):
        if label is None or label < 0:
            continue  # which `unlabelled` names
        if label not in names:
            faults.append(Fault(line, f"has the label {label}, which no training image has"))
        elif number.get(folder, label) != label:
            faults.append(
                Fault(
                    line,
                    f"has the label {label}, and {folder} is {number[folder]} among the training "
                    "images",
                )
            )
    return faults


def refuse(found: ImageList, faults: Sequence[Fault] = ()) -> None:
    """ValueError that names the first bad lines and counts the others; nothing without any."""
    bad = sorted([*found.faults, *faults], key=lambda fault: fault.line)
    if not bad:
        return
    shown = ", ".join(f"line {fault.line:,} {fault.why}" for fault in bad[:SHOWN])
    more = f", and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    lines = "1 line" if len(bad) == 1 else f"{len(bad):,} lines"
    raise ValueError(
        f"{found.file} has {lines} that cannot be used: {shown}{more}; expected {FORM}; mend or"
        " remove them"
    )


def refuse_missing(found: ImageList, missing: Sequence[str]) -> None:
    """ValueError that names the first images that are not there; nothing without any."""
    if not missing:
        return
    shown = ", ".join(missing[:SHOWN])
    more = f", and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
    raise ValueError(
        f"{len(missing):,} of the {len(found.paths):,} images of {found.file} are missing below"
        f" {found.root}: {shown}{more}; get them, name another root as in {found.file}@ROOT, or go"
        " on without them: --skip-broken"
    )


# ---- classes -------------------------------------------------------------------------------------


def classes(found: ImageList) -> dict[int, str]:
    """{label: its name} of all labels that a training list has, in order.

    Names are those of the folders, where each label has one folder of its own; else the numbers.
    """
    folders: dict[int, set[str]] = {}
    for label, folder in zip(found.labels, folder_names(found.paths), strict=True):
        if label is not None and label >= 0:
            folders.setdefault(label, set()).add(folder)
    numbers = sorted(folders)
    owned = {min(names) for names in folders.values() if len(names) == 1}
    if len(owned) == len(numbers) and "" not in owned:
        return {label: min(folders[label]) for label in numbers}
    return {label: str(label) for label in numbers}


def folder_names(paths: Sequence[str]) -> list[str]:
    """The first folder of each path below those that all paths share; "" where there is none."""
    parents = [path.rpartition("/")[0] for path in paths]
    different = set(parents)
    # Where an image lies at the top, nothing is shared.
    shared = "" if "" in different else os.path.commonpath(different)
    start = len(shared) + 1 if shared else 0
    first = {parent: parent[start:].partition("/")[0] for parent in different}
    return [first[parent] for parent in parents]
