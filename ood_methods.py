"""Score how in-distribution each image looks, by every method. Only the feature CSVs are needed: no
network and no torch.

    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0.pth
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0.pth \\
        --ood svhn textures --methods MSP Energy ViM
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 \\
        --temperature 10 --vim-dim 300 --neco-dim 100
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 \\
        --methods MSP NECO NECO-NoScaler NECO-MaxLogit NECO-ETF
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 \\
        --groups near=cifar10 far=svhn,textures --latex
    # any parameter of any method
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --set KNN.k=200 GEN.top=10
    # tune on one set, test on the rest
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --val-ood uniform
    # mean and spread over seeds
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s{0,1,2}.pth
    # one more method joins the table of an earlier run
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --methods NECO-ETF
    # the mean of two scores, each standardised on ID images
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --combine MSP,KNN
    # a score of your own, a class with fit and score
    python ood_methods.py --checkpoint results/net_s0 --methods MSP my_score.py:Toy
    # ID images under a covariate shift count as ID in a second table
    python ood_methods.py --checkpoint results/resnet18_best_cifar100_s0 --csid fog3 sketches
    # several networks as one
    python ood_methods.py --ensemble --checkpoint results/resnet18_best_cifar100_s{0,1,2}.pth
    python ood_methods.py --ensemble --checkpoint results/toynet_final_cifar10_s0_fold*of5.pth

Reads results/<stem>/ (the folder may be named in place of the checkpoint) and writes there:
scores_ID_<dataset>.csv and scores_OOD_<name>.csv (one row per image: the verdict of the
recommended method, and one column per method), accepted_ID_<dataset>.csv and
accepted_OOD_<name>.csv (whether each score passes the threshold that keeps 95% of ID),
detector.safetensors (every fitted method, for detect.py, which needs no training data),
ood_metrics.csv (one row per OOD set
and method) with ood_metrics.md and, on demand, .tex, id_metrics.csv (selective classification, open
sets, calibration), ood_by_id_class.csv and ood_by_ood_class.csv, conformal.csv (thresholds with a
guarantee, from ID validation images), and figures/. Scores that an earlier run
computed from the same head and features stay in the table, unless --replace starts over. Without
head.csv only the methods that need no head are scored. --ensemble writes into
<model>_ensemble_<suffix>/, which has ood_members.csv beside them, every method of every
single member (docs/methods.md, "An ensemble"). Every score is higher for more
in-distribution images; ID is the positive class; rates are in [0, 1]. docs/methods.md explains each
method."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import cli
import console
import feature_files
import utils
from artifacts import current, records, store
from detection import (
    adascale,
    asked,
    by_class,
    combining,
    conformal_table,
    drawing,
    evaluation,
    full_spectrum,
    grid,
    id_tables,
    inputs,
    joining,
    keeping,
    members,
    neco_curve,
    odin,
    outputs,
    own,
    plan,
    tables,
    together,
    tuning,
)
from detection import detector as detectors
from detection.asked import Arguments
from detection.scored import Scored
from head import Head
from images import openood
from scores import registry


def make_parser() -> cli.Parser:
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    add_input_flags(parser)
    add_ensemble_flags(parser.add_argument_group("an ensemble"))
    methods = parser.add_argument_group("methods and their parameters")
    add_method_flags(methods)
    add_bank_flag(methods)
    add_parameter_flags(methods)
    evaluated = parser.add_argument_group("evaluation")
    add_csid_flag(evaluated)
    add_evaluation_flags(evaluated)
    add_table_flags(parser.add_argument_group("tables"))
    return parser


def add_input_flags(parser: cli.Parser) -> None:
    """The flags that choose what is read and where results go."""
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
                "checkpoints, or their folders of features; for several, the mean and standard"
                " deviation over them are written too"
            ),
        },
        ood={
            "help": (
                "OOD sets to score, given as NAME or NAME=FOLDER as they were extracted; default:"
                " all in the folder"
            )
        },
    )


def add_csid_flag(group: Any) -> None:
    """The flag that chooses ID sets under a covariate shift."""
    group.add_argument(
        "--csid",
        nargs="+",
        type=cli.data_set,
        metavar="NAME",
        help=(
            "ID sets under a covariate shift, as run_networks.py --csid extracted them, which count"
            " as ID in the full-spectrum tables; default: all in the folder"
        ),
    )


def add_ensemble_flags(group: Any) -> None:
    """The flags that make several checkpoints one classifier."""
    group.add_argument(
        "--ensemble",
        action="store_true",
        help=(
            "score the checkpoints together: all members of a leave-out ensemble, or ordinary"
            " networks of the same classes (a deep ensemble)"
        ),
    )
    group.add_argument(
        "--perturbed",
        nargs=2,
        type=not_negative,
        metavar=("TEMPERATURE", "EPSILON"),
        help=(
            "of a leave-out ensemble: the temperature of its softmax, and which perturbed images of"
            " run_networks.py are scored, 0 for plain ones; default: chosen by --val-ood, or those"
            " that are there, or 1 0"
        ),
    )


def add_method_flags(group: Any) -> None:
    """The flags that choose methods and any of their parameters."""
    by_default = registry.defaults(rest=True)
    larger = [name for name in by_default if name not in registry.DEFAULT]
    variants = [name for name in registry.METHODS if name not in by_default]
    group.add_argument(
        "--methods",
        nargs="+",
        type=method,
        metavar="METHOD",
        help=(
            f"methods to compute; default: {', '.join(registry.DEFAULT)}, {odin.ODIN} and"
            f" {', '.join(adascale.NAMES)} if their images were extracted, and"
            f" {', '.join(larger)} of a classifier with more classes than the data. Variants are"
            f" computed only if they are named: {', '.join(variants)}"
        ),
    )
    group.add_argument(
        "--combine",
        nargs="+",
        type=combination,
        metavar="METHOD,METHOD",
        help=(
            "the mean of these methods' scores, standardised on ID validation images, or on"
            " training images where there are none; a row of its own, mean(METHOD,METHOD)"
        ),
    )
    group.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=setting,
        metavar="METHOD.PARAMETER=VALUE",
        help=(
            "values for any parameters of any methods, such as KNN.k=200 SCALE.percentile=90;"
            " docs/methods.md lists the parameters. The flags below are short for some of them"
        ),
    )


def add_bank_flag(group: Any) -> None:
    """The flags of what is kept of the training features, and where."""
    group.add_argument(
        "--bank-size",
        type=cli.positive,
        metavar="N",
        help=(
            "training images that KNN, NNGuide, Relation and ActSub search; of more, a seeded"
            f" sample, as many of each class as there are; default: {registry.BANK_SIZE:,}"
        ),
    )
    group.add_argument(
        "--features-in",
        choices=("auto", "memory", "disk"),
        default="auto",
        help=(
            "where the training features are while they are scored: in memory, or in a file of the"
            " run's folder that is gone at the end; auto: on disk where all sets would take more"
            " than a quarter of memory; the scores are the same to the bit"
        ),
    )
    group.add_argument(
        "--with-bank",
        action="store_const",
        const=True,  # None without it: records of runs before this flag stay current
        help=(
            "keep all training features in detector.safetensors, which KNN, NNGuide and Relation"
            " need; without it the file holds the other methods"
        ),
    )


def add_parameter_flags(group: Any) -> None:
    """The flags in asked.PARAMETERS, which are short for --set."""
    group.add_argument(
        "--temperature",
        type=cli.above_zero,
        help="Energy: temperature that divides the logits (default 1)",
    )
    group.add_argument(
        "--ridge",
        type=not_negative,
        help=(
            "Mahalanobis: ridge added to the covariance, as a share of the mean variance"
            " (default 0: pseudo-inverse)"
        ),
    )
    group.add_argument(
        "--vim-dim",
        type=cli.positive,
        help=(
            "ViM and Residual: number of principal components that are kept (default for D"
            " features: 1000 if D >= 2048, 512 if D >= 768, otherwise D/2)"
        ),
    )
    group.add_argument(
        "--neco-dim",
        type=cli.positive,
        help=(
            "NECO: number of principal components (default: as many as explain 90%% of the"
            " variance of the ID training features)"
        ),
    )
    group.add_argument(
        "--no-neco-scaler",
        action="store_const",
        const=False,
        help="NECO: do not standardise the features",
    )
    group.add_argument(
        "--neco-max-logit",
        action="store_const",
        const=True,
        help="NECO: multiply the score by the largest logit, as its authors do for transformers",
    )
    group.add_argument(
        "--neco-curve",
        # None without it: records of runs before this flag stay current
        action="store_const",
        const=True,
        help=(
            "NECO: draw the AUROC against each OOD set over the number of components, seen with OOD"
            " data (figures/neco_dimensions_<method>.png); it chooses nothing"
        ),
    )


def add_evaluation_flags(group: Any) -> None:
    """The flags that say how the scores are evaluated."""
    group.add_argument(
        "--val-ood",
        type=set_name,
        metavar="NAME",
        help=(
            "OOD set on which hyper-parameters are chosen, by AUROC; it is left out of the table"
            " (default: no such set, and the values of the methods' authors)"
        ),
    )
    group.add_argument(
        "--groups",
        nargs="+",
        type=group_of_sets,
        metavar="GROUP=NAME,NAME",
        default=[],
        help=(
            "groups of OOD sets to average over, such as near=cifar10 far=svhn,textures; openood:"
            " OpenOOD's near and far groups for the ID set, as far as they were extracted"
        ),
    )
    group.add_argument(
        "--tpr",
        nargs="+",
        type=cli.share,
        default=[0.95],
        metavar="SHARE",
        help=(
            "share of ID images that the thresholds, and so the FPR, keep (default 0.95); of"
            " several, 0.95 or else the first is that of the thresholds, and each other one adds a"
            " pair of columns, such as fpr80 and fpr80_ood_positive"
        ),
    )
    group.add_argument(
        "--replace",
        action="store_true",
        help=(
            "start the table over; otherwise earlier rows of the same head and features stay, and"
            " new ones join them"
        ),
    )


def add_table_flags(group: Any) -> None:
    """The flags of the LaTeX table."""
    group.add_argument("--latex", action="store_true", help="write ood_metrics.tex too (booktabs)")
    group.add_argument(
        "--caption",
        type=str,
        default="",
        help="caption of the LaTeX table, in LaTeX; default: a description of its content",
    )
    group.add_argument("--label", type=str, default="tab:ood", help="label of the LaTeX table")


def parse_args(argv: Sequence[str] | None = None) -> Arguments:
    """The arguments; ValueError for parameters of methods that contradict each other."""
    args = make_parser().parse_args(argv)
    args.tpr, args.more_tpr = asked.shares_of(args.tpr)
    asked.parameters(args)
    asked.check_ensemble_flags(args)
    asked.check_neco_curve(args)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check all checkpoints, then score each of them, then compare them."""
    args = parse_args(argv)
    for text in filter(own.is_own, args.methods or []):
        own.register(text)
    if args.ensemble:
        score_ensemble(args)
        return
    tasks = [plan.prepare(checkpoint, args) for checkpoint in args.checkpoint]
    plan.check_together(tasks)
    for task in tasks:
        plan.check(task.run, args)
        utils.writable_folder(task.run.folder / "figures")
    measured = [score_run(task, args) for task in tasks]
    if len(tasks) > 1:
        reasons = [reason for task in tasks for reason in task.stale.reasons]
        compare_checkpoints(measured, args, reasons)


def why_incomplete(folder: Path, args: Arguments) -> str:
    """Why the table in a folder lacks rows that are there by default now, in words; "" where it has
    them all, or --methods names what it is to have. For main.py."""
    if args.methods:
        return ""
    whole = feature_files.whole_head_in(folder, store.feature_file(folder, "head"))
    lacking = joining.lacking(folder, registry.defaults(rest=whole is not None))
    if not lacking:
        return ""
    return f"its table was made without {', '.join(lacking)}"


# ---- values of flags ----------------------------------------------------------------------------


def setting(text: str) -> str:
    """argparse type: METHOD.PARAMETER=VALUE, in the published spelling of the method."""
    try:
        name, parameter, value = registry.parse_setting(text)
    except ValueError as error:
        raise cli.ArgumentTypeError(str(error)) from None
    return f"{name}.{parameter}={value}"


def method(text: str) -> str:
    """argparse type: a method's name, whatever its case and hyphens -> its published spelling;
    FILE.py:NAME, a score of one's own, stays as it is, and is run by `main` alone."""
    if own.is_own(text):
        return text
    known = {registry.plain_name(name): name for name in registry.ROWS}
    name = known.get(registry.plain_name(text))
    if name is None:
        raise cli.ArgumentTypeError(
            f"unknown method {text!r}; expected one of {', '.join(known.values())}, or FILE.py:NAME"
        )
    return name


def combination(text: str) -> str:
    """argparse type: "msp,KNN" -> "MSP,KNN", the published spelling of two or more methods."""
    try:
        return ",".join(combining.parse(text).members)
    except ValueError as error:
        raise cli.ArgumentTypeError(str(error)) from None


def not_negative(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise cli.ArgumentTypeError(f"expected 0 or a number above it, found {text}")
    return value


def set_name(text: str) -> str:
    """argparse type: the name of a data set, in lower case and with aliases resolved."""
    try:
        return utils.SetName.parse(text.strip()).name
    except ValueError as error:
        raise cli.ArgumentTypeError(str(error)) from None


def group_of_sets(text: str) -> tuple[str, list[str]]:
    """argparse type: "near=cifar10,tin" -> ("near", ["cifar10", "tin"]); openood, whose groups are
    known only with the ID set, has no names yet."""
    name, _, members = text.partition("=")
    if text == openood.GROUP:
        return text, []
    if not name or not members:
        raise cli.ArgumentTypeError(f"expected GROUP=NAME,NAME, found {text!r}")
    return name, [set_name(member) for member in members.split(",")]


# ---- one checkpoint ------------------------------------------------------------------------------


def score_run(task: plan.Task, args: Arguments) -> pd.DataFrame:
    """Fit, score, and write everything of one checkpoint -> its tidy table, one row per OOD set and
    method."""
    run = task.run
    seconds: dict[str, float] = {}
    announce(task)
    with cli.timed(seconds, "reading"):
        found = inputs.read(run, task.stale, args.features_in)
    with cli.timed(seconds, "scoring"):
        fitted = inputs.fit(found, args.bank_size or registry.BANK_SIZE)
        scored = score(task, fitted, found, args)
    with cli.timed(seconds, "detector"):
        detector = keep_detector(task, args, scored, found.head)
    with cli.timed(seconds, "tables"):
        right, said = found.right(), probabilities(task, args, found, fitted, scored)
        risks = id_tables.risk_curves(scored, right)
        table = tables.tabulate(run, scored, right, args.tpr, args.more_tpr)
        more = more_tables(run, scored, found.head, right, said, args.tpr, risks)
        pooled = full_spectrum.pooled(scored)
        full = full_spectrum.tabulate(run, scored, pooled, found.head, args.tpr, args.more_tpr)
        more |= full_spectrum_tables(run, args, scored, found.head, pooled, full)
        written = write(task, args, table, scored, found.head, more, detector)
    with cli.timed(seconds, "figures"):
        folder = run.folder / "figures"
        pictures = more_figures(scored, found.head, risks, said, registry.CORE, table, more)
        if args.neco_curve:
            given = asked.parameters(args)
            pictures |= neco_curve.draw(fitted, task.names, given, scored)
        written += drawing.draw(
            folder,
            fitted,
            table,
            scored,
            args.tpr,
            task.earlier.drawn,
            more=pictures,
            vector=cli.vector_formats(args),
        )
    finish(task, args, table, [*written, run.folder / keeping.FILE], seconds)
    if full is not None:
        groups = asked.groups_in(args, full)
        console.print_table(
            tables.by_method(full, groups), full_spectrum.heading(full, run.dataset)
        )
    print(keeping.said(detector, run.folder / keeping.FILE))
    line = conformal_table.said(scored, run.dataset)
    if line:
        print(line)
    say_where(run.folder)
    return table


def announce(task: plan.Task) -> None:
    """Print what a person should know before the work starts."""
    for line in task.lines:
        print(line)
    size = sum(path.stat().st_size for path in task.run.files) / 2**20
    print(f"reading {size:,.0f} MiB of features in {task.run.folder}")


def score(
    task: plan.Task, fitted: registry.Training, found: inputs.Inputs, args: Arguments
) -> Scored:
    """The scores that are asked for, and the earlier ones beside them."""
    given = asked.parameters(args)
    names = [name for name in task.names if name not in (odin.ODIN, *adascale.NAMES)]
    combined = asked.combinations(args)
    chosen: asked.Given = {}
    tuned: dict[str, Collection[str]] = {}  # {OOD set: methods whose parameters it chose}
    if args.val_ood:
        fitted_names = dict.fromkeys([*names, *combining.members_of(combined)])
        chosen = tuning.tune(fitted, [*fitted_names], given, found.ood[args.val_ood].features)
        tuned[args.val_ood] = chosen
    ood = {name: found.ood[name] for name in task.tested}
    scored = evaluation.score(
        fitted,
        names,
        {**chosen, **given},
        found.test,
        ood,
        tuned,
        combined,
        found.csid,
        console.progress,
    )
    for name, values in scored.parameters.items():
        if not chosen.keys().isdisjoint({name, *values.get("members", ())}):
            scored.parameters[name] = values | {"val_ood": args.val_ood}
    if odin.ODIN in task.names:
        assert found.head is not None, "without a head, methods_of leaves ODIN out"
        odin.add_odin(task.run, scored, found.head, task.stale)
    scaled = [name for name in adascale.NAMES if name in task.names]
    if scaled:
        adascale.add(task.run, scored, found, scaled, task.stale)
    evaluation.note_undefined(scored)
    evaluation.note_direction(scored, own.names(names))
    states = scored.states if args.with_bank else keeping.without_banks(scored.states)
    earlier = keeping.earlier_states(task.run.folder, task.earlier)
    scored = replace(scored, states=joining.in_order({**earlier, **states}))
    return joining.join(scored, task.earlier, task.run.folder, task.run.dataset)


def keep_detector(
    task: plan.Task, args: Arguments, scored: Scored, head: Head | None
) -> detectors.Detector:
    """Write the detector of all methods of the table -> it."""
    made = records.provenance(cli.material(args), task.stale)
    detector = keeping.detector_of(task.run, scored, head, bool(args.with_bank), made)
    detector.save(task.run.folder / keeping.FILE)
    return detector


def probabilities(
    task: plan.Task,
    args: Arguments,
    found: inputs.Inputs,
    fitted: registry.Training,
    scored: Scored,
) -> id_tables.Probabilities | None:
    """The softmax of the ID test images; its temperature is that of TempScaling, where that was
    fitted now, and not given."""
    known = None
    if "TempScaling" in task.names and "TempScaling" not in asked.parameters(args):
        known = scored.parameters["TempScaling"]
    return id_tables.probabilities(found, fitted, known)


def more_tables(
    run: tables.Place,
    scored: Scored,
    classifier: outputs.Classifier | None,
    right: np.ndarray | None,
    said: id_tables.Probabilities | None,
    tpr: float,
    risks: id_tables.RiskCurves,
) -> dict[str, pd.DataFrame | None]:
    """{file name: tidy table} beside ood_metrics.csv; None where there is nothing to say."""
    return {
        "id_metrics.csv": id_tables.tabulate(run, scored, right, said, tpr, risks),
        "ood_by_id_class.csv": by_class.by_id_class(run, scored, classifier, tpr),
        "ood_by_ood_class.csv": by_class.by_ood_class(run, scored, tpr),
        "conformal.csv": conformal_table.tabulate(run, scored),
    }


def full_spectrum_tables(
    run: tables.Place,
    args: Arguments,
    scored: Scored,
    head: Head | None,
    pooled: Scored | None,
    full: pd.DataFrame | None,
) -> dict[str, pd.DataFrame | None]:
    """{file name: tidy table} of csID sets; None where there are none."""
    groups = asked.groups_in(args, full) if full is not None else []
    means = tables.over_groups(full, groups, pooled) if groups and full is not None else None
    return {
        "fsood_metrics.csv": full,
        "fsood_groups.csv": means,
        "csid_metrics.csv": full_spectrum.by_set(run, scored, head, args.tpr),
    }


def more_figures(
    scored: Scored,
    classifier: outputs.Classifier | None,
    risks: id_tables.RiskCurves,
    said: id_tables.Probabilities | None,
    core: Collection[str],
    table: pd.DataFrame,
    more: Mapping[str, pd.DataFrame | None],
) -> dict[str, Figure | None]:
    """{name: figure} of the classifier's predictions; None where there is nothing to draw."""
    names = list(classifier.class_names) if classifier else []
    return {
        "trust": id_tables.trust_figure(said, risks, core),
        "swallowed": by_class.swallowed(more["ood_by_id_class.csv"], table, scored, names),
    }


def write(
    task: plan.Task,
    args: Arguments,
    table: pd.DataFrame,
    scored: Scored,
    head: Head | None,
    more: dict[str, pd.DataFrame | None],
    detector: detectors.Detector,
) -> list[Path]:
    """Write the tables, among them {file name: table} in `more`, and the score files -> their
    paths."""
    run = task.run
    sidecar = {
        **records.provenance(cli.material(args), task.stale),
        "tpr": args.tpr,
        **records.origin(run.head or run.train),
    }
    groups = asked.groups_in(args, table)
    options = outputs.TableOptions(args.tpr, groups, args.latex, args.caption, args.label)
    written = outputs.write_tables(run.folder, table, scored, options, sidecar)
    written += outputs.write_more(run.folder, more, sidecar)
    written += outputs.write_scores(
        run.folder, run.dataset, scored, head, args.tpr, sidecar, detector
    )
    return written


def finish(
    task: plan.Task,
    args: Arguments,
    table: pd.DataFrame,
    written: list[Path],
    seconds: Mapping[str, float],
) -> None:
    """Remove what an earlier table left, write the record of this run, and print the table."""
    folder = task.run.folder
    record = folder / joining.RECORD
    removed = outputs.remove_outdated(folder, record, written)
    current.write_record(
        record,
        cli.material(args),
        task.inputs,
        written,
        listings=listings(args),
        stale=task.stale,
        seconds=seconds,
    )
    show(table, args, removed, feature_files.file_notes(task.run))


def listings(args: Arguments) -> list[str]:
    """Patterns of the sets that this run took because they were there."""
    asked_or_all = [(args.ood, "OOD_*_test.*"), (args.csid, "CSID_*_test.*")]
    return [pattern for asked_sets, pattern in asked_or_all if not asked_sets]


def show(
    table: pd.DataFrame,
    args: Arguments,
    removed: Sequence[str],
    more: Sequence[str] = (),
) -> None:
    """Print the table, and what to know of it, `more` among it."""
    groups = asked.groups_in(args, table)
    console.print_table(tables.by_method(table, groups), tables.heading(table, args.tpr))
    for note in [*tables.notes(table), *more]:
        print(note)
    if lacking := asked.lacking_in_groups(args, table):
        print(lacking)
    if removed:
        print(f"removed, as made of an earlier table: {', '.join(removed)}")


def say_where(folder: Path) -> None:
    """Print where the results are, last of all."""
    print(f"\nper-image scores, figures and the full table: {folder}")


# ---- an ensemble ---------------------------------------------------------------------------------


def score_ensemble(args: Arguments) -> None:
    """Check all members, choose the perturbation, score, and write everything of one ensemble."""
    stale = records.Stale(args.allow_stale)
    ensemble = members.find(args.checkpoint, args.output_dir, args.dataset, args.ood, stale)
    sets = check_ensemble(ensemble, args)
    seconds: dict[str, float] = {}
    announce_ensemble(ensemble)
    with cli.timed(seconds, "choosing"):
        choice = grid.Choice(grid.PLAIN)
        if ensemble.is_leave_out:
            choice = grid.choose(ensemble, args.val_ood, asked.pair_of(args), stale)
    if choice.table is not None:
        console.print_table(choice.table.round(4), f"temperature and epsilon on {args.val_ood}")
    if ensemble.is_leave_out:
        print(f"{together.LEAVE_OUT}: {choice.pair.words}{choice.reason}")
    grid.require(ensemble, choice, sets)
    folder = utils.writable_folder(ensemble.folder)
    figures_folder = utils.writable_folder(folder / "figures")
    with cli.timed(seconds, "scoring"):
        names = asked.named(args) or list(registry.DEFAULT)
        methods = together.Methods(names, asked.parameters(args), args.val_ood)
        result = together.score(ensemble, methods, choice, sets, stale, console.progress)
    table = tables.tabulate(ensemble, result.scored, result.right, args.tpr, args.more_tpr)
    written = write_grid(ensemble, choice, args, stale)
    risks = id_tables.risk_curves(result.scored, result.right)
    more = more_tables(ensemble, result.scored, result.classes, result.right, None, args.tpr, risks)
    written += write_ensemble(ensemble, args, table, result, more, stale)
    core = [name for name in together.CORE if name in result.scored.id.scores]
    pictures = more_figures(result.scored, result.classes, risks, None, core, table, more)
    written += drawing.draw(
        figures_folder,
        None,
        table,
        result.scored,
        args.tpr,
        core=core,
        more=pictures,
        vector=cli.vector_formats(args),
    )
    removed = outputs.remove_outdated(folder, folder / joining.RECORD, written)
    own_files = [own.parts(text)[0] for text in args.methods or [] if own.is_own(text)]
    read = dict.fromkeys([*ensemble.files, *grid.files(ensemble, choice, sets), *own_files])
    current.write_record(
        folder / joining.RECORD,
        cli.material(args),
        [*read],
        written,
        stale=stale,
        seconds=seconds,
    )
    show(table, args, removed, feature_files.file_notes(ensemble.members[0].run))
    print(f"no {keeping.FILE}: detectors are of single networks")
    say_where(folder)


def ensemble_folder(checkpoints: Sequence[Path], output_dir: str) -> Path:
    """The folder of the tables of these networks together. For main.py."""
    return Path(output_dir) / members.ensemble_name([path.stem for path in checkpoints])


def check_ensemble(ensemble: members.Ensemble, args: Arguments) -> list[str]:
    """The OOD sets that are tested; ValueError for mistakes that can be found before anything large
    is read."""
    for member in ensemble.members:
        plan.check(member.run, args)
    if args.perturbed and not ensemble.is_leave_out:
        raise ValueError(
            "--perturbed is of a leave-out ensemble, and these are ordinary networks; leave it out"
        )
    check_folder(ensemble, args)
    return [name for name in ensemble.sets if name != args.val_ood]


def check_folder(ensemble: members.Ensemble, args: Arguments) -> None:
    """ValueError where the folder of the tables holds those of networks of other names."""
    before = records.read_sidecar(ensemble.folder / "ood_metrics.csv").get("members")
    names = [member.name for member in ensemble.members]
    if args.replace or not before or set(before) == set(names):
        return
    others = [name for name in before if name not in names] or list(before)
    raise ValueError(
        f"{ensemble.folder} holds the tables of another ensemble, of {members.listed(others)};"
        " move it away, or replace them with --replace"
    )


def announce_ensemble(ensemble: members.Ensemble) -> None:
    """Print what the ensemble is, and how much is read."""
    size = sum(path.stat().st_size for path in ensemble.files) / 2**20
    count = len(ensemble.members)
    print(f"{ensemble.kind} ensemble of {count} networks, {size:,.0f} MiB of features:")
    for member in ensemble.members:
        less = ""
        if member.leave_out:
            less = f", without {members.listed(member.leave_out.left_out)}"
        print(f"  {member.name}{less}")


def write_grid(
    ensemble: members.Ensemble, choice: grid.Choice, args: Arguments, stale: records.Stale
) -> list[Path]:
    """Write the table and the figures of the grid that chose a pair -> their paths."""
    if choice.table is None:
        return []
    path = ensemble.folder / "ensemble_grid.csv"
    store.write_table(path, choice.table, sidecar_of(ensemble, args, stale))
    folder = ensemble.folder / "figures"
    return [path, *drawing.draw_grid(folder, choice, cli.vector_formats(args))]


def write_ensemble(
    ensemble: members.Ensemble,
    args: Arguments,
    table: pd.DataFrame,
    result: together.Result,
    more: dict[str, pd.DataFrame | None],
    stale: records.Stale,
) -> list[Path]:
    """Write the tables and the score files -> their paths."""
    folder, sidecar = ensemble.folder, sidecar_of(ensemble, args, stale)
    groups = asked.groups_in(args, table)
    options = outputs.TableOptions(args.tpr, groups, args.latex, args.caption, args.label)
    scored, classes = result.scored, result.classes
    written = outputs.write_tables(folder, table, scored, options, sidecar)
    written += outputs.write_scores(folder, ensemble.dataset, scored, classes, args.tpr, sidecar)
    written += outputs.write_more(folder, more, sidecar)
    written.append(folder / "ood_members.csv")
    store.write_table(written[-1], together.member_table(ensemble, result, args.tpr), sidecar)
    return written


def sidecar_of(ensemble: members.Ensemble, args: Arguments, stale: records.Stale) -> dict[str, Any]:
    """What every sidecar of an ensemble's tables says: among it, which networks it is of."""
    networks = {
        member.name: records.origin(member.run.head or member.run.train)
        for member in ensemble.members
    }
    return {
        **records.provenance(cli.material(args), stale),
        "tpr": args.tpr,
        "ensemble": ensemble.kind,
        "members": networks,
    }


# ---- several checkpoints -------------------------------------------------------------------------


def compare_checkpoints(measured: list[pd.DataFrame], args: Arguments, reasons: list[str]) -> None:
    """Write and print the mean and spread over checkpoints, for each OOD set and for each group's
    mean over its sets.

    measured: one tidy table per checkpoint. reasons: stale files that --allow-stale accepted.
    """
    folder = utils.writable_folder(args.output_dir)
    measured = tables.in_common(measured)
    sidecar = {
        **records.provenance(cli.material(args), records.Stale(args.allow_stale, reasons)),
        "checkpoints": [table["checkpoint"].iloc[0] for table in measured],
    }
    by_set = tables.over_checkpoints(pd.concat(measured), ["dataset", "ood", "method"])
    write_spread(folder / "ood_checkpoints.csv", "ood", by_set, sidecar)
    if args.groups:
        means = pd.concat(
            [tables.over_groups(table, asked.groups_in(args, table)) for table in measured]
        )
        by_group = tables.over_checkpoints(means, ["group", "sets", "method"])
        write_spread(folder / "ood_group_checkpoints.csv", "group", by_group, sidecar)


def write_spread(path: Path, what: str, spread: pd.DataFrame, sidecar: Mapping[str, Any]) -> None:
    """Write and print a table of means and standard deviations, one row per `what` and method."""
    store.write_table(path, spread, sidecar)
    shown = [what, "method", "auroc_mean", "auroc_std", "fpr95_mean", "fpr95_std"]
    console.print_table(
        spread[shown].round(4),
        f"{len(sidecar['checkpoints'])} checkpoints: mean and standard deviation of AUROC and FPR"
        f" in [0, 1] -> {path}",
    )


if __name__ == "__main__":
    cli.run(main)
