"""The whole chain on one data set: train, extract, score, measure collapse, report.

    python main.py                                          # handwritten digits on the CPU, nothing to download
    python main.py --dataset cifar100 --model resnet18 --ood svhn textures --epochs 200
    python main.py --dataset cifar100 --ood svhn mine=path/to/photographs --methods MSP ViM --vim-dim 300
    python main.py --force ood                              # redo one stage and what follows from it

A stage whose outputs are there, and were made with the same arguments from the same files, is skipped; an interrupted training
run goes on where it was. Every flag of the five scripts is taken here too and handed to the stages that know it.
"""
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import cli
import neural_collapse
import ood_methods
import recipes
import records
import report
import run_networks
import train
import utils

# Without --dataset: handwritten digits, trained far past the point where every training image is classified right.
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


def parse_args(argv=None):
    """-> (main's own arguments, {stage: the words handed to its script})."""
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "dataset", "model", "mode", "ood", "data-dir", "output-dir")
    parser.add_argument("--use", choices=("best", "final"), help="checkpoint to go on with: of the highest validation accuracy, or "
                        "of the last epoch; default: final for --mode collapse, best for others")
    parser.add_argument("--force", nargs="+", choices=list(STAGES), default=[], metavar="STAGE",
                        help=f"redo these stages and what follows from them: {', '.join(STAGES)}")
    parser.add_argument("--plan", action="store_true", help="check all stages' arguments, print their commands and run nothing")
    args, others = parser.parse_known_args(argv)
    if args.plan and args.force:
        parser.error("--plan shows what a whole run does; leave --force out")
    words = {name: [] for name in STAGES}
    embedded = args.dataset in (None, EMBEDDED["dataset"])
    given = {flag: value for flag, value in vars(args).items() if flag in ("dataset", "model", "mode") and value}
    if embedded:
        given = {**EMBEDDED, **given}
        if "--epochs" in " ".join(others) or given["mode"] != EMBEDDED["mode"]:
            given.pop("epochs")
    args.dataset = given["dataset"]
    own = [[f"--{flag}", value] for flag, value in given.items()]
    own += [[f"--{flag}", getattr(args, flag.replace("-", "_"))] for flag in ("data-dir", "output-dir")]
    args.ood = args.ood or run_networks.default_ood(args.dataset)
    if not args.ood:
        raise ValueError(f"{args.dataset} has no OOD sets of its own; name some with --ood, such as --ood textures svhn")
    own += [["--ood", *args.ood]]
    for group in [*own, *groups(others)]:
        takers = [name for name, stage in STAGES.items() if stage.script.make_parser().knows(group[0].partition("=")[0])]
        if not takers or not group[0].startswith("--"):
            parser.error(f"unrecognised: {' '.join(group)}; no stage has such a flag")
        if group[0].partition("=")[0] == "--checkpoint":
            parser.error("--checkpoint is what the first stage makes here; to go on from one of yours, run the scripts one by one")
        for name in takers:
            # run_networks reads the network from the checkpoint; code is run only where the person names it.
            if not (name == "extract" and group[0] == "--model") or ":" in group[-1]:
                words[name] += group
    return args, words


def groups(words):
    """["--lr", "0.1", "--methods", "MSP", "ViM"] -> [["--lr", "0.1"], ["--methods", "MSP", "ViM"]]."""
    found = []
    for word in words:
        if word.startswith("--") or not found:
            found.append([word])
        else:
            found[-1].append(word)
    return found


def main(argv=None):
    args, words = parse_args(argv)
    training = train.parse_args(words["train"])
    files = train.run_files(args.output_dir, training.model, training.suffix)
    checkpoint = files[args.use or recipes.RECIPES[training.mode].keep]
    for name in ("extract", "ood", "collapse", "report"):
        words[name] += ["--checkpoint", str(checkpoint)]
    if "held_out" in args.ood and not training.held_out:
        raise ValueError("the OOD set held_out needs classes that are left out of training: name them with --held-out, or name "
                         "other sets with --ood")
    utils.writable_folder(args.output_dir)
    finished = {name: Path(args.output_dir) / checkpoint.stem / stage.record for name, stage in STAGES.items()}
    finished["train"] = records.sidecar_path(checkpoint)
    for name, stage in STAGES.items():  # every mistake in every stage's arguments shows before the first starts
        stage.script.parse_args(words[name])
    fetch = ["--fetch", "--dataset", args.dataset, "--data-dir", args.data_dir, "--ood", *args.ood]
    fetch += [word for group in groups(words["extract"]) if group[0].startswith("--max-pixels") for word in group]
    if args.plan:
        return print_plan(fetch, words)
    redone, seconds = set(), {}
    for name, stage in STAGES.items():
        forced = name in args.force or (args.force and redone.intersection(stage.needs))
        if not forced and is_current(name, stage, finished[name], words):
            continue
        if name == "train":
            run_networks.main(fetch)
            other = files["final"].exists() and not files["last"].exists()  # a run with other arguments: redone, as asked
            words[name] += ["--force" if forced or other else "--resume"]
        elif name == "extract" and forced:
            words[name] += ["--force"]
        print(f"\n== {name}: {stage.script.__name__}.py {' '.join(words[name])}", flush=True)
        start = time.perf_counter()
        if code := stage.script.main(words[name]):
            return code
        redone.add(name)
        seconds[name] = time.perf_counter() - start
    print("\n" + ("; ".join(f"{name} {value:.1f} s" for name, value in seconds.items()) if seconds else "all is current"))
    print(f"report: {finished['report'].parent / 'report.html'}")


def print_plan(fetch, words):
    """What fetches the data, and then every stage's command, a line each, quoted for a shell: slurm/chain.sbatch goes by it."""
    for script, own in [(run_networks, fetch), *((stage.script, words[name]) for name, stage in STAGES.items())]:
        print(shlex.join(["python", f"{script.__name__}.py", *own]))


def is_current(name, stage, record, words):
    """Whether a stage need not run. Folders of images may have changed unseen, so the extraction looks at them each time."""
    if name == "extract" and any("=" in text for text in words[name]):
        return False
    return records.is_current(record, cli.material(stage.script.parse_args(words[name])))


if __name__ == "__main__":
    cli.run(main)
