"""Train a classifier: one loop, recipes as rows of a table.

    python train.py --dataset cifar100 --model resnet18 --mode best --seed 0
    python train.py --dataset cifar100 --model resnet_cifar --mode sgd --epochs 30 --suffix quick
    python train.py --dataset digits --held-out 8 9 --mode collapse
    python train.py --dataset cifar100 --model resnet18 --mode collapse --save-every 25 --track-nc 5
    # continue an interrupted run; on a CPU it ends bit for bit like one that was not interrupted
    python train.py --dataset cifar100 --model resnet18 --resume
    # from the weights of a file, whose classifier is drawn anew where its classes are others
    python train.py --dataset birds=birds --model timm/resnet50 --weights model.safetensors
    # fine-tuning by steps; the classifier alone, on features that are computed once
    python train.py --dataset birds=birds --model timm/resnet50 --mode finetune --pretrained
    python train.py --dataset birds=birds --model timm/vit_tiny_patch16_224 --mode finetune \\
        --weights vit.npz --freeze --suffix birds_head
    # one of five networks that each leave out two classes, or all five in turn
    python train.py --dataset cifar10 --model densenet_bc100_12 --mode leave-out --fold 1
    python train.py --dataset cifar10 --model densenet_bc100_12 --mode leave-out --fold all
    # the same batches, a quarter of each on every GPU
    torchrun --nproc-per-node 4 train.py --dataset cifar100 --model resnet18

Writes into --output-dir: <model>_best_<suffix>.pth (highest validation accuracy) and
<model>_final_<suffix>.pth (last epoch), each with a .json that records how it was made;
<model>_curves_<suffix>.csv and .png; <model>_training_history_<suffix>.json;
<model>_log_<suffix>.txt; with --save-every also <model>_epoch<E>_<suffix>.pth, to follow neural
collapse over training, and with --save-every-eval <model>_step<S>_<suffix>.pth. Members of a
leave-out ensemble have _fold<K>of<N> behind their suffix. During the run
<model>_last_<suffix>.pth holds its newest complete state;
SIGTERM, SIGUSR1 and Ctrl-C save it and exit with code 75.

Several processes (torchrun, or srun in a Slurm job) split each batch: --batch-size and --lr apply
to all of them together, and mean the same for any number of GPUs. Batch norm uses the statistics
of each process's part of the batch."""

import contextlib
import copy
import math
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import torch
from torch import nn

import cli
import console
import data
import figures
import machine_memory
import processes
import threads
import utils
from artifacts import current, records
from extraction import extractor
from images import folders, openood, reading, serving
from images.serving import Serving
from images.sets import ImageFiles, Set
from networks import classifiers, library_names, pretrained, registry, source_files
from processes import World
from training import (
    augment,
    frozen,
    leave_out,
    precision,
    recipes,
    signals,
    start,
    tta,
    winograd,
)
from training.files import RunFiles
from training.outputs import Outputs
from training.run import Options, Run
from training.signals import StopRequest
from training.state import Facts, State

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: a batch script requeues on it
FINETUNE = "finetune"  # the mode that starts from weights
NAME_BYTES = 255  # longest file name on nearly every file system

WORKERS_HELP = (
    "processes that decode images in files ahead of the training, 0 for none; default: 2 beside a"
    " CPU's own work, 2 to 16 of the cores for a GPU. Images that are held in memory are decoded"
    " once, by as many threads"
)
CACHE_HELP = (
    "where images in files come from: memory, decoded once, or none, decoded whenever they are"
    " needed; the same bits. Default: memory where they take at most a quarter of what is free"
)
Arguments = Any  # argparse.Namespace, which only cli imports


def make_parser() -> cli.Parser:
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    add_shared_flags(parser)
    add_recipe_flags(parser.add_argument_group("recipe"))
    add_data_flags(parser.add_argument_group("data"))
    add_run_flags(parser.add_argument_group("run"))
    add_old_flags(parser.add_argument_group("older spellings, of NECO's and of Google's ViT code"))
    return parser


def add_shared_flags(parser: cli.Parser) -> None:
    """The flags that train.py has in common with other scripts."""
    cli.add_flags(
        parser,
        "dataset",
        "model",
        "mode",
        "suffix",
        "seed",
        "device",
        "epochs",
        "batch-size",
        "data-dir",
        "output-dir",
        "max-pixels",
        "skip-broken",
        dataset={"default": "cifar100"},
        model={"default": "resnet18"},
        epochs={"type": cli.positive},
        mode={"default": "best", "choices": list(recipes.RECIPES)},
        batch_size={
            "type": cli.positive,
            "help": "images per step, of all processes together; default: the recipe's",
        },
        max_pixels={"default": reading.MAX_PIXELS, "type": cli.positive},
    )


def add_recipe_flags(group: Any) -> None:
    """The flags of the recipe's fields, as recipes.Recipe describes them, and two old spellings."""
    group.add_argument(
        "--best-optim",
        dest="mode",
        action="store_const",
        const="adamw",
        help="old spelling of --mode adamw",
    )
    for name, flag in recipes.flags().items():
        options = flag.options
        if options.get("type") is bool:
            options = {"action": cli.YesNo, "help": options["help"]}
        group.add_argument(flag.spelled, dest=name, **options)
    group.add_argument(
        "--fold",
        type=str,
        metavar="NUMBER",
        help="with --folds: the member to train, from 1 to the number of folds, or all in turn; of"
        " all, those that are finished are left as they are",
    )
    group.add_argument(
        "--no-stop",
        dest="patience",
        action="store_const",
        const=0,
        help="old spelling of --patience 0",
    )


def add_data_flags(group: Any) -> None:
    """The flags that choose images."""
    group.add_argument(
        "--val-size",
        type=int,
        help="training images to hold back for validation, 0 for none; default: the data set's",
    )
    group.add_argument(
        "--held-out",
        type=str,
        nargs="*",
        metavar="CLASS",
        help="classes to leave out of training, which become an OOD set; default: the data set's",
    )
    group.add_argument(
        "--image-size",
        type=cli.positive,
        help="side of the network's input in pixels; default: that of --weights, or the data set's",
    )
    group.add_argument(
        "--weights",
        type=cli.path,
        metavar="FILE",
        help="start from these weights (.pth, .safetensors, a ViT's .npz), with their"
        " preprocessing; a classifier of other classes is drawn anew, or as --head says",
    )
    group.add_argument(
        "--pretrained",
        action=cli.Switch,
        help="start from the weights that the library of --model timm/NAME, torchvision/NAME has",
    )
    group.add_argument(
        "--from-scratch",
        action=cli.Switch,
        help="with --mode finetune: start from random weights, as other modes do by themselves",
    )
    group.add_argument(
        "--head",
        choices=start.HEADS,
        help="how the classifier starts: zeros, drawn at random, or those rows of --weights that"
        " have the names of the classes (WordNet ids); default: as the weights have it where their"
        " classes are the same, else zeros with --mode finetune and drawn in other modes",
    )


def add_precision_flags(group: Any) -> None:
    """The flags of the numbers that a step computes in; `settle` makes one of them."""
    group.add_argument(
        "--precision",
        choices=precision.NAMES,
        help="numbers that training steps compute in: float32, or autocast to bfloat16 or float16"
        " (with a scaled loss); default: bf16 where the device multiplies it natively",
    )
    group.add_argument("--amp", action=cli.Switch, help="the same as --precision bf16")
    group.add_argument(
        "--no-amp", default=False, action=cli.Switch, help="the same as --precision fp32"
    )


def add_run_flags(group: Any) -> None:
    """The flags of how a run computes, what it writes, and whether it continues another."""
    cli.add_flags(group, "workers", workers={"help": WORKERS_HELP})
    group.add_argument("--cache", choices=serving.CACHES, help=CACHE_HELP)
    add_precision_flags(group)
    group.add_argument(
        "--compile",
        default=False,
        action=cli.Switch,
        help="compile the network with torch.compile; the first steps take about a minute",
    )
    group.add_argument(
        "--winograd",
        default=False,
        action=cli.Switch,
        help="on a CPU in float32: compute wide 3x3 convolutions of training steps by Winograd's"
        " algorithm, in about half of the time; rounding differs",
    )
    group.add_argument(
        "--tta",
        choices=list(tta.VIEWS),
        help="also measure test_acc_tta, the test accuracy of logits averaged over views of each"
        " image: its mirror image, and both shifted by a pixel; it selects nothing",
    )
    group.add_argument(
        "--tensorboard",
        default=False,
        action=cli.Switch,
        help="also write the curves for TensorBoard, under tensorboard/",
    )
    group.add_argument(
        "--save-every",
        type=cli.positive,
        metavar="N",
        help="save a checkpoint every N epochs; in a mode that counts steps: every N evaluations",
    )
    group.add_argument(
        "--save-every-eval",
        action=cli.Switch,
        help="in a mode that counts steps: save a checkpoint at every evaluation",
    )
    group.add_argument(
        "--track-nc",
        type=cli.positive,
        metavar="N",
        help="add NC1 to NC4 of clean training features to the curves every N epochs, or"
        " evaluations",
    )
    group.add_argument(
        "--resume",
        default=False,
        action=cli.Switch,
        help="continue from the run's newest state; start from the beginning if there is none",
    )
    group.add_argument(
        "--force",
        default=False,
        action=cli.Switch,
        help="start over and replace the run's files",
    )


def add_old_flags(group: Any) -> None:
    """What other projects call flags of ours; parse_args settles what they mean."""
    group.add_argument("--num-steps", dest="steps", type=int, help="--steps")
    group.add_argument("--img-size", dest="image_size", type=cli.positive, help="--image-size")
    group.add_argument("--pretrained-dir", dest="weights", type=cli.path, help="--weights")
    group.add_argument("--name", dest="suffix", type=cli.part_of_a_name, help="--suffix")
    group.add_argument(
        "--test-NC", dest="save_every_eval", action=cli.Switch, help="--save-every-eval"
    )
    group.add_argument("--fp16", action=cli.Switch, help="--precision fp16")
    group.add_argument("--SHUFFLE", action=cli.Switch, help="accepted, without effect")


def parse_args(argv: Sequence[str] | None = None) -> Arguments:
    """The arguments, checked as far as that needs no file; suffix and held_out are filled in."""
    args = make_parser().parse_args(argv)
    args.dataset = openood.id_place(args.dataset, args.data_dir)
    data.check_id(args.dataset)
    name, folder = args.dataset.name, args.dataset.folder
    if folder is None:
        args.dataset = utils.SetName(name, name)  # an alias is recorded by the set's own name
    args.suffix = args.suffix or f"{name}_s{args.seed}"
    settle(args)
    check_start(args)
    check_fold(args)
    check_length(runs(args)[-1])
    if args.held_out is None:
        args.held_out = [] if folder else list(data.ID[name].held_out)
    return args


def settle(args: Arguments) -> None:
    """One spelling for each thing that flags say in several; ValueError where they contradict each
    other, or do nothing in this mode."""
    if args.SHUFFLE is not None:
        warnings.warn(
            "--SHUFFLE has no effect: training images come in a random order in every pass, and"
            " features in the order of the data set",
            stacklevel=2,
        )
    said = {"bf16": args.amp, "fp16": args.fp16, "fp32": args.no_amp or None}
    if args.precision:
        said[args.precision] = True
    asked = [name for name, is_on in said.items() if is_on]
    if len(asked) > 1:
        raise ValueError(
            f"the flags ask for two precisions, {' and '.join(asked)}; give one: --precision"
            f" {asked[0]}"
        )
    args.precision = None if args.no_amp else next(iter(asked), None)
    del args.SHUFFLE, args.amp, args.fp16
    recipes.refuse_other_unit(args.mode, vars(args))
    recipes.check_given_steps(vars(args))
    if args.save_every_eval and not recipes.RECIPES[args.mode].steps:
        raise ValueError(
            f"--save-every-eval is of modes that count steps, and --mode {args.mode} counts epochs;"
            " give --save-every N"
        )
    if args.save_every_eval and args.save_every:
        raise ValueError("--save-every-eval is --save-every 1; give one of the two")


def check_start(args: Arguments) -> None:
    """ValueError unless the flags say what the run starts from, once, and the mode needs no other
    start."""
    ways = {"--weights": args.weights, "--pretrained": args.pretrained}
    given = [flag for flag, value in ways.items() if value]
    if args.from_scratch:
        given.append("--from-scratch")
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} both say what to start from; give one")
    if args.from_scratch and args.mode != FINETUNE:
        raise ValueError(
            f"--from-scratch is of --mode {FINETUNE}; --mode {args.mode} starts from random weights"
            " by itself: leave it out"
        )
    if args.freeze and not (args.weights or args.pretrained):
        raise ValueError(
            "--freeze trains the classifier alone, and features of random weights are of no use;"
            " name weights with --weights FILE, or give --pretrained"
        )
    if args.mode == FINETUNE and not given:
        raise ValueError(
            f"--mode {FINETUNE} starts from weights; name them with --weights FILE, give"
            " --pretrained with --model timm/NAME or torchvision/NAME, or say --from-scratch"
        )
    if args.pretrained and not library_names.is_name(args.model):
        raise ValueError(
            "--pretrained needs a network of timm or torchvision, such as --model timm/resnet50;"
            f" found {args.model}: give --weights FILE"
        )
    if args.head and not (args.weights or args.pretrained):
        raise ValueError("--head is of runs from --weights or --pretrained; leave it out")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Train; RESUME_ME where a signal stopped the run."""
    args = parse_args(argv)
    reading.limit_pixels(args.max_pixels)
    registry.check_model(args.model)
    check_packages(args)
    check_winograd(args)
    utils.writable_folder(args.output_dir)
    go_on = "run the same with --resume"
    with (
        signals.caught() as stop,
        processes.join(cli.device(args.device), go_on) as world,
        threads.considerate(world.device),
    ):
        for single in runs(args):
            code = run_one(single, world, stop)
            if code is not None:
                return code
    return None


def runs(args: Arguments) -> list[Arguments]:
    """The arguments of each training run: of one or, for a leave-out ensemble, of each member that
    --fold asks for, under a suffix of its own.

    Of all members, those that are finished are passed over, as --resume does."""
    folds = count_folds(args)
    if not folds:
        return [args]
    found = []
    for fold in leave_out.choose(args.fold, folds):
        member = copy.copy(args)
        member.fold = str(fold)
        member.suffix = f"{args.suffix}_fold{fold}of{folds}"
        member.resume = args.resume or (args.fold == "all" and not args.force)
        found.append(member)
    return found


def run_one(args: Arguments, world: World, stop: StopRequest) -> int | None:
    """One training run, unless it is finished; RESUME_ME where a signal stopped it."""
    files = run_files(args.output_dir, args.model, args.suffix)
    if refuse_or_skip(args, files):
        return None
    with world.together(first_ahead=True):
        if args.pretrained:
            fetch_pretrained(args)
        setup = prepare(args, world)
    with sole_writer(files, world):
        begin(args, files, world)
        return train(setup, args, files, world, stop)


def train(
    setup: "Setup", args: Arguments, files: RunFiles, world: World, stop: StopRequest
) -> int | None:
    """Run from the start, or from where the run was interrupted, to the end; RESUME_ME where a
    signal stopped it."""
    cli.seed_everything(setup.seed)
    options = Options(
        setup.seed,
        precision="fp32" if args.no_amp else args.precision,
        compile=args.compile,
        save_every=1 if args.save_every_eval else args.save_every,
        track_nc=args.track_nc,
        tta=args.tta,
        winograd=args.winograd,
    )
    if world.device.type == "cpu":
        machine_memory.keep_freed()
    state = State(setup.facts, world)
    outputs = Outputs(files, setup.facts, world, args.tensorboard)
    resumes = args.resume and files.last.exists()
    said = ""
    if not resumes:
        state.initialise(setup.train)
        said = start_from_weights(args, state) if weights_of(args) else ""
    run = Run(state, outputs, options, stop)
    if resumes:
        run.resume(cli.material(args))
    outputs.log(headline(setup, args, run))
    outputs.log(str(setup.serving))
    if said:
        outputs.log(said)
    for note in notes(setup, args):
        outputs.log(note)
    if setup.facts.recipe.freeze:
        found = features_of(setup, run)
        if found is None:
            return RESUME_ME
        setup = found
    with step_bar(setup, state) as bar:
        done = run.fit(*setup.with_outliers(), bar)
    if not done or not run.finish(setup.train, setup.test):
        return RESUME_ME
    if world.first:
        utils.write_figure(files.figure, figures.training_curves(pd.DataFrame(state.history)))
        # Removed last: as long as it exists, --resume continues.
        files.last.unlink(missing_ok=True)
    return None


def headline(setup: "Setup", args: Arguments, run: Run) -> str:
    """What is trained on what, and where: the first line of the log."""
    world, recipe = run.world, setup.facts.recipe
    images = (
        f"{len(setup.train)} training, {len(setup.val)} validation, {len(setup.test)} test images"
    )
    classes = f"{len(setup.facts.class_names)} classes"
    network = f"{args.model}, {run.state.parameters:,} parameters"
    devices = f"{world.size} x {world.device}" if world.size > 1 else f"{world.device}"
    numbers = precision.WORDS[run.precision]
    if args.winograd:
        numbers = " by Winograd's algorithm"
    mixing = [name for name in ("mixup", "cutmix") if getattr(recipe, name)]
    augmentation = " ".join([*recipe.augment, *mixing]) or "none"
    length = f"{recipe.epochs} epochs"
    if recipe.steps:
        length = f"{recipe.steps} steps of {recipe.batch_size} images"
    if recipe.grad_accumulation > 1:
        length += f", in {recipe.grad_accumulation} parts each,"
    what = "the classifier alone, " if recipe.freeze else ""
    return (
        f"{setup.name}: {images}, {classes}; {network}, {args.mode}, {what}"
        f"{length} on {devices}{numbers}, augmentation: {augmentation}"
    )


def notes(setup: "Setup", args: Arguments) -> Iterator[str]:
    """What a person should know before the first epoch, and did not ask for."""
    recipe = setup.facts.recipe
    if setup.outliers:
        yield str(setup.outliers)
    kept = augment.unmirrored(recipe.augment)
    if args.dataset.folder and args.augment is None and kept != recipe.augment:
        yield (
            "half of the training images are mirrored; where that changes what an image is, as of"
            f" digits or signs, train with --augment {' '.join(kept)}".rstrip()
        )
    if args.dataset.folder and utils.split_folder(args.dataset.folder, "test").endswith("/val"):
        yield f"{args.dataset.folder} has no folder test: the images in its folder val are the test"
    if args.save_every and args.save_every > recipe.epochs:
        unit = "evaluations" if recipe.steps else "epochs"
        yield (
            f"--save-every {args.save_every} writes nothing: the run ends after"
            f" {recipe.epochs} {unit}"
        )


def step_bar(setup: "Setup", state: State) -> Any:
    """The progress bar over all steps of the run; only the first process shows one."""
    recipe = setup.facts.recipe
    steps = math.ceil(len(setup.train) / recipe.batch_size)
    return console.progress(
        total=recipe.steps or recipe.epochs * steps,
        initial=state.step if recipe.steps else state.epoch * steps + state.steps_done,
        desc="training",
        unit="step",
        disable=None if state.world.first else True,
    )


# ---- before the long work ------------------------------------------------------------------------


def check_packages(args: Arguments) -> None:
    """ValueError where what a flag needs is not installed."""
    if args.tensorboard and not find_spec("tensorboard"):
        raise ValueError(
            "--tensorboard needs the package tensorboard; install it with: pip install tensorboard"
        )
    if args.compile and not has_compiler():
        raise ValueError(
            "--compile needs a C++ compiler on a CPU and the package triton on a GPU; found"
            " neither: install one, such as g++, or leave --compile out"
        )


def check_winograd(args: Arguments) -> None:
    """ValueError where --winograd would not compute what it is for."""
    if not args.winograd:
        return
    device = cli.device(args.device)
    if device.type != "cpu":
        raise ValueError(
            f"--winograd is for CPUs, and this run computes on {device}; leave it out, or give"
            " --device cpu"
        )
    if args.compile:
        raise ValueError("--winograd and --compile do not go together; leave one of them out")
    asked = "fp32" if args.no_amp else args.precision
    if precision.choose(asked, device) != "fp32":
        raise ValueError(
            "--winograd computes in float32, and this run would compute in bfloat16 or float16,"
            " which is faster where the CPU multiplies it; leave it out, or add --no-amp"
        )


def count_folds(args: Arguments) -> int:
    """The members of the ensemble that is trained, 0 where it is a single network."""
    return recipes.RECIPES[args.mode].folds if args.folds is None else args.folds


def check_fold(args: Arguments) -> None:
    """ValueError unless --fold names members of the ensemble that there is."""
    folds = count_folds(args)
    if not folds and args.fold is not None:
        raise ValueError(
            f"--fold {args.fold} is of a leave-out ensemble; add --mode leave-out, or leave it out"
        )
    if folds and args.fold is None:
        raise ValueError(
            f"this trains one of the {folds} members of a leave-out ensemble; name it with --fold"
            f" 1 to {folds}, or train all in turn with: train.py ... --fold all"
        )
    if folds:
        leave_out.choose(args.fold, folds)


def has_compiler() -> bool:
    """True if torch.compile finds triton or a C++ compiler."""
    if find_spec("triton"):
        return True
    candidates = (os.environ.get("CXX", "g++"), "clang++")
    return any(shutil.which(name) for name in candidates)


@dataclass(frozen=True)
class Setup:
    """What a run starts from: the arguments, looked up and checked."""

    name: str  # of the data set
    train: Set
    val: Set
    test: Set
    facts: Facts  # recipe and preprocessing among them
    seed: int
    serving: Serving  # where the images come from
    outliers: leave_out.Outliers | None = None  # of a leave-out ensemble's member

    def with_outliers(self) -> tuple[Set, Set]:
        """The training and the validation images, each with its outliers behind it."""
        if self.outliers is None:
            return self.train, self.val
        train = leave_out.joined(self.train, self.outliers.train)
        return train, leave_out.joined(self.val, self.outliers.val)


def prepare(args: Arguments, world: World) -> Setup:
    """The arguments -> Setup. Raises ValueError for what no run could start from, before anything
    is written."""
    name = args.dataset.name
    dataset, preprocessing = inputs_of(args)
    recipe = resolve(args, dataset)
    images = load_split(args, dataset, preprocessing, "train")
    test = load_split(args, dataset, preprocessing, "test")
    if world.first:
        print_left_out(f"{name} (train)", images)
        print_left_out(f"{name} (test)", test)
    served = serving.choose(
        (images, test), args.cache, args.workers, world.device, processes.count_here()
    )
    val_size = dataset.val_size if args.val_size is None else args.val_size
    rows, val_rows = data.split_validation(len(images), val_size)
    if recipe.patience and not len(val_rows):
        raise ValueError(
            f"--patience {recipe.patience} waits for a better validation accuracy, and this run"
            " holds back no validation images; leave it out, or give --val-size"
        )
    train, val = images.take(rows), images.take(val_rows)
    seed, outliers = args.seed, None
    if recipe.folds:
        outliers = outliers_of(args, recipe, train, val)
        train, val, test = (outliers.member.known_of(part) for part in (train, val, test))
        seed = leave_out.member_seed(seed, outliers.member.fold)
    check_batch_size(recipe, len(train), world.size)
    check_network(args, recipe, train.class_names, preprocessing.size)
    if served.cache == "none" and world.first:
        check_readable(images, test)
    train, val, test = (served.serve(part) for part in (train, val, test))
    outliers = outliers and outliers.served(served)
    facts = Facts(
        model=args.model,
        model_args=model_args(args.model, recipe, preprocessing.size),
        dataset=str(args.dataset),
        mode=args.mode,
        held_out=args.held_out,
        val_size=len(val_rows),
        images=len(train),
        source=images.content(),
        folders=folders_of(args.dataset, images) if world.first else {},
        class_names=train.class_names,
        preprocessing=preprocessing,
        recipe=recipe,
        provenance=records.provenance(cli.material(args), threads=torch.get_num_threads()),
        leave_out=outliers.member.as_dict() if outliers else None,
        images_from=served.as_dict(),
    )
    return Setup(name, train, val, test, facts, seed, served, outliers)


def inputs_of(args: Arguments) -> tuple[data.Dataset, data.Preprocessing]:
    """The data set, and how its images are prepared: as for --weights, where that is known."""
    weights = weights_of(args)
    known = start.preprocessing_of(weights, args.model) if weights else {}
    size = args.image_size or known.get("size")
    statistics = (known["mean"], known["std"]) if known else None
    dataset = data.id_set(
        args.dataset, args.data_dir, size, statistics, skip_broken=bool(args.skip_broken)
    )
    if not known:
        return dataset, data.Preprocessing(dataset.size, dataset.mean, dataset.std)
    return dataset, data.Preprocessing(**{**known, "size": dataset.size})


def weights_of(args: Arguments) -> str | None:
    """The file that a run starts from: --weights, or what --pretrained has saved."""
    if args.pretrained:
        return str(pretrained.path_of(args.model, args.output_dir))
    return args.weights


def fetch_pretrained(args: Arguments) -> None:
    """Save the weights of --pretrained as a checkpoint, where it is not there yet; ValueError where
    they cannot be had."""

    def taking(file: str) -> str:
        words = [word for word in sys.argv[1:] if word != "--pretrained"]
        return shlex.join(["python", "train.py", *words, "--weights", file])

    pretrained.save(args.model, args.output_dir, records.provenance(cli.material(args)), taking)


def start_from_weights(args: Arguments, state: State) -> str:
    """Give the network the weights that it starts from -> what is said of it."""
    path = weights_of(args)
    assert path is not None
    head = with_weights(args, path, state.network, state.facts.class_names)
    if state.average:
        state.average.network.load_state_dict(state.network.state_dict())
    return f"starts from {path}, {head}; images: {state.facts.preprocessing.words}"


def with_weights(args: Arguments, path: str, network: nn.Module, class_names: list[str]) -> str:
    """Give a network the weights of a file, and its classifier a start -> what is said of that."""
    otherwise = "zeros" if args.mode == FINETUNE else None
    return start.from_weights(path, network, args.model, class_names, args.head, otherwise)


def features_of(setup: "Setup", run: Run) -> "Setup | None":
    """The setup with features in place of images, for --freeze; None where a signal came before
    they were made."""
    images = (setup.train, setup.val, setup.test)
    folder = run.outputs.files.folder
    try:
        train, val, test = frozen.sets(run, images, folder, run.outputs.log)
    except signals.Stopped:
        run.state.save(run.outputs.files.last)
        run.outputs.log("stopped while the features were made; go on with --resume")
        return None
    return replace(setup, train=train, val=val, test=test)


def outliers_of(
    args: Arguments, recipe: recipes.Recipe, train: Set, val: Set
) -> leave_out.Outliers:
    """The member that --fold names, and its outliers among training and validation images of all
    classes; ValueError for an ensemble that there cannot be."""
    members = leave_out.members(train.class_names, recipe.folds)
    member = members[int(args.fold) - 1]
    leave_out.check_margin(recipe.margin, len(member.known))
    outliers = leave_out.Outliers(member, member.outliers_of(train), member.outliers_of(val))
    if not len(outliers.train):
        raise ValueError(
            f"no training image is of {', '.join(member.left_out)}, which member {member.fold} of"
            f" {member.folds} leaves out; give other --folds, or more images"
        )
    return outliers


def load_split(
    args: Arguments, dataset: data.Dataset, preprocessing: data.Preprocessing, split: str
) -> Set:
    """The images of "train" or "test" without the held-out classes."""
    return data.load_id(dataset, split, preprocessing, args.data_dir, args.held_out)


def check_readable(*sets: Set) -> None:
    """ValueError that names all files which cannot be read: a run over many epochs would come upon
    them late. What was decoded for the mean is not read again."""
    failures: list[reading.Failure] = []
    for images in sets:
        if isinstance(images, ImageFiles):
            failures += images.unread().unreadable(console.progress)
    reading.refuse(failures)


def print_left_out(title: str, images: Set) -> None:
    """Print which files of a folder are no images of the set, where there are any."""
    if images.left_out:
        print(f"{title}: {len(images):,} images; {images.left_out}")


def check_batch_size(recipe: recipes.Recipe, images: int, world_size: int) -> None:
    """ValueError for a batch of more images than there are, or of less than two per process, or of
    less than one for each of its parts."""
    batch_size, parts = recipe.batch_size, recipe.grad_accumulation
    if recipe.freeze and world_size > 1:
        raise ValueError(
            "--freeze trains one linear layer, for which one process is enough; start it without"
            " torchrun or srun"
        )
    if parts > 1 and batch_size // world_size < parts:
        raise ValueError(
            f"--grad-accumulation {parts} divides the {batch_size // world_size} images that a"
            f" process takes of --batch-size {batch_size}; expected at most as many parts"
        )
    if batch_size > images:
        raise ValueError(
            f"--batch-size {batch_size} is larger than the training set of {images} images"
        )
    if world_size > 1 and batch_size < 2 * world_size:
        raise ValueError(
            f"--batch-size {batch_size} is shared by {world_size} processes; expected 2 each"
            " at least"
        )


def folders_of(dataset: utils.SetName, images: Set) -> dict[str, dict[str, str]]:
    """{folder of images: fingerprint}, by which main.py sees that images have changed; {} for a
    named set. Training `images` that were read are not read again."""
    if dataset.folder is None:
        return {}
    known = images.hashes if isinstance(images, ImageFiles) else {}
    train, test = (str(dataset.split(split).folder) for split in ("train", "test"))
    return {train: folders.fingerprint(train, known), test: folders.fingerprint(test)}


def check_network(
    args: Arguments, recipe: recipes.Recipe, class_names: list[str], size: int
) -> None:
    """Build the network once up front: bad arguments, and what extraction would refuse, fail before
    any file is touched."""
    try:
        network = registry.build(
            args.model, len(class_names), **model_args(args.model, recipe, size)
        )
    except ValueError as error:
        if not recipe.dropout or "argument 'dropout'" not in str(error):
            raise
        given = "--dropout" if args.dropout else f"--mode {args.mode}"
        raise ValueError(
            f"{given} has dropout, and {args.model} takes none ({error}); give it an argument"
            " dropout, or turn it off with --dropout 0"
        ) from None
    if args.model not in registry.MODELS:
        rehearse(args.model, network, len(class_names), size)
    if weights := weights_of(args):
        with_weights(args, weights, network, class_names)
    if recipe.freeze:
        frozen.check_classifier(network, args.model)
    if args.winograd and not winograd.replace(network):
        raise ValueError(
            f"--winograd does nothing for {args.model}, which has no 3x3 convolution of"
            f" {winograd.FEWEST_CHANNELS} channels or more; leave it out"
        )


def model_args(model: str, recipe: recipes.Recipe, size: int) -> dict[str, Any]:
    """The arguments that a network is built with, beside the number of classes."""
    return {"dropout": recipe.dropout, **registry.arguments_for(model, size)}


def rehearse(model: str, network: nn.Module, classes: int, size: int) -> None:
    """Send two images of noise through a network without a row; ValueError for what extraction
    would refuse after the training."""
    layer = classifiers.classifier(network, model)
    noise = torch.Generator().manual_seed(0)
    batch = torch.rand(2, 3, size, size, generator=noise)
    with source_files.explained(model, f" on images of {size} x {size} pixels"):
        features, logits = extractor.rehearse(network, layer, batch)
    try:
        extractor.check_hook(features, logits, layer, amp=False)
    except ValueError as error:
        place = None
        if isinstance(logits, torch.Tensor):
            place = classifiers.output_layer(network, batch)
        is_code = ":" in model  # to which a line can be added
        if not is_code or place is None or network.get_submodule(place) is layer:
            raise ValueError(f"--model {model}: {error}") from None
        raise ValueError(
            f"--model {model}: {classifiers.classifier_path(network, model)} does not make the"
            f" network's output, {place} "
            f'does; add this line to {source_files.parts(model)[0]}: classifier = "{place}"'
        ) from None
    outputs = len(classifiers.weight_of(layer))
    if outputs != classes:
        raise ValueError(
            f"--model {model} makes {outputs} outputs, and the data has {classes}"
            " classes: it must use the number of classes that it is given"
        )


def resolve(args: Arguments, dataset: data.Dataset) -> recipes.Recipe:
    """The mode's recipe with the network's own dropout and the overrides of the command line; it
    mirrors no images by itself where that changes their class."""
    recipe = recipes.RECIPES[args.mode]
    if not dataset.flip:
        recipe = replace(recipe, augment=augment.unmirrored(recipe.augment))
    if not recipe.dropout:
        recipe = replace(recipe, dropout=registry.usual_dropout(args.model))
    recipe = recipes.overridden(recipe, vars(args))
    recipes.check(recipe)
    recipes.refuse_idle(recipe, vars(args))
    frozen.check(recipe, vars(args))
    if recipe.freeze:
        recipe = replace(recipe, augment=())
    augment.check(recipe.augment)
    return recipe


# ---- the run's files -----------------------------------------------------------------------------


def run_files(folder: str | Path, model: str, suffix: str) -> RunFiles:
    """The files of a run of a model, given by its name or FILE.py:FUNCTION."""
    return RunFiles(Path(folder), registry.short_name(model), suffix)


def why_unfinished(files: RunFiles, arguments: dict[str, Any], verify: bool = False) -> str:
    """Why a run still has to train, in words; "" for a finished run: no state is left to resume,
    and both checkpoints are what these arguments would make now.

    arguments: the material ones (cli.material). Folders of images are compared too: by names, sizes
    and times or, with `verify`, by content.
    """
    if files.last.exists():
        return f"{files.last} was interrupted"
    sidecars = [records.sidecar_path(files.checkpoint(kind)) for kind in ("final", "best")]
    reasons = (current.Record.read(path).why_outdated(arguments, verify) for path in sidecars)
    return next(filter(None, reasons), "")


def is_finished(files: RunFiles, arguments: dict[str, Any], verify: bool = False) -> bool:
    """True if nothing is left to train for these arguments."""
    return not why_unfinished(files, arguments, verify)


def check_length(args: Arguments) -> None:
    """ValueError where a file name of the run would be longer than file systems allow."""
    files = run_files(args.output_dir, args.model, args.suffix)
    names = [path.name for path in files.all]
    longest = max(names, key=lambda name: len(name.encode()))
    over = len(longest.encode()) - NAME_BYTES
    if over > 0:
        raise ValueError(
            f"--suffix and --model make file names of {over + NAME_BYTES} bytes, such as"
            f" {longest[:40]}...; {NAME_BYTES} is the most: give a --suffix that is {over} bytes"
            " shorter"
        )


def refuse_or_skip(args: Arguments, files: RunFiles) -> bool:
    """True where --resume finds the run finished. ValueError where training would replace a run
    without --force."""
    if args.force:
        return False
    if files.last.exists():
        if not args.resume:
            raise ValueError(
                f"{files.last} is an interrupted run; go on with --resume, or start over with"
                " --force"
            )
        return False
    if not files.final.exists():
        return False
    if args.resume and is_finished(files, cli.material(args)):
        print(f"{files.final} is finished; nothing to resume")
        return True
    raise ValueError(
        f"{files.final} is there already, {difference(args, files)}; give this run another"
        " --suffix, or replace that one with --force"
    )


def difference(args: Arguments, files: RunFiles) -> str:
    """How the finished run differs from the one that is asked for, as the end of a clause."""
    if records.read_sidecar(files.final).get("arguments") != utils.plain(cli.material(args)):
        return "from another run"
    if is_finished(files, cli.material(args)):
        return "finished with these arguments"
    return "of these arguments, but its images, network file or checkpoints have changed since"


@contextlib.contextmanager
def sole_writer(files: RunFiles, world: World) -> Iterator[None]:
    """Lock the run's files for the block; ValueError where another run is writing them."""
    lock = filelock.FileLock(files.lock, timeout=0)
    with world.together():
        try:
            if world.first:
                lock.acquire()
        except NotImplementedError:  # some network file systems
            warnings.warn(
                f"{files.lock.parent} knows no locks: nothing keeps a second process from these"
                " files",
                stacklevel=2,
            )
        except filelock.Timeout:
            raise ValueError(
                f"another process is writing {files.final} and the files beside it at this"
                " moment; wait for it, or give this run another --suffix"
            ) from None
    try:
        yield
    finally:
        if world.first:
            # Removed while it is held, so that whoever waits for it sees that it is gone.
            files.lock.unlink(missing_ok=True)
            lock.release()


def begin(args: Arguments, files: RunFiles, world: World) -> None:
    """Check once more, now that nobody else writes; with --force, remove the earlier run's
    checkpoints."""
    with world.together():
        if not world.first:
            return
        if args.force:
            remove_checkpoints(files)
        elif refuse_or_skip(args, files):
            raise ValueError(
                f"{files.final} was finished by another process just now; nothing to resume"
            )


def remove_checkpoints(files: RunFiles) -> None:
    """Remove the run's checkpoints, those of single epochs too, and their sidecars."""
    names = records.listing(files.folder, "*.pth")
    epochs = [files.folder / name for name in names if files.is_epoch(name)]
    for path in (files.last, files.final, files.best, *epochs):
        path.unlink(missing_ok=True)
        records.sidecar_path(path).unlink(missing_ok=True)


if __name__ == "__main__":
    cli.run(main)
