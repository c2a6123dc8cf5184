"""The layers of a run: found in its folder, checked, and measured.

Every stage has files of one way, features or moments; `layers` reads both."""

import glob
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from artifacts import records, store
from artifacts.blocks import Stored
from collapse import layers, metrics, table
from collapse.layers import Summary
from feature_files import FeatureFiles

PROBED = "weights|nc3|head|nc4_mismatch"  # metrics for which the probe stands in


@dataclass(frozen=True)
class Layer:
    """One stage of the network."""

    name: str
    depth: int  # counted from the image
    files: dict[str, Path]  # by split
    streamed: bool  # the files are of moments


# ---- found ---------------------------------------------------------------------------------------


def find(run: FeatureFiles) -> list[Layer]:
    """The layers of a run in the order of depth, [] where there are none.

    Warns of a layer that lacks an OOD set. ValueError where a layer lacks the test images, or is
    not of this run's checkpoint."""
    prefix = f"ID_{run.dataset}_train_"
    pattern = f"{glob.escape(prefix)}*"
    way = way_of(run.folder, pattern)
    folder = run.folder / layers.FOLDERS[way]
    command = run.command_with("--layers stream" if way == "stream" else "--layers")
    origin = records.origin(run.head or run.train)
    found = []
    for stem in stems(folder, pattern):
        name = stem.removeprefix(prefix)
        files = files_of(run, folder, name, command)
        for path in files.values():
            check_origin(path, folder, origin, command)
        depth = records.read_sidecar(files["train"])["depth"]
        found.append(Layer(name, depth, files, streamed=way == "stream"))
    return sorted(found, key=lambda layer: layer.depth)


def way_of(folder: Path, pattern: str) -> str:
    """The way, of those of `--layers`, by which the layers in a run's folder were written; "store"
    where there are none."""
    for way, subfolder in layers.FOLDERS.items():
        if records.listing(folder / subfolder, pattern):
            return way
    return "store"


def stems(folder: Path, pattern: str) -> list[str]:
    """The sorted stems of the feature files that a pattern finds."""
    found = set()
    for suffix in store.SUFFIXES:
        for name in records.listing(folder, pattern + suffix):
            found.add(Path(name).stem)
    return sorted(found)


def files_of(run: FeatureFiles, folder: Path, name: str, command: str) -> dict[str, Path]:
    """{split: file} of one layer; warns of OOD sets without a file."""
    wanted = {
        "train": f"ID_{run.dataset}_train_{name}",
        "test": f"ID_{run.dataset}_test_{name}",
    }
    for ood in run.ood:
        wanted[f"ood:{ood}"] = f"OOD_{ood}_test_{name}"
    files = {}
    missing = []
    for split, stem in wanted.items():
        path = store.feature_file(folder, stem)
        if path:
            files[split] = path
        else:
            missing.append(f"{stem}.csv")
    if "test" not in files:
        raise ValueError(f"{folder} lacks {missing[0]}; make it with: {command}")
    if missing:
        warnings.warn(
            f"{folder} lacks {', '.join(missing)}: no NC5 of it there; make it with: {command}",
            stacklevel=2,
        )
    return files


def check_origin(path: Path, folder: Path, origin: dict, command: str) -> None:
    """ValueError unless a layer's file is of this network and says its depth."""
    sidecar = records.read_sidecar(path)
    is_foreign = any(origin.values()) and not records.same_network(sidecar, origin)
    if is_foreign or sidecar.get("depth") is None:
        raise ValueError(
            f"{path} was made from another checkpoint, or does not say its depth; delete"
            f" {folder}, or make it anew with: {command} --force"
        )


# ---- measured ------------------------------------------------------------------------------------


def layer_table(
    layer: Layer,
    class_names: Sequence[str],
    stale: records.Stale | None = None,
    remedy: str | None = None,
) -> pd.DataFrame:
    """The rows of one layer in nc_layers.csv, with a least-squares probe in place of the head.
    Always in float64.

    A file that was changed after it was written is refused with `remedy`, the command that makes it
    anew, unless `stale` lets it pass."""
    if layer.streamed:
        summaries = read_summaries(layer, stale, remedy)
    else:
        summaries = summarise_features(layer, class_names, stale, remedy)
    moments = summaries["train"].moments
    assert moments is not None, "the file of the training images holds their moments"
    fitted = layers.probe(moments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the notes say it row by row
        lines = table.nc1_to_nc3(moments, fitted.W, fitted.b)
    agreements = {split: summaries[split].agreement for split in ("train", "test")}
    alignments = {}
    for split, summary in summaries.items():
        if split != "train":
            alignments[split] = metrics.nc5(moments, summary.mean)
    rows = pd.DataFrame(table.whole(lines, agreements, alignments))
    is_probed = rows["metric"].str.contains(PROBED)
    rows.loc[is_probed, "note"] = rows.loc[is_probed, "note"].map(probe_note)
    return rows.assign(layer=layer.name, depth=layer.depth)


def probe_note(note: str) -> str:
    """A row's note, which says first that a probe stands in for the head."""
    return f"least-squares probe; {note}" if note else "least-squares probe"


def read_summaries(
    layer: Layer, stale: records.Stale | None, remedy: str | None
) -> dict[str, Summary]:
    """{split: Summary} of a layer's files of moments."""
    summaries = {}
    for split, path in layer.files.items():
        summaries[split] = layers.read_summary(path, stale, remedy)
    return summaries


def summarise_features(
    layer: Layer, class_names: Sequence[str], stale: records.Stale | None, remedy: str | None
) -> dict[str, Summary]:
    """{split: Summary} of a layer's features."""
    features = {}
    for split, path in layer.files.items():
        known = len(class_names) if split in ("train", "test") else None
        features[split] = Stored(path, stale, remedy or f"{store.EXTRACT} --layers", known)
    return layers.summaries_of(features, len(class_names))
