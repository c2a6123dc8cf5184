"""The whole chain on one data set: train, extract, score, measure collapse, report.

    # handwritten digits on the CPU, nothing to download
    python main.py
    python main.py --dataset cifar100 --model resnet18 --ood svhn textures --epochs 200
    python main.py --dataset cifar100 --ood svhn mine=path/to/photographs \\
        --methods MSP ViM --vim-dim 300
    python main.py --checkpoint results/resnet18_best_cifar100_s0.pth \\
        --ood svhn mine=path/to/photographs
    python main.py --checkpoint elsewhere.pth --model my_network.py:build \\
        --dataset cifar100 --mean 0 --std 1
    # redo one stage and what follows from it
    python main.py --force ood

A stage whose outputs are there, and were made with the same arguments from the same files, is
skipped; an interrupted training run goes on where it was. With --checkpoint nothing is trained: the
checkpoint, yours or another project's, is extracted, scored, measured and reported. Every flag of
the five scripts is taken here too and handed to the stages that know it."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import cli
import neural_collapse
import ood_methods
import report
import run_networks
import train
import utils
from artifacts import current
from training import recipes

# Without --dataset: handwritten digits, trained far past the point where every training image is
# classified right.
EMBEDDED = {"dataset": "digits", "model": "resnet_cifar", "mode": "collapse", "epochs": "100"}


@dataclass(frozen=True)
class Stage:
    """One script, what it works from, and the file that records its last finished run."""

    script: object
    needs: tuple
    record: str


STAGES = {
    "train": Stage(train, (), ""),
    "extract": Stage(run_networks, ("train",), "run_networks.json"),
    "ood": Stage(ood_methods, ("extract",), "ood_methods.json"),
    "collapse": Stage(neural_collapse, ("extract",), "neural_collapse.json"),
    "report": Stage(report, ("ood", "collapse"), "report.json"),
}


# ---- arguments -----------------------------------------------------------------------------------


def make_parser():
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        "checkpoint",
        "dataset",
        "model",
        "mode",
        "ood",
        "data-dir",
        "output-dir",
        checkpoint={
            "help": (
                "analyse this checkpoint and train nothing; add --model and --dataset where the"
                " file does not say them"
            )
        },
    )
    group = parser.add_argument_group("the chain")
    group.add_argument(
        "--use",
        choices=("best", "final"),
        help=(
            "checkpoint to go on with: of the highest validation accuracy, or "
            "of the last epoch; default: final for --mode collapse, best for others"
        ),
    )
    group.add_argument(
        "--force",
        nargs="+",
        choices=list(STAGES),
        default=[],
        metavar="STAGE",
        help=f"redo these stages and what follows from them: {', '.join(STAGES)}",
    )
    group.add_argument(
        "--plan",
        action="store_true",
        help="check all stages' arguments, print their commands and run nothing",
    )
    return parser


def parse_args(argv=None):
    """-> (main's own arguments, {stage: the words handed to its script})."""
    parser = make_parser()
    args, others = parser.parse_known_args(argv)
    if args.plan and args.force:
        parser.error("--plan shows what a whole run does; leave --force out")
    given = of_a_checkpoint(parser, args) if args.checkpoint else of_a_training(args, others)
    given += [["--data-dir", args.data_dir], ["--output-dir", args.output_dir]]
    stages = [name for name in STAGES if name != "train" or not args.checkpoint]
    words = {name: [] for name in stages}
    for group in [*given, *groups(others)]:
        for name in takers(parser, group, args):
            words[name] += group
    return args, words


def of_a_checkpoint(parser, args):
    """The flags that only an analysis has: what the checkpoint does not say of itself."""
    for flag in ("mode", "use"):
        if getattr(args, flag):
            parser.error(
                f"--{flag} is of training, and --checkpoint trains nothing; leave one of them out"
            )
    if "train" in args.force:
        parser.error("--force train: --checkpoint trains nothing; leave one of them out")
    given = [
        [f"--{flag}", str(getattr(args, flag))]
        for flag in ("dataset", "model")
        if getattr(args, flag)
    ]
    return given + ([["--ood", *map(str, args.ood)]] if args.ood else [])


def of_a_training(args, others):
    """The flags of a whole run, with what is taken where nobody says; sets args.dataset and
    args.ood."""
    given = {
        flag: str(getattr(args, flag))
        for flag in ("dataset", "model", "mode")
        if getattr(args, flag)
    }
    if args.dataset is None or args.dataset.text == EMBEDDED["dataset"]:
        given = {**EMBEDDED, **given}
        if "--epochs" in " ".join(others) or given["mode"] != EMBEDDED["mode"]:
            given.pop("epochs")
    args.dataset = utils.SetName.parse(given["dataset"])
    args.ood = args.ood or run_networks.default_ood(args.dataset)
    if not args.ood:
        raise ValueError(
            f"{args.dataset} has no OOD sets of its own; name some with --ood, such as --ood"
            " textures svhn"
        )
    words = [[f"--{flag}", value] for flag, value in given.items()]
    return [*words, ["--ood", *map(str, args.ood)]]


def takers(parser, group, args):
    """The stages whose scripts know this flag; a usage error where none does."""
    flag = group[0].partition("=")[0]
    known = [name for name, stage in STAGES.items() if stage.script.make_parser().knows(flag)]
    if not known or not flag.startswith("--"):
        parser.error(f"unrecognised: {' '.join(group)}; no stage has such a flag")
    if not args.checkpoint:
        # run_networks reads the network's name from the checkpoint; code is run only where the
        # person names it.
        said = flag == "--held-out" or (flag == "--model" and ":" not in group[-1])
        return [name for name in known if not (name == "extract" and said)]
    if known == ["train"]:
        parser.error(
            f"{flag} is of training, and --checkpoint trains nothing; leave one of them out"
        )
    return [name for name in known if name != "train"]


def groups(words):
    """["--lr", "0.1", "--methods", "MSP", "ViM"] -> [["--lr", "0.1"], ["--methods", "MSP",
    "ViM"]]."""
    found = []
    for word in words:
        if word.startswith("--") or not found:
            found.append([word])
        else:
            found[-1].append(word)
    return found


# ---- the run -------------------------------------------------------------------------------------


def main(argv=None):
    args, words = parse_args(argv)
    files = None if args.checkpoint else training_files(args, words["train"])
    checkpoint = Path(args.checkpoint) if args.checkpoint else chosen(files, args, words["train"])
    for name in words:
        if name != "train":
            words[name] += ["--checkpoint", str(checkpoint)]
    utils.writable_folder(args.output_dir)
    for name in words:  # every mistake in every stage's arguments shows before the first starts
        STAGES[name].script.parse_args(words[name])
    if args.plan:
        return print_plan(args, words)
    folder, redone, seconds = Path(args.output_dir) / checkpoint.stem, set(), {}
    for name, stage in STAGES.items():
        if name not in words:
            continue
        forced = name in args.force or bool(args.force and redone.intersection(stage.needs))
        reason = "" if forced else why_outdated(name, folder, files, words)
        if not (forced or reason):
            continue
        start = time.perf_counter()
        if code := run_stage(name, args, words, files, forced, reason):
            return code
        redone.add(name)
        seconds[name] = time.perf_counter() - start
    print(
        "\n"
        + (
            "; ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
            if seconds
            else "all is current"
        )
    )
    print(f"report: {folder / 'report.html'}")


def training_files(args, words):
    """The files of the training run that these words describe."""
    training = train.parse_args(words)
    if any(asked.is_held_out for asked in args.ood) and not training.held_out:
        raise ValueError(
            "the OOD set held_out needs classes that are left out of training: name them with"
            " --held-out, or name other sets with --ood"
        )
    return train.run_files(args.output_dir, training.model, training.suffix)


def chosen(files, args, words):
    """The checkpoint of the run that the later stages go on with."""
    return files.checkpoint(args.use or recipes.RECIPES[train.parse_args(words).mode].keep)


def why_outdated(name, folder, files, words):
    """Why a stage has to run, in words; "" where its outputs are what it would make now."""
    script, own = STAGES[name].script, words[name]
    arguments = cli.material(script.parse_args(own))
    verify = "--verify" in words["extract"]
    if name == "train":
        return train.why_unfinished(files, arguments, verify)
    record = current.Record.read(folder / STAGES[name].record)
    reason = record.why_outdated(arguments, verify)
    if name == "extract" and not reason:
        # another folder may hold another checkpoint of the same name
        checkpoint = script.parse_args(own).checkpoint[0]
        return "" if record.has_read(checkpoint) else f"it was made of another {checkpoint}"
    return reason


def run_stage(name, args, words, files, forced, reason):
    """One stage -> its script's exit code; `reason` is why it runs, where nobody forced it."""
    own = [*words[name]]
    if name == "train":
        run_networks.main(fetch_words(args, words))
        finished = files.final.exists() and not files.last.exists()
        # a run with other arguments is redone, as asked
        own += ["--force" if forced or finished else "--resume"]
    elif name == "extract" and forced:
        own += ["--force"]
    script = STAGES[name].script
    print(f"\n== {name}: {script.__name__}.py {shlex.join(own)}")
    if reason:
        print(f"   ({reason})", flush=True)
    return script.main(own)


def fetch_words(args, words):
    """The words that make run_networks.py see that all data is at hand, before anything is
    trained."""
    bounds = [
        word
        for group in groups(words["extract"])
        if group[0].startswith("--max-pixels")
        for word in group
    ]
    return [
        "--fetch",
        "--dataset",
        str(args.dataset),
        "--data-dir",
        args.data_dir,
        "--ood",
        *map(str, args.ood),
        *bounds,
    ]


def print_plan(args, words):
    """What fetches the data, and then every stage's command, a line each, quoted for a shell:
    slurm/chain.sbatch goes by it."""
    commands = [(STAGES[name].script, own) for name, own in words.items()]
    if not args.checkpoint:
        commands.insert(0, (run_networks, fetch_words(args, words)))
    for script, own in commands:
        print(shlex.join(["python", f"{script.__name__}.py", *own]))


if __name__ == "__main__":
    cli.run(main)
