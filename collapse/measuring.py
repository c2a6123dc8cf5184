"""One checkpoint's files read, and all of NC1 to NC5 measured in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from artifacts import records, store
from artifacts.blocks import Block, Stored
from collapse import bootstrap, metrics, stages, table
from collapse.stages import Layer
from feature_files import FeatureFiles
from head import Head
from moments import Accumulator, Moments

COLUMNS = ["metric", "value", "split", "centring", "source"]  # what all tables of metrics share


# ---- read ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is measured of one checkpoint: its files, read and checked, and its layers' files."""

    run: FeatureFiles
    stale: records.Stale
    head: Head | None  # None of bare features
    class_names: list[str]
    train: Stored
    test: Stored
    ood: dict[str, Stored]  # by the set's name
    layers: list[Layer]

    @property
    def W(self) -> np.ndarray | None:
        """(C, D), None without a head."""
        return None if self.head is None else self.head.W

    @property
    def b(self) -> np.ndarray | None:
        """(C,), None without a head."""
        return None if self.head is None else self.head.b

    @property
    def files(self) -> list[Path]:
        """All files that a measurement reads, and head.csv also where it is absent: it is measured
        anew when one comes."""
        run = self.run
        files = [run.head or run.folder / "head.csv", run.train, run.test, *run.ood.values()]
        for layer in self.layers:
            files += layer.files.values()
        return files


def read_inputs(run: FeatureFiles, layers: list[Layer], stale: records.Stale) -> Inputs:
    """Read a run's head, and open its features, which are read block by block when they are
    measured; ValueError for a changed head, unless `stale` allows it."""
    head = store.read_head(run.head, stale, run.command) if run.head else None
    train = Stored(run.train, stale, run.command)
    class_names = head.class_names if head else names_without_head(run, train)
    train.classes = len(class_names)
    test = Stored(run.test, stale, run.command, len(class_names))
    for found, what in ((train, "labels"), (test, "test_labels")):
        found.labelled_by = run.command_for(what)
    ood = {name: Stored(path, stale, run.command) for name, path in run.ood.items()}
    return Inputs(run, stale, head, class_names, train, test, ood, layers)


def names_without_head(run: FeatureFiles, train: Stored) -> list[str]:
    """Class names of bare features: as their sidecar has them, else the numbers up to the highest
    label."""
    known = records.read_sidecar(run.train).get("class_names")
    if known:
        return known
    highest = max(int(block.labels.max(initial=-1)) for block in train.blocks())
    return [str(number) for number in range(highest + 1)]


# ---- measured ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Measured:
    """All that was found in one checkpoint's files."""

    inputs: Inputs
    moments: Moments  # of the training images
    decisions: dict[str, metrics.Decisions]  # NC4 by split, "train" and "test"
    alignments: dict[str, metrics.Alignment]  # NC5 by split, "test" and "ood:<name>"
    table: pd.DataFrame  # nc_metrics.csv
    per_class: pd.DataFrame  # nc_per_class.csv
    layers: pd.DataFrame | None  # nc_layers.csv, None without layers


def measure(inputs: Inputs, exact: bool = False, resamples: int | None = None) -> Measured:
    """NC1, NC2 and NC3 of the training images, NC4 of training and test images, NC5 of each OOD set
    and the ID test set; with `resamples`, intervals of them.

    exact: float64 throughout, where products are float32 by default.

    The training features are read twice, the others once, a block of rows at a time: the same bits
    as of features in memory."""
    moments = moments_of(inputs, exact)
    decisions = {"train": decisions_on(inputs.train, inputs, moments, exact)}
    means = {}
    decisions["test"], means["test"] = measured_once(inputs.test, inputs, moments, exact)
    for name, found in inputs.ood.items():
        means[f"ood:{name}"] = mean_of(found)
    alignments = {split: metrics.nc5(moments, mean) for split, mean in means.items()}
    rows = metrics_table(inputs, moments, decisions, alignments)
    if resamples:
        add_intervals(rows, intervals(inputs, moments, decisions, exact, resamples))
    columns = table.per_class(
        moments, inputs.W, inputs.class_names, decisions["train"], decisions["test"]
    )
    per_class = pd.DataFrame(columns)
    layers = layers_table(inputs)
    return Measured(inputs, moments, decisions, alignments, rows, per_class, layers)


def moments_of(inputs: Inputs, exact: bool) -> Moments:
    """The moments of the training images, in one pass."""
    classes, width = len(inputs.class_names), inputs.train.width
    accumulator = Accumulator(classes, width, exact=exact)
    for block in inputs.train.blocks():
        accumulator.update(block.features, block.labels)
    return accumulator.finish()


def decided(block: Block, inputs: Inputs, moments: Moments, exact: bool) -> metrics.Decisions:
    """NC4 of a block of rows."""
    return metrics.nc4(block.features, block.labels, inputs.W, inputs.b, moments.means, exact=exact)


def decisions_on(found: Stored, inputs: Inputs, moments: Moments, exact: bool) -> metrics.Decisions:
    """NC4 of a set, in one pass."""
    return metrics.joined([decided(block, inputs, moments, exact) for block in found.blocks()])


def measured_once(
    found: Stored, inputs: Inputs, moments: Moments, exact: bool
) -> tuple[metrics.Decisions, np.ndarray]:
    """NC4 of a set and the mean (D,) of its features, in one pass."""
    parts = []
    total = np.zeros(found.width)
    for block in found.blocks():
        parts.append(decided(block, inputs, moments, exact))
        total += metrics.sum_of_rows(block.features)
    return metrics.joined(parts), total / found.rows


def mean_of(found: Stored) -> np.ndarray:
    """The mean (D,) of a set's features, in one pass."""
    total = np.zeros(found.width)
    for block in found.blocks():
        total += metrics.sum_of_rows(block.features)
    return total / found.rows


def metrics_table(
    inputs: Inputs,
    moments: Moments,
    decisions: dict[str, metrics.Decisions],
    alignments: dict[str, metrics.Alignment],
) -> pd.DataFrame:
    """nc_metrics.csv without intervals: one row per metric and split."""
    lines = table.nc1_to_nc3(moments, inputs.W, inputs.b)
    agreements = {split: found.agreement for split, found in decisions.items()}
    rows = pd.DataFrame(table.whole(lines, agreements, alignments))
    rows.insert(0, "checkpoint", inputs.run.folder.name)
    return rows


def layers_table(inputs: Inputs) -> pd.DataFrame | None:
    """nc_layers.csv: all metrics of each layer; None without layers."""
    if not inputs.layers:
        return None
    remedy = inputs.run.command_with("--layers --force")
    parts = []
    for layer in inputs.layers:
        parts.append(stages.layer_table(layer, inputs.class_names, inputs.stale, remedy))
    together = pd.concat(parts, ignore_index=True)
    return together[["layer", "depth", *COLUMNS, "note"]]


def nc5_per_class(
    alignments: dict[str, metrics.Alignment], class_names: Sequence[str]
) -> pd.DataFrame:
    """nc5_per_class.csv: the cosines whose mean size is NC5, one row per class and set."""
    parts = []
    for split, alignment in alignments.items():
        columns = {
            "class": range(len(class_names)),
            "class_name": class_names,
            "split": split,
            "cosine": alignment.cosines,
            "cosine_centred": alignment.cosines_centred,
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


# ---- intervals -----------------------------------------------------------------------------------


def intervals(
    inputs: Inputs,
    moments: Moments,
    decisions: dict[str, metrics.Decisions],
    exact: bool,
    resamples: int,
) -> dict[tuple[str, str], bootstrap.Interval]:
    """{(metric, split): (low, high)} by resampling the images of each split; what rests on W alone
    has none."""
    # A resample draws rows from everywhere: here alone all training features are in memory.
    train, test = inputs.train.read(), inputs.test.read()
    classes = len(moments.means)
    by_split = {
        "train": bootstrap.nc1_to_nc3(
            train.features, train.labels, inputs.W, resamples, exact=exact, classes=classes
        ),
        "test": bootstrap.nc5(moments, test.features, test.labels, resamples),
    }
    for split, found in decisions.items():
        by_split[split] |= bootstrap.nc4(found, resamples)
    for name, found_set in inputs.ood.items():
        features = found_set.read().features
        by_split[f"ood:{name}"] = bootstrap.nc5(moments, features, None, resamples)
    bounds = {}
    for split, of_split in by_split.items():
        for metric, interval in of_split.items():
            bounds[metric, split] = interval
    return bounds


def add_intervals(rows: pd.DataFrame, bounds: dict[tuple[str, str], bootstrap.Interval]) -> None:
    """Add columns `low` and `high`, NaN where a metric has no interval."""
    found = []
    for key in zip(rows["metric"], rows["split"], strict=True):
        found.append(bounds.get(key, (None, None)))
    rows[["low", "high"]] = np.array(found, np.float64)
