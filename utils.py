"""On-disk artifacts: feature CSVs and heads, their sidecars, tables, hashes, and writes that are whole or not at all.

    features   ID_cifar100_train.csv    ct0 .. ct{D-1}, label[, path]     a row an image; .parquet holds the same columns
    head       head.csv                 class, w0 .. w{D-1}, bias         a row a class; logits = features @ W.T + b
    sidecar    ID_cifar100_train.json   what made the CSV of the same stem, and from what

What belongs to one checkpoint is found and checked by `runs`.
"""
import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

SUFFIXES = (".csv", ".parquet")
ALIASES = {"dtd": "textures", "texture": "textures", "heldout": "held_out", "held-out": "held_out",
           "cifar-10": "cifar10", "cifar-100": "cifar100"}
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "polars")


# ---- names -----------------------------------------------------------------------------------------------------------

def split_name(text):
    """"SVHN" -> ("svhn", None); "mine=photos/2024" -> ("mine", "photos/2024"); aliases (dtd, texture) are resolved."""
    name, equals, folder = text.partition("=")
    name = ALIASES.get(name.lower(), name.lower())
    if not name or (equals and not folder) or not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"data set {text!r} is neither a name nor NAME=FOLDER with letters, digits, - and _ in NAME")
    return name, folder or None


def results_folder(checkpoint, output_dir="results"):
    """Where a checkpoint's features and tables stand: results/<stem>. Accepts the .pth file or that folder itself."""
    path = Path(checkpoint)
    folder = path if path.is_dir() else Path(output_dir) / path.stem
    if not folder.is_dir():
        raise ValueError(f"no features of {checkpoint}: expected the folder {folder}; make it with: "
                         f"python run_networks.py --checkpoint {checkpoint}")
    return folder


# ---- whole or not at all ---------------------------------------------------------------------------------------------

@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path` and move it there when the block ends well: never half a file."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable_folder(path):
    """Make the folder where it is missing and try a write; OSError or ValueError now rather than after hours."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into {path} ({error.strerror}); choose another folder with --output-dir") from None
    return path


def write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def plain(content):
    """What `content` becomes when it is written as JSON and read back: tuples are lists, NaN and infinity are None."""
    if isinstance(content, dict):
        return {str(name): plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    content = content.item() if isinstance(content, np.generic) else content
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content if isinstance(content, (str, int, float, bool, type(None))) else str(content)


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and make the file beside it anew") from None


# ---- where things come from ------------------------------------------------------------------------------------------

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


# ---- features and heads ----------------------------------------------------------------------------------------------

def write_features(path, features, labels, paths=None, sidecar=None):
    """features (N, D) float32, labels (N,) int, paths [N] -> a CSV (or Parquet by its name) and its sidecar.

    float32 is written in the shortest decimal form that reads back to the same float32. The same features in the other
    format, whose sidecar this one replaces, are removed.
    """
    columns = {f"ct{index}": column for index, column in enumerate(np.asarray(features, np.float32).T)}
    frame = pl.DataFrame({**columns, "label": np.asarray(labels, np.int64)})
    if paths is not None:
        frame = frame.with_columns(pl.Series("path", [str(path) for path in paths], dtype=pl.String))
    details = {"rows": frame.height, "width": len(columns)}
    with with_sidecar(path, {**(sidecar or {}), **details}) as temporary:
        frame.write_parquet(temporary) if Path(path).suffix == ".parquet" else frame.write_csv(temporary)
    for suffix in SUFFIXES:
        if suffix != Path(path).suffix:
            Path(path).with_suffix(suffix).unlink(missing_ok=True)


@dataclass(frozen=True)
class Features:
    """features (N, D) float32, labels (N,) int64, paths [N] or None, and the file they came from."""

    features: np.ndarray
    labels: np.ndarray
    paths: list
    file: Path


def columns_of(path):
    """The column names of a CSV or Parquet file without reading it; a leading unnamed index column is passed over."""
    if Path(path).suffix == ".parquet":
        try:
            return list(pl.read_parquet_schema(path))
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return [name.strip('"') for name in file.readline().rstrip("\r\n").split(",")]


def width_of(path):
    """D of a feature file, from its header: ct0 .. ct{D-1} in order, then label; ValueError says what is amiss."""
    names = columns_of(path)
    features = [name for name in names if name.startswith("ct")]
    if not features or features != [f"ct{index}" for index in range(len(features))] or "label" not in names:
        raise ValueError(f"{path} is not a feature file: expected columns ct0 .. ct{{D-1}}, label[, path], found "
                         f"{', '.join(names[:3])[:60]} ... {names[-1][-20:]}")
    return len(features)


def read_features(path):
    """Read a feature CSV or Parquet file, exactly; NaN or infinity among the features raises ValueError with its row."""
    width = width_of(path)
    numbers = [f"ct{index}" for index in range(width)]
    try:
        if Path(path).suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            kinds = dict.fromkeys(numbers, pl.Float32) | ({"path": pl.String} if "path" in columns_of(path) else {})
            frame = pl.read_csv(path, schema_overrides=kinds, infer_schema_length=1000)
        labels = frame["label"]
        frame = frame.with_columns(pl.col(numbers).cast(pl.Float32), pl.col("label").cast(pl.Int64))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as features: {str(error).splitlines()[0]}") from None
    features = frame.select(numbers).to_numpy(order="c")
    written = read_sidecar(path).get("rows", frame.height)
    if frame.height == 0 or frame.height != written:
        raise ValueError(f"{path} holds {frame.height or 'no'} rows, expected {written or 'some'}, as its sidecar says; make it "
                         f"anew with run_networks.py, or delete {sidecar_path(path).name} to take it as it is")
    labelled = frame["label"].is_not_null().to_numpy()
    whole = np.isfinite(features).all(axis=1) & labelled
    if not whole.all():
        row = int(np.argmin(whole))
        what = ("NaN, infinity or an empty cell, of which every score is undefined" if labelled[row] else "no label")
        raise ValueError(f"{path} holds {what}, first in data row {row + 1}; make it anew with run_networks.py"
                         + (", of a network that did not diverge" if labelled[row] else ""))
    if labels.dtype.is_float() and (labels != labels.round()).any():
        row = int((labels != labels.round()).arg_max())
        raise ValueError(f"{path} has label {labels[row]} in data row {row + 1}; expected whole numbers")
    return Features(features, frame["label"].to_numpy(), frame["path"].to_list() if "path" in frame.columns else None,
                    Path(path))


def write_head(path, W, b, class_names, sidecar=None):
    """W (C, D) and b (C,) -> head.csv, a row a class in the order of the logits; `class` holds the class's name."""
    frame = pl.DataFrame({"class": [str(name) for name in class_names],
                          **{f"w{index}": column for index, column in enumerate(np.asarray(W, np.float32).T)},
                          "bias": np.asarray(b, np.float32)})
    with with_sidecar(path, {**(sidecar or {}), "rows": frame.height, "width": frame.width - 2}) as temporary:
        frame.write_csv(temporary)


def read_head(path):
    """head.csv -> W (C, D) float32, b (C,) float32, class names [C]."""
    names = columns_of(path)
    weights = [f"w{index}" for index in range(len(names) - 2)]
    if names != ["class", *weights, "bias"]:
        raise ValueError(f"{path} is not a head: expected columns class, w0 .. w{{D-1}}, bias, found {', '.join(names[:4])} ...")
    try:
        frame = pl.read_csv(path, schema_overrides=dict.fromkeys([*weights, "bias"], pl.Float32) | {"class": pl.String})
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as a head: {str(error).splitlines()[0]}") from None
    if frame.height < 2 or not weights:
        raise ValueError(f"{path} holds {frame.height} classes and {len(weights)} weights each; expected at least 2 and 1")
    W, b = frame.select(weights).to_numpy(order="c"), frame["bias"].to_numpy()
    if not (np.isfinite(W).all() and np.isfinite(b).all()):
        raise ValueError(f"{path} holds NaN, infinity or an empty cell; make it anew with run_networks.py")
    return W, b, frame["class"].to_list()


def feature_file(folder, name):
    """The .csv or .parquet file of this stem, or None."""
    return next((path for suffix in SUFFIXES if (path := Path(folder) / f"{name}{suffix}").exists()), None)


def check_labels(data, class_names):
    """Labels of ID images must be classes of the head: ValueError with the first that is not."""
    wrong = (data.labels < 0) | (data.labels >= len(class_names))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{data.file} has label {data.labels[row]} in data row {row + 1}; the head knows classes 0 to "
                         f"{len(class_names) - 1}")


# ---- tables ----------------------------------------------------------------------------------------------------------

def write_table(path, frame, sidecar=None):
    """A pandas table as CSV with its sidecar; missing values are empty cells."""
    with with_sidecar(path, {**(sidecar or {}), "rows": len(frame)}) as temporary:
        frame.to_csv(temporary, index=False)


def read_table(path):
    return pd.read_csv(path)


def write_figure(path, figure):
    """A matplotlib figure as a PNG of 150 dots an inch."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
