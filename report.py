"""One page of all that was measured: report.html for people, summary.json for programs.

    python report.py --checkpoint results/resnet18_best_s0.pth
    python report.py --checkpoint results/resnet18_best_s0        # or the folder
    python report.py --checkpoint results/resnet18_ensemble_s0-s1-s2
    python report.py --checkpoint results/resnet18_best_s0.pth --no-gallery    # to publish the page
    python report.py --checkpoint results/resnet18_best_s0.pth --xlsx          # and report.xlsx
    # several runs side by side: results/compare.html
    python report.py --checkpoint results/resnet18_best_s0.pth results/resnet18_best_s1.pth
    # one table over checkpoints, with OpenOOD's published figures beside it
    python report.py --leaderboard results/*

Reads what stands in results/<stem>/ (tables, scores of images, sidecars, figures), the checkpoint's
sidecar results/<stem>.json and its curves; needs neither features nor torch. The images that a
score was most wrong about are shown where they are still at hand, from their folder or from
--data-dir (CIFAR and its like by torch; nothing is downloaded), in at most 2 MB of thumbnails; with
the features at hand, each with the class whose mean is nearest where it is taken for another.

In a folder of ood_methods.py --ensemble it finds the scores of all members together and of each
alone, and the members' sidecars; collapse is each member's own. What is missing is named, with the
command that makes it. report.html asks no other computer for anything: it can be mailed, printed
and opened offline. With scripts its table sorts and filters, and one control switches the score
whose histogram, ROC curve and images are shown; without them it shows the best one.

Several checkpoints make one page, <output-dir>/compare.html, and compare.csv, a value a row: what
their OOD sets, methods and ID images have in common side by side, mean and deviation over seeds,
whether the methods keep their order, collapse beside AUROC, the trainings in one frame, and the
arguments that differ.

--leaderboard writes <output-dir>/leaderboard.csv (one row per checkpoint and method, near and far
means as OpenOOD groups them), leaderboard_published.csv and leaderboard.md, in which both stand
side by side.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import cli
import console
import feature_files
import utils
from artifacts import current, records, store
from reporting import compare_page, comparing, ensembles, gallery, leaderboard, scored, workbook
from reporting import page as reporting_page
from reporting import summary as reporting_summary
from reporting.found import Found, Missing

OOD_COLUMNS = ["ood", "method", "auroc", "auroc_low", "auroc_high", "fpr95"]
OOD_NUMBERS = ["auroc", "auroc_low", "auroc_high", "fpr95", "accuracy", "n_id", "n_ood"]
NC_COLUMNS = ["metric", "value", "split", "centring"]
GROUP_COLUMNS = ["group", "sets", "method", "auroc", "fpr95"]
MEMBER_COLUMNS = ["checkpoint", *OOD_COLUMNS]
PER_CLASS_COLUMNS = ["class_name", "within_class_variance", "cosine_weight_mean"]
CURVES_COLUMNS = ["epoch", "train_loss", "train_acc", "val_loss", "val_acc"]
STAGES = ("run_networks", "ood_methods", "neural_collapse")  # whose records stand in the folder
NOT_REPEATED = ("checkpoint", "output_dir", "replace", "allow_stale", "debug")
DEFAULTS: dict[str, Any] = {"tpr": 0.95, "label": "tab:ood"}
FIGURES = "figures/*.png"
UNLABELLED = (
    "collapse is measured class by class, and the training images have no labels; import them again"
    " with --labels"
)
MORE = {  # further tables that are shown where they are there: the columns that the report needs
    "id_metrics.csv": ["ood", "method", "measure", "at", "value", "low", "high", "temperature"],
    "ood_by_id_class.csv": ["dataset", "images_of", "predicted_class", "images", "share"],
    "ood_by_ood_class.csv": ["ood", "method", "ood_class", "images", "auroc", "fpr95"],
    "conformal.csv": ["method", "guarantee", "level", "ood", "rejected_id", "rejected_ood"],
}
WORDS = (
    "ood",
    "method",
    "measure",
    "dataset",
    "images_of",
    "predicted_class",
    "ood_class",
    "guarantee",
)


@dataclass(frozen=True)
class Table:
    """A table of the run: its file, the columns that the report needs, and what makes it anew."""

    file: Path
    columns: list[str]
    numbers: list[str]  # columns that hold numbers
    command: str


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    several = {"nargs": "+", "metavar": "CHECKPOINT"}
    cli.add_flags(parser, "checkpoint", "data-dir", "output-dir", "allow-stale", checkpoint=several)
    parser.add_argument(
        "--leaderboard",
        nargs="+",
        type=cli.path,
        metavar="FOLDER",
        help=(
            "in place of a report: one table over the checkpoints whose scores lie in these"
            " folders, and OpenOOD's published figures of the same ID sets beside it"
        ),
    )
    parser.add_argument(
        "--no-gallery",
        action="store_true",
        help="leave out the images: mind the licence of a data set before you publish them",
    )
    parser.add_argument(
        "--xlsx",
        action="store_true",
        help="write all tables as one workbook for a spreadsheet too, names as text",
    )
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if bool(args.checkpoint) == bool(args.leaderboard):
        parser.error("give --checkpoint for a report, or --leaderboard for a table over folders")
    if args.checkpoint and len(args.checkpoint) == 1:
        (args.checkpoint,) = args.checkpoint
    return args


def main(argv=None):
    args = parse_args(argv)
    if args.leaderboard:
        write_leaderboard(args)
        return
    if not isinstance(args.checkpoint, str):
        write_comparison(args)
        return
    folder = utils.writable_folder(utils.results_folder(args.checkpoint, args.output_dir))
    stale = records.Stale(args.allow_stale)
    found = gather(args.checkpoint, folder, stale, args.output_dir)
    present = [file for file in found.files if records.is_there(file)]
    inputs = current.fingerprints(present, folder)
    provenance = records.provenance(cli.material(args), stale, inputs=inputs)
    summary = reporting_summary.summarise(found, provenance)
    shown = gallery.gallery(summary, found, Path(args.data_dir), not args.no_gallery)
    page = reporting_page.render(summary, found, shown, folder)
    outputs = [folder / "summary.json", folder / "report.html"]
    if args.xlsx:
        outputs.append(folder / "report.xlsx")
        workbook.write(outputs[-1], workbook.tables_of(found), about(summary))
    utils.write_json(folder / "summary.json", summary)
    utils.write_text(folder / "report.html", page)
    current.write_record(
        folder / "report.json",
        cli.material(args),
        found.files,
        outputs,
        listings=[FIGURES, *scored.LISTINGS],
        stale=stale,
    )
    print("\n".join(summary["reading"]))
    for part in found.missing:
        print(words_of(part))
    print(f"report: {folder / 'report.html'}")


def about(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the first sheet of a workbook says of a run."""
    run, made = summary["checkpoint"], summary["provenance"]
    names = ("stem", "model", "dataset", "sha256")
    facts = {name: run[name] for name in names if run[name] is not None}
    return facts | origin_of(made)


def origin_of(made: Mapping[str, Any]) -> dict[str, Any]:
    """What the first sheet of every workbook says of how it was made."""
    return {name: made[name] for name in ("command", "git_commit", "created")}


def write_comparison(args: Any) -> None:
    """Write and print what several runs have in common."""
    stale = records.Stale(args.allow_stale)
    folder = utils.writable_folder(args.output_dir)
    folders = [Path(utils.results_folder(name, args.output_dir)) for name in args.checkpoint]
    named = zip(args.checkpoint, folders, comparing.names_of(folders), strict=True)
    comparison = comparing.compare([run_of(*one, args.output_dir, stale) for one in named])
    provenance = records.provenance(cli.material(args), stale)
    store.write_table(folder / "compare.csv", comparison.tidy(), provenance)
    created = provenance["created"][:16].replace("T", " ")
    utils.write_text(folder / "compare.html", compare_page.render(comparison, created))
    if args.xlsx:
        about_runs = {f"run {place}": name for place, name in enumerate(comparison.names, 1)}
        facts = about_runs | origin_of(provenance)
        workbook.write(folder / "compare.xlsx", comparison.tables(), facts)
    if comparison.methods:
        shown = comparison.means.mul(100).round(1).rename_axis("method").reset_index()
        console.print_table(shown, f"mean AUROC in percent over {', '.join(comparison.sets)}")
    print("\n".join([*compare_page.sentences(comparison), *comparison.notes]))
    print(f"comparison: {folder / 'compare.html'}")


def run_of(
    checkpoint: str, folder: Path, name: str, output_dir: str, stale: records.Stale
) -> comparing.Run:
    """One of several runs, with what was measured of it."""
    found = gather(checkpoint, folder, stale, output_dir)
    return comparing.Run(reporting_summary.summarise(found, {}), found, name)


def write_leaderboard(args: Any) -> None:
    """Write and print the table over checkpoints, and the published figures beside it."""
    folders = [Path(name) for name in args.leaderboard if Path(name).is_dir()]
    board = leaderboard.make(folders)
    folder = utils.writable_folder(args.output_dir)
    provenance = records.provenance(cli.material(args), records.Stale(args.allow_stale))
    paths = [folder / f"leaderboard{end}" for end in (".csv", "_published.csv", ".md")]
    store.write_table(paths[0], board.ours, provenance)
    store.write_table(paths[1], board.published, provenance)
    utils.write_text(paths[2], leaderboard.markdown(board))
    if args.xlsx:
        tables = {"ours": board.ours, "published": board.published}
        workbook.write(folder / "leaderboard.xlsx", tables, origin_of(provenance))
    shown = leaderboard.shown(board)
    if not shown.empty:  # the notes say why there is neither a near nor a far mean
        console.print_table(shown, "AUROC in percent: ours, and as OpenOOD published it")
    for note in board.notes:
        print(note)
    print(leaderboard.PROTOCOL)
    print(f"leaderboard: {', '.join(map(str, paths))}")


def words_of(part: Missing) -> str:
    """What the terminal says of a missing part."""
    if part.command is None:
        return f"missing: {part.what}"
    return f"missing: {part.what}; make it with: {part.command}"


# ---- what is there -------------------------------------------------------------------------------


def gather(
    checkpoint: str, folder: Path, stale: records.Stale, output_dir: str = "results"
) -> Found:
    """Read every table and list every figure of the run; ValueError without any, or with
    another's."""
    tables = expected_tables(checkpoint, folder, output_dir)
    further = further_tables(folder, tables["ood"].command)
    refuse_nothing(tables, folder)
    network = identity(checkpoint, folder)
    trained = trained_as(checkpoint, folder)
    sidecar = records.checkpoint_sidecar(trained)
    head = records.read_sidecar(folder / "head.csv")
    candidates = curves_files(trained, sidecar)
    curves = next((file for file in candidates if file.is_file()), None)
    made_by = read_records(folder)
    read = {name: read_checked(table, network, stale) for name, table in tables.items()}
    ensemble = ensembles.find(folder, read.pop("members", None))
    if "ood_groups.csv" not in made_by.get("ood_methods", {}).get("outputs", ()):
        read["groups"] = None  # an older run left it behind
    images = figure_files(folder, made_by)
    more = {name: read_checked(table, network, stale) for name, table in further.items()}
    scores = [folder / name for form in scored.LISTINGS for name in records.listing(folder, form)]
    return Found(
        **read,
        stem=folder.name,
        ensemble=ensemble,
        tpr=made_by.get("ood_metrics", {}).get("tpr") or DEFAULTS["tpr"],
        sidecar=sidecar,
        facts=ensembles.common_facts(ensemble) if ensemble else facts_of(head, sidecar),
        sha256=network.get("checkpoint_sha256"),
        images=images,
        records=made_by,
        curves=read_curves(curves, sidecar, stale),
        more={name: table for name, table in more.items() if table is not None},
        scored=scored.find(folder, read["ood"], stale, tables["ood"].command),
        files=[*looked_for(trained, folder, tables | further), *candidates, *images, *scores],
        missing=list(missing_parts(folder, trained, tables, sidecar, head, curves, images)),
        stale=stale_parts(stale, made_by),
    )


def facts_of(head: Mapping[str, Any], sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """What the two sidecars say of the network: the checkpoint's goes first, but the features had
    the preprocessing that the head's names."""
    found = {**head, **sidecar}
    if "preprocessing" in head:
        found["preprocessing"] = head["preprocessing"]
    return found


def refuse_nothing(tables: Mapping[str, Table], folder: Path) -> None:
    """ValueError where neither scores nor collapse have been measured."""
    ood, nc = tables["ood"], tables["nc"]
    if ood.file.exists() or nc.file.exists():
        return
    raise ValueError(
        f"nothing to report in {folder}: expected ood_metrics.csv or nc_metrics.csv; make them "
        f"with: {ood.command} and {nc.command}"
    )


def trained_as(checkpoint: str, folder: Path) -> Path:
    """The checkpoint, beside which train.py wrote what belongs to it, wherever the features are.

    Of a folder it is where the head's sidecar says that it was: the folder of matched images does
    not have the checkpoint's name."""
    if Path(checkpoint).is_file():
        return Path(checkpoint)
    return Path(feature_files.checkpoint_file(folder, folder / "head.csv"))


def looked_for(trained: Path, folder: Path, tables: Mapping[str, Table]) -> list[Path]:
    """The tables with their sidecars, and the other JSON files whose content the report shows."""
    files = [records.sidecar_path(trained), folder / "head.json", *ensembles.files(folder)]
    files += [folder / f"{stage}.json" for stage in STAGES[1:]]
    for table in tables.values():
        files += [table.file, records.sidecar_path(table.file)]
    return files


def expected_tables(checkpoint: str, folder: Path, output_dir: str = "results") -> dict[str, Table]:
    """{name: Table} of a run's folder, each with a command that can be run as it stands."""
    together = ensembles.checkpoints(folder)
    scoring = as_it_was_run("ood_methods", together or [checkpoint], folder, output_dir)
    collapse = as_it_was_run("neural_collapse", [checkpoint], folder, output_dir)
    tables = {
        "ood": Table(folder / "ood_metrics.csv", OOD_COLUMNS, OOD_NUMBERS, scoring),
        "nc": Table(folder / "nc_metrics.csv", NC_COLUMNS, ["value"], collapse),
        "per_class": Table(
            folder / "nc_per_class.csv", PER_CLASS_COLUMNS, PER_CLASS_COLUMNS[1:], collapse
        ),
        "groups": Table(folder / "ood_groups.csv", GROUP_COLUMNS, ["auroc", "fpr95"], scoring),
    }
    if together:
        members = folder / "ood_members.csv"
        tables["members"] = Table(members, MEMBER_COLUMNS, OOD_NUMBERS, scoring)
    return tables


def further_tables(folder: Path, command: str) -> dict[str, Table]:
    """{file name: Table} of what stands beside ood_metrics.csv in newer runs."""
    return {
        name: Table(
            folder / name, columns, [column for column in columns if column not in WORDS], command
        )
        for name, columns in MORE.items()
    }


def as_it_was_run(step: str, checkpoints: Sequence[str], folder: Path, output_dir: str) -> str:
    """The command that makes a step's tables again, with the flags that its record names."""
    arguments = current.Record.read(folder / f"{step}.json").arguments
    if arguments.get("more_tpr"):  # of the same flag
        shares = [arguments["tpr"], *arguments["more_tpr"]]
        arguments = arguments | {"tpr": shares, "more_tpr": None}
    if step == "ood_methods" and not arguments.get("ensemble"):  # whose tables are not joined
        arguments = arguments | methods_there(folder, arguments)
    words = shlex.split(utils.command(step, checkpoints, output_dir))
    for name, value in arguments.items():
        words += flag_of(name, value, arguments)
    return shlex.join(words)


def methods_there(folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """{flag: values} that name the methods in the table, and their combinations."""
    there = methods_in_table(folder)
    start, end = "mean(", ")"
    combined = [name for name in there if name.startswith(start)]
    flags = {}
    if combined:
        flags["combine"] = [name.removeprefix(start).removesuffix(end) for name in combined]
    if arguments.get("methods"):
        own = {text.rpartition(":")[2]: text for text in arguments["methods"] if ":" in text}
        single = [own.get(name, name) for name in there if name not in combined]
        flags["methods"] = single or arguments["methods"]
    return flags


def methods_in_table(folder: Path) -> list[str]:
    """The methods whose scores stand beside the table: with joined tables, more than were asked for
    last."""
    for name in records.listing(folder, "scores_ID_*.csv"):
        return list(records.read_sidecar(folder / name).get("thresholds") or {})
    return []


def flag_of(name: str, value: Any, arguments: Mapping[str, Any]) -> list[str]:
    """The words of one flag as a person would give it; none for one that was not given."""
    if not was_given(name, value, arguments):
        return []
    flag = f"--{name.replace('_', '-')}"
    if value is True or name == "no_neco_scaler":
        return [flag]
    if name == "groups":
        value = [group_text(group, members) for group, members in value]
    values = value if isinstance(value, list) else [value]
    return [flag, *map(str, values)]


def group_text(group: str, members: Sequence[str]) -> str:
    """A value of --groups: GROUP=NAME,NAME, or openood, which names no members."""
    return f"{group}={','.join(members)}" if members else group


def was_given(name: str, value: Any, arguments: Mapping[str, Any]) -> bool:
    """True if a recorded argument is one that the command has to repeat."""
    if name in ("caption", "label") and not arguments.get("latex"):
        return False
    if name in NOT_REPEATED or (name in DEFAULTS and value == DEFAULTS[name]):
        return False
    if name == "no_neco_scaler":  # recorded as False where the flag is given
        return value is not None
    return value is not None and value is not False and value not in ([], "")


def identity(checkpoint: str, folder: Path) -> Mapping[str, str | None]:
    """Which network the folder is of: as the checkpoint says, else the head, else a table."""
    trained = trained_as(checkpoint, folder)
    said: list[Mapping[str, str | None]] = [records.network_of(trained)]
    for name in ("head.csv", "ood_metrics.csv", "nc_metrics.csv"):
        said.append(records.origin(folder / name))
    return next((network for network in said if any(network.values())), {})


def read_checked(
    table: Table, network: Mapping[str, Any], stale: records.Stale
) -> pd.DataFrame | None:
    """A table, None without one; ValueError where it is broken, edited, or another network's."""
    if not table.file.exists():
        return None
    made_from = records.origin(table.file)
    known = any(made_from.values()) and any(network.values())
    if known and not records.same_network(made_from, network):
        was, expected = map(records.short_hash, (made_from, network))
        reason = f"{table.file} was made from another checkpoint ({was}, expected {expected})"
        stale.found(reason, table.command)
    frame = store.read_table(table.file, table.columns, stale, table.command)
    frame = texts(frame, [name for name in table.columns if name not in table.numbers])
    return typed(frame, table.numbers, table.file, table.command)


def typed(frame: pd.DataFrame, numbers: Sequence[str], file: Path, command: str) -> pd.DataFrame:
    """The table with numbers in these columns; ValueError with the first cell that is none."""
    numbers = [name for name in numbers if name in frame.columns]
    found = frame[numbers].apply(pd.to_numeric, errors="coerce")
    for name in numbers:
        wrong = found[name].isna() & frame[name].notna()
        if wrong.any():
            raise ValueError(
                f"{file} has {str(frame.loc[wrong, name].iloc[0])[:40]!r} in data row "
                f"{wrong.argmax() + 1} of column {name}, expected a number; "
                f"make it anew with: {command}"
            )
    return frame.assign(**{name: found[name] for name in numbers})


def texts(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with text in these columns, empty where nothing stands."""
    return frame.assign(**{name: frame[name].fillna("").astype(str) for name in columns})


def curves_files(trained: Path, sidecar: Mapping[str, Any]) -> list[Path]:
    """Where the curves of the run may stand: as the sidecar says, or by the names of its files."""
    place, stem = trained.parent, trained.stem
    kind = r"_(best|final|epoch\d+)(?=_|$)"
    names = [
        re.sub(kind, "_curves", stem, count=1) + ".csv",
        re.sub(kind, "", stem, count=1) + "_curves.csv",
    ]
    named = [records.inside(place, sidecar["curves"])] if sidecar.get("curves") else []
    return list(dict.fromkeys([*named, *(place / name for name in names)]))


def read_curves(
    path: Path | None, sidecar: Mapping[str, Any], stale: records.Stale
) -> pd.DataFrame | None:
    """The training curves as a table, None where there are none."""
    if path is None:
        return None
    command = training_command(sidecar)
    curves = store.read_table(path, CURVES_COLUMNS, stale, command)
    return typed(curves, [*CURVES_COLUMNS, "seconds"], path, command)


def training_command(sidecar: Mapping[str, Any]) -> str:
    """The command that trains the network once more, as its sidecar has it.

    It is quoted anew, since the sidecar may come from anywhere: a person pastes it into a shell.
    """
    unknown = "python train.py, with this run's arguments and --force"
    try:
        words = shlex.split(sidecar.get("command") or "")
    except ValueError:
        return unknown
    redo = {"train.py": ["--force"], "main.py": ["--force", "train"]}
    if len(words) < 2 or words[1] not in redo:
        return unknown
    return shlex.join([*words, *redo[words[1]]])


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of the stages and sidecars of the tables, by stem: what made each file."""
    tables = records.listing(folder, "*.csv") + records.listing(folder, "*.parquet")
    stems = sorted({*STAGES, *(Path(name).stem for name in tables)})
    found = {stem: dict(current.Record.read(folder / f"{stem}.json").content) for stem in stems}
    return {stem: record for stem, record in found.items() if "command" in record}


def figure_files(folder: Path, made_by: Mapping[str, dict[str, Any]]) -> list[Path]:
    """The PNGs of figures/; where stages recorded outputs only those, and none of an older run."""
    names = [f"figures/{name}" for name in records.listing(folder, FIGURES)]
    recorded = {name for record in made_by.values() for name in record.get("outputs", ())}
    return [records.inside(folder, name) for name in names if not recorded or name in recorded]


# ---- what is not there, or not as it was ---------------------------------------------------------


def missing_parts(
    folder: Path,
    trained: Path,
    tables: Mapping[str, Table],
    sidecar: Mapping[str, Any],
    head: Mapping[str, Any],
    curves: Path | None,
    images: Sequence[Path],
) -> Iterator[Missing]:
    """Each part that is lacking; a network that was not trained here lacks no training."""
    labelled = has_labels(folder)
    expected: tuple[str, ...] = ("ood", "nc", "per_class")
    if "members" in tables:
        expected = ("ood", "members")
    if not labelled:
        expected = ("ood",)
        yield Missing(f"{tables['nc'].file.name}: {UNLABELLED}", None)
    for table in (tables[name] for name in expected):
        if not table.file.exists():
            yield Missing(table.file.name, table.command)
    beside = "which train.py wrote beside the checkpoint"
    trained_here = bool(sidecar or curves or head.get("mode"))  # others have no recipe
    if trained_here and not sidecar:
        yield Missing(f"{records.sidecar_path(trained).name}, {beside}", None)
    if trained_here and curves is None:
        yield Missing(f"the training curves, {beside}", None)
    if not images:
        drawing = ("ood",) if "members" in tables or not labelled else ("ood", "nc")
        yield Missing(FIGURES, " && ".join(tables[name].command for name in drawing))


def has_labels(folder: Path) -> bool:
    """False where the training features say that nobody labelled their images."""
    names = records.listing(folder, "ID_*_train.json")
    return all(records.read_sidecar(folder / name).get("labelled", True) for name in names)


def stale_parts(stale: records.Stale, made_by: Mapping[str, dict[str, Any]]) -> list[str]:
    """What went in though it was changed: into this report, and into what it was made from."""
    reasons = list(stale.reasons)
    for stem, record in made_by.items():
        reasons += [
            f"{stem} was made with --allow-stale: {reason}"
            for reason in record.get("allowed_stale") or ()
        ]
    return list(dict.fromkeys(reasons))


if __name__ == "__main__":
    cli.run(main)
