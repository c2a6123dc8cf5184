"""Names, folders, and files that are written whole or not at all.

Every other module may use this one.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

ALIASES = {
    "dtd": "textures",
    "texture": "textures",
    "heldout": "held_out",
    "held-out": "held_out",
    "cifar-10": "cifar10",
    "cifar-100": "cifar100",
    "openimage-o": "openimage_o",
    "imagenet-o": "imagenet_o",
    "ssb-hard": "ssb_hard",
    "imagenet_resize": "tin_resize",
    "imagenet_crop": "tin_crop",
    "lsun-c": "lsun_crop",
    "lsun_c": "lsun_crop",
    "lsun-r": "lsun_resize",
    "lsun_r": "lsun_resize",
}
# The longest name of a data set. Its longest file name is ODIN_OOD_<name>_test_<stage>.parquet.
SET_NAME_BYTES = 100
NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
TEMPORARY = re.compile(r"\..*~(?P<host>[A-Za-z0-9-]+)~(?P<process>\d+)-\d+(\.[^.~]*)?", re.DOTALL)
# The longest stem of a temporary name: with host and process it stays below the 255 bytes that a
# file name may have.
STEM_BYTES = 120
WEEK = 7 * 24 * 3600  # seconds
BLOCK = 1 << 16  # bytes
# In the place of an ID set: {split} becomes train or test; {split:val} train or val.
SPLIT = re.compile(r"\{split(?::(?P<test>[^{}/@]+))?\}")
NUMBERS = itertools.count()  # tells apart two threads that write to one path


# ---- names ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetName:
    """A data set as a person names it: NAME of the registry, NAME=FOLDER of images, or
    NAME=LIST.txt@ROOT, a list of images below a folder (images/lists.py).

    `folder` is what stands behind the equals sign. `text` is what was typed, which records keep and
    commands repeat. `name` is in lower case, with aliases (dtd, texture) resolved; it becomes a
    part of file names."""

    text: str
    name: str
    folder: str | None = None

    @classmethod
    def parse(cls, text: str) -> "SetName":
        """ "SVHN" is named svhn; "mine=photos/2024" is named mine and lies in photos/2024.

        ValueError for what is neither, and for a name that is too long for a file's."""
        name, equals, folder = text.partition("=")
        name = ALIASES.get(name.lower(), name.lower())
        plain_name = name.replace("_", "").replace("-", "").isalnum() and not name.startswith("-")
        if not plain_name or (equals and not folder):
            raise ValueError(
                f"data set {text!r} is neither a name nor NAME=FOLDER with letters, digits, - and _"
                " in NAME"
            )
        if len(name.encode()) > SET_NAME_BYTES:
            raise ValueError(
                f"the name of data set {text[:30]!r}... is {len(name.encode())} bytes long; it"
                f" becomes a part of file names, so that {SET_NAME_BYTES} is the most"
            )
        if "\0" in text:
            raise ValueError(f"data set {text!r} holds the character NUL, which no path can")
        return cls(text, name, folder or None)

    def __str__(self) -> str:
        return self.text

    @property
    def is_held_out(self) -> bool:
        """True for the classes of the ID set that were left out of training."""
        return self.name == "held_out" and self.folder is None

    def split(self, name: str) -> "SetName":
        """The "train" or "test" images of this ID set: in a folder or list of their own where it
        has one."""
        if self.folder is None:
            return SetName(self.name, self.name)
        folder = split_folder(self.folder, name)
        if SPLIT.search(self.folder):
            folder = SPLIT.sub(lambda found: split_word(found, name), self.folder)
        return SetName(f"{self.name}={folder}", self.name, folder)


def split_word(found: re.Match, split: str) -> str:
    """What stands for {split} or {split:val}: test images may go by another word."""
    return found["test"] if split == "test" and found["test"] else split


def split_folder(folder: str, name: str) -> str:
    """FOLDER/train or FOLDER/test; FOLDER/val where there is no FOLDER/test.

    ImageNet and its subsets are published with train/ and val/: nobody's validation images then
    choose anything, and they are the test set."""
    place = f"{folder}/{name}"
    if name == "test" and not os.path.isdir(place) and os.path.isdir(f"{folder}/val"):
        return f"{folder}/val"
    return place


def results_folder(
    checkpoint: str | os.PathLike, output_dir: str | os.PathLike = "results"
) -> Path:
    """The folder of a checkpoint's features and tables, results/<stem>.

    `checkpoint` is the .pth file or that folder itself. ValueError if the folder does not exist.
    """
    path = Path(checkpoint)
    folder = path if path.is_dir() else Path(output_dir) / path.stem
    if not folder.is_dir():
        raise ValueError(
            f"no features of {checkpoint}: expected the folder {folder}; make it with: "
            f"{command('run_networks', [checkpoint], output_dir)}"
        )
    return folder


def command(
    script: str,
    checkpoints: Iterable[str | os.PathLike],
    output_dir: str | os.PathLike = "results",
) -> str:
    """The command that runs a script on these checkpoints, quoted for a shell."""
    words = ["python", f"{script}.py", "--checkpoint", *map(str, checkpoints)]
    if str(output_dir) != "results":
        words += ["--output-dir", str(output_dir)]
    return shlex.join(words)


# ---- whole or not at all -------------------------------------------------------------------------


class WriteError(OSError):
    """A file could not be written. The file that was at its path before is unchanged."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it there if the block raises nothing.

    An interrupted program leaves the old file or the new one, never half of one. A write that
    fails, as on a full disk, raises a WriteError that names `path` and not the temporary file.
    """
    path = Path(path)
    sweep(path.parent)
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        failure = write_failure(error, temporary, path)
        if failure is None:
            raise
        raise WriteError(failed_write(path, failure)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def append_text(path: str | os.PathLike, text: str) -> None:
    """Add `text` to the end of a growing file, such as a log. WriteError if that fails."""
    path = Path(path)
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        failure = write_failure(error, path, path) or Failure(error.errno, str(error))
        raise WriteError(failed_write(path, failure)) from error


@dataclass(frozen=True)
class Failure:
    """Why the system refused to write a file."""

    number: int | None  # errno, if it is known
    reason: str  # in the system's words


def write_failure(error: Exception, temporary: Path, path: Path) -> Failure | None:
    """The failure if `error` came from writing one of these two files, else None."""
    if isinstance(error, WriteError):
        return None
    text = str(error)
    # polars raises exceptions of its own, which give the system's error number only in their text.
    wrapped = re.search(r"\(os error (\d+)\)", text)
    if not (isinstance(error, OSError) or wrapped):
        return None
    about = getattr(error, "filename", None)
    if about is not None and str(about) not in (str(temporary), str(path)):
        return None
    number = getattr(error, "errno", None)
    if number is None and str(path) in text:  # the message is complete already
        return None
    if not number and wrapped:
        number = int(wrapped[1])
    if not number:
        return Failure(None, text)
    return Failure(number, os.strerror(number))


def failed_write(path: Path, failure: Failure) -> str:
    """The message about a write that failed."""
    state = "the file that was there is unchanged" if path.is_file() else "nothing was left there"
    advice = "then run the same command again"
    if failure.number in NO_ROOM:
        advice = f"make room first (df -h {shlex.quote(str(path.parent))} shows it), {advice}"
    elif failure.number in NOT_ALLOWED:
        advice = "choose another folder with --output-dir"
    else:
        advice = f"mend that, {advice}"
    return f"cannot write {path} ({failure.reason}); {state}; {advice}"


# ---- temporary files: .<stem>~<host>~<process>-<number><suffix> ----------------------------------


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that no other process uses, on this machine or another."""
    stem = os.fsencode(path.stem)[:STEM_BYTES].decode(errors="ignore")
    writer = f"{this_host()}~{os.getpid()}-{next(NUMBERS)}"
    return path.with_name(f".{stem}~{writer}{path.suffix}")


@functools.cache
def this_host() -> str:
    """The machine's name and six digits that tell apart machines or containers of the same name."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", platform.node())[:40]
    identity = ""
    with contextlib.suppress(OSError):
        identity += Path("/etc/machine-id").read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(OSError):  # process numbers are unique only within one namespace
        identity += str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"


@functools.cache
def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; once per folder.

    A file of this host is removed if its process is gone. Nobody can tell whether a process of
    another host is alive, so a file of another host is removed when it is a week old.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_left_over(entry):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def is_left_over(entry: os.DirEntry[str]) -> bool:
    """True for a temporary file that no process is writing any more."""
    found = TEMPORARY.fullmatch(entry.name)
    if not found or not entry.is_file(follow_symlinks=False):
        return False
    if found["host"] == this_host():
        return not is_alive(int(found["process"]))
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > WEEK


def is_alive(process: int) -> bool:
    """False only if this host certainly has no such process."""
    if os.name != "posix":  # on other systems os.kill ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # a process of another user
        return True
    return True


# ---- folders, text, JSON, figures ----------------------------------------------------------------


def writable_folder(path: str | os.PathLike) -> Path:
    """Create the folder and try to write in it, so that a ValueError comes now and not after hours
    of work."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(BLOCK))  # a full disk still accepts empty files
    except OSError as error:
        room = "make room there, or " if error.errno in NO_ROOM else ""
        raise ValueError(
            f"cannot write into {path} ({error.strerror}); {room}choose another folder "
            "with --output-dir"
        ) from None
    return path


def write_text(path: str | os.PathLike, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: object) -> None:
    text = json.dumps(plain(content), indent=2, allow_nan=False)
    write_text(path, text + "\n")


def plain(content: object) -> Any:
    """`content` as it would be after writing it to JSON and reading it back.

    Tuples become lists, NaN and infinity become None, and any other object becomes its text.
    """
    if isinstance(content, dict):
        return {str(name): plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if content is None or isinstance(content, (str, int, float, bool)):
        return content
    return str(content)


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The dict in a JSON file that this project wrote, or {} if there is no such file.

    ValueError if the file holds anything else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); delete it and make the file beside it anew"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, expected an object with names; delete it and"
            " make the file beside it anew"
        )
    return content


def templates(folder: Path) -> "Environment":
    """What compiles the pages' templates in a folder: every text is escaped where it enters, and a
    name that is not there is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # for pages alone

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


# Letters stay letters, which can be searched, and the same figure gives the same bytes.
VECTOR_FORMATS = ("pdf", "svg")
VECTOR_SETTINGS: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "figure"}


def write_figures(
    folder: Path, drawn: Mapping[str, "Figure"], vector: Sequence[str] = ()
) -> list[Path]:
    """Write {name: figure} as PNGs, and as files of the `vector` formats -> their paths.

    A vector file that an earlier run drew goes with that run's PNG, where none is asked for."""
    written = []
    for name, figure in drawn.items():
        written.append(folder / f"{name}.png")
        write_figure(written[-1], figure)
        for form in VECTOR_FORMATS:
            path = folder / f"{name}.{form}"
            if form not in vector:
                path.unlink(missing_ok=True)
                continue
            write_vector(path, figure)
            written.append(path)
    return written


def write_figure(path: str | os.PathLike, figure: "Figure") -> None:
    """Write a matplotlib figure as a PNG with 150 dots per inch, its title and its caption."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight", metadata=png_metadata(figure))


def write_vector(path: Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PDF or SVG, by the name's ending."""
    from matplotlib import rc_context

    said = png_metadata(figure)
    if path.suffix == ".pdf":
        metadata = {"Title": said.get("Title"), "Subject": said.get("Description")}
        metadata |= {"CreationDate": None}
    else:
        metadata = {**said, "Date": None}
    with replacing(path) as temporary, rc_context(VECTOR_SETTINGS):
        kept = {name: text for name, text in metadata.items() if text or name.endswith("Date")}
        figure.savefig(temporary, format=path.suffix[1:], bbox_inches="tight", metadata=kept)


def png_metadata(figure: "Figure") -> dict[str, str]:
    """What a PNG says of itself: the figure's title, and its caption as the description."""
    said = {"Title": figure.get_suptitle(), "Description": getattr(figure, "caption", "")}
    return {name: text for name, text in said.items() if text}
