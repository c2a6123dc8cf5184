"""Train a classifier: one loop, recipes as rows of a table.

    python train.py --dataset cifar100 --model resnet18 --mode best --seed 0
    python train.py --dataset cifar100 --model resnet_cifar --mode sgd --epochs 30 --suffix quick
    python train.py --dataset digits --held-out 8 9 --mode collapse
    python train.py --dataset cifar100 --model resnet18 --mode collapse --save-every 25 --track-nc 5
    # go on where it was stopped, bit for bit on a CPU
    python train.py --dataset cifar100 --model resnet18 --resume
    # the same batches, a quarter on each GPU
    torchrun --nproc-per-node 4 train.py --dataset cifar100 --model resnet18

Writes into --output-dir: <model>_best_<suffix>.pth (highest validation accuracy),
<model>_final_<suffix>.pth (last epoch), each with a .json that says how it was made;
<model>_curves_<suffix>.csv and .png; <model>_training_history_<suffix>.json;
<model>_log_<suffix>.txt; with --save-every <model>_epoch<E>_<suffix>.pth, for the course of neural
collapse. While it runs, <model>_last_<suffix>.pth holds its newest complete state; SIGTERM, SIGUSR1
and Ctrl-C renew it and exit with code 75.

Several processes (torchrun, or srun in a Slurm job) share each batch: --batch-size and --lr are of
all of them together, and mean the same for any number of GPUs. Batch norm takes the statistics of
each process's share."""

import contextlib
import math
import os
import shutil
import warnings
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import filelock
import pandas as pd
import torch

import cli
import data
import figures
import processes
import utils
from artifacts import current, records
from extraction import extractor
from images import folders, reading
from networks import classifiers, registry, source_files
from training import augment, recipes
from training import run as training_run
from training.files import RunFiles

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: a batch script requeues on it
NAME_BYTES = 255  # of a file name, on nearly every file system


def make_parser():
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    add_shared_flags(parser)
    add_recipe_flags(parser.add_argument_group("recipe"))
    add_data_flags(parser.add_argument_group("data"))
    add_run_flags(parser.add_argument_group("run"))
    return parser


def add_shared_flags(parser):
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
        dataset={"default": "cifar100"},
        model={"default": "resnet18"},
        epochs={"type": cli.positive},
        mode={"default": "best", "choices": list(recipes.RECIPES)},
        batch_size={"type": cli.positive, "help": "images per step, of all processes together"},
        max_pixels={"default": reading.MAX_PIXELS, "type": cli.positive},
    )


def add_recipe_flags(group):
    group.add_argument(
        "--best-optim",
        dest="mode",
        action="store_const",
        const="adamw",
        help="old spelling of --mode adamw",
    )
    for name, (spelled, options) in recipes.flags().items():
        if options.get("type") is bool:
            options = {"action": cli.YesNo, "help": options["help"]}
        group.add_argument(spelled, dest=name, **options)
    group.add_argument(
        "--no-stop",
        dest="patience",
        action="store_const",
        const=0,
        help="old spelling of --patience 0",
    )


def add_data_flags(group):
    group.add_argument(
        "--val-size",
        type=int,
        help="training images kept for validation; default: the data set's own; 0: none",
    )
    group.add_argument(
        "--held-out",
        type=str,
        nargs="*",
        metavar="CLASS",
        help="classes left out of training, an OOD set of their own; default: the data set's own",
    )
    group.add_argument(
        "--image-size",
        type=cli.positive,
        help="side of the network's input; default: the data set's own",
    )


def add_run_flags(group):
    group.add_argument(
        "--no-amp",
        action="store_true",
        help="float32 throughout, where bfloat16 autocast would be used",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network; the first steps take a minute",
    )
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="the curves for TensorBoard too, under tensorboard/",
    )
    group.add_argument(
        "--save-every",
        type=cli.positive,
        metavar="N",
        help="keep the checkpoint of every Nth epoch",
    )
    group.add_argument(
        "--track-nc",
        type=cli.positive,
        metavar="N",
        help="write NC1 to NC4 of clean training features into the curves every Nth epoch",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the run's newest state; start where there is none",
    )
    group.add_argument(
        "--force", action="store_true", help="start over and replace the run's files"
    )


def parse_args(argv=None):
    args = make_parser().parse_args(argv)
    data.check_id(args.dataset)
    name, folder = args.dataset.name, args.dataset.folder
    if folder is None:
        args.dataset = utils.SetName(name, name)  # an alias is recorded by the set's own name
    args.suffix = args.suffix or f"{name}_s{args.seed}"
    check_length(args)
    if args.held_out is None:
        args.held_out = [] if folder else list(data.ID[name].held_out)
    return args


def main(argv=None):
    args = parse_args(argv)
    reading.limit_pixels(args.max_pixels)
    registry.check_model(args.model)
    check_packages(args)
    files = run_files(utils.writable_folder(args.output_dir), args.model, args.suffix)
    with training_run.signals() as signalled, processes.join(cli.device(args.device)) as world:
        if refuse_or_skip(args, files):
            return
        with world.together(first_ahead=True):
            job = prepare(args, world)
        with sole_writer(files, world):
            begin(args, files, world)
            return train(job, args, files, world, signalled)


def train(job, args, files, world, signalled):
    """The run from its start, or from where it was stopped, to its end: None, or RESUME_ME where a
    signal stopped it."""
    cli.seed_everything(args.seed)
    board = files.tensorboard
    options = training_run.Options(
        args.seed,
        not args.no_amp,
        args.compile,
        args.save_every,
        args.track_nc,
        board if args.tensorboard else None,
    )
    run = training_run.Run(
        files, job.facts, job.recipe, job.preprocessing, world, signalled, options
    )
    if args.resume and files.last.exists():
        run.resume(cli.material(args))
    splits = f"{len(job.train)} training, {len(job.val)} validation, {len(job.test)} test images"
    network = f"{args.model}, {run.parameters:,} parameters"
    devices = f"{world.size} x {world.device}" if world.size > 1 else f"{world.device}"
    precision = " in bfloat16" if run.amp else ""
    run.log(
        f"{job.name}: {splits}, {len(job.train.class_names)} classes; {network}, {args.mode},"
        f" {job.recipe.epochs} epochs on {devices}{precision}"
    )
    steps = math.ceil(len(job.train) / job.recipe.batch_size)
    with cli.progress(
        total=job.recipe.epochs * steps,
        initial=run.epoch * steps + (run.partial or {"step": 0})["step"],
        desc="training",
        unit="step",
        disable=None if world.first else True,
    ) as bar:
        done = run.fit(job.train, job.val, bar)
    if not done or not run.finish(job.train, job.test):
        return RESUME_ME
    if world.first:
        utils.write_figure(files.figure, figures.training_curves(pd.DataFrame(run.history)))
        # the last thing to go: as long as it is there, --resume goes on
        files.last.unlink(missing_ok=True)


# ---- before the long work ------------------------------------------------------------------------


def check_packages(args):
    """ValueError where what a flag needs is not installed."""
    if args.tensorboard and not find_spec("tensorboard"):
        raise ValueError(
            "--tensorboard needs the package tensorboard; install it with: pip install tensorboard"
        )
    if args.compile and not (
        find_spec("triton") or shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    ):
        raise ValueError(
            "--compile needs a C++ compiler on a CPU and the package triton on a GPU; found"
            " neither: install one, such as g++, or leave --compile out"
        )


@dataclass(frozen=True)
class Job:
    """What is trained on what: all that the arguments say, looked up and checked."""

    name: str
    recipe: recipes.Recipe
    preprocessing: data.Preprocessing
    train: data.Images
    val: data.Images
    test: data.Images
    facts: dict  # that each checkpoint says of itself


def prepare(args, world):
    """The arguments -> Job. Raises ValueError for what no run could start from, before anything is
    written."""
    name = args.dataset.name
    dataset = data.id_set(args.dataset, args.data_dir, args.image_size)
    recipe = resolve(args, dataset)
    preprocessing = data.Preprocessing(dataset.size, dataset.mean, dataset.std)
    images, test = (
        data.load_id(dataset, split, preprocessing, args.data_dir, args.held_out).in_memory()
        for split in ("train", "test")
    )
    for split, found in (("train", images), ("test", test)):
        if found.left_out and world.first:
            print(f"{name} ({split}): {len(found):,} images; {found.left_out}")
    rows, val_rows = data.split_validation(
        len(images), dataset.val_size if args.val_size is None else args.val_size
    )
    if recipe.batch_size > len(rows):
        raise ValueError(
            f"--batch-size {recipe.batch_size} is larger than the training set of {len(rows)}"
            " images"
        )
    if world.size > 1 and recipe.batch_size < 2 * world.size:
        raise ValueError(
            f"--batch-size {recipe.batch_size} is shared by {world.size} processes; expected 2 each"
            " at least"
        )
    check_network(args, recipe, images.class_names, preprocessing.size)
    facts = {
        "model": args.model,
        "model_args": {"dropout": recipe.dropout},
        "dataset": str(args.dataset),
        "mode": args.mode,
        "held_out": args.held_out,
        "val_size": len(val_rows),
        "images": len(rows),
        "source": images.content(),
        "folders": folders_of(args.dataset) if world.first else {},
        "class_names": images.class_names,
        "preprocessing": preprocessing.as_dict(),
        "recipe": asdict(recipe),
        **records.provenance(cli.material(args)),
    }
    return Job(name, recipe, preprocessing, images.take(rows), images.take(val_rows), test, facts)


def folders_of(dataset):
    """The folders of images that a run is made of, hashed, so that main.py sees when one has
    changed; none of a named set."""
    if dataset.folder is None:
        return {}
    splits = [Path(dataset.folder) / split for split in ("train", "test")]
    return {str(path): folders.fingerprint(path) for path in splits}


def check_network(args, recipe, class_names, size):
    """Build the network once up front: bad arguments, and what extraction would refuse, fail before
    any file is touched."""
    try:
        network = registry.build(args.model, len(class_names), dropout=recipe.dropout)
    except ValueError as error:
        if recipe.dropout and "argument 'dropout'" in str(error):
            raise ValueError(
                f"--mode {args.mode} has dropout, and {args.model} takes none ({error}); give it an"
                " argument dropout, or choose another --mode"
            ) from None
        raise
    if args.model not in registry.MODELS:
        rehearse(args.model, network, len(class_names), size)


def rehearse(model, network, classes, size):
    """Send two images of noise through a person's own network, fresh; ValueError for what
    extraction would refuse in the end."""
    layer = classifiers.classifier(network, model)
    batch = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with source_files.explained(model, f" on images of {size} x {size} pixels"):
        features, logits = extractor.rehearse(network, layer, batch)
    try:
        extractor.check_hook(features, logits, layer, amp=False)
    except ValueError as error:
        has_logits = isinstance(logits, torch.Tensor)
        place = classifiers.output_layer(network, batch) if has_logits else None
        if place is None or network.get_submodule(place) is layer:
            raise ValueError(f"--model {model}: {error}") from None
        raise ValueError(
            f"--model {model}: {classifiers.classifier_path(network, model)} does not make the"
            f" network's output, {place} "
            f'does; add this line to {source_files.parts(model)[0]}: classifier = "{place}"'
        ) from None
    if len(layer.weight) != classes:
        raise ValueError(
            f"--model {model} makes {len(layer.weight)} outputs, and the data has {classes}"
            " classes: it must use the number of classes that it is given"
        )


def resolve(args, dataset):
    """The mode's recipe with the overrides of the command line, and no mirrored images where they
    change the class."""
    recipe = recipes.RECIPES[args.mode]
    recipe = replace(
        recipe, augment=tuple(name for name in recipe.augment if dataset.flip or name != "flip")
    )
    recipe = recipes.check(recipes.overridden(recipe, vars(args)))
    augment.check(recipe.augment)
    return recipe


# ---- the run's files -----------------------------------------------------------------------------


def run_files(folder, model, suffix):
    """The files of a run of a model, by its name or FILE.py:FUNCTION."""
    return RunFiles(Path(folder), registry.short_name(model), suffix)


def why_unfinished(files, arguments, verify=False):
    """Why a run has still to train, in words; "" where it is there to its end: no state left to
    resume, and both checkpoints are what these arguments make now.

    `arguments` are the material ones (cli.material). Folders of images are compared too, by names,
    sizes and times or, with `verify`, by content."""
    if files.last.exists():
        return f"{files.last} was interrupted"
    sidecars = [records.sidecar_path(files.checkpoint(kind)) for kind in ("final", "best")]
    reasons = (current.Record.read(path).why_outdated(arguments, verify) for path in sidecars)
    return next(filter(None, reasons), "")


def is_finished(files, arguments, verify=False):
    """True if nothing is left to train for these arguments."""
    return not why_unfinished(files, arguments, verify)


def check_length(args):
    """ValueError where a file of the run would have a longer name than file systems take."""
    names = [path.name for path in run_files(args.output_dir, args.model, args.suffix).all]
    longest = max(names, key=lambda name: len(name.encode()))
    over = len(longest.encode()) - NAME_BYTES
    if over > 0:
        raise ValueError(
            f"--suffix and --model make file names of {over + NAME_BYTES} bytes, such as"
            f" {longest[:40]}...; {NAME_BYTES} is the most: give a --suffix that is {over} bytes"
            " shorter"
        )


def refuse_or_skip(args, files):
    """True where --resume finds the run finished; ValueError rather than replace another run, or
    this one unasked."""
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


def difference(args, files):
    """What tells the finished run from the one that is asked for, as the end of a clause."""
    if records.read_sidecar(files.final).get("arguments") != utils.plain(cli.material(args)):
        return "from another run"
    if is_finished(files, cli.material(args)):
        return "finished with these arguments"
    return "of these arguments, but its images, network file or checkpoints have changed since"


@contextlib.contextmanager
def sole_writer(files, world):
    """Within the block no other process writes these files; ValueError where one does already."""
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
            # while it is held: who waits for it sees that it is gone
            files.lock.unlink(missing_ok=True)
            lock.release()


def begin(args, files, world):
    """Look again, now that nobody else writes, and with --force remove the checkpoints of the run
    that stands here."""
    with world.together():
        if world.first and not args.force and refuse_or_skip(args, files):
            raise ValueError(
                f"{files.final} was finished by another process just now; nothing to resume"
            )
        if world.first and args.force:
            names = records.listing(files.folder, "*.pth")
            epochs = [files.folder / name for name in names if files.is_epoch(name)]
            for path in (files.last, files.final, files.best, *epochs):
                path.unlink(missing_ok=True)
                records.sidecar_path(path).unlink(missing_ok=True)


if __name__ == "__main__":
    cli.run(main)
