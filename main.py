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
    # an ensemble: the seeds of one recipe, or all members that leave classes out
    python main.py --ensemble --checkpoint results/resnet18_best_s0.pth results/resnet18_best_s1.pth
    python main.py --dataset cifar10 --mode leave-out
    python main.py --model timm/resnet50 --pretrained --dataset birds=birds --ood textures
    # redo one stage and what follows from it
    python main.py --force ood

A stage is skipped if its outputs were made with the same arguments from the same files. An
interrupted training run is resumed. With --checkpoint nothing is trained: the checkpoint, yours or
another project's, is extracted, scored, measured and reported; with --pretrained the network of
timm or torchvision that --model names. Every flag of the five scripts is accepted here too and
handed to the stages that know it; --temperature beside --odin-epsilon is that of the perturbation
alone.

An ensemble is extracted, scored together and reported. Collapse is of a single network, so it has
no such stage. Of a leave-out ensemble, --odin-epsilon E --temperature T perturb the images of the
row LeaveOut."""

import shlex
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cli
import data
import feature_files
import neural_collapse
import ood_methods
import report
import run_networks
import train
import utils
from artifacts import current, records
from images import openood
from images.members import Member, fold_pattern
from networks import checkpoints as networks
from networks import onnx_graphs, pretrained
from networks.messages import some
from training import recipes

# Without --dataset: handwritten digits, trained far past the point where every training image is
# classified right.
EMBEDDED = {"dataset": "digits", "model": "resnet_cifar", "mode": "collapse", "epochs": "100"}

Arguments = Any  # argparse.Namespace, which only cli imports
Words = dict[str, list[str]]  # {stage: its command line}


class Script(Protocol):
    """What each of the five scripts offers."""

    __name__: str

    def make_parser(self) -> cli.Parser: ...

    def parse_args(self, argv: Sequence[str] | None = None) -> Arguments: ...

    def main(self, argv: Sequence[str] | None = None) -> int | None: ...


@dataclass(frozen=True)
class Stage:
    """One script, the stages it depends on, and the file that records its last finished run."""

    script: Script
    needs: tuple[str, ...]
    record: str


STAGES = {
    "train": Stage(train, (), ""),
    "extract": Stage(run_networks, ("train",), "run_networks.json"),
    "ood": Stage(ood_methods, ("extract",), "ood_methods.json"),
    "collapse": Stage(neural_collapse, ("extract",), "neural_collapse.json"),
    "report": Stage(report, ("ood", "collapse"), "report.json"),
}
OF_ONE_NETWORK = ("collapse",)  # stages that an ensemble does not have
LEAVE_OUT = "leave-out"  # the mode that trains the members of an ensemble


@dataclass(frozen=True)
class Chain:
    """What one run of main.py is to do."""

    args: Arguments
    words: Words  # of the stages that take part
    checkpoints: list[Path]  # that the later stages analyse: one, or an ensemble's members
    trainings: "list[Training]" = field(default_factory=list)  # none with --checkpoint

    @property
    def folder(self) -> Path:
        """The folder of the results, of an ensemble those of all members together."""
        if self.args.ensemble:
            return ood_methods.ensemble_folder(self.checkpoints, self.args.output_dir)
        return self.folder_of(self.checkpoints[0])

    @property
    def verify(self) -> bool:
        """Whether images are compared by content."""
        return "--verify" in self.words["extract"]

    def folder_of(self, checkpoint: Path) -> Path:
        """The folder of one network's features."""
        return Path(self.args.output_dir) / checkpoint.stem


@dataclass(frozen=True)
class Training:
    """One training run: its arguments and its files."""

    args: Arguments
    files: train.RunFiles

    def why_unfinished(self, verify: bool) -> str:
        """Why it still has to train, in words; "" where it is finished."""
        return train.why_unfinished(self.files, cli.material(self.args), verify)

    @property
    def has_ended(self) -> bool:
        """True if its last epoch was trained, whatever its arguments were."""
        return self.files.final.exists() and not self.files.last.exists()


# ---- arguments -----------------------------------------------------------------------------------


def make_parser() -> cli.Parser:
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
            "nargs": "+",
            "help": (
                "analyse this checkpoint and train nothing; add --model and --dataset if the file"
                " does not name them; several: with --ensemble"
            ),
        },
    )
    group = parser.add_argument_group("the chain")
    group.add_argument(
        "--ensemble",
        action="store_true",
        help="analyse several checkpoints as one classifier, as ood_methods.py --ensemble does",
    )
    group.add_argument(
        "--pretrained",
        action="store_true",
        help="analyse --model timm/NAME or torchvision/NAME with its published weights",
    )
    group.add_argument(
        "--use",
        choices=("best", "final"),
        help=(
            "checkpoint to analyse: best has the highest validation accuracy, final is that of the"
            " last epoch; default: final for --mode collapse, best for the other modes"
        ),
    )
    group.add_argument(
        "--force",
        nargs="+",
        choices=list(STAGES),
        default=[],
        metavar="STAGE",
        help=f"redo these stages and those that depend on them: {', '.join(STAGES)}",
    )
    group.add_argument(
        "--plan",
        action="store_true",
        help="check all stages' arguments, print their commands and run nothing",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> tuple[Arguments, Words]:
    """main.py's own arguments, and the command line of each stage that takes part."""
    parser = make_parser()
    args, others = parser.parse_known_args(argv)
    if args.plan and args.force:
        parser.error("--plan shows what a whole run does; leave --force out")
    others = with_all_folds(args, others)
    args.perturbs = any(group[0].startswith("--odin-epsilon") for group in groups(others))
    if args.checkpoint and args.pretrained:
        parser.error("--pretrained and --checkpoint both say which weights to take; give one")
    if args.checkpoint:
        check_number(parser, args)
    if is_analysis(args):
        given = analysis_flags(parser, args)
    else:
        check_trains_ensemble(parser, args)
        given = training_flags(args, others)
    words: Words = {name: [] for name in stages_of(parser, args)}
    given += [["--data-dir", args.data_dir], ["--output-dir", args.output_dir]]
    for group in [*given, *groups(others)]:
        for name in takers(parser, group, args):
            words[name] += group
    if args.ensemble:
        words["ood"] += ["--ensemble", *perturbed(words["extract"])]
    return args, words


def is_analysis(args: Arguments) -> bool:
    """True where nothing is trained."""
    return bool(args.checkpoint or args.pretrained)


def with_all_folds(args: Arguments, others: list[str]) -> list[str]:
    """The words that main.py does not know itself, with --fold all where the mode asks for a fold
    and none is named: the chain is of the whole ensemble."""
    if args.mode != LEAVE_OUT or args.checkpoint:
        return others
    args.ensemble = True
    named = any(group[0].partition("=")[0] == "--fold" for group in groups(others))
    return others if named else [*others, "--fold", "all"]


def check_number(parser: cli.Parser, args: Arguments) -> None:
    """A usage error for several checkpoints that are no ensemble, and for an ensemble of one."""
    count = len(args.checkpoint)
    if count > 1 and not args.ensemble:
        parser.error(
            f"--checkpoint names {count} networks; analyse each by itself, or all as one classifier"
            " with --ensemble"
        )
    if count == 1 and args.ensemble:
        parser.error(
            f"--ensemble is of two or more networks, found only {args.checkpoint[0]}; name all"
            " members after --checkpoint"
        )


def check_trains_ensemble(parser: cli.Parser, args: Arguments) -> None:
    """A usage error for --ensemble where one network is trained."""
    if args.ensemble and args.mode != LEAVE_OUT:
        parser.error(
            "--ensemble is of several networks, and this trains one; name trained ones after"
            f" --checkpoint, or train an ensemble with --mode {LEAVE_OUT}"
        )


def stages_of(parser: cli.Parser, args: Arguments) -> list[str]:
    """The stages that take part; a usage error where --force names another one."""
    left_out = {"train"} if is_analysis(args) else set()
    if args.ensemble:
        left_out |= set(OF_ONE_NETWORK)
    for name in OF_ONE_NETWORK:
        if name in left_out and name in args.force:
            parser.error(f"--force {name}: an ensemble has no such stage; leave it out")
    return [name for name in STAGES if name not in left_out]


def perturbed(words: Sequence[str]) -> list[str]:
    """The flag of ood_methods.py that takes the images which this extraction perturbs; none where
    it perturbs none.

    ValueError for a grid, of which a pair is to be chosen first."""
    args = run_networks.make_parser().parse_args(words)
    if args.odin_epsilon is None:
        return []
    if len(args.odin_epsilon) > 1 or len(args.temperature) > 1:
        raise ValueError(
            "several --odin-epsilon or --temperature are a grid, of which a pair is chosen first:"
            ' run run_networks.py and ood_methods.py with --val-ood (docs/methods.md, "An'
            ' ensemble"), then give main.py that pair'
        )
    return ["--perturbed", f"{args.temperature[0]:g}", f"{args.odin_epsilon[0]:g}"]


def analysis_flags(parser: cli.Parser, args: Arguments) -> list[list[str]]:
    """With --checkpoint or --pretrained: the flags of main.py that go to the stages, each with its
    values; a usage error for a flag that only training has."""
    how = "--checkpoint" if args.checkpoint else "--pretrained"
    for flag in ("mode", "use"):
        if getattr(args, flag):
            parser.error(
                f"--{flag} is of training, and {how} trains nothing; leave one of them out"
            )
    if "train" in args.force:
        parser.error(f"--force train: {how} trains nothing; leave one of them out")
    given = as_given(args, ("dataset", "model"))
    words = [[f"--{flag}", value] for flag, value in given.items()]
    if args.ood:
        words.append(["--ood", *map(str, args.ood)])
    if args.pretrained:
        words.append(["--pretrained"])
    return words


def training_flags(args: Arguments, others: Sequence[str]) -> list[list[str]]:
    """Without --checkpoint: the flags of main.py that go to the stages, each with its values,
    defaults included.

    Sets args.dataset and args.ood where they were not given. others: words that main.py's own
    parser does not know.
    """
    given = as_given(args, ("dataset", "model", "mode"))
    if args.dataset is None or args.dataset.text == EMBEDDED["dataset"]:
        given = {**EMBEDDED, **given}
        has_epochs = "--epochs" in " ".join(others)
        if has_epochs or given["mode"] != EMBEDDED["mode"]:
            given.pop("epochs")
    args.dataset = openood.id_place(utils.SetName.parse(given["dataset"]), args.data_dir)
    args.ood = args.ood or run_networks.default_ood(args.dataset)
    if not args.ood:
        raise ValueError(
            f"{args.dataset} has no OOD sets of its own; name some with --ood, such as --ood"
            " textures svhn"
        )
    words = [[f"--{flag}", value] for flag, value in given.items()]
    return [*words, ["--ood", *map(str, args.ood)]]


def as_given(args: Arguments, flags: Iterable[str]) -> dict[str, str]:
    """{flag: its value as text} of those flags that were given."""
    values = {flag: getattr(args, flag) for flag in flags}
    return {flag: str(value) for flag, value in values.items() if value}


def takers(parser: cli.Parser, group: Sequence[str], args: Arguments) -> list[str]:
    """The stages that a flag goes to; a usage error if no script knows it.

    group: the flag and its values, as `groups` makes it.
    """
    flag = group[0].partition("=")[0]
    if flag == "--match-format":
        parser.error(
            "--match-format makes features beside those of this chain, in results/<stem>_matched:"
            " run run_networks.py with it, then ood_methods.py --checkpoint results/<stem>_matched"
        )
    known = [name for name, stage in STAGES.items() if stage.script.make_parser().knows(flag)]
    if not known or not flag.startswith("--"):
        parser.error(f"unrecognised: {' '.join(group)}; no stage has such a flag")
    if flag == "--temperature":  # of ODIN's softmax, or of Energy's
        return ["extract"] if args.perturbs else ["ood"]
    if flag == "--val-ood":  # of the parameters of scores; that of a grid is no part of this chain
        return ["ood"]
    if args.ensemble:
        if set(known) <= set(OF_ONE_NETWORK):
            parser.error(f"{flag} is of neural collapse, which an ensemble does not have")
        known = [name for name in known if name not in OF_ONE_NETWORK]
    if is_analysis(args):
        if known == ["train"]:
            how = "--checkpoint" if args.checkpoint else "--pretrained"
            parser.error(f"{flag} is of training, and {how} trains nothing; leave one of them out")
        return without(known, "train")
    if flag == "--workers" and not is_in_files(args):  # but OOD sets may be
        known = without(known, "train")
    # The checkpoint that was trained states its network and its classes, so extraction reads them
    # from there. Only a person's own code has to be named again: nothing else lets it run.
    names_own_code = ":" in group[-1]
    if flag == "--held-out" or (flag == "--model" and not names_own_code):
        return without(known, "extract")
    return known


def is_in_files(args: Arguments) -> bool:
    """True where the training images lie in files."""
    train = args.dataset.split("train")
    return data.folder_of(train, args.data_dir) is not None


def without(names: Iterable[str], left_out: str) -> list[str]:
    return [name for name in names if name != left_out]


def groups(words: Iterable[str]) -> list[list[str]]:
    """["--lr", "0.1", "--methods", "MSP", "ViM"] -> [["--lr", "0.1"], ["--methods", "MSP",
    "ViM"]]."""
    found: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not found:
            found.append([word])
        else:
            found[-1].append(word)
    return found


# ---- the run -------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the stages that are not current; the exit code of the first that fails."""
    chain = prepare(argv)
    if chain.args.plan:
        print_plan(chain)
        return None
    redone: set[str] = set()
    seconds = {}
    for name in chain.words:
        forced = is_forced(name, chain.args, redone)
        reason = "" if forced else why_outdated(name, chain)
        if not forced and not reason:
            continue
        start = time.perf_counter()
        if code := run_stage(name, chain, forced, reason):
            return code
        redone.add(name)
        seconds[name] = time.perf_counter() - start
    times = [f"{name} {value:.1f} s" for name, value in seconds.items()]
    print("\n" + ("; ".join(times) or "all is current"))
    print(f"report: {chain.folder / 'report.html'}")
    return None


def prepare(argv: Sequence[str] | None) -> Chain:
    """What is to be done, checked: every mistake in the arguments of any stage shows here, before
    the first stage starts."""
    args, words = parse_args(argv)
    trainings = []
    if args.pretrained:
        checkpoints = [pretrained.path_of(args.model or "", args.output_dir)]
    elif args.checkpoint:
        checkpoints = [Path(name) for name in args.checkpoint]
        if not args.ensemble:
            refuse_member(checkpoints[0])
    else:
        trainings = trainings_of(args, words["train"])
        kind = args.use or kept(words["train"])
        checkpoints = [training.files.checkpoint(kind) for training in trainings]
    chain = Chain(args, words, checkpoints, trainings)
    for name, own in words.items():
        makes_it = name == "train" or (name == "extract" and args.pretrained)
        if not makes_it:
            own += ["--checkpoint", *analysed(name, chain)]
    utils.writable_folder(args.output_dir)
    for name, own in words.items():
        STAGES[name].script.parse_args(own)
    if trainings:
        check_cache(args, words["train"])
    check_groups(chain, words["ood"])
    return chain


def check_cache(args: Arguments, words: Sequence[str]) -> None:
    """ValueError for --cache none of a data set that is read as a whole, as training has it."""
    if train.parse_args(words).cache == "none" and not is_in_files(args):
        raise ValueError(
            f"--cache none is of images in files, and {args.dataset} is read into memory as a"
            " whole; leave it out"
        )


def check_groups(chain: Chain, words: Sequence[str]) -> None:
    """ValueError where OpenOOD's groups are asked for and it has none for the ID set, or where a
    group names a set that is neither in --ood nor in the folder; where the checkpoint alone names
    the sets, scoring says so."""
    args, asked = chain.args, ood_methods.parse_args(words)
    groups = dict(asked.groups)
    if args.dataset is not None and groups.get(openood.GROUP) == []:
        openood.benchmark_for(args.dataset.name, "--groups")
    named = [given.name for given in asked.ood or args.ood or []]
    if not named or openood.GROUP in named:
        return
    there = [given.name for given in feature_files.sets_in(chain.folder)]
    for group, members in groups.items():
        for member in members:
            if member not in [*named, *there]:
                raise ValueError(
                    f"--groups {group}={','.join(members)}: {member} is not among the OOD sets"
                    f" {', '.join(named)}; name it in --ood too, or mend its name"
                )


def analysed(name: str, chain: Chain) -> list[str]:
    """What a stage is to analyse, as --checkpoint names it."""
    if name == "report" and chain.args.ensemble:
        return [str(chain.folder)]
    return [str(path) for path in chain.checkpoints]


def refuse_member(checkpoint: Path) -> None:
    """ValueError for a checkpoint of one member of a leave-out ensemble: alone it does not know all
    classes. A file that is not there is named by the stage that needs it."""
    if not checkpoint.is_file() or onnx_graphs.is_onnx(checkpoint):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # extraction reads the file again, and warns then
        member = Member.of(networks.read(checkpoint))
    if not member:
        return
    pattern = fold_pattern(checkpoint.name)
    others = [checkpoint.parent / name for name in records.listing(checkpoint.parent, pattern)]
    command = shlex.join(["python", "main.py", "--ensemble", "--checkpoint", *map(str, others)])
    raise ValueError(
        f"{checkpoint} is member {member.fold} of {member.folds} of a leave-out ensemble and"
        f" does not know {some(member.left_out)}; analyse all members together: {command}"
    )


def trainings_of(args: Arguments, words: Sequence[str]) -> list[Training]:
    """The training runs with this command line: one, or one for each member of an ensemble.

    ValueError if it trains one member alone, and if held_out is to be an OOD set and training
    leaves no class out.
    """
    training = train.parse_args(words)
    if training.fold not in (None, "all"):
        raise ValueError(
            f"--fold {training.fold} trains one member of a leave-out ensemble, and main.py"
            " analyses whole ones; leave --fold out, or train it with: python train.py --mode"
            " leave-out ..."
        )
    if any(asked.is_held_out for asked in args.ood) and not training.held_out:
        raise ValueError(
            "the OOD set held_out needs classes that are left out of training: name them with"
            " --held-out, or name other sets with --ood"
        )
    return [
        Training(run, train.run_files(args.output_dir, run.model, run.suffix))
        for run in train.runs(training)
    ]


def kept(words: Sequence[str]) -> str:
    """The kind of checkpoint, best or final, that the recipe of this training run recommends."""
    mode = train.parse_args(words).mode
    return recipes.RECIPES[mode].keep


def is_forced(name: str, args: Arguments, redone: set[str]) -> bool:
    """True if --force names this stage, or if --force is given and a stage that it depends on was
    redone."""
    if name in args.force:
        return True
    return bool(args.force) and not redone.isdisjoint(STAGES[name].needs)


def why_outdated(name: str, chain: Chain) -> str:
    """Why a stage has to run, in words; "" if its outputs are what it would make now."""
    stage = STAGES[name]
    own = stage.script.parse_args(chain.words[name])
    if name == "train":
        reasons = [training.why_unfinished(chain.verify) for training in chain.trainings]
        return next(filter(None, reasons), "")
    if name == "extract":
        reasons = [why_unextracted(path, own, chain) for path in chain.checkpoints]
        return next(filter(None, reasons), "")
    record = current.Record.read(chain.folder / stage.record)
    reason = record.why_outdated(cli.material(own), chain.verify)
    if name == "ood" and not reason:
        return ood_methods.why_incomplete(chain.folder, own)
    return reason


def why_unextracted(checkpoint: Path, own: Arguments, chain: Chain) -> str:
    """Why one network's features are to be made, in words; "" where they are there."""
    record = current.Record.read(chain.folder_of(checkpoint) / STAGES["extract"].record)
    reason = record.why_outdated(cli.material(own), chain.verify)
    if reason:
        return reason
    # Another folder may hold another checkpoint of the same name.
    if record.has_read(str(checkpoint)):
        return ""
    return f"it was made of another {checkpoint}"


def run_stage(name: str, chain: Chain, forced: bool, reason: str) -> int | None:
    """Run one stage -> the exit code of its script.

    reason: why the stage runs; "" if it is forced.
    """
    own = [*chain.words[name]]
    if name == "train":
        run_networks.main(fetch_words(chain))
        own.append(how_to_train(chain, forced))
    elif name == "extract" and forced:
        own.append("--force")
    script = STAGES[name].script
    print(f"\n== {name}: {script.__name__}.py {shlex.join(own)}")
    if reason:
        print(f"   ({reason})", flush=True)
    return script.main(own)


def how_to_train(chain: Chain, forced: bool) -> str:
    """The flag that makes train.py start over or go on.

    A finished run starts over: it is only trained again if its arguments or images changed.
    """
    ended = [training for training in chain.trainings if training.has_ended]
    is_outdated = any(training.why_unfinished(chain.verify) for training in ended)
    return "--force" if forced or is_outdated else "--resume"


def fetch_words(chain: Chain) -> list[str]:
    """The command line with which run_networks.py checks that all data is at hand, before anything
    is trained."""
    args = chain.args
    words = ["--fetch", "--dataset", str(args.dataset), "--data-dir", args.data_dir]
    words += ["--ood", *map(str, args.ood)]
    for group in groups(chain.words["extract"]):
        if group[0].startswith(("--max-pixels", "--skip-broken")):
            words += group
    return words


def print_plan(chain: Chain) -> None:
    """Print the command that fetches the data and then the command of every stage, one per line and
    quoted for a shell: slurm/chain.sbatch goes by it."""
    commands = [(STAGES[name].script, own) for name, own in chain.words.items()]
    if chain.trainings:
        commands.insert(0, (run_networks, fetch_words(chain)))
    for script, own in commands:
        print(shlex.join(["python", f"{script.__name__}.py", *own]))


if __name__ == "__main__":
    cli.run(main)
