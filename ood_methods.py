"""Score how in-distribution each image looks, by every method, from the feature CSVs alone: no network, no torch.

    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0.pth
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn textures --methods MSP Energy ViM
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --temperature 10 --vim-dim 300 --neco-dim 100
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0.pth --latex --caption "CIFAR-100" --label tab:ood

Reads results/<stem>/ (the folder may be named in place of the checkpoint) and writes there: scores_ID_<dataset>.csv and
scores_OOD_<name>.csv (a row an image, a column a method, and whether each score passes the threshold that keeps 95% of ID),
ood_metrics.csv (a row an OOD set and method) with ood_metrics.md and, on demand, .tex, and figures/. Every score is higher for
more in-distribution images; ID is the positive class; rates are in [0, 1].
"""
import json

import numpy as np
import pandas as pd
import polars as pl

import cli
import figures
import metrics
import scores
import utils

# flag: (method, parameter). A new parameter is a row here.
PARAMETERS = {"temperature": ("Energy", "temperature"), "ridge": ("Mahalanobis", "ridge"), "vim_dim": ("ViM", "dim"),
              "neco_dim": ("NECO", "dim"), "neco_scaler": ("NECO", "scaler"), "neco_max_logit": ("NECO", "max_logit")}
HISTOGRAMS = 8  # at most so many methods get a histogram figure each


def make_parser():
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "checkpoint", "dataset", "ood", "output-dir", checkpoint={"required": True},
                  ood={"help": "OOD sets to score, NAME or NAME=FOLDER as extracted; default: all in the folder"})
    parser.add_argument("--methods", nargs="+", type=method, metavar="METHOD", default=list(scores.METHODS),
                        help="scores to compute: " + ", ".join(scores.METHODS))
    parser.add_argument("--temperature", type=positive_number, help="of Energy; default 1")
    parser.add_argument("--ridge", type=float, help="of Mahalanobis: this share of the mean variance is added to the covariance; "
                        "default 0, a pseudo-inverse")
    parser.add_argument("--vim-dim", type=cli.positive, help="principal dimension of ViM; default 1000, 512 or D/2, by D")
    parser.add_argument("--neco-dim", type=cli.positive, help="components of NECO; default: those with 90%% of the ID variance")
    parser.add_argument("--no-neco-scaler", dest="neco_scaler", action="store_const", const=False,
                        help="NECO without standardising the features")
    parser.add_argument("--neco-max-logit", action="store_const", const=True, help="NECO times the largest logit (transformers)")
    parser.add_argument("--tpr", type=share, default=0.95, help="share of ID images that the thresholds and FPR keep")
    parser.add_argument("--latex", action="store_true", help="write ood_metrics.tex too (booktabs)")
    parser.add_argument("--caption", default="", help="of the LaTeX table")
    parser.add_argument("--label", default="tab:ood", help="of the LaTeX table")
    return parser


def parse_args(argv=None):
    return make_parser().parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    run = utils.open_run(args.checkpoint, args.output_dir, args.dataset, args.ood)
    if not run.ood:
        raise ValueError(f"{run.folder} holds no OOD features; make some with: {utils.remedy(args.checkpoint, ood=['svhn'])}")
    W, b, class_names = utils.read_head(run.head)
    train, test = utils.read_features(run.train), utils.read_features(run.test)
    for found in (train, test):
        utils.check_labels(found, class_names)
    ood = {name: utils.read_features(path) for name, path in run.ood.items()}
    utils.writable_folder(run.folder / "figures")
    states = scores.fit_all(scores.Training(train.features, train.labels, W, b), args.methods, parameters(args))
    id_scores = scores.score_all(test.features, states, W, b)
    ood_scores = {name: scores.score_all(found.features, states, W, b) for name, found in ood.items()}
    table = tabulate(run, states, id_scores, ood_scores, args.tpr)
    sidecar = {**utils.provenance(cli.material(args)), "tpr": args.tpr,
               "checkpoint_sha256": utils.read_sidecar(run.head).get("checkpoint_sha256")}
    written = [run.folder / "ood_metrics.csv", run.folder / "ood_metrics.md"]
    utils.write_table(written[0], table, sidecar)
    thresholds = {name: metrics.threshold_at_tpr(values, args.tpr) for name, values in id_scores.items()}
    sets = {f"ID_{run.dataset}": (test, id_scores), **{f"OOD_{name}": (ood[name], ood_scores[name]) for name in ood}}
    for stem, (found, values) in sets.items():
        written.append(run.folder / f"scores_{stem}.csv")
        write_scores(written[-1], found, values, thresholds, scores.compute_logits(found.features, W, b), class_names, sidecar)
    summary = summarise(table)
    utils.write_text(written[1], markdown(summary, table, args.tpr))
    if args.latex:
        written.append(run.folder / "ood_metrics.tex")
        utils.write_text(written[-1], latex(summary, args.caption, args.label))
    written += draw(run, train, test, ood, table, id_scores, ood_scores, thresholds)
    utils.write_record(run.folder / "ood_methods.json", cli.material(args), run.files, written)
    cli.print_table(summary, heading(table, args.tpr))
    print(f"\nper-image scores, figures and the full table: {run.folder}")


def method(text):
    """argparse type: a method's name in any case -> its published spelling."""
    known = {name.lower(): name for name in scores.METHODS}
    if text.lower() not in known:
        raise cli.ArgumentTypeError(f"unknown method {text!r}; expected one of {', '.join(scores.METHODS)}")
    return known[text.lower()]


def positive_number(text):
    if not float(text) > 0:
        raise cli.ArgumentTypeError(f"expected a number above 0, found {text}")
    return float(text)


def share(text):
    if not 0 < float(text) <= 1:
        raise cli.ArgumentTypeError(f"expected a share above 0 and at most 1, found {text}")
    return float(text)


def parameters(args):
    """The flags that were given, by method: {"ViM": {"dim": 300}}. One for a method that is not asked for is a mistake."""
    given = {}
    for flag, (name, parameter) in PARAMETERS.items():
        value = getattr(args, flag)
        if value is not None:
            if name not in args.methods:
                raise ValueError(f"--{flag.replace('_', '-')} belongs to {name}, which --methods leaves out")
            given.setdefault(name, {})[parameter] = value
    return given


def tabulate(run, states, id_scores, ood_scores, tpr):
    """Scores -> the tidy table: a row an OOD set and method."""
    rows = [{"checkpoint": run.folder.name, "dataset": run.dataset, "ood": name, "method": method,
             "parameters": json.dumps(utils.plain(state.parameters)) if state.parameters else "",
             **metrics.evaluate(id_scores[method], found[method], tpr)}
            for name, found in ood_scores.items() for method, state in states.items()]
    return pd.DataFrame(rows)


def summarise(table):
    """The tidy table -> methods by OOD sets in percent, as it is printed: AUROC and FPR@95 of each set, and their means."""
    columns = {"Method": list(dict.fromkeys(table["method"]))}
    for name in dict.fromkeys(table["ood"]):
        part = table[table["ood"] == name].set_index("method").loc[columns["Method"]]
        columns |= {f"{name} AUROC": (100 * part["auroc"]).to_numpy(), f"{name} FPR": (100 * part["fpr95"]).to_numpy()}
    frame = pd.DataFrame(columns)
    for measure in ("AUROC", "FPR"):
        frame[f"mean {measure}"] = frame[[name for name in frame.columns if name.endswith(f" {measure}")]].mean(axis=1)
    return frame.round(2)


def heading(table, tpr):
    row = table.iloc[0]
    return (f"{row['checkpoint']}: {row['dataset']} ({row['n_id']:,} test images) against "
            + ", ".join(f"{name} ({count:,})" for name, count in table.groupby("ood", sort=False)["n_ood"].first().items())
            + f"; AUROC, and FPR at {tpr:.0%} TPR with ID as positive, in %")


def markdown(summary, table, tpr):
    rows = [summary.columns, ["---", *["---:"] * (summary.shape[1] - 1)], *summary.map(cell).to_numpy()]
    return heading(table, tpr) + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def cell(value):
    return value if isinstance(value, str) else "" if np.isnan(value) else f"{value:.2f}"


def latex(summary, caption, label):
    r"""A booktabs table: AUROC and FPR under each OOD set's name, the best of each column in bold."""
    sets = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in summary.columns[1:]))
    best = {name: (summary[name].max if name.endswith("AUROC") else summary[name].min)() for name in summary.columns[1:]}
    lines = [r"\begin{table}", r"\centering", *([rf"\caption{{{tex(caption)}}}"] if caption else []), rf"\label{{{label}}}",
             rf"\begin{{tabular}}{{l{'rr' * len(sets)}}}", r"\toprule",
             " & ".join(["", *(rf"\multicolumn{{2}}{{c}}{{{tex(name)}}}" for name in sets)]) + r" \\",
             " & ".join(["Method", *[r"AUROC $\uparrow$ & FPR $\downarrow$"] * len(sets)]) + r" \\", r"\midrule"]
    for row in summary.to_dict("records"):
        cells = [rf"\textbf{{{cell(row[name])}}}" if row[name] == best[name] else cell(row[name]) for name in best]
        lines.append(" & ".join([tex(row["Method"]), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def tex(text):
    """Escape what LaTeX would take for a command."""
    special = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
    return "".join(special.get(letter, letter) for letter in text)


def write_scores(path, found, values, thresholds, logits, class_names, sidecar):
    """A row an image: path, label, predicted class, every score, and whether it passes its method's threshold."""
    prediction = logits.argmax(1)
    columns = {"path": found.paths} if found.paths else {}
    columns |= {"label": found.labels, "prediction": prediction, "predicted_class": [class_names[index] for index in prediction]}
    columns |= {name: pl.Series(value).fill_nan(None) for name, value in values.items()}
    columns |= {f"{name}_accepted": columns[name] >= threshold for name, threshold in thresholds.items()}
    with utils.with_sidecar(path, {**sidecar, "rows": len(prediction), "thresholds": thresholds}) as temporary:
        pl.DataFrame(columns).write_csv(temporary)


def draw(run, train, test, ood, table, id_scores, ood_scores, thresholds):
    """The OOD figures -> their paths."""
    folder = run.folder / "figures"
    drawn = {"auroc_bars": figures.auroc_bars(table)}
    for name in list(id_scores)[:HISTOGRAMS]:
        area = table[table["method"] == name].set_index("ood")["auroc"].to_dict()
        drawn[f"scores_{name}"] = figures.score_histograms(
            id_scores[name], {key: found[name] for key, found in ood_scores.items()}, name, thresholds[name], area)
    mean, axes, explained = leading_components(train.features)
    points = {name: (found.features - mean) @ axes for name, found in ood.items()}
    drawn["principal_components"] = figures.principal_components((test.features - mean) @ axes, points, explained, test.labels)
    for name, figure in drawn.items():
        utils.write_figure(folder / f"{name}.png", figure)
    return [folder / f"{name}.png" for name in drawn]


def leading_components(features):
    """(N, D) -> their mean (D,), the two leading principal axes (D, 2), and the share of the variance of each."""
    mean = features.mean(axis=0, dtype=np.float64)
    variances, vectors = np.linalg.eigh(np.cov(features, rowvar=False))
    return mean.astype(np.float32), vectors[:, :-3:-1].astype(np.float32), tuple(variances[:-3:-1] / variances.sum())


if __name__ == "__main__":
    cli.run(main)
