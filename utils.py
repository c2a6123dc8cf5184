"""Names, folders, and files that are written whole or not at all: what every other module may
use."""

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
from pathlib import Path

import numpy as np

ALIASES = {
    "dtd": "textures",
    "texture": "textures",
    "heldout": "held_out",
    "held-out": "held_out",
    "cifar-10": "cifar10",
    "cifar-100": "cifar100",
}
SET_NAME_BYTES = 100  # the longest file name of one: ODIN_OOD_<name>_test_<stage>.parquet
NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
TEMPORARY = re.compile(r"\..*~(?P<host>[A-Za-z0-9-]+)~(?P<process>\d+)-\d+(\.[^.~]*)?", re.DOTALL)
STEM_BYTES = 120  # of a temporary name: with host and process it stays below the 255 of a file name
WEEK = 7 * 24 * 3600  # seconds
BLOCK = 1 << 16  # bytes
NUMBERS = itertools.count()  # two threads may write one path


# ---- names ---------------------------------------------------------------------------------------


def split_name(text):
    """ "SVHN" -> ("svhn", None); "mine=photos/2024" -> ("mine", "photos/2024"); aliases (dtd,
    texture) are resolved."""
    name, equals, folder = text.partition("=")
    name = ALIASES.get(name.lower(), name.lower())
    plain_name = name.replace("_", "").replace("-", "").isalnum() and not name.startswith("-")
    if not plain_name or (equals and not folder):
        raise ValueError(
            f"data set {text!r} is neither a name nor NAME=FOLDER with letters, digits, - and _ in"
            " NAME"
        )
    if len(name.encode()) > SET_NAME_BYTES:
        raise ValueError(
            f"the name of data set {text[:30]!r}... is {len(name.encode())} bytes long; it becomes"
            f" a part of file names, so that {SET_NAME_BYTES} is the most"
        )
    if "\0" in text:
        raise ValueError(f"data set {text!r} holds the character NUL, which no path can")
    return name, folder or None


def results_folder(checkpoint, output_dir="results"):
    """Where a checkpoint's features and tables stand: results/<stem>. Accepts the .pth file or that
    folder itself."""
    path = Path(checkpoint)
    folder = path if path.is_dir() else Path(output_dir) / path.stem
    if not folder.is_dir():
        raise ValueError(
            f"no features of {checkpoint}: expected the folder {folder}; make it with: "
            f"{command('run_networks', [checkpoint], output_dir)}"
        )
    return folder


def command(script, checkpoints, output_dir="results"):
    """The command that runs a script on these checkpoints, as a shell takes it."""
    words = ["python", f"{script}.py", "--checkpoint", *map(str, checkpoints)]
    elsewhere = ["--output-dir", str(output_dir)] if str(output_dir) != "results" else []
    return shlex.join([*words, *elsewhere])


# ---- whole or not at all -------------------------------------------------------------------------


class WriteError(OSError):
    """A file could not be written; what stood at its path before is untouched."""


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path` and move it there when the block ends well.

    Whoever is interrupted leaves the old file or the new one, never half of one. A write that
    fails, as on a full disk, raises WriteError, which names `path` and not the temporary file.
    """
    path = Path(path)
    sweep(path.parent)
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        reason = write_failure(error, temporary, path)
        if reason is None:
            raise
        raise WriteError(failed_write(path, *reason)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def append_text(path, text):
    """Add `text` to the end of a file that grows, such as a log."""
    path = Path(path)
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise WriteError(failed_write(path, *write_failure(error, path, path))) from error


def write_failure(error, temporary, path):
    """(errno or None, the system's words) of an error that a write of these caused, else None.

    polars wraps the system's error in kinds of its own, with the number in the text alone.
    """
    text, number = str(error), getattr(error, "errno", None)
    if isinstance(error, WriteError):
        return None
    wrapped = re.search(r"\(os error (\d+)\)", text)
    if not (isinstance(error, OSError) or wrapped):
        return None
    about = getattr(error, "filename", None)
    if about is not None and str(about) not in (str(temporary), str(path)):
        return None
    if number is None and str(path) in text:  # who raised it said all
        return None
    number = number or (int(wrapped[1]) if wrapped else None)
    return number, os.strerror(number) if number else text


def failed_write(path, number, words):
    """The message of a write that failed."""
    state = "the file that was there is unchanged" if path.is_file() else "nothing was left there"
    advice = "then run the same command again"
    if number in NO_ROOM:
        advice = f"make room first (df -h {shlex.quote(str(path.parent))} shows it), {advice}"
    elif number in NOT_ALLOWED:
        advice = "choose another folder with --output-dir"
    else:
        advice = f"mend that, {advice}"
    return f"cannot write {path} ({words}); {state}; {advice}"


# ---- temporary files: .<stem>~<host>~<process>-<number><suffix> ----------------------------------


def temporary_beside(path):
    """A hidden name in the same folder that no other process uses, on this machine or another."""
    stem = os.fsencode(path.stem)[:STEM_BYTES].decode(errors="ignore")
    writer = f"{this_host()}~{os.getpid()}-{next(NUMBERS)}"
    return path.with_name(f".{stem}~{writer}{path.suffix}")


@functools.cache
def this_host():
    """The machine's name, with six digits that tell apart machines and containers of one name."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", platform.node())[:40]
    identity = ""
    with contextlib.suppress(OSError):
        identity += Path("/etc/machine-id").read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(OSError):  # process numbers mean something within one namespace only
        identity += str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"


@functools.cache
def sweep(folder):
    """Once for each folder: remove the temporary files that killed processes left in it.

    Of this host those of processes that are gone; of another host, where nobody can tell whether
    the process lives, those that are a week old.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = TEMPORARY.fullmatch(entry.name)
            if found and entry.is_file(follow_symlinks=False) and is_left_over(entry, found):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def is_left_over(entry, found):
    if found["host"] == this_host():
        return not is_alive(int(found["process"]))
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > WEEK


def is_alive(process):
    """True unless this host has certainly no such process."""
    if os.name != "posix":  # elsewhere os.kill ends a process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process
        return True
    return True


# ---- folders, text, JSON, figures ----------------------------------------------------------------


def writable_folder(path):
    """Make the folder and try a write in it: ValueError now rather than after hours."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(BLOCK))  # a full disk takes empty files
    except OSError as error:
        room = "make room there, or " if error.errno in NO_ROOM else ""
        raise ValueError(
            f"cannot write into {path} ({error.strerror}); {room}choose another folder "
            "with --output-dir"
        ) from None
    return path


def write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def plain(content):
    """What `content` becomes when it is written as JSON and read back: tuples are lists, NaN and
    infinity are None."""
    if isinstance(content, dict):
        return {str(name): plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    content = content.item() if isinstance(content, np.generic) else content
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content if isinstance(content, (str, int, float, bool, type(None))) else str(content)


def read_json(path):
    """The dict that a JSON file of ours holds, {} where there is no file; ValueError where it holds
    anything else."""
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


def write_figure(path, figure):
    """A matplotlib figure as a PNG of 150 dots per inch, with its title and its caption."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight", metadata=png_metadata(figure))


def png_metadata(figure):
    """What a PNG says of itself: the figure's title, and its caption as the description."""
    said = {"Title": figure.get_suptitle(), "Description": getattr(figure, "caption", "")}
    return {name: text for name, text in said.items() if text}
