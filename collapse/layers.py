"""Collapse layer by layer: what is kept of one layer, from its saved features or from what was
tallied of them in passing. `stages` finds the layers of a run and measures them.

    layers/<file>_<stage>.csv     features of a stage, one row per image       run_networks.py
        --layers
    moments/<file>_<stage>.csv    what NC1 to NC5 need of them, and no more    run_networks.py
        --layers stream

A file of moments has a row "all" (images, NC4's counts, the mean of all images), and of the
training images one row per class (images, trace of its covariance, mean) and one row per feature of
Sigma_W, in float64 to the last digit. A layer has no head: the least-squares probe stands in, which
follows from the moments alone."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from artifacts import records, store
from artifacts.blocks import Stored
from collapse import metrics
from collapse.probe import Probe, least_squares_head
from moments import Accumulator, Moments

FOLDERS = {"store": "layers", "stream": "moments"}  # by the word after --layers
REMEDY = "python run_networks.py --checkpoint <its checkpoint> --layers stream --force"
COUNTS = ["mismatches", "nearest_mean_right", "probe_right"]  # of NC4, out of the images
CELLS = ["row", "images", *COUNTS, "variance"]  # the columns before the numbers
NO_COUNTS = [None] * len(COUNTS)


# ---- gathering -----------------------------------------------------------------------------------


class Tally:
    """What is needed of one layer's features of one set, seen block by block; tallies of several
    workers merge.

    Always: images and their sum. With `classes`: moments, in float64. With `probe`: NC4's counts.
    """

    def __init__(self, classes: int | None = None, probe: Probe | None = None):
        self.classes = classes
        self.probe = probe
        self.images = 0
        self.total: Any = 0.0  # (D,) sum of the features; 0 before the first block
        self.accumulator: Accumulator | None = None
        self.counts = np.zeros(len(COUNTS), np.int64)

    def update(self, features: np.ndarray, labels: np.ndarray) -> "Tally":
        """Add features (n, D) of labels (n,)."""
        self.images += len(features)
        self.total = self.total + features.sum(axis=0, dtype=np.float64)
        if self.classes is not None:
            if self.accumulator is None:
                self.accumulator = Accumulator(self.classes, features.shape[1], exact=True)
            self.accumulator.update(features, labels)
        if self.probe is not None:
            self.counts += counts_of(self.probe, features, labels)
        return self

    def merge(self, other: "Tally") -> "Tally":
        """Add what another tally of the same kind has seen."""
        self.images += other.images
        self.total = self.total + other.total
        self.counts = self.counts + other.counts
        if self.accumulator is None:
            self.accumulator = other.accumulator
        elif other.accumulator is not None:
            self.accumulator.merge(other.accumulator)
        return self

    @property
    def moments(self) -> Moments:
        """Of the images so far; ValueError where fewer than two classes have any."""
        assert self.accumulator is not None, "moments take the number of classes, and images"
        with warnings.catch_warnings():
            # of absent classes, which the rows of the table note
            warnings.simplefilter("ignore", UserWarning)
            return self.accumulator.finish()


def counts_of(probe: Probe, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(3,) COUNTS of features (n, D) of labels (n,)."""
    decisions = metrics.nc4(features, labels, probe.W, probe.b, probe.means, exact=True)
    return np.array([hits.sum() for hits in decisions.hits.values()])


def probe(moments: Moments) -> Probe:
    """The stand-in for a layer's head, from the moments of its training images."""
    W, b = least_squares_head(moments)
    return Probe(W, b, moments.means)


@dataclass(frozen=True, eq=False)
class Summary:
    """All that is kept of one layer on one set."""

    images: int
    mean: np.ndarray  # (D,) of all images
    counts: np.ndarray | None = None  # (3,) COUNTS, of ID images
    moments: Moments | None = None  # of training images

    @classmethod
    def of(cls, tally: Tally, moments: Moments | None = None) -> "Summary":
        """What a tally has seen; `moments` are those of another pass over the same images."""
        mean = tally.total / tally.images
        counts = None if tally.probe is None else tally.counts
        return cls(tally.images, mean, counts, moments)

    @property
    def agreement(self) -> metrics.Agreement:
        """NC4 of the probe."""
        assert self.counts is not None, "NC4 is of ID images"
        mismatches, nearest, predicted = self.counts.tolist()
        return metrics.Agreement(
            mismatch=mismatches / self.images,
            nearest_mean_accuracy=nearest / self.images,
            head_accuracy=predicted / self.images,
            images=self.images,
            mismatches=mismatches,
        )


def summaries_of(features: dict[str, Stored], classes: int) -> dict[str, Summary]:
    """{split: features} of one layer -> {split: Summary}; "train" is what the moments and the probe
    are of, and NC4 is of "train" and "test". Only a block of rows is in memory."""
    first = Tally(classes)
    for block in features["train"].blocks():
        first.update(block.features, block.labels)
    moments = first.moments
    fitted = probe(moments)
    summaries = {}
    for split, found in features.items():
        tally = Tally(probe=fitted if split in ("train", "test") else None)
        for block in found.blocks():
            tally.update(block.features, block.labels)
        summaries[split] = Summary.of(tally, moments if split == "train" else None)
    return summaries


# ---- files of moments ----------------------------------------------------------------------------


def write_summary(path: Path, summary: Summary, sidecar: dict) -> None:
    """A Summary -> moments/<file>_<stage>.csv and its sidecar."""
    counts = NO_COUNTS if summary.counts is None else summary.counts.tolist()
    cells = [["all", summary.images, *counts, None]]
    numbers = [summary.mean[None]]
    if summary.moments is not None:
        cells += cells_of(summary.moments)
        numbers += [summary.moments.means, summary.moments.within]
    names = [f"ct{d}" for d in range(len(summary.mean))]
    left = pd.DataFrame(cells, columns=CELLS, dtype=object)
    right = pd.DataFrame(np.concatenate(numbers), columns=names)
    store.write_table(path, pd.concat([left, right], axis=1), sidecar)


def cells_of(moments: Moments) -> list[list]:
    """CELLS of the rows of each class, then of each feature of Sigma_W."""
    images = moments.counts.tolist()
    cells: list[list] = []
    for c, variance in enumerate(moments.within_class_variance.tolist()):
        known = None if np.isnan(variance) else variance
        cells.append([f"class {c}", images[c], *NO_COUNTS, known])
    for d in range(len(moments.within)):
        cells.append([f"within {d}", None, *NO_COUNTS, None])
    return cells


def read_summary(
    path: Path, stale: records.Stale | None = None, remedy: str | None = None
) -> Summary:
    """moments/<file>_<stage>.csv -> Summary, to the last bit; ValueError where it is no such file,
    or was changed."""
    remedy = remedy or REMEDY
    table = store.read_typed(path, stale, remedy)
    width = table.width - len(CELLS)
    names = [f"ct{d}" for d in range(width)]
    has_columns = set(table.columns) == {*CELLS, *names}
    if not has_columns or not len(table) or table["row"][0] != "all":
        raise ValueError(f"{path} is not a file of moments; make it anew with: {remedy}")
    numbers = table.select(pl.col(names).cast(pl.Float64)).to_numpy()
    counts = None
    if table["mismatches"][0] is not None:
        counts = np.array(table.select(COUNTS).row(0), np.int64)
    images = int(table["images"][0])
    return Summary(images, numbers[0], counts, moments_in(table, numbers))


def moments_in(table: pl.DataFrame, numbers: np.ndarray) -> Moments | None:
    """The moments in a file's rows and their numbers (rows, D), None of images other than the
    training images."""
    is_class = table["row"].str.starts_with("class").to_numpy()
    is_within = table["row"].str.starts_with("within").to_numpy()
    if not is_within.any():
        return None
    means = numbers[is_class]
    counts = table["images"].to_numpy()[is_class].astype(np.int64)
    variance = table["variance"].cast(pl.Float64).to_numpy()
    return Moments(
        counts=counts,
        means=means,
        global_mean=means[counts > 0].mean(axis=0),
        within=numbers[is_within],
        within_class_variance=variance[is_class],
    )
