"""What made a file, from what, and whether it is still so: sidecars, records of stages, and one rule of what is current."""
import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils import plain, read_json, replacing, write_json

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "polars")


def sha256(path):
    """SHA-256 of a file as hexadecimal digits; remembered while the file's size and time stay the same."""
    status = os.stat(path)
    return _sha256(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path, size, modified):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def provenance(arguments, **more):
    """What every artifact says of itself: command, arguments, versions, commit, time; `more` is added."""
    commit, dirty = git_state()
    return {"command": shlex.join([Path(sys.executable).name, Path(sys.argv[0]).name, *sys.argv[1:]]),
            "arguments": arguments, **more, "versions": versions(), "git_commit": commit, "git_dirty": dirty,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


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
        return subprocess.run(["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True,
                              timeout=20, check=True).stdout.strip()
    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def sidecar_path(path):
    return Path(path).with_suffix(".json")


def read_sidecar(path):
    """The dict beside a CSV, or {} where there is none."""
    return read_json(sidecar_path(path))


@contextlib.contextmanager
def with_sidecar(path, sidecar):
    """Write a file and its sidecar: the old sidecar goes before the new file comes, and so never vouches for it."""
    with replacing(path) as temporary:
        yield temporary
        sidecar_path(path).unlink(missing_ok=True)
    write_json(sidecar_path(path), sidecar)


def fingerprints(paths, root):
    """[path] -> {path as seen from the folder `root`: SHA-256}, for a record's inputs and outputs; files side by side."""
    paths = list(paths)
    with ThreadPoolExecutor() as pool:
        return {os.path.relpath(path, root): digest for path, digest in zip(paths, pool.map(sha256, paths), strict=True)}


def write_record(path, arguments, inputs, outputs, **more):
    """The record of a finished stage: its arguments and what it read and wrote, by hash."""
    root = Path(path).parent
    write_json(path, provenance(arguments, inputs=fingerprints(inputs, root), outputs=fingerprints(outputs, root), **more))


def is_current(path, arguments):
    """Whether a record stands at `path` with these arguments, and all that it read and wrote is still the same."""
    record = read_json(path)
    if not {"arguments", "inputs", "outputs"} <= set(record) or record["arguments"] != plain(arguments):
        return False
    files = {Path(path).parent / name: digest for name, digest in {**record["inputs"], **record["outputs"]}.items()}
    return all(file.exists() and sha256(file) == digest for file, digest in files.items())
