"""A feature CSV that is written block by block, so that its rows need not be in memory together.

The bytes, and the hash of the content, are those of store.write_features."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from artifacts import csv_files, frames, records, store

Block = tuple[np.ndarray, np.ndarray, list[str] | None]  # features (n, D), labels (n,), paths [n]


def write_features(
    path: str | os.PathLike, blocks: Iterable[Block], rows: int, width: int, sidecar: Mapping
) -> None:
    """Write features, labels and paths as CSV with a sidecar, a block at a time; as Parquet, by the
    name of the file, in one piece.

    The same features in the other format are deleted, because both have one sidecar."""
    path = Path(path)
    if path.suffix == ".parquet":
        write_whole(path, list(blocks), sidecar)
        return
    content, done = frames.Digest(), 0
    facts = {**sidecar, "rows": rows, "width": width}
    with (
        records.with_sidecar(path, facts, lambda _: content.hexdigest()) as temporary,
        open(temporary, "wb") as file,
    ):
        for features, labels, paths in blocks:
            frame = store.feature_frame(features, labels, paths)
            content.update(frame)
            csv_files.append_polars(file, frame, header=not done)
            done += len(features)
        file.flush()
    assert done == rows
    store.remove_other_format(path)


def write_whole(path: Path, blocks: list[Block], sidecar: Mapping) -> None:
    """All blocks as one frame."""
    features, labels = (np.concatenate([block[part] for block in blocks]) for part in (0, 1))
    paths = None
    if blocks and blocks[0][2] is not None:
        paths = [name for block in blocks for name in block[2] or ()]
    store.write_features(path, features, labels, paths, sidecar)
