"""Measure neural collapse, NC1 to NC5, from the feature CSVs and the head alone: no network, no
torch.

    python neural_collapse.py --checkpoint results/resnet18_final_cifar100_s0.pth
    python neural_collapse.py --checkpoint results/resnet18_final_cifar100_s0 --ood svhn textures
    python neural_collapse.py --checkpoint results/resnet18_final_cifar100_s0 \\
        --exact --bootstrap 200
    # through training
    python neural_collapse.py --checkpoint results/resnet18_epoch*_cifar100_s0.pth

Reads results/<stem>/ (the folder may be named in place of the checkpoint) and writes there:
nc_metrics.csv (one row per metric, with its split, centring and source), nc_per_class.csv (a row a
class), nc5_per_class.csv (one row per class and set) and figures/. NC1, NC2 and NC3 are of clean
training features, NC4 of training and test features, NC5 of each OOD set with the ID test set as
the null. Bare features, without head.csv, have no NC2 of the weights, no NC3 and no comparison in
NC4: those cells are empty, and their note says so. Where `run_networks.py --layers` left layers/ or
moments/, nc_layers.csv follows, with a least-squares probe in place of the head that a layer lacks.
Several checkpoints of one network are each measured so, and the folder of the latest epoch gets
nc_epochs.csv and, where ood_methods.py has scored all of them, nc_ood.csv and
nc_ood_correlation.csv. docs/neural_collapse.md explains each."""

import glob
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

import cli
import feature_files
import figures
import utils
from artifacts import current, records, store
from collapse import epochs as collapse_epochs
from collapse import layers, metrics
from collapse import rows as collapse_rows
from head import Head
from scores import registry

COLUMNS = ["metric", "value", "split", "centring", "source"]
SAMPLE = 500  # images of a set in the t-SNE


def make_parser():
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        "checkpoint",
        "dataset",
        "ood",
        "output-dir",
        "allow-stale",
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
        "--tsne",
        action="store_true",
        help="draw a t-SNE of some ID and OOD test images too (scikit-learn; slow)",
    )
    return parser


def parse_args(argv=None):
    return make_parser().parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    stale = {}
    opened = []
    for checkpoint in args.checkpoint:
        own = records.Stale(args.allow_stale)
        run = feature_files.open_run(
            checkpoint, args.output_dir, args.dataset, args.ood, own, needs_head=False
        )
        opened.append(run)
        stale[run.folder] = own
    epochs = collapse_epochs.order(opened, stale) if len(opened) > 1 else {}
    stages = {run.folder: layers.find(run) for run in opened}
    scored = {
        folder: collapse_epochs.read_scored(folder, facts, stale[folder])
        for folder, facts in epochs.items()
    }
    for run in opened:
        utils.writable_folder(run.folder / "figures")
    tables, deep = {}, {}
    for run in opened:
        found = measure(run, stages[run.folder], args, stale[run.folder])
        write(found, args)
        tables[run.folder], deep[run.folder] = found.table, found.layers
    if epochs:
        follow(epochs, tables, deep, scored, args, stale)


# ---- one checkpoint ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Components:
    """NECO as ood_methods.py scores it by default, and the spectrum that it takes its components
    from."""

    neco: registry.Fitted
    variances: np.ndarray  # (D,) of the standardised training features, descending

    @property
    def dim(self):
        """d, the number of components that NECO takes; None where it is undefined."""
        return None if hasattr(self.neco, "undefined") else self.neco.parameters["dim"]

    def share(self, features):
        """(n, D) -> (n,): the norm of an image's first d components over its whole norm."""
        return registry.score_all(features, {"NECO": self.neco}, None, None)["NECO"]


def fit_components(train, W, b):
    """Fit NECO to the training features; ood_methods.py is where its warnings are said."""
    fitted = registry.Training(train.features, train.labels, W, b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        state = registry.fit_all(fitted, ["NECO"], {})["NECO"]
    return Components(state, fitted.spectrum_standardised[0][::-1].clip(0))


@dataclass(frozen=True, eq=False)
class Measured:
    """One checkpoint's files, features and all that was found in them."""

    run: feature_files.FeatureFiles
    files: list  # all that was looked for, there or not
    stale: records.Stale
    head: Head | None
    class_names: list
    test: store.Features
    ood: dict  # name: features
    moments: metrics.Moments
    components: "Components"
    nc4: dict  # split: result of metrics.nc4
    nc5: dict  # "test" or "ood:<name>": result of metrics.nc5
    table: pd.DataFrame
    per_class: pd.DataFrame
    layers: pd.DataFrame  # None without layers/


def measure(run, stages, args, stale):
    head = store.read_head(run.head, stale, run.command) if run.head else None
    W, b = (head.W, head.b) if head else (None, None)
    train, test = (store.read_features(path, stale, run.command) for path in (run.train, run.test))
    class_names = head.class_names if head else names_without_head(run, train)
    for found in (train, test):
        store.check_labels(found, class_names)
    ood = {
        name: store.read_features(path, stale, run.command).features
        for name, path in run.ood.items()
    }
    classes, width = len(class_names), train.features.shape[1]
    moments = (
        metrics.Accumulator(classes, width, exact=args.exact)
        .update(train.features, train.labels)
        .finish()
    )
    nc4 = {}
    for split, found in (("train", train), ("test", test)):
        nc4[split] = metrics.nc4(
            found.features, found.labels, W, b, moments.means, exact=args.exact
        )
    nc5 = {"test": metrics.nc5(moments, test.features)}
    for name, features in ood.items():
        nc5[f"ood:{name}"] = metrics.nc5(moments, features)
    table = pd.DataFrame(metrics.all_rows(metrics.measure(moments, W, b), nc4, nc5))
    table.insert(0, "checkpoint", run.folder.name)
    if args.bootstrap:
        bounds = intervals(train, test, ood, W, moments, nc4, args)
        keys = zip(table["metric"], table["split"], strict=True)
        table[["low", "high"]] = np.array(
            [bounds.get(key, (None, None)) for key in keys], np.float64
        )
    per_class = pd.DataFrame(metrics.per_class(moments, W, class_names, nc4["train"], nc4["test"]))
    return Measured(
        run,
        looked_for(run, stages),
        stale,
        head,
        class_names,
        test,
        ood,
        moments,
        fit_components(train, W, b),
        nc4,
        nc5,
        table,
        per_class,
        measure_layers(run, stages, class_names, stale) if stages else None,
    )


def names_without_head(run, train):
    """Class names of bare features: as their sidecar has them, else the numbers up to the highest
    label."""
    known = records.read_sidecar(run.train).get("class_names")
    return known or [str(number) for number in range(int(train.labels.max(initial=-1)) + 1)]


def looked_for(run, stages):
    """All files that a measurement reads, and head.csv also where it is absent: it is measured anew
    when one comes."""
    files = [run.head or run.folder / "head.csv", run.train, run.test, *run.ood.values()]
    return [*files, *(path for layer in stages for path in layer.files.values())]


def intervals(train, test, ood, W, moments, nc4, args):
    """{(metric, split): (low, high)} by resampling the images of each split; what rests on W alone
    has none."""
    count = args.bootstrap
    classes = len(moments.means)
    bounds = {
        "train": metrics.bootstrap(
            train.features, train.labels, W, count, exact=args.exact, classes=classes
        )
    }
    bounds["train"] |= metrics.bootstrap_nc4(nc4["train"], train.labels, count)
    bounds["test"] = metrics.bootstrap_nc4(nc4["test"], test.labels, count)
    bounds["test"] |= metrics.bootstrap_nc5(moments, test.features, test.labels, count)
    bounds |= {
        f"ood:{name}": metrics.bootstrap_nc5(moments, features, None, count)
        for name, features in ood.items()
    }
    return {
        (metric, split): interval
        for split, found in bounds.items()
        for metric, interval in found.items()
    }


def nc5_per_class(nc5, class_names):
    """Results of metrics.nc5 by split -> nc5_per_class.csv: the cosines whose mean size is NC5, a
    row a class and set."""
    parts = []
    for split, found in nc5.items():
        columns = {
            "class": range(len(class_names)),
            "class_name": class_names,
            "split": split,
            "cosine": found["cosines"],
            "cosine_centred": found["cosines_centred"],
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def measure_layers(run, stages, class_names, stale):
    """nc_layers.csv: all metrics of each layer."""
    remedy = run.command_with("--layers --force")
    tables = [layers.measure(layer, class_names, stale, remedy) for layer in stages]
    return pd.concat(tables, ignore_index=True)[["layer", "depth", *COLUMNS, "note"]]


def write(found, args):
    """Everything of one checkpoint into its folder, and the main part of it onto the screen."""
    run, moments = found.run, found.moments
    sidecar = {
        **records.provenance(cli.material(args), found.stale),
        **records.origin(run.head or run.train),
    }
    tables = {
        "nc_metrics": found.table,
        "nc_per_class": found.per_class,
        "nc5_per_class": nc5_per_class(found.nc5, found.class_names),
    }
    if found.layers is not None:
        tables["nc_layers"] = found.layers
    for name, table in tables.items():
        store.write_table(run.folder / f"{name}.csv", table, sidecar)
    written = [run.folder / f"{name}.csv" for name in tables]
    written += draw(run.folder / "figures", found, args.tsne)
    current.write_record(
        run.folder / "neural_collapse.json",
        cli.material(args),
        found.files,
        written,
        listings(run, args.ood),
        stale=found.stale,
    )
    classes, width = moments.means.shape
    images = f"{moments.counts.sum():,} training images"
    title = f"{run.folder.name}: neural collapse of {run.dataset}"
    cli.print_table(shown(found.table), f"{title}, {images}, {classes} classes, {width} features")
    if run.head is None:
        print(
            "\nno head.csv: NC2 of the weights, NC3 and NC4's comparison with the classifier are"
            " left empty"
        )
    cli.print_table(
        nc5_table(found.nc5).round(4),
        "NC5  mean |cos| of class means with each set's mean (0: orthogonal)",
    )
    if found.layers is not None:
        cli.print_table(
            along(found.layers, ["depth", "layer"]),
            f"through the layers -> {run.folder / 'nc_layers.csv'}",
        )
    print(f"\nall metrics, per class and drawn: {run.folder}")


def listings(run, ood):
    """Patterns of files that a measurement takes where they are there: layers, and OOD sets that
    nobody named."""
    splits = [
        f"ID_{run.dataset}_train",
        f"ID_{run.dataset}_test",
        *(f"OOD_{name}_test" for name in run.ood),
    ]
    patterns = [
        f"{folder}/{glob.escape(split)}_*" for folder in layers.FOLDERS.values() for split in splits
    ]
    patterns += [] if ood else ["OOD_*_test"]
    return [f"{pattern}{suffix}" for pattern in patterns for suffix in store.SUFFIXES]


def shown(table):
    """The main metrics as they are printed: what, value, value under full collapse."""
    values = table.set_index(["metric", "split"])["value"]
    lines = []
    for (metric, split), label in collapse_rows.printed().items():
        value = values[metric, split]
        lines.append(
            {
                "metric": label,
                "value": "" if pd.isna(value) else f"{value:.4g}",
                "if collapsed": collapse_rows.ROWS[metric].target,
            }
        )
    return pd.DataFrame(lines)


def nc5_table(nc5):
    """Results of metrics.nc5 by split -> one row per set: the ID test set, the null, first."""
    lines = []
    for split, found in nc5.items():
        name = "ID test (null)" if split == "test" else split.removeprefix("ood:")
        lines.append({"name": name, "uncentred": found["nc5"], "centred": found["nc5_centred"]})
    return pd.DataFrame(lines)


def along(table, index):
    """A tidy table -> what is printed: one row per step along `index`, a column for each of a few
    metrics."""
    columns = [" ".join(key) for key in collapse_rows.PRINTED]
    named = table.assign(name=table["metric"] + " " + table["split"])
    named = named[named["name"].isin(columns)]
    wide = named.pivot(index=index, columns="name", values="value").astype(float)
    return wide.reindex(columns=columns).rename_axis(columns=None).round(4).reset_index()


def draw(folder, found, tsne):
    """The figures of one checkpoint -> their paths."""
    drawn = draw_features(found)
    if found.head:
        drawn |= draw_head(found)
    if tsne:
        points = embed([found.test.features, *found.ood.values()])
        labels = [found.class_names[label] for label in sample(found.test.labels, SAMPLE)]
        drawn["nc_tsne"] = figures.embedding(
            points[0], dict(zip(found.ood, points[1:], strict=True)), labels
        )
    if found.layers is not None:
        drawn["nc_layers"] = figures.collapse_curves(found.layers, collapse_rows.layers(), "depth")
        drawn["nc5_layers"] = figures.nc5_curves(found.layers, "depth")
    return save(folder, drawn)


def draw_features(found):
    """{name: figure} of what features alone show."""
    moments, W = found.moments, found.head and found.head.W
    distances = {
        name: metrics.centre_distances(rows, moments.means) for name, rows in found.ood.items()
    }
    drawn = (
        {}
        if found.components.dim is None
        else {
            "nc_pca_spectrum": figures.pca_spectrum(
                found.components.variances, found.components.dim, len(moments.present)
            )
        }
    )
    weights = None if W is None else W[moments.present]
    inside = metrics.centre_distances(found.test.features, moments.means)
    drawn["within_class_variance"] = figures.within_class_variance(found.per_class)
    drawn["cosine_histogram"] = figures.cosine_histogram(moments.centred, weights)
    drawn["class_mean_distances"] = figures.class_mean_distances(moments.means, found.class_names)
    drawn["nc5"] = figures.nc5_bars(nc5_table(found.nc5))
    drawn["nc_centre_distances"] = figures.centre_distances(inside, distances)
    return drawn


def draw_head(found):
    """{name: figure} of the classifier beside the features."""
    moments, names, test = found.moments, found.class_names, found.test.features
    present, weights = moments.present, found.head.W[moments.present]
    decisions = found.nc4["test"]

    def share_and_logit(features):
        return found.components.share(features), found.head.logits(features).max(axis=1)

    drawn = {}
    if found.components.dim is not None:
        outside = {name: share_and_logit(rows) for name, rows in found.ood.items()}
        drawn["nc_neco_share"] = figures.neco_shares(share_and_logit(test), outside)
    nearest, predicted = decisions["nearest"], decisions["predicted"]
    seen = [names[index] for index in present]
    drawn["weight_mean_alignment"] = figures.weight_mean_alignment(found.per_class)
    drawn["nc4_agreement"] = figures.nearest_mean_agreement(found.per_class)
    drawn["nc4_mismatches"] = figures.mismatch_map(nearest, predicted, names)
    drawn["nc_angles"] = figures.angle_histogram(moments.centred, weights)
    drawn["nc_gram"] = figures.gram_matrices(moments.centred, weights, seen)
    return drawn


def save(folder, drawn):
    """{name: figure} -> the paths of the PNGs."""
    for name, figure in drawn.items():
        utils.write_figure(folder / f"{name}.png", figure)
    return [folder / f"{name}.png" for name in drawn]


def sample(rows, limit):
    """At most `limit` rows, evenly spaced in their order."""
    return rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int)]


def embed(groups):
    """One t-SNE (van der Maaten and Hinton 2008) of a sample of several sets: [(n, D)] -> [(m,
    2)]."""
    from sklearn.manifold import TSNE  # slow to import, and for this figure alone

    chosen = [sample(rows, SAMPLE) for rows in groups]
    together = np.concatenate(chosen)
    points = TSNE(
        perplexity=min(30, (len(together) - 1) / 3), init="pca", random_state=0
    ).fit_transform(together)
    return np.split(points, np.cumsum([len(rows) for rows in chosen])[:-1])


# ---- through training ----------------------------------------------------------------------------


def follow(epochs, tables, deep, scored, args, stale):
    """nc_epochs.csv, and what joins it with layers and OOD scores, in the folder of the latest
    epoch."""
    folder = list(epochs)[-1]
    table = collapse_epochs.over_epochs(epochs, tables)[
        ["checkpoint", "epoch", "train_acc", *COLUMNS]
    ]
    drawn = {
        "nc_epochs": figures.collapse_curves(table, collapse_rows.curves()),
        "nc5_epochs": figures.nc5_curves(table),
    }
    if all(layers is not None for layers in deep.values()):
        drawn["nc_layers_epochs"] = figures.layer_epoch_maps(
            collapse_epochs.over_epochs(epochs, deep), collapse_rows.layers()
        )
    together = records.Stale(
        args.allow_stale, [reason for own in stale.values() for reason in own.reasons]
    )
    network = {name: epochs[folder].get(name) for name in records.NETWORK}
    sidecar = {**records.provenance(cli.material(args), together), **network}
    write_joined(
        folder, "nc_epochs", table, drawn, [path / "nc_metrics.csv" for path in epochs], sidecar
    )
    cli.print_table(
        along(table, "epoch"),
        f"through training, {len(epochs)} checkpoints -> {folder / 'nc_epochs.csv'}",
    )
    lacking = [path for path, found in scored.items() if found is None]
    for name in (
        "nc_ood",
        "nc_ood_correlation",
    ):  # what an earlier run left would be of other checkpoints
        for suffix in (".csv", ".json"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    if lacking:
        print(
            f"\nnot beside OOD: {len(lacking)} of {len(epochs)} folders lack ood_metrics.csv; make"
            f" it with: {utils.command('ood_methods', lacking, args.output_dir)}"
        )
    else:
        beside_ood(folder, epochs, table, scored, sidecar)


def write_joined(folder, name, table, drawn, inputs, sidecar):
    """A table over several checkpoints; its sidecar is its record too, so that report.py knows its
    figures."""
    figures_written = save(folder / "figures", drawn)
    store.write_table(
        folder / f"{name}.csv",
        table,
        {
            **sidecar,
            "inputs": current.fingerprints(inputs, folder),
            "outputs": current.fingerprints(figures_written, folder),
        },
    )


# ---- beside OOD detection ------------------------------------------------------------------------


def beside_ood(folder, epochs, table, scored, sidecar):
    """nc_ood.csv: each metric beside each method's AUROC on each set; from three checkpoints on,
    their correlation."""
    joined = collapse_epochs.join(epochs, table, scored)
    inputs = [path / name for path in scored for name in ("nc_metrics.csv", "ood_metrics.csv")]
    write_joined(folder, "nc_ood", joined, {}, inputs, sidecar)
    print(f"\ncollapse beside OOD detection: {folder / 'nc_ood.csv'}")
    if len(scored) < 3:
        print(f"no correlation over {len(scored)} checkpoints: it takes at least 3")
        return
    found = collapse_epochs.correlate(joined)
    drawn = {"nc_ood_correlation": figures.correlation_maps(found, collapse_rows.beside_methods())}
    write_joined(folder, "nc_ood_correlation", found, drawn, [folder / "nc_ood.csv"], sidecar)
    cli.print_table(
        collapse_epochs.answer(found),
        "does more collapse mean better detection? Spearman of AUROC with NC1 over "
        f"{len(scored)} checkpoints, -1: always -> {folder / 'nc_ood_correlation.csv'}",
    )


if __name__ == "__main__":
    cli.run(main)
