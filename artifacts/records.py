"""What made a file: its sidecar, <name>.json beside it, holds the command, its arguments, versions,
the git commit, and two hashes of the file.

`sha256` is the hash of the bytes. `content_sha256` is the hash of the values, so that a file with
other line endings, quotes or column order counts as the same. The content of a network is
`weights_sha256`: a repeated training that ends in the same weights made the same network.
artifacts/current.py compares files with their sidecars and records.
"""

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from artifacts import csv_files, frames
from utils import read_json, replacing, write_json

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pandas", "polars")
# Keys that only train.py writes beside a checkpoint.
TRAINED = {"checkpoint_sha256", "weights_sha256", "recipe", "curves"}
# Keys by which a sidecar names the network that its file came from.
NETWORK = ("checkpoint_sha256", "weights_sha256", "imported_sha256")
IMPORTER = "import_features.py"  # under `made_by` in sidecars of features from elsewhere


# ---- hashes --------------------------------------------------------------------------------------


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file as hexadecimal digits.

    It is remembered within this process while the file's size and time stay the same. That of a
    folder of shards is made of the names and hashes of its shards.
    """
    if os.path.isdir(path):
        return hash_of([[name, sha256(Path(path) / name)] for name in shard_names(path)])
    status = os.stat(path)
    return _sha256(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        if sys.version_info >= (3, 11):
            return hashlib.file_digest(file, "sha256").hexdigest()
        return _digest(file)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def hash_of(value: object) -> str:
    """SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def is_there(path: str | os.PathLike) -> bool:
    """True for a file, and for a folder of shards, which ends as a feature file does."""
    path = Path(path)
    return path.is_file() or (path.is_dir() and path.suffix in csv_files.SUFFIXES)


def shard_names(folder: str | os.PathLike) -> list[str]:
    """The sorted names of the shards in a folder, which end as the folder itself does."""
    return listing(folder, f"*{Path(folder).suffix}")


def content_sha256(path: str | os.PathLike) -> str | None:
    """SHA-256 of a file's content, whatever its format.

    None for a kind of file that has no content apart from its bytes, and for a damaged file.
    """
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
        if path.is_dir():
            return hash_of([frames.features_sha256(path / name) for name in shard_names(path)])
        return frames.file_content_sha256(path)
    except ValueError:  # a damaged file cannot be the same as anything
        return None


def code_sha256(path: Path) -> str | None:
    """SHA-256 of the syntax tree of a Python file; None if it is not Python.

    Comments and layout do not count, so that editing them does not repeat a training.
    """
    try:
        tree = ast.parse(path.read_bytes())
        return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    except (SyntaxError, ValueError):
        return None


# ---- where things come from ----------------------------------------------------------------------


def provenance(
    arguments: Mapping[str, Any], stale: "Stale | None" = None, **more: Any
) -> dict[str, Any]:
    """The facts that every sidecar and record holds: command, arguments, versions, commit, time.

    `more` is added to them. Stale files that --allow-stale accepted are listed under
    `allowed_stale`.
    """
    commit, dirty = git_state()
    allowed = {}
    if stale and stale.reasons:
        allowed["allowed_stale"] = stale.reasons
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
def versions() -> dict[str, str]:
    """{name: version} of Python and the installed PACKAGES."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@functools.lru_cache(maxsize=1)
def git_state() -> tuple[str | None, bool | None]:
    """(commit, dirty) of this code, or (None, None) outside a repository."""

    def git(*words: str) -> str:
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


def sidecar_path(path: str | os.PathLike) -> Path:
    return Path(path).with_suffix(".json")


def read_sidecar(path: str | os.PathLike) -> dict[str, Any]:
    """The sidecar of a file, or {} if there is none. ValueError if a value is of the wrong kind."""
    return read_checked(sidecar_path(path))


def checkpoint_sidecar(path: str | os.PathLike) -> dict[str, Any]:
    """The sidecar that train.py wrote beside a checkpoint, or {}.

    Other projects also keep a .json of that name, such as a configuration. It is not a sidecar.
    """
    path = sidecar_path(path)
    is_ours = TRAINED & set(read_json(path))
    return read_checked(path) if is_ours else {}


def read_checked(path: str | os.PathLike) -> dict[str, Any]:
    """The dict in a JSON file, whose values have the kinds that KINDS gives for their names.

    Callers need not check them again. ValueError if a value is of the wrong kind.
    """
    content = read_json(path)
    for name, kind in KINDS.items():
        if name in content and not kind.holds(content[name]):
            raise ValueError(
                f"{path} has {shown(content[name])} under {name!r}, expected {kind.words}; delete"
                " it and make the file beside it anew"
            )
    return content


def shown(value: object) -> str:
    """At most 40 characters of a value's JSON."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


# Values come from JSON, where anything may stand: hence `object`.
Test = Callable[[object], bool]


@dataclass(frozen=True)
class Kind:
    """A kind of value in a sidecar or record, and what messages call it."""

    words: str
    holds: Test


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def is_number(value: object) -> bool:
    return value is None or isinstance(value, float) or is_whole(value)


def is_count(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int) and is_whole(value) and value >= 0


def is_texts(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_seconds(value: object) -> bool:
    """One stage's time, or the time of each of its parts."""
    return is_number(value) or is_named(is_number)(value)


def is_named(test: Test) -> Test:
    """A test for a dict whose values all pass `test`."""

    def holds(value: object) -> bool:
        return isinstance(value, dict) and all(test(item) for item in value.values())

    return holds


def are_shards(value: object) -> bool:
    """True for a list of shards as artifacts/shards.py lists them."""
    names = {"file": str, "rows": int, "sha256": str, "content_sha256": str}

    def is_shard(entry: object) -> bool:
        if not isinstance(entry, dict) or set(entry) != set(names):
            return False
        kinds_fit = all(isinstance(entry[name], kind) for name, kind in names.items())
        return kinds_fit and Path(entry["file"]).name == entry["file"]

    return isinstance(value, list) and all(is_shard(entry) for entry in value)


def is_object(value: object) -> bool:
    return isinstance(value, dict)


TEXT = Kind("text", is_text)
NUMBER = Kind("a number", is_number)
COUNT = Kind("a whole number", is_count)
TEXTS = Kind("a list of texts", is_texts)
HASHES = Kind("file names with their hashes", is_named(is_text))
OBJECT = Kind("an object with names", is_object)
KINDS = {
    **dict.fromkeys(
        (
            "command",
            "checkpoint",
            "checkpoint_sha256",
            "weights_sha256",
            "imported_sha256",
            "made_by",
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
            "perturbation",
            "ensemble",
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
            "accuracy_full",
            "largest_class",
        ),
        NUMBER,
    ),
    **dict.fromkeys(
        ("rows", "width", "epoch", "epochs", "images", "val_size", "depth", "shard_rows"), COUNT
    ),
    **dict.fromkeys(
        ("class_names", "class_words", "held_out", "ood_class_names", "allowed_stale"), TEXTS
    ),
    **dict.fromkeys(("inputs", "outputs", "contents"), HASHES),
    **dict.fromkeys(
        (
            "arguments",
            "versions",
            "preprocessing",
            "recipe",
            "model_args",
            "thresholds",
            "leave_out",
        ),
        OBJECT,
    ),
    "seconds": Kind("a number, or names with numbers", is_seconds),
    "listings": Kind("patterns with lists of file names", is_named(is_texts)),
    "folders": Kind("folders of images with their hashes", is_named(is_object)),
    "shards": Kind("a list of shards", are_shards),
    "members": Kind("networks with their hashes", is_named(is_named(is_text))),
}


@contextlib.contextmanager
def with_sidecar(
    path: str | os.PathLike,
    sidecar: Mapping[str, Any],
    content: Callable[[Path], str] | None = None,
) -> Iterator[Path]:
    """Write a file, then its sidecar with both hashes of the file.

    Yields the temporary path that the file is written to. `content` hashes the content of the file
    there. The old sidecar is deleted before the new file appears, so that it never vouches for it.
    """
    hashes = {}
    with replacing(path) as temporary:
        yield temporary
        hashes["sha256"] = sha256(temporary)
        if content is not None:
            hashes["content_sha256"] = content(temporary)
        sidecar_path(path).unlink(missing_ok=True)
    write_json(sidecar_path(path), {**sidecar, **hashes})


@dataclass
class Stale:
    """Whether to refuse files that differ from their sidecars or records, or to note and accept
    them."""

    allowed: bool = False  # --allow-stale
    reasons: list[str] = field(default_factory=list)

    def found(self, reason: str, remedy: str | None) -> None:
        """ValueError with the reason and its remedy; if stale files are allowed, warn and keep the
        reason instead."""
        if not self.allowed:
            raise ValueError(
                f"{reason}; make it anew with: {remedy}, or take it as it is with --allow-stale"
            )
        if reason not in self.reasons:
            self.reasons.append(reason)
            warnings.warn(f"{reason}; taken all the same, as --allow-stale asks", stacklevel=2)


# ---- networks ------------------------------------------------------------------------------------


def network_of(path: str | os.PathLike) -> dict[str, str]:
    """The hashes in NETWORK that identify the network in a checkpoint file.

    The hash of the weights is known only if the checkpoint's own sidecar holds it.
    """
    path = Path(path)
    sidecar = checkpoint_sidecar(path)
    if not path.is_file():
        return {name: sidecar[name] for name in NETWORK if sidecar.get(name)}
    network = {"checkpoint_sha256": sha256(path)}
    is_unchanged = sidecar.get("checkpoint_sha256") == network["checkpoint_sha256"]
    if is_unchanged and sidecar.get("weights_sha256"):
        network["weights_sha256"] = sidecar["weights_sha256"]
    return network


def origin(path: str | os.PathLike) -> dict[str, str | None]:
    """The network that a file came from, as its sidecar says. Files made from it repeat this."""
    sidecar = read_sidecar(path)
    return {name: sidecar.get(name) for name in NETWORK}


def same_network(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if two sidecars name the same network.

    They are compared by weights if both know them, otherwise by the checkpoint file. Weights come
    first because one file that is read with another --model is another network.
    """
    for name in ("weights_sha256", "checkpoint_sha256", "imported_sha256"):
        if one.get(name) and other.get(name):
            return one[name] == other[name]
    return False


def short_hash(network: Mapping[str, Any]) -> str:
    """The first digits of what identifies a network, or an import, for a message."""
    known = [network[name] for name in NETWORK if network.get(name)]
    return str(known[0])[:12] if known else "unknown"


# ---- names in a folder ---------------------------------------------------------------------------


def listing(folder: str | os.PathLike, pattern: str) -> list[str]:
    """Sorted names in a folder that match a pattern. Hidden files, which may be half written, are
    left out."""
    names = [path.name for path in Path(folder).glob(pattern)]
    return sorted(name for name in names if not name.startswith("."))


def inside(folder: str | os.PathLike, name: str) -> Path:
    """folder/name. ValueError if `..`, an absolute path or a link puts it outside the folder."""
    path = Path(folder) / name
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"a file in {folder} names {name}, which lies outside that folder; delete the .json"
            " that came from elsewhere, and make it anew"
        )
    return path
