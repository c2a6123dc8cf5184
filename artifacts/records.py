"""What made a file: its sidecar, <name>.json beside it, holds the command, its arguments, versions,
the git commit, and two hashes of the file.

`sha256` is a hash of the bytes; `content_sha256` is one of what the bytes say, so that other line
endings, quotes or another order of columns count as the same. A network's content is
`weights_sha256`: a training that is repeated and ends in the same weights made the same network.
artifacts/current.py compares files with what sidecars and records say of them."""

import ast
import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from artifacts import csv_files
from utils import read_json, replacing, write_json

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "polars")
# train.py writes them beside a checkpoint
TRAINED = {
    "checkpoint_sha256",
    "weights_sha256",
    "recipe",
    "curves",
}
# by these keys a sidecar says which network its file came from
NETWORK = (
    "checkpoint_sha256",
    "weights_sha256",
)


# ---- hashes --------------------------------------------------------------------------------------


def sha256(path):
    """SHA-256 of a file as hexadecimal digits; remembered within this process while size and time
    stay the same."""
    status = os.stat(path)
    return _sha256(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path, size, modified):
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if sys.version_info >= (3, 11)
            else _digest(file)
        )


def _digest(file):
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def content_sha256(path):
    """SHA-256 of what a file says, whatever its form; None for a kind of file that has no content
    but its bytes."""
    path = Path(path)
    if path.suffix == ".pth":
        return network_of(path).get("weights_sha256")
    if path.suffix == ".py":
        return code_sha256(path)
    if path.suffix not in csv_files.SUFFIXES:
        return None
    known = read_sidecar(path)
    if known.get("sha256") == sha256(path) and known.get("content_sha256"):
        return known["content_sha256"]
    try:
        return csv_files.file_content_sha256(path)
    except ValueError:  # damaged: it cannot be the same as anything
        return None


def code_sha256(path):
    """SHA-256 of what a Python file does: comments and layout do not count, so that mending them
    redoes no training."""
    try:
        return hashlib.sha256(ast.dump(ast.parse(path.read_bytes())).encode()).hexdigest()
    except (SyntaxError, ValueError):
        return None


# ---- where things come from ----------------------------------------------------------------------


def provenance(arguments, stale=None, **more):
    """What every artifact says of itself: command, arguments, versions, commit, time; `more` is
    added.

    What was stale and went in all the same, as --allow-stale asked, stands under `allowed_stale`.
    """
    commit, dirty = git_state()
    allowed = {"allowed_stale": stale.reasons} if stale and stale.reasons else {}
    program, script = Path(sys.executable).name, Path(sys.argv[0]).name
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "command": shlex.join([program, script, *sys.argv[1:]]),
        "arguments": arguments,
        **allowed,
        **more,
        "versions": versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "created": now.isoformat(timespec="seconds"),
    }


@functools.lru_cache(maxsize=1)
def versions():
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@functools.lru_cache(maxsize=1)
def git_state():
    """(commit, dirty) of this code, or (None, None) outside a repository."""

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None


# ---- sidecars ------------------------------------------------------------------------------------


def sidecar_path(path):
    return Path(path).with_suffix(".json")


def read_sidecar(path):
    """The dict beside a file, or {} where there is none; ValueError where a value is not of its
    kind."""
    return read_checked(sidecar_path(path))


def checkpoint_sidecar(path):
    """What train.py wrote beside a checkpoint, or {}. Other projects keep a .json of that name,
    too, such as a configuration: it is theirs, and says nothing here."""
    path = sidecar_path(path)
    return read_checked(path) if TRAINED & set(read_json(path)) else {}


def read_checked(path):
    """The dict in a JSON file, with what `KINDS` names of the kind that it names: nobody needs to
    look again."""
    content = read_json(path)
    for name, kind in KINDS.items():
        if name in content and not kind.holds(content[name]):
            raise ValueError(
                f"{path} has {shown(content[name])} under {name!r}, expected {kind.words}; delete"
                " it and make the file beside it anew"
            )
    return content


def shown(value):
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


@dataclass(frozen=True)
class Kind:
    """What a value in a sidecar or record must be, and how to call that in a message."""

    words: str
    holds: Callable


def is_text(value):
    return value is None or isinstance(value, str)


def is_number(value):
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def is_count(value):
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def is_texts(value):
    return value is None or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    )


def is_seconds(value):
    """One stage's time, or that of each of its parts."""
    return is_number(value) or (isinstance(value, dict) and all(map(is_number, value.values())))


def is_named(of):
    return lambda value: isinstance(value, dict) and all(of(item) for item in value.values())


TEXT, NUMBER, COUNT = (
    Kind("text", is_text),
    Kind("a number", is_number),
    Kind("a whole number", is_count),
)
TEXTS, HASHES = (
    Kind("a list of texts", is_texts),
    Kind("file names with their hashes", is_named(is_text)),
)
KINDS = {
    **dict.fromkeys(
        (
            "command",
            "checkpoint",
            "checkpoint_sha256",
            "weights_sha256",
            "head_sha256",
            "sha256",
            "content_sha256",
            "git_commit",
            "created",
            "model",
            "dataset",
            "mode",
            "split",
            "source",
            "precision",
            "curves",
            "layer",
            "source_content",
            "place",
            "model_file_sha256",
            "checkpoint_at",
            "preprocessing_from",
        ),
        TEXT,
    ),
    **dict.fromkeys(
        (
            "train_acc",
            "val_acc",
            "test_acc",
            "odin_epsilon",
            "temperature",
            "tpr",
            "accuracy",
            "largest_class",
        ),
        NUMBER,
    ),
    **dict.fromkeys(("rows", "width", "epoch", "epochs", "images", "val_size", "depth"), COUNT),
    **dict.fromkeys(("class_names", "held_out", "ood_class_names", "allowed_stale"), TEXTS),
    **dict.fromkeys(("inputs", "outputs", "contents"), HASHES),
    **dict.fromkeys(
        ("arguments", "versions", "preprocessing", "recipe", "model_args", "thresholds"),
        Kind("an object with names", is_named(lambda value: True)),
    ),
    "seconds": Kind("a number, or names with numbers", is_seconds),
    "listings": Kind("patterns with lists of file names", is_named(is_texts)),
    "folders": Kind(
        "folders of images with their hashes", is_named(lambda value: isinstance(value, dict))
    ),
}


@contextlib.contextmanager
def with_sidecar(path, sidecar, content=None):
    """Write a file and its sidecar, which gets both hashes: of the bytes, and `content(temporary)`,
    of what they say.

    The old sidecar goes before the new file comes, and so never vouches for it.
    """
    with replacing(path) as temporary:
        yield temporary
        hashes = {
            "sha256": sha256(temporary),
            **({"content_sha256": content(temporary)} if content else {}),
        }
        sidecar_path(path).unlink(missing_ok=True)
    write_json(sidecar_path(path), {**sidecar, **hashes})


@dataclass
class Stale:
    """What to do about files that are not what their sidecars or records say: refuse them, or note
    them and go on."""

    allowed: bool = False  # --allow-stale
    reasons: list = field(default_factory=list)

    def found(self, reason, remedy):
        """ValueError with the reason and its remedy; where stale files are allowed, a warning, and
        the reason is kept."""
        if not self.allowed:
            raise ValueError(
                f"{reason}; make it anew with: {remedy}, or take it as it is with --allow-stale"
            )
        if reason not in self.reasons:
            self.reasons.append(reason)
            warnings.warn(f"{reason}; taken all the same, as --allow-stale asks", stacklevel=2)


# ---- networks ------------------------------------------------------------------------------------


def network_of(path):
    """Which network a checkpoint file is, by its bytes and, where its own sidecar knows them, by
    its weights."""
    path = Path(path)
    sidecar = checkpoint_sidecar(path)
    if not path.is_file():
        return {name: sidecar[name] for name in NETWORK if sidecar.get(name)}
    digest = sha256(path)
    known = sidecar.get("checkpoint_sha256") == digest
    weights = sidecar.get("weights_sha256") if known else None
    return {"checkpoint_sha256": digest, **({"weights_sha256": weights} if weights else {})}


def origin(path):
    """Which network made a file, as its sidecar says: what every file that is made of it says in
    turn."""
    sidecar = read_sidecar(path)
    return {name: sidecar.get(name) for name in NETWORK}


def same_network(one, other):
    """True if two sidecars name the same network: by weights where both know them, or else by the
    checkpoint file.

    Weights come first: read with another --model, one file is another network.
    """
    for name in ("weights_sha256", "checkpoint_sha256"):
        if one.get(name) and other.get(name):
            return one[name] == other[name]
    return False


# ---- names in a folder ---------------------------------------------------------------------------


def listing(folder, pattern):
    """Names in a folder that fit a pattern; hidden files, which may be half written, count as
    absent."""
    return sorted(path.name for path in Path(folder).glob(pattern) if not path.name.startswith("."))


def inside(folder, name):
    """folder/name; ValueError where that lies elsewhere, by `..`, an absolute path, or a link."""
    path = Path(folder) / name
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"a file in {folder} names {name}, which lies outside that folder; delete the .json"
            " that came from elsewhere, and make it anew"
        )
    return path
