"""What made a file, from what, and whether it is still so.

    sidecar   <name>.json beside a file: command, arguments, versions, commit, and two hashes of the
        file
    record    <script>.json in results/<stem>/: a finished stage's arguments, and all that it looked
        for, found and wrote

Two hashes: `sha256` is of the bytes; `content_sha256` is of what the bytes say, so that other line
endings, quotes or an other order of columns count as the same. One rule, `unchanged`, serves every
script: the same bytes, or the same content. A network's content is `weights_sha256`: a training
that is repeated and ends in the same weights made the same network."""

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from artifacts import csv_files
from images import folders as images_folders
from utils import plain, read_json, replacing, write_json

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


def unchanged(path, sha256_then, content_then=None):
    """True if a file still is what it was: absent (None), the same bytes, or other bytes that say
    the same."""
    path = Path(path)
    if sha256_then is None or not path.is_file():
        return sha256_then is None and not path.exists()
    if sha256(path) == sha256_then:
        return True
    return content_then is not None and content_sha256(path) == content_then


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


def check_file(path, content, rows, stale=None, remedy=None):
    """Compare a file that was read with its sidecar: `content()`, a hash of what it says, or else
    its bytes.

    True if they agree. What has no sidecar, or one of an older version that holds no hash, is taken
    on trust (feature_files.py says so), as is what `stale` allows: False. The content comes first,
    as it is quicker to hash than the longer bytes of a CSV."""
    sidecar, stale = read_sidecar(path), stale or Stale()
    if rows == 0:
        raise ValueError(f"{path} holds no rows, expected some; make it anew with: {remedy}")
    then, content_then = sidecar.get("sha256"), sidecar.get("content_sha256")
    if then is None and rows == sidecar.get("rows", rows):
        return False
    if content_then is not None and content() == content_then:
        return True
    if then is not None and sha256(path) == then:
        return True
    written = sidecar.get("rows", rows)
    what = (
        f"holds {rows} rows, expected {written}, as its sidecar says"
        if rows != written
        else "was changed after it was written: its content is not that of its sidecar"
    )
    stale.found(f"{path} {what}", remedy)
    return False


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


# ---- records of stages ---------------------------------------------------------------------------


def fingerprints(paths, root):
    """[path] -> {path as seen from the folder `root`: SHA-256, None where there is no such file};
    files side by side."""
    paths = list(paths)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda path: sha256(path) if os.path.isfile(path) else None, paths)
        return {
            os.path.relpath(path, root): digest for path, digest in zip(paths, digests, strict=True)
        }


def write_record(path, arguments, inputs, outputs, listings=(), folders=None, stale=None, **more):
    """The record of a finished stage: its arguments and what it looked for, read and wrote.

    `inputs` that are absent are recorded as absent; `listings`, patterns of names in the record's
    folder, are recorded with the files that they find: a stage is no longer current when another
    file comes that it would have read. `folders` of images are {folder: {"listing": by names, sizes
    and times, "content": by the files' bytes}}, as images.folders hashes them."""
    files = all_files(path, inputs, outputs, listings, folders)
    write_json(path, provenance(arguments, stale, **files, **more))


def all_files(path, inputs, outputs, listings=(), folders=None):
    """What `is_current` compares, as it stands in a record at `path`."""
    root, inputs, outputs = Path(path).parent, list(inputs), list(outputs)
    present = [file for file in (*inputs, *outputs) if os.path.isfile(file)]
    contents = {os.path.relpath(file, root): content_sha256(file) for file in present}
    return {
        "inputs": fingerprints(inputs, root),
        "outputs": fingerprints(outputs, root),
        "contents": {name: value for name, value in contents.items() if value},
        "listings": {pattern: listing(root, pattern) for pattern in listings},
        "folders": {str(folder): hashes for folder, hashes in (folders or {}).items()},
    }


def listing(folder, pattern):
    """Names in a folder that fit a pattern; hidden files, which may be half written, count as
    absent."""
    return sorted(path.name for path in Path(folder).glob(pattern) if not path.name.startswith("."))


def read_record(path):
    """A stage's record, {} where none is. Its outputs lie in its own folder: ValueError for a
    record that names others."""
    record = read_checked(path)
    for name in record.get("outputs", {}):
        inside(Path(path).parent, name)
    return record


def inside(folder, name):
    """folder/name; ValueError where that lies elsewhere, by `..`, an absolute path, or a link."""
    path = Path(folder) / name
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"a file in {folder} names {name}, which lies outside that folder; delete the .json"
            " that came from elsewhere, and make it anew"
        )
    return path


def is_current(path, arguments, verify=False):
    """True if a record stands at `path` with these arguments, and all that it looked for, read and
    wrote is unchanged.

    Images count as unchanged where their names, sizes and times are; where these changed, or with
    `verify`, by their bytes."""
    record = read_record(path)
    if not {"arguments", "inputs", "outputs"} <= set(record):
        return False
    if not same_arguments(record["arguments"], arguments):
        return False
    if not all_unchanged(path, record):
        return False
    for pattern, names in record.get("listings", {}).items():
        if listing(Path(path).parent, pattern) != names:
            return False
    folders = record.get("folders", {})
    return all(same_images(folder, then, verify) for folder, then in folders.items())


def same_arguments(then, now):
    """True if two runs were given the same arguments.

    One that is None counts like one that does not exist: a flag that came with a later version
    changes nothing of what an earlier one made without it. False and empty lists are values:
    `--no-nesterov` and `--augment` with nothing behind it override a recipe.
    """
    return without_none(then) == without_none(plain(now))


def without_none(values):
    return {name: value for name, value in values.items() if value is not None}


def all_unchanged(path, record):
    root, contents = Path(path).parent, record.get("contents", {})
    files = {**record["inputs"], **record["outputs"]}
    return all(unchanged(root / name, digest, contents.get(name)) for name, digest in files.items())


def same_images(folder, then, verify=False):
    """True if a folder of images holds what it held `then` ({"listing": ..., "content": ...})."""
    now = images_folders.listing_hash(folder)
    if now is None or (now == then.get("listing") and not verify):
        return now is not None
    return images_folders.content_hash(folder) == then.get("content")
