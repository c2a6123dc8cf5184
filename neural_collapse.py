"""Measure neural collapse, NC1 to NC5, from the feature CSVs and the head alone: no network, no
torch.

    python neural_collapse.py --checkpoint results/resnet18_final_cifar100_s0.pth
    python neural_collapse.py --checkpoint results/resnet18_final_cifar100_s0 --ood svhn textures
    python neural_collapse.py --checkpoint results/resnet18_final_cifar100_s0 \\
        --exact --bootstrap 200
    # each OOD set as one more class
    python neural_collapse.py --checkpoint results/net_s0 --with-ood-class
    # through training
    python neural_collapse.py --checkpoint results/resnet18_epoch*_cifar100_s0.pth

Reads results/<stem>/ (the folder may be named in place of the checkpoint) and writes there:
nc_metrics.csv (one row per metric, with its split, centring and source), nc_per_class.csv (one row
per class), nc5_per_class.csv (one row per class and set) and figures/. NC1, NC2 and NC3 are of
clean training features, NC4 of training and test features, NC5 of each OOD set with the ID test set
as the null. Bare features, without head.csv, have no NC2 of the weights, no NC3 and no comparison
in NC4: those cells are empty, and their note says so. --with-ood-class writes nc_with_ood.csv, NC1
and NC2 of the training images with each OOD set as class C + 1. Where `run_networks.py --layers`
left layers/ or moments/, nc_layers.csv follows, with a least-squares probe in place of the head
that a layer lacks. Several checkpoints of one network are each measured so, and the folder of the
latest epoch gets nc_epochs.csv and, where ood_methods.py has scored all of them, nc_ood.csv and
nc_ood_correlation.csv. docs/neural_collapse.md explains each."""

import glob
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import cli
import console
import feature_files
import figures
import utils
from artifacts import current, records, store
from collapse import drawing, layers, measuring, stages, with_ood
from collapse import epochs as series
from collapse import rows as collapse_rows
from collapse.measuring import COLUMNS, Inputs, Measured
from moments import Moments
from scores import registry
from scores.statistics import Statistics

# ---- arguments -----------------------------------------------------------------------------------


class Arguments(Protocol):
    """What the flags of `make_parser` say."""

    checkpoint: list[str]
    dataset: utils.SetName | None
    ood: list[utils.SetName] | None
    output_dir: str
    allow_stale: bool
    pdf: bool
    svg: bool
    exact: bool
    bootstrap: int | None
    with_ood_class: bool | None
    tsne: bool


def make_parser() -> cli.Parser:
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        "checkpoint",
        "dataset",
        "ood",
        "output-dir",
        "allow-stale",
        "pdf",
        "svg",
        checkpoint={
            "required": True,
            "nargs": "+",
            "help": (
                "checkpoint, or its folder; several epochs of one network: collapse through"
                " training"
            ),
        },
        ood={
            "help": "OOD sets for NC5, NAME or NAME=FOLDER as extracted; default: all in the folder"
        },
    )
    group = parser.add_argument_group("how it is measured")
    group.add_argument(
        "--exact",
        action="store_true",
        help="float64 throughout, where products are float32 by default",
    )
    group.add_argument(
        "--bootstrap",
        type=cli.positive,
        metavar="N",
        help=(
            "add 95%% intervals from N resamples of the "
            "images within classes; of NC1 to NC3 each costs a pass over the training features"
        ),
    )
    group.add_argument(
        "--with-ood-class",
        # None without it: records of runs before this flag stay current
        action="store_const",
        const=True,
        help=(
            "measure NC1 and NC2 of ID and OOD together too, each OOD set as class C + 1 of the"
            " training images (nc_with_ood.csv)"
        ),
    )
    group.add_argument(
        "--tsne",
        action="store_true",
        help="draw a t-SNE of some ID and OOD test images too (scikit-learn; slow)",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> Arguments:
    return make_parser().parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    checkpoints = check(args)
    measured = {}
    for checkpoint in checkpoints.opened:
        measured[checkpoint.run.folder] = measure_and_write(checkpoint, args)
    if checkpoints.epochs:
        follow(checkpoints, measured, args)


# ---- checked before anything is written ----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Opened:
    """One checkpoint's files, found and checked."""

    run: feature_files.FeatureFiles
    stale: records.Stale
    layers: list[stages.Layer]


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """The checkpoints that were named and, where they are several, their order."""

    opened: list[Opened]
    epochs: list[series.Epoch]  # none of a single checkpoint
    scored: dict[Path, pd.DataFrame | None]  # ood_metrics.csv of each epoch's folder, if any


def check(args: Arguments) -> Checkpoints:
    """Find all files of all checkpoints; ValueError where they do not belong together, and nothing
    has been written."""
    runs = []
    stale = {}
    for name in args.checkpoint:
        own = records.Stale(args.allow_stale)
        run = feature_files.open_run(
            name, args.output_dir, args.dataset, args.ood, own, needs_head=False
        )
        runs.append(run)
        stale[run.folder] = own
    epochs = series.order(runs, stale) if len(runs) > 1 else []
    found = {run.folder: stages.find(run) for run in runs}
    scored = {}
    for epoch in epochs:
        scored[epoch.folder] = series.read_scored(epoch, stale[epoch.folder])
    for run in runs:
        utils.writable_folder(run.folder / "figures")
    opened = [Opened(run, stale[run.folder], found[run.folder]) for run in runs]
    return Checkpoints(opened, epochs, scored)


# ---- one checkpoint ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Written:
    """What a series takes of one checkpoint."""

    table: pd.DataFrame  # nc_metrics.csv
    layers: pd.DataFrame | None  # nc_layers.csv
    allowed: list[str]  # what was stale and went in all the same


def measure_and_write(checkpoint: Opened, args: Arguments) -> Written:
    """Everything of one checkpoint into its folder, and the main part of it onto the screen."""
    inputs = measuring.read_inputs(checkpoint.run, checkpoint.layers, checkpoint.stale)
    with console.working(f"collapse of {checkpoint.run.folder.name}"):
        found = measuring.measure(inputs, args.exact, args.bootstrap)
    components = fit_components(found.moments)
    together = with_ood.tabulate(inputs, found.moments, args.exact) if args.with_ood_class else None
    remove_together(checkpoint.run.folder, together)
    tables = write_tables(found, together, args)
    drawn = drawing.draw(found, components, args.tsne)
    folder = checkpoint.run.folder / "figures"
    pictures = utils.write_figures(folder, drawn, cli.vector_formats(args))
    write_record(inputs, [*tables, *pictures], args)
    print_measured(found)
    if together is not None:
        title = "NC1 and NC2 with each OOD set as class C+1 -> nc_with_ood.csv"
        console.print_table(with_ood.shown(together), title)
    return Written(found.table, found.layers, inputs.stale.reasons)


class OfMoments(Statistics):
    """The training images as NECO sees them, by their moments: no row is read again."""

    def __init__(self, moments: Moments):
        self.moments = moments
        self.classes = len(moments.means)
        self.counts = moments.counts
        self.present = moments.present

    @property
    def width(self) -> int:
        """D."""
        return self.moments.means.shape[1]

    @cached_property
    def class_means(self) -> np.ndarray:
        """(C, D)."""
        return self.moments.means

    @cached_property
    def covariance_within(self) -> np.ndarray:
        """(D, D)."""
        return self.moments.within

    def passes(self, function):
        """None: there are no rows."""
        raise NotImplementedError("moments have no rows")


def fit_components(moments: Moments) -> drawing.Components:
    """Fit NECO to the training images; ood_methods.py is where its warnings are said."""
    train = OfMoments(moments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        neco = registry.METHODS["NECO"].fit(cast(Any, train))  # which reads no row of it
    ascending = train.spectrum_standardised[0]
    fitted = {"NECO": neco}
    return drawing.Components(
        variances=ascending[::-1].clip(0),
        dim=None if neco.undefined else neco.parameters["dim"],
        share=lambda features: registry.score_all(features, fitted, None, None)["NECO"],
    )


def write_tables(found: Measured, together: pd.DataFrame | None, args: Arguments) -> list[Path]:
    """The tables of one checkpoint -> their paths; `together` is that of --with-ood-class."""
    run, stale = found.inputs.run, found.inputs.stale
    tables = {
        "nc_metrics": found.table,
        "nc_per_class": found.per_class,
        "nc5_per_class": measuring.nc5_per_class(found.alignments, found.inputs.class_names),
    }
    if found.layers is not None:
        tables["nc_layers"] = found.layers
    if together is not None:
        tables["nc_with_ood"] = together
    sidecar = {
        **records.provenance(cli.material(args), stale),
        **records.origin(run.head or run.train),
    }
    paths = []
    for name, table in tables.items():
        path = run.folder / f"{name}.csv"
        store.write_table(path, table, sidecar)
        paths.append(path)
    return paths


def remove_together(folder: Path, together: pd.DataFrame | None) -> None:
    """Remove nc_with_ood.csv of an earlier run where it is not asked for: it may be of other
    features."""
    if together is None:
        for suffix in (".csv", ".json"):
            (folder / f"nc_with_ood{suffix}").unlink(missing_ok=True)


def write_record(inputs: Inputs, written: Sequence[Path], args: Arguments) -> None:
    """neural_collapse.json: what was asked, read and written, so that a later run knows whether all
    of it is current."""
    current.write_record(
        inputs.run.folder / "neural_collapse.json",
        cli.material(args),
        inputs.files,
        written,
        listings(inputs.run, args.ood),
        stale=inputs.stale,
    )


def listings(run: feature_files.FeatureFiles, ood: Sequence[utils.SetName] | None) -> list[str]:
    """Patterns of files that a measurement takes where they are there: layers, and OOD sets that
    nobody named."""
    splits = [f"ID_{run.dataset}_train", f"ID_{run.dataset}_test"]
    splits += [f"OOD_{name}_test" for name in run.ood]
    patterns = []
    for folder in layers.FOLDERS.values():
        patterns += [f"{folder}/{glob.escape(split)}_*" for split in splits]
    if not ood:
        patterns.append("OOD_*_test")
    return [f"{pattern}{suffix}" for pattern in patterns for suffix in store.SUFFIXES]


# ---- what is printed -----------------------------------------------------------------------------


def print_measured(found: Measured) -> None:
    """The main metrics, NC5 of each set and, where there are layers, those through the layers."""
    run, moments = found.inputs.run, found.moments
    classes, width = moments.means.shape
    images = f"{moments.counts.sum():,} training images"
    title = f"{run.folder.name}: neural collapse of {run.dataset}"
    console.print_table(
        shown(found.table), f"{title}, {images}, {classes} classes, {width} features"
    )
    if run.head is None:
        print(
            "\nno head.csv: NC2 of the weights, NC3 and NC4's comparison with the classifier are"
            " left empty"
        )
    console.print_table(
        drawing.nc5_table(found.alignments).round(4),
        "NC5  mean |cos| of class means with each set's mean (0: orthogonal)",
    )
    if found.layers is not None:
        console.print_table(
            along(found.layers, ["depth", "layer"]),
            f"through the layers -> {run.folder / 'nc_layers.csv'}",
        )
    print(f"\nall metrics, per class and drawn: {run.folder}")


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The main metrics as they are printed: what, value, value under full collapse."""
    values = table.set_index(["metric", "split"])["value"]
    lines = []
    for (metric, split), label in collapse_rows.printed().items():
        value = values[metric, split]
        text = "" if pd.isna(value) else f"{value:.4g}"
        target = collapse_rows.ROWS[metric].target
        lines.append({"metric": label, "value": text, "if collapsed": target})
    return pd.DataFrame(lines)


def along(table: pd.DataFrame, index: str | list[str]) -> pd.DataFrame:
    """A tidy table -> what is printed: one row per step along `index`, one column for each of a few
    metrics."""
    columns = [f"{metric} {split}" for metric, split in collapse_rows.PRINTED]
    named = table.assign(name=table["metric"] + " " + table["split"])
    named = named[named["name"].isin(columns)]
    wide = named.pivot(index=index, columns="name", values="value").astype(float)
    ordered = wide.reindex(columns=columns).round(4)
    return ordered.rename_axis(columns=None).reset_index()


# ---- through training ----------------------------------------------------------------------------


def follow(checkpoints: Checkpoints, written: dict[Path, Written], args: Arguments) -> None:
    """nc_epochs.csv, and what joins it with layers and OOD scores, in the folder of the latest
    epoch."""
    epochs = checkpoints.epochs
    latest = epochs[-1]
    tables = {folder: found.table for folder, found in written.items()}
    columns = ["checkpoint", *series.places(epochs), "train_acc", *COLUMNS]
    table = series.over_epochs(epochs, tables)[columns]
    reasons = [reason for found in written.values() for reason in found.allowed]
    sidecar = {
        **records.provenance(cli.material(args), records.Stale(args.allow_stale, reasons)),
        **{name: latest.facts.get(name) for name in records.NETWORK},
    }
    drawn = draw_epochs(epochs, table, written)
    inputs = [epoch.folder / "nc_metrics.csv" for epoch in epochs]
    write_joined(
        latest.folder, "nc_epochs", table, drawn, inputs, sidecar, cli.vector_formats(args)
    )
    console.print_table(
        along(table, series.along(epochs)),
        f"through training, {len(epochs)} checkpoints -> {latest.folder / 'nc_epochs.csv'}",
    )
    # what an earlier run left would be of other checkpoints
    for name in ("nc_ood", "nc_ood_correlation"):
        for suffix in (".csv", ".json"):
            (latest.folder / f"{name}{suffix}").unlink(missing_ok=True)
    scored = {folder: found for folder, found in checkpoints.scored.items() if found is not None}
    lacking = [epoch.folder for epoch in epochs if epoch.folder not in scored]
    if lacking:
        print(
            f"\nnot beside OOD: {len(lacking)} of {len(epochs)} folders lack ood_metrics.csv; make"
            f" it with: {utils.command('ood_methods', lacking, args.output_dir)}"
        )
        return
    beside_ood(epochs, table, scored, sidecar, cli.vector_formats(args))


def draw_epochs(
    epochs: Sequence[series.Epoch], table: pd.DataFrame, written: dict[Path, Written]
) -> dict[str, Figure]:
    """{name: figure} of the metrics over epochs and, with layers of all checkpoints, over both."""
    unit = series.along(epochs)
    drawn = {
        "nc_epochs": figures.collapse_curves(table, collapse_rows.curves(), unit),
        "nc5_epochs": figures.nc5_curves(table, unit),
    }
    deep = {}
    for folder, found in written.items():
        if found.layers is not None:
            deep[folder] = found.layers
    if len(deep) == len(written):
        drawn["nc_layers_epochs"] = figures.layer_epoch_maps(
            series.over_epochs(epochs, deep), collapse_rows.layers(), unit
        )
    return drawn


def write_joined(
    folder: Path,
    name: str,
    table: pd.DataFrame,
    drawn: dict[str, Figure],
    inputs: Sequence[Path],
    sidecar: dict,
    vector: Sequence[str],
) -> None:
    """A table over several checkpoints; its sidecar is its record too, so that report.py knows its
    figures."""
    pictures = utils.write_figures(folder / "figures", drawn, vector)
    record = {
        **sidecar,
        "inputs": current.fingerprints(inputs, folder),
        "outputs": current.fingerprints(pictures, folder),
    }
    store.write_table(folder / f"{name}.csv", table, record)


# ---- beside OOD detection ------------------------------------------------------------------------


def beside_ood(
    epochs: Sequence[series.Epoch],
    table: pd.DataFrame,
    scored: dict[Path, pd.DataFrame],
    sidecar: dict,
    vector: Sequence[str],
) -> None:
    """nc_ood.csv: each metric beside each method's AUROC on each set; from three checkpoints on,
    their correlation."""
    folder = epochs[-1].folder
    joined = series.join(epochs, table, scored)
    inputs = []
    for epoch in epochs:
        inputs += [epoch.folder / "nc_metrics.csv", epoch.folder / "ood_metrics.csv"]
    write_joined(folder, "nc_ood", joined, {}, inputs, sidecar, [])
    print(f"\ncollapse beside OOD detection: {folder / 'nc_ood.csv'}")
    if len(epochs) < series.LEAST:
        print(f"no correlation over {len(epochs)} checkpoints: it takes at least {series.LEAST}")
        return
    found = series.correlate(joined)
    drawn = {"nc_ood_correlation": figures.correlation_maps(found, collapse_rows.beside_methods())}
    inputs = [folder / "nc_ood.csv"]
    write_joined(folder, "nc_ood_correlation", found, drawn, inputs, sidecar, vector)
    console.print_table(
        series.answer(found),
        "does more collapse mean better detection? Spearman of AUROC with NC1 over "
        f"{len(epochs)} checkpoints, -1: always -> {folder / 'nc_ood_correlation.csv'}",
    )


if __name__ == "__main__":
    cli.run(main)
