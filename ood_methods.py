"""Score how in-distribution each image looks, by every method, from the feature CSVs alone: no network, no torch.

    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0.pth
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn textures --methods MSP Energy ViM
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --temperature 10 --vim-dim 300 --neco-dim 100
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --methods MSP NECO NECO-NoScaler NECO-MaxLogit NECO-ETF
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --groups near=cifar10 far=svhn,textures --latex
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --val-ood uniform     # tune on it, test on the rest
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s{0,1,2}.pth             # mean and spread over seeds

Reads results/<stem>/ (the folder may be named in place of the checkpoint) and writes there: scores_ID_<dataset>.csv and
scores_OOD_<name>.csv (a row an image, a column a method, and whether each score passes the threshold that keeps 95% of ID),
ood_metrics.csv (a row an OOD set and method) with ood_metrics.md and, on demand, .tex, and figures/. Every score is higher for
more in-distribution images; ID is the positive class; rates are in [0, 1]. docs/methods.md explains each method.
"""
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

import artifacts
import cli
import detection
import figures
import metrics
import records
import runs
import scores
import tables
import utils

# flag: (parameter, the methods that it is of). A new parameter is a row here.
PARAMETERS = {"temperature": ("temperature", ("Energy",)), "ridge": ("ridge", ("Mahalanobis",)),
              "vim_dim": ("dim", ("ViM", "Residual")),
              "neco_dim": ("dim", ("NECO", "NECO-NoScaler", "NECO-MaxLogit")),
              "no_neco_scaler": ("scaler", ("NECO", "NECO-MaxLogit", "NECO-ETF")),
              "neco_max_logit": ("max_logit", ("NECO", "NECO-NoScaler", "NECO-ETF"))}
DERIVED = ("ood_groups.csv", "ood_metrics.tex")  # of ood_metrics.csv, where asked for


def make_parser():
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "checkpoint", "dataset", "ood", "output-dir",
                  checkpoint={"required": True, "nargs": "+", "help": "checkpoints, or their folders of features; of several, "
                              "the mean and standard deviation are written too"},
                  ood={"help": "OOD sets to score, NAME or NAME=FOLDER as extracted; default: all in the folder"})
    parser.add_argument("--methods", nargs="+", type=method, metavar="METHOD",
                        help=f"scores to compute, by default all but the variants: {', '.join(scores.DEFAULT)}, {detection.ODIN}; "
                             f"variants: {', '.join(name for name in scores.METHODS if name not in scores.DEFAULT)}")
    parser.add_argument("--temperature", type=positive_number, help="of Energy; default 1")
    parser.add_argument("--ridge", type=not_negative, help="of Mahalanobis: this share of the mean variance is added to the "
                        "covariance; default 0, a pseudo-inverse")
    parser.add_argument("--vim-dim", type=cli.positive, help="principal dimension of ViM and Residual; default 1000, 512 or D/2, "
                        "by D")
    parser.add_argument("--neco-dim", type=cli.positive, help="components of NECO; default: those with 90%% of the ID variance")
    parser.add_argument("--no-neco-scaler", action="store_const", const=False,
                        help="NECO without standardising the features")
    parser.add_argument("--neco-max-logit", action="store_const", const=True, help="NECO times the largest logit (transformers)")
    parser.add_argument("--val-ood", type=set_name, metavar="NAME", help="choose hyper-parameters by AUROC on this OOD set, and "
                        "leave it out of the table; default: the authors' values")
    parser.add_argument("--groups", nargs="+", type=group, metavar="GROUP=NAME,NAME", default=[],
                        help="average over groups of OOD sets, such as near=cifar10 far=svhn,textures")
    parser.add_argument("--tpr", type=share, default=0.95, help="share of ID images that the thresholds and FPR keep")
    parser.add_argument("--latex", action="store_true", help="write ood_metrics.tex too (booktabs)")
    parser.add_argument("--caption", type=str, default="", help="of the LaTeX table, in LaTeX; default: what the table shows")
    parser.add_argument("--label", type=str, default="tab:ood", help="of the LaTeX table")
    return parser


def parse_args(argv=None):
    args = make_parser().parse_args(argv)
    parameters(args)
    return args


def main(argv=None):
    args = parse_args(argv)
    opened = [runs.open_run(checkpoint, args.output_dir, args.dataset, args.ood) for checkpoint in args.checkpoint]
    check_together(opened)
    for run in opened:
        check(run, args)
        utils.writable_folder(run.folder / "figures")
    measured = [score_run(run, args) for run in opened]
    if len(opened) > 1:
        compare_checkpoints(measured, args)


def check_together(opened):
    """Checkpoints that are averaged: each once, and all against the same OOD sets."""
    first = opened[0]
    for place, run in enumerate(opened):
        if run.folder.resolve() in [other.folder.resolve() for other in opened[:place]]:
            raise ValueError(f"--checkpoint names {run.folder} more than once, which would count as another seed; give each once")
        if set(run.ood) != set(first.ood):
            raise ValueError(f"{first.folder} has the OOD sets {', '.join(first.ood)}, {run.folder} has {', '.join(run.ood)}; name "
                             "those to average over with --ood")


def check(run, args):
    """Mistakes that show before anything large is read."""
    if not run.ood:
        raise ValueError(f"{run.folder} holds no OOD features; make some with: {run.command} --ood svhn")
    if args.val_ood and args.val_ood not in run.ood:
        raise ValueError(f"{args.val_ood} is not among the OOD sets {', '.join(run.ood)}; extract it, or name it in --ood")
    if args.val_ood and len(run.ood) == 1:
        raise ValueError(f"{args.val_ood} is the only OOD set, and what chooses hyper-parameters cannot test them; add another")
    if args.val_ood and run.val is None:
        raise ValueError(f"{run.folder} has no ID_{run.dataset}_val.csv of this checkpoint: --val-ood compares with ID validation "
                         f"images, which {run.command} writes of a network trained with --val-size above 0")
    check_groups(run, args)
    width = artifacts.width_of(run.train)
    for flag in ("vim_dim", "neco_dim"):
        if (getattr(args, flag) or 0) >= width:
            raise ValueError(f"--{flag.replace('_', '-')} is {getattr(args, flag)}; expected 1 to {width - 1} for {width} features")
    if detection.ODIN in (args.methods or []) and not run.odin:
        raise ValueError(f"{run.folder} lacks features of perturbed images for ODIN; make them with: {run.command} "
                         "--odin-epsilon 0.0014")


def check_groups(run, args):
    """Every group has a name of its own and sets that are tested, each once: nothing averages twice or hides another column."""
    tested = [name for name in run.ood if name != args.val_ood]
    names = [name for name, _ in args.groups]
    for name, members in args.groups:
        given = f"--groups {name}={','.join(members)}"
        if names.count(name) > 1 or name in run.ood:
            raise ValueError(f"{given}: {name} is the name of another group or of an OOD set; give each group a name of its own")
        for member in members:
            if member not in tested:
                raise ValueError(f"{given}: {member} is not among the tested OOD sets, {', '.join(tested)}; extract it, or name it "
                                 "in --ood")
            if members.count(member) > 1:
                raise ValueError(f"{given}: {member} stands there more than once")


def score_run(run, args):
    """Fit, score, and write everything of one checkpoint -> its tidy table."""
    print(f"reading {sum(path.stat().st_size for path in run.files) / 2**20:,.0f} MiB of features in {run.folder}")
    seconds = {}
    with cli.timed(seconds, "reading"):
        W, b, class_names = artifacts.read_head(run.head)
        train, val, test = (artifacts.read_features(path) if path else None for path in (run.train, run.val, run.test))
        for found in filter(None, (train, val, test)):
            artifacts.check_labels(found, class_names)
        ood = {name: artifacts.read_features(path) for name, path in run.ood.items()}
    with cli.timed(seconds, "scoring"):
        fitted = scores.Training(train.features, train.labels, W, b, val and (val.features, val.labels))
        names = [name for name in args.methods or scores.DEFAULT if name != detection.ODIN]
        overrides = parameters(args)
        chosen = detection.tune(fitted, names, overrides, ood.pop(args.val_ood).features) if args.val_ood else {}
        scored = detection.score(fitted, names, {**chosen, **overrides}, test, ood)
        scored.parameters.update({name: scored.parameters[name] | {"val_ood": args.val_ood} for name in chosen})
        if detection.ODIN in (args.methods or [detection.ODIN]) and run.odin:
            detection.add_odin(run, scored, {"": test, **ood}, W, b)
        detection.warn_of_undefined(scored)
    with cli.timed(seconds, "tables"):
        right = scores.compute_logits(test.features, W, b).argmax(1) == test.labels
        table = detection.tabulate(run, scored, right, args.tpr)
        sets = {f"ID_{run.dataset}": test, **{f"OOD_{name}": found for name, found in ood.items()}}
        written = write(run, args, table, scored, sets, W, b, class_names)
    with cli.timed(seconds, "figures"):
        written += draw(run, fitted, test, ood, table, scored, args)
    finish(run, args, table, written, seconds)
    return table


def finish(run, args, table, written, seconds):
    """What an earlier table left goes, the record of this one is written, and the table is printed."""
    removed = remove_outdated(run.folder, written)
    records.write_record(run.folder / "ood_methods.json", cli.material(args), run.files, written, seconds=seconds)
    cli.print_table(tables.summarise(table, args.groups), tables.heading(table, args.tpr))
    print(f"\nper-image scores, figures and the full table: {run.folder}")
    if removed:
        print(f"removed, as made of an earlier table: {', '.join(removed)}")


# ---- arguments -------------------------------------------------------------------------------------------------------

def method(text):
    """argparse type: a method's name, whatever its case and hyphens -> its published spelling."""
    known = {plain_name(name): name for name in (*scores.METHODS, detection.ODIN)}
    if plain_name(text) not in known:
        raise cli.ArgumentTypeError(f"unknown method {text!r}; expected one of {', '.join(known.values())}")
    return known[plain_name(text)]


def plain_name(text):
    """KL-Matching, KLMatching and kl_matching are one method."""
    return text.lower().replace("-", "").replace("_", "")


def positive_number(text):
    if not 0 < float(text) < float("inf"):
        raise cli.ArgumentTypeError(f"expected a number above 0, found {text}")
    return float(text)


def not_negative(text):
    if not 0 <= float(text) < float("inf"):
        raise cli.ArgumentTypeError(f"expected 0 or a number above it, found {text}")
    return float(text)


def share(text):
    if not 0 < float(text) <= 1:
        raise cli.ArgumentTypeError(f"expected a share above 0 and at most 1, found {text}")
    return float(text)


def set_name(text):
    try:
        return utils.split_name(text.strip())[0]
    except ValueError as error:
        raise cli.ArgumentTypeError(str(error)) from None


def group(text):
    """argparse type: "near=cifar10,tin" -> ("near", ["cifar10", "tin"])."""
    name, _, members = text.partition("=")
    if not name or not members:
        raise cli.ArgumentTypeError(f"expected GROUP=NAME,NAME, found {text!r}")
    return name, [set_name(member) for member in members.split(",")]


def parameters(args):
    """The flags that were given, by method: {"ViM": {"dim": 300}}. One for a method that is not asked for is a mistake."""
    given = {}
    for flag, (parameter, names) in PARAMETERS.items():
        value = getattr(args, flag)
        if value is None:
            continue
        if args.methods and not set(names) & set(args.methods):
            raise ValueError(f"--{flag.replace('_', '-')} is of {', '.join(names)}, which --methods leaves out")
        for name in names:
            given.setdefault(name, {})[parameter] = value
    return {name: values for name, values in given.items() if name in (args.methods or scores.DEFAULT)}


# ---- tables ----------------------------------------------------------------------------------------------------------

def compare_checkpoints(measured, args):
    """Write and print the mean and spread over checkpoints: of each OOD set, and of each group's mean over its sets."""
    folder = utils.writable_folder(args.output_dir)
    sidecar = {**records.provenance(cli.material(args)), "checkpoints": [table["checkpoint"].iloc[0] for table in measured]}
    parts = {"ood_checkpoints.csv": ("ood", tables.over_checkpoints(pd.concat(measured), ["dataset", "ood", "method"]))}
    if args.groups:
        means = pd.concat([tables.over_groups(table, args.groups) for table in measured])
        parts["ood_group_checkpoints.csv"] = ("group", tables.over_checkpoints(means, ["group", "sets", "method"]))
    for name, (what, spread) in parts.items():
        artifacts.write_table(folder / name, spread, sidecar)
        cli.print_table(spread[[what, "method", "auroc_mean", "auroc_std", "fpr95_mean", "fpr95_std"]].round(4),
                        f"{len(measured)} checkpoints: mean and standard deviation of AUROC and FPR in [0, 1] -> {folder / name}")


# ---- files -----------------------------------------------------------------------------------------------------------

def write(run, args, table, scored, sets, W, b, class_names):
    """ood_metrics.csv, .md, .tex, ood_groups.csv and the score files -> their paths."""
    sidecar = {**records.provenance(cli.material(args)), "tpr": args.tpr,
               "checkpoint_sha256": records.read_sidecar(run.head).get("checkpoint_sha256")}
    summary = tables.summarise(table, args.groups)
    written = [run.folder / "ood_metrics.csv", run.folder / "ood_metrics.md"]
    artifacts.write_table(written[0], table, sidecar)
    utils.write_text(written[1], tables.markdown(summary, table, args.tpr))
    if args.groups:
        written.append(run.folder / "ood_groups.csv")
        artifacts.write_table(written[-1], tables.over_groups(table, args.groups), sidecar)
    if args.latex:
        written.append(run.folder / "ood_metrics.tex")
        utils.write_text(written[-1], tables.latex(summary, table, args.tpr, args.caption, args.label))
    thresholds = {name: metrics.threshold_at_tpr(values, args.tpr) for name, values in scored.id.items()}
    for stem, found in sets.items():
        written.append(run.folder / f"scores_{stem}.csv")
        values = scored.id if stem.startswith("ID") else scored.ood[stem.removeprefix("OOD_")]
        write_scores(written[-1], found, values, thresholds, scores.compute_logits(found.features, W, b), class_names, sidecar)
    return written


def write_scores(path, found, values, thresholds, logits, class_names, sidecar):
    """A row an image: path, label, predicted class, every score, and whether it passes its method's threshold."""
    prediction = logits.argmax(1)
    columns = {"path": found.paths} if found.paths else {}
    columns |= {"label": found.labels, "prediction": prediction, "predicted_class": [class_names[index] for index in prediction]}
    columns |= {name: pl.Series(value).fill_nan(None) for name, value in values.items()}
    columns |= {f"{name}_accepted": columns[name] >= threshold if np.isfinite(threshold) else pl.Series([None] * len(prediction))
                for name, threshold in thresholds.items()}
    artifacts.write_table(path, pl.DataFrame(columns), sidecar, thresholds=thresholds)


def remove_outdated(folder, written):
    """Remove what an earlier command made of a table that is now another one -> the names.

    A score file that is not made anew stays: its numbers are still right, and its sidecar says what made them.
    """
    earlier = utils.read_json(folder / "ood_methods.json").get("outputs", {})
    outdated = [name for name in earlier if folder / name not in written and Path(name).parts[0] in ("figures", *DERIVED)]
    for name in outdated:
        (folder / name).unlink(missing_ok=True)
        if name.endswith(".csv"):
            records.sidecar_path(folder / name).unlink(missing_ok=True)
    return outdated


def draw(run, fitted, test, ood, table, scored, args):
    """The OOD figures -> their paths. Of more methods than the core ones, the best on average gets its histogram too."""
    folder = run.folder / "figures"
    drawn = {"auroc_bars": figures.auroc_bars(table)}
    mean = table.groupby("method")["auroc"].mean()
    shown = [name for name in scored.id if name in scores.CORE] + ([mean.idxmax()] if mean.notna().any() else [])
    for name in dict.fromkeys(shown):
        area = table[table["method"] == name].set_index("ood")["auroc"].to_dict()
        drawn[f"scores_{name}"] = figures.score_histograms(
            scored.id[name], {key: found[name] for key, found in scored.ood.items()}, name,
            metrics.threshold_at_tpr(scored.id[name], args.tpr), area)
    centre, axes, explained = leading_components(fitted)
    inside, points = (test.features - centre) @ axes, {name: (found.features - centre) @ axes for name, found in ood.items()}
    drawn["principal_components"] = figures.principal_components(
        inside[:, :2], {name: found[:, :2] for name, found in points.items()}, explained[:2], test.labels)
    if len(explained) == 3:  # two features have no third component
        drawn["principal_components_three"] = figures.three_components(inside, points, explained, test.labels)
    for name, figure in drawn.items():
        utils.write_figure(folder / f"{name}.png", figure)
    return [folder / f"{name}.png" for name in drawn]


def leading_components(fitted):
    """The training set -> its mean (D,), the three leading principal axes (D, 3), and the share of the variance of each."""
    values, vectors = fitted.spectrum
    return fitted.mean.astype(np.float32), vectors[:, :-4:-1].astype(np.float32), tuple(values[:-4:-1] / values.sum())


if __name__ == "__main__":
    cli.run(main)
