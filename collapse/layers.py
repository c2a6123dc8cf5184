"""Collapse layer by layer: what is measured of a layer, from its saved features or from what was
tallied of them in passing.

    layers/<file>_<stage>.csv     features of a stage, one row per image          run_networks.py
        --layers
    moments/<file>_<stage>.csv    what NC1 to NC5 need of them, and no more    run_networks.py
        --layers stream

A file of moments has a row "all" (images, NC4's counts, the mean of all images), and of the
training images one row per class (images, trace of its covariance, mean) and one row per feature of
Sigma_W, in float64 to the last digit. A layer has no head: the least-squares probe stands in, which
follows from the moments alone."""

import glob
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from artifacts import records, store
from collapse import metrics

FOLDERS = {"store": "layers", "stream": "moments"}  # by the word after --layers
REMEDY = "python run_networks.py --checkpoint <its checkpoint> --layers stream --force"
COUNTS = ["mismatches", "nearest_mean_right", "probe_right"]  # of NC4, out of the images


# ---- gathering -----------------------------------------------------------------------------------


class Tally:
    """What is needed of one layer's features of one set, seen block by block; tallies of several
    workers merge.

    Always: images and their sum. With `classes`: moments, in float64. With `probe` (W, b, class
    means): NC4's counts."""

    def __init__(self, classes=None, probe=None):
        self.classes, self.probe = classes, probe
        self.images, self.total, self.accumulator = 0, 0.0, None
        self.counts = None if probe is None else np.zeros(len(COUNTS), np.int64)

    def update(self, features, labels):
        """Add features (n, D) of labels (n,)."""
        self.images += len(features)
        self.total = self.total + features.sum(axis=0, dtype=np.float64)
        if self.classes is not None:
            if self.accumulator is None:
                self.accumulator = metrics.Accumulator(self.classes, features.shape[1], exact=True)
            self.accumulator.update(features, labels)
        if self.probe is not None:
            found = metrics.nc4(features, labels, *self.probe, exact=True)
            nearest, predicted = found["nearest"], found["predicted"]
            self.counts += [
                (nearest != predicted).sum(),
                (nearest == labels).sum(),
                (predicted == labels).sum(),
            ]
        return self

    def merge(self, other):
        """Add what another tally of the same kind has seen."""
        self.images, self.total = self.images + other.images, self.total + other.total
        if self.accumulator is None or other.accumulator is None:
            self.accumulator = self.accumulator or other.accumulator
        else:
            self.accumulator.merge(other.accumulator)
        if self.counts is not None:
            self.counts = self.counts + other.counts
        return self

    @property
    def moments(self):
        """Of the images so far; ValueError where fewer than two classes have any."""
        with warnings.catch_warnings():
            # of absent classes, which the rows of the table note
            warnings.simplefilter("ignore", UserWarning)
            return self.accumulator.finish()


def probe(moments):
    """The stand-in for a layer's head, and the class means that NC4 compares it with: W (C, D), b
    (C,), means (C, D)."""
    return *metrics.least_squares_head(moments), moments.means


@dataclass(frozen=True, eq=False)
class Summary:
    """All that is measured of one layer on one set: (images, mean (D,), counts (3,) or None,
    Moments of training images)."""

    images: int
    mean: np.ndarray
    counts: np.ndarray | None = None
    moments: metrics.Moments | None = None

    @classmethod
    def of(cls, tally, moments=None):
        return cls(tally.images, tally.total / tally.images, tally.counts, moments)

    @property
    def nc4(self):
        """As collapse.metrics.nc4 returns it, without its arrays of images."""
        mismatches, nearest, predicted = self.counts.tolist()
        return {
            "mismatch": mismatches / self.images,
            "nearest_mean_accuracy": nearest / self.images,
            "head_accuracy": predicted / self.images,
            "mismatches": np.array([mismatches]),
            "images": np.array([self.images]),
        }


def summarise(features, classes):
    """{split: store.Features} of one layer -> {split: Summary}; "train" is what the moments and
    the probe are of."""
    train = features["train"]
    moments = Tally(classes).update(train.features, train.labels).moments
    head = probe(moments)
    summaries = {}
    for split, found in features.items():
        tally = Tally(probe=head if split in ("train", "test") else None)
        tally.update(found.features, found.labels)
        summaries[split] = Summary.of(tally, moments if split == "train" else None)
    return summaries


# ---- files of moments ----------------------------------------------------------------------------


def write_summary(path, summary, sidecar):
    """A Summary -> moments/<file>_<stage>.csv and its sidecar."""
    moments, width = summary.moments, len(summary.mean)
    counts = [None] * len(COUNTS) if summary.counts is None else summary.counts.tolist()
    head, values = [["all", summary.images, *counts, None]], [summary.mean[None]]
    if moments is not None:
        empty = [None] * len(COUNTS)
        variance = [
            None if np.isnan(value) else value for value in moments.within_class_variance.tolist()
        ]
        head += [
            [f"class {c}", count, *empty, variance[c]]
            for c, count in enumerate(moments.counts.tolist())
        ]
        head += [[f"within {d}", None, *empty, None] for d in range(width)]
        values += [moments.means, moments.within]
    table = pd.DataFrame(head, columns=["row", "images", *COUNTS, "variance"], dtype=object)
    values = pd.DataFrame(np.concatenate(values), columns=[f"ct{d}" for d in range(width)])
    store.write_table(path, pd.concat([table, values], axis=1), sidecar)


def read_summary(path, stale=None, remedy=None):
    """moments/<file>_<stage>.csv -> Summary, to the last bit; ValueError where it is no such file,
    or was changed."""
    remedy = remedy or REMEDY
    table = store.read_typed(path, stale, remedy)
    means = [f"ct{d}" for d in range(table.width - 6)]
    if (
        set(table.columns) != {"row", "images", *COUNTS, "variance", *means}
        or not len(table)
        or table["row"][0] != "all"
    ):
        raise ValueError(f"{path} is not a file of moments; make it anew with: {remedy}")
    values = table.select(pl.col(means).cast(pl.Float64)).to_numpy()
    counts = (
        None if table["mismatches"][0] is None else np.array(table.select(COUNTS).row(0), np.int64)
    )
    classes, within = (
        table["row"].str.starts_with(word).to_numpy() for word in ("class", "within")
    )
    moments = None
    if within.any():
        means, images = values[classes], table["images"].to_numpy()[classes].astype(np.int64)
        moments = metrics.Moments(
            images,
            means,
            means[images > 0].mean(axis=0),
            values[within],
            table["variance"].cast(pl.Float64).to_numpy()[classes],
        )
    return Summary(int(table["images"][0]), values[0], counts, moments)


# ---- the layers of a run -------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One stage: its name, its place counted from the image, {split: file}, and whether the files
    are of moments."""

    name: str
    depth: int
    files: dict
    streamed: bool


def find(run):
    """The layers of a FeatureFiles in the order of depth, [] where there are none; ValueError
    where they are not of this run."""
    prefix = f"ID_{run.dataset}_train_"
    pattern = f"{glob.escape(prefix)}*"
    way = next(
        (way for way in FOLDERS if records.listing(run.folder / FOLDERS[way], pattern)), "store"
    )
    folder, origin = run.folder / FOLDERS[way], records.origin(run.head or run.train)
    command = run.command_with(f"--layers{' stream' * (way == 'stream')}")
    found = []
    names = [
        Path(name)
        for suffix in store.SUFFIXES
        for name in records.listing(folder, pattern + suffix)
    ]
    for stem in sorted({name.stem for name in names}):
        name = stem.removeprefix(prefix)
        wanted = {"train": stem, "test": f"ID_{run.dataset}_test_{name}"}
        for ood in run.ood:
            wanted[f"ood:{ood}"] = f"OOD_{ood}_test_{name}"
        files = {
            split: path
            for split, file in wanted.items()
            if (path := store.feature_file(folder, file))
        }
        missing = [f"{wanted[split]}.csv" for split in wanted if split not in files]
        if "test" not in files:
            raise ValueError(f"{folder} lacks {missing[0]}; make it with: {command}")
        if missing:
            warnings.warn(
                f"{folder} lacks {', '.join(missing)}: no NC5 of it there; make it with: {command}",
                stacklevel=2,
            )
        for path in files.values():
            sidecar = records.read_sidecar(path)
            foreign = any(origin.values()) and not records.same_network(sidecar, origin)
            if foreign or sidecar.get("depth") is None:
                raise ValueError(
                    f"{path} was made from another checkpoint, or does not say its depth; delete"
                    f" {folder}, or make it anew with: {command} --force"
                )
        found.append(
            Layer(name, records.read_sidecar(files["train"])["depth"], files, way == "stream")
        )
    return sorted(found, key=lambda layer: layer.depth)


def measure(layer, class_names, stale=None, remedy=None):
    """The rows of one layer in nc_layers.csv, with a least-squares probe in place of the head.
    Always in float64.

    A file that was changed after it was written is refused with `remedy`, the command that makes it
    anew, unless `stale` lets it pass."""
    if layer.streamed:
        summaries = {
            split: read_summary(path, stale, remedy) for split, path in layer.files.items()
        }
    else:
        features = {
            split: store.read_features(path, stale, remedy) for split, path in layer.files.items()
        }
        for split in ("train", "test"):
            store.check_labels(features[split], class_names)
        summaries = summarise(features, len(class_names))
    moments = summaries["train"].moments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the notes say it row by row
        rows = metrics.measure(moments, *probe(moments)[:2])
    nc4 = {split: summaries[split].nc4 for split in ("train", "test")}
    nc5 = {}
    for split, found in summaries.items():
        if split != "train":
            nc5[split] = metrics.nc5(moments, found.mean)
    table = pd.DataFrame(metrics.all_rows(rows, nc4, nc5))
    probed = table["metric"].str.contains("weights|nc3|head|nc4_mismatch")
    table["note"] = [
        f"least-squares probe{note and '; '}{note}" if by_probe else note
        for note, by_probe in zip(table["note"], probed, strict=True)
    ]
    return table.assign(layer=layer.name, depth=layer.depth)
