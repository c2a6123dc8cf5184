"""Measure neural collapse, NC1 to NC5, from the feature CSVs and the head alone: no network, no torch.

    python neural_collapse.py --checkpoint results/resnet18_final_cifar100_s0.pth
    python neural_collapse.py --checkpoint results/resnet18_final_cifar100_s0 --ood svhn textures --exact

Reads results/<stem>/ (the folder may be named in place of the checkpoint) and writes there: nc_metrics.csv (a row a metric, with
its split, centring and source), nc_per_class.csv (a row a class) and figures/. NC1, NC2 and NC3 are of clean training features,
NC4 of training and test features, NC5 of each OOD set with the ID test set as the null. docs/neural_collapse.md explains each.
"""
import pandas as pd

import cli
import collapse
import figures
import utils

# What is printed: metric, split -> (label, value under full collapse). All that is measured stands in nc_metrics.csv.
SHOWN = {("nc1", "train"): ("NC1  Tr(Sigma_W Sigma_B^+)/C", "0"),
         ("nc1_trace_ratio", "train"): ("NC1  Tr(Sigma_W)/Tr(Sigma_B)", "0"),
         ("nc1_cdnv", "train"): ("NC1  class-distance normalised variance", "0"),
         ("nc2_means_norm_cv", "train"): ("NC2  norms of class means, CV", "0"),
         ("nc2_weights_norm_cv", "head"): ("NC2  norms of weights, CV", "0"),
         ("nc2_means_cosine_std", "train"): ("NC2  cosines of class means, std", "0"),
         ("nc2_means_angle_deviation_mean", "train"): ("NC2  mean |cos + 1/(C-1)|", "0"),
         ("nc2_means_gram_distance", "train"): ("NC2  Gram matrix to simplex ETF", "0"),
         ("nc2_means_tight_frame_distance", "train"): ("NC2  Gram matrix to tight frame", "0"),
         ("nc3_self_duality", "train"): ("NC3  ||W/|W| - M/|M|||^2", "0"),
         ("nc3_cosine_mean", "train"): ("NC3  mean cos(w_c, mu_c - mu_G)", "1"),
         ("nc4_mismatch", "train"): ("NC4  mismatch, train", "0"),
         ("nc4_mismatch", "test"): ("NC4  mismatch, test", "0")}


def make_parser():
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "checkpoint", "dataset", "ood", "output-dir", checkpoint={"required": True},
                  ood={"help": "OOD sets for NC5, NAME or NAME=FOLDER as extracted; default: all in the folder"})
    parser.add_argument("--exact", action="store_true", help="float64 throughout, where products are float32 by default")
    return parser


def parse_args(argv=None):
    return make_parser().parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    run = utils.open_run(args.checkpoint, args.output_dir, args.dataset, args.ood)
    W, b, class_names = utils.read_head(run.head)
    train, test = utils.read_features(run.train), utils.read_features(run.test)
    for found in (train, test):
        utils.check_labels(found, class_names)
    ood = {name: utils.read_features(path).features for name, path in run.ood.items()}
    utils.writable_folder(run.folder / "figures")

    moments = collapse.Accumulator(*W.shape, exact=args.exact).update(train.features, train.labels).finish()
    nc4 = {split: collapse.nc4(found.features, found.labels, W, b, moments.means, exact=args.exact)
           for split, found in (("train", train), ("test", test))}
    nc5 = {"test": collapse.nc5(moments, test.features),
           **{f"ood:{name}": collapse.nc5(moments, features) for name, features in ood.items()}}
    rows = [*collapse.measure(moments, W, b), *(row for split in nc4 for row in collapse.nc4_rows(nc4[split], split)),
            *(row for split in nc5 for row in collapse.nc5_rows(nc5[split], split))]
    table = pd.DataFrame(rows)
    table.insert(0, "checkpoint", run.folder.name)
    per_class = pd.DataFrame(collapse.per_class(moments, W, class_names, nc4["train"], nc4["test"]))

    sidecar = {**utils.provenance(cli.material(args)),
               "checkpoint_sha256": utils.read_sidecar(run.head).get("checkpoint_sha256")}
    written = [run.folder / "nc_metrics.csv", run.folder / "nc_per_class.csv"]
    utils.write_table(written[0], table, sidecar)
    utils.write_table(written[1], per_class, sidecar)
    written += draw(run.folder / "figures", per_class, moments, W, class_names, nc5)
    utils.write_record(run.folder / "neural_collapse.json", cli.material(args), run.files, written)
    cli.print_table(shown(table), f"{run.folder.name}: neural collapse of {run.dataset}, {moments.counts.sum():,} training images, "
                                  f"{len(W)} classes, {W.shape[1]} features")
    cli.print_table(nc5_table(nc5).round(4), "NC5  mean |cos| of class means with each set's mean (0: orthogonal)")
    print(f"\nall metrics, per class and drawn: {run.folder}")


def shown(table):
    """The main metrics as they are printed: what, value, value under full collapse."""
    values = table.set_index(["metric", "split"])["value"]
    return pd.DataFrame([{"metric": label, "value": "" if pd.isna(values[key]) else f"{values[key]:.4g}", "collapsed": target}
                         for key, (label, target) in SHOWN.items()])


def nc5_table(nc5):
    """Results of collapse.nc5 by split -> a row a set: the ID test set, the null, first."""
    return pd.DataFrame([{"name": "ID test (null)" if split == "test" else split.removeprefix("ood:"),
                          "uncentred": found["nc5"], "centred": found["nc5_centred"]} for split, found in nc5.items()])


def draw(folder, per_class, moments, W, class_names, nc5):
    """The collapse figures -> their paths."""
    drawn = {"within_class_variance": figures.within_class_variance(per_class),
             "cosine_histogram": figures.cosine_histogram(moments.centred, W[moments.present]),
             "weight_mean_alignment": figures.weight_mean_alignment(per_class),
             "class_mean_distances": figures.class_mean_distances(moments.means, class_names),
             "nc5": figures.nc5_bars(nc5_table(nc5))}
    for name, figure in drawn.items():
        utils.write_figure(folder / f"{name}.png", figure)
    return [folder / f"{name}.png" for name in drawn]


if __name__ == "__main__":
    cli.run(main)
