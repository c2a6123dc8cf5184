"""Features as arrays for other programs, written beside the Parquet files that our scripts read.

    arrays/ID_cifar100_train_features.npy      (N, D) float32
    arrays/ID_cifar100_train_labels.npy        (N,) int64
    arrays/ID_cifar100_train_paths.npy         (N,) text, where the images came from files
    arrays/ID_cifar100_train.safetensors       the tensors features and labels; paths as JSON in
                                               its metadata

They lie in a folder of their own, with endings that no reader of ours takes for features. The .json
beside them names the content that they hold, by which they are kept or written anew."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from artifacts import blocks, csv_files, records, shards
from utils import replacing, write_json

FORMATS = ("npy", "safetensors")
FOLDER = "arrays"  # beside the feature files
HEADER = 8  # bytes that say how long the header of a .safetensors file is; it ends at a multiple


def export(features: Path, form: str) -> list[Path]:
    """Write the arrays of a feature file, or of a folder of shards -> their files, [] for a form
    that is ours.

    Block by block, so that memory is bounded. What is there already, of this content, is kept."""
    if form not in FORMATS:
        return []
    sidecar = records.read_sidecar(features)
    base = features.parent / FOLDER / features.stem
    base.parent.mkdir(exist_ok=True)
    files = files_of(base, form, features)
    note = base.with_name(f"{base.name}_{form}.json")
    said = {
        "source": features.name,
        "content_sha256": sidecar.get("content_sha256"),
        "checkpoint_sha256": sidecar.get("checkpoint_sha256"),
    }
    known = records.read_sidecar(note)
    if all(path.is_file() for path in files) and known == said | hashes_of(files):
        return files
    note.unlink(missing_ok=True)
    WRITERS[form](features, files, sidecar)
    write_json(note, said | hashes_of(files))
    return files


def hashes_of(files: list[Path]) -> dict[str, dict[str, str]]:
    """What a note says of the files' bytes."""
    return {"outputs": {path.name: records.sha256(path) for path in files if path.is_file()}}


def files_of(base: Path, form: str, features: Path) -> list[Path]:
    """The files of one set."""
    if form == "safetensors":
        return [base.with_name(f"{base.name}.safetensors")]
    names = ["features", "labels"]
    first = shards.parts_of(features)[0]
    if "path" in csv_files.columns_of(first):
        names.append("paths")
    return [base.with_name(f"{base.name}_{name}.npy") for name in names]


def write_npy(features: Path, files: list[Path], sidecar: dict) -> None:
    """The arrays as .npy files, without pickles."""
    rows, width = sidecar["rows"], sidecar["width"]
    labels, paths = np.empty(rows, np.int64), []
    with replacing(files[0]) as temporary, open(temporary, "wb") as file:
        write_npy_header(file, (rows, width))
        for block in blocks.blocks(features):
            file.write(little_endian(block.features, "<f4"))
            labels[block.start : block.start + len(block.labels)] = block.labels
            paths += block.paths or []
    others = {"labels": labels, "paths": np.array(paths, dtype=np.str_)}
    for path in files[1:]:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, others[path.stem.rpartition("_")[2]], allow_pickle=False)


def write_npy_header(file, shape: tuple[int, int]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_safetensors(features: Path, files: list[Path], sidecar: dict) -> None:
    """The tensors in one file: the length of a JSON header in 8 bytes, the header, the values."""
    rows, width = sidecar["rows"], sidecar["width"]
    labels = np.empty(rows, np.int64)
    paths: list[str] = []
    for block in blocks.blocks(features):
        labels[block.start : block.start + len(block.labels)] = block.labels
        paths += block.paths or []
    split = 4 * rows * width
    header = {
        "features": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, split]},
        "labels": {"dtype": "I64", "shape": [rows], "data_offsets": [split, split + 8 * rows]},
        "__metadata__": {"paths": json.dumps(paths)} if paths else {"format": "np"},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % HEADER)
    with replacing(files[0]) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(HEADER, "little"))
        file.write(text)
        for block in blocks.blocks(features, check=False):
            file.write(little_endian(block.features, "<f4"))
        file.write(little_endian(labels, "<i8"))


def little_endian(values: np.ndarray, kind: str) -> memoryview:
    """The bytes of an array, row by row."""
    return np.ascontiguousarray(values, dtype=kind).data


WRITERS: dict[str, Callable[[Path, list[Path], dict], None]] = {
    "npy": write_npy,
    "safetensors": write_safetensors,
}
