"""Extract penultimate-layer features of ID and OOD images, and the classifier's last layer, as CSV.

    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn textures
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood mine=photographs
    # trained elsewhere, on pixels in [0, 1]
    python run_networks.py --checkpoint old.pth --model resnet18 --dataset cifar100 --mean 0 --std 1
    # only download, where there is a network
    python run_networks.py --fetch --dataset cifar100 --ood svhn textures
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --odin-epsilon 0.0014
    python run_networks.py --checkpoint results/resnet18_epoch*_cifar100_s0.pth --layers stream
    torchrun --nproc-per-node 2 run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth

Writes into results/<stem>/: head.csv, ID_<dataset>_train.csv (the images that the network was
trained on, held-out classes left out), ID_<dataset>_val.csv (the validation images, where there are
any), ID_<dataset>_test.csv, OOD_<name>_test.csv, each with a .json that says how it was made. Every
image goes through the checkpoint's own preprocessing, in eval mode, in data-set order, without
augmentation.

A file that is there already and would come out the same is kept, and its images need not be there
any more. One that was edited is made anew, unless --allow-stale keeps it; --force makes all anew.
Files of a folder are looked through first: all that cannot be read are named before anything is
extracted.

What a network from elsewhere expects of its images is said by --image-size, --crop-share,
--interpolation, --mean and --std, or by `preprocessing` in its file, a dict or a function that
returns one. The values of a named data set stand in. Each run says where its values are from, and
which test accuracy results (docs/extraction.md).

--odin-epsilon adds ODIN_ID_<dataset>_test.csv and ODIN_OOD_<name>_test.csv, the features of
perturbed test images, for the score ODIN. --layers adds layers/<file>_<stage>.csv, the output of
every stage of the network; `--layers stream` stores no such features but
moments/<file>_<stage>.csv, which is all that neural_collapse.py needs of them, at the price of a
second pass over the training images.

Several processes (torchrun, srun) share the images by whole batches and write the files that one
process writes, byte for byte on like devices; moments agree to rounding, since sums come in another
order. The first rank alone downloads, writes and prints. Each rank loads the data set; a
--batch-size that gives every rank several batches shares the work evenly.
"""

import os
import shlex
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

import cli
import data
import processes
import utils
from artifacts import records, store
from collapse import layers
from extraction import expected_inputs, plan
from extraction.expected_inputs import Source
from extraction.extractor import Extractor
from images import reading
from networks import checkpoints, classifiers, entries, loading, registry, source_files

# ---- arguments -----------------------------------------------------------------------------------


def make_parser():
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    checkpoint_help = "checkpoints that train.py wrote, or that were trained elsewhere"
    cli.add_flags(parser, "checkpoint", checkpoint={"nargs": "+", "help": checkpoint_help})
    cli.add_flags(parser, "dataset", "ood", "model", "device", "data-dir", "output-dir")
    cli.add_flags(parser, "batch-size", batch_size={"default": 500, "type": cli.positive})
    add_inputs(parser.add_argument_group("what a network from elsewhere expects of its images"))
    add_outputs(parser.add_argument_group("what is made of each image"))
    add_run_flags(parser.add_argument_group("run"))
    return parser


def add_inputs(group):
    """The flags that say what a checkpoint does not."""
    held_out_help = "classes that the training of a checkpoint from elsewhere left out"
    group.add_argument("--held-out", type=str, nargs="+", metavar="CLASS", help=held_out_help)
    cli.add_flags(group, "image-size", "crop-share", "mean", "std")
    cli.add_flags(group, "interpolation", interpolation={"choices": entries.INTERPOLATIONS})


def add_run_flags(group):
    """The flags that say what is read and what is kept."""
    most = {"default": reading.MAX_PIXELS, "type": cli.positive}
    cli.add_flags(group, "max-pixels", max_pixels=most)
    flag = partial(group.add_argument, action="store_true")
    flag("--fetch", help="only see that all data is at hand, downloading what is not")
    flag("--force", help="extract again what is there already")
    flag(
        "--verify", help="compare the images behind kept features by content, not by size and time"
    )
    flag("--allow-stale", help="keep feature files that were edited since, and note that")


def add_outputs(group):
    """The flags that say what is made of each image."""
    add = group.add_argument
    add("--format", choices=("csv", "parquet"), default="csv", help="of the feature files")
    amp_help = "bfloat16: 3 times as fast on a CPU, features off by about 2e-3"
    add("--amp", action="store_true", help=amp_help)
    odin_help = (
        "extract the test sets a second time with each image moved by E (pixels in [0, 1]) "
        "towards its predicted class, for ODIN; the authors' 0.0014 suits CIFAR"
    )
    add("--odin-epsilon", type=float, metavar="E", help=odin_help)
    temperature_help = "of ODIN's softmax; only with --odin-epsilon"
    add("--temperature", type=float, default=1000.0, help=temperature_help)
    layers_help = (
        "every stage's output too, averaged over positions: its features (store: layers/), or "
        "what collapse needs of them (stream: moments/)"
    )
    add("--layers", nargs="?", choices=list(layers.FOLDERS), const="store", help=layers_help)


def parse_args(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.fetch and not args.checkpoint:
        parser.error(
            "--checkpoint is needed, such as results/resnet18_best_cifar100_s0.pth; train one "
            "with: python train.py"
        )
    if args.fetch and not args.dataset:
        parser.error("--fetch needs --dataset")
    if args.odin_epsilon is None:
        args.temperature = None  # it then says nothing about the files
    elif args.odin_epsilon < 0 or not args.temperature > 0:
        parser.error("--odin-epsilon must be 0 or more, and --temperature above 0")
    if wrong := expected_inputs.complaint(preprocessing_flags(args)):
        parser.error(wrong)
    if args.fetch and args.ood is None:
        args.ood = default_ood(args.dataset)
    return args


def preprocessing_flags(args):
    """The values of a preprocessing that the command line gives."""
    given = {
        "size": args.image_size,
        "mean": args.mean,
        "std": args.std,
        "interpolation": args.interpolation,
        "crop_share": args.crop_share,
    }
    return {name: value for name, value in given.items() if value is not None}


def default_ood(dataset):
    """The OOD sets that an ID set is tested against when nobody says; none of a folder."""
    data.check_id(dataset)
    return [] if "=" in dataset else list(data.ID[utils.split_name(dataset)[0]].ood)


def command(args, **changes):
    """The command line of these arguments, with some of them changed, as a shell takes it."""
    words = ["python", "run_networks.py"]
    for action in make_parser()._actions:
        value = changes.get(action.dest, getattr(args, action.dest, None))
        if value is None or value is False or value == action.default:
            continue
        words.append(action.option_strings[-1])
        if value is not True:
            words += map(str, value if isinstance(value, (list, tuple)) else [value])
    return shlex.join(words)


def main(argv=None):
    args = parse_args(argv)
    reading.limit_pixels(args.max_pixels)
    with processes.join("cpu" if args.fetch else cli.device(args.device)) as world:
        if args.fetch:
            with world.together():
                fetch(args) if world.first else None
            return
        with world.together():
            paths = distinct(args)
        seen = set()
        for path in paths:
            extract_all(path, args, world, seen)


def distinct(args):
    """The checkpoints, each once; ValueError where two have one name, such as s0/b.pth s1/b.pth."""
    paths = list({Path(path).resolve(): path for path in args.checkpoint}.values())
    stems = [Path(path).stem for path in paths]
    clash = next((stem for stem in stems if stems.count(stem) > 1), None)
    if clash is None:
        return paths
    same = [path for path in paths if Path(path).stem == clash]
    commands = [
        command(args, checkpoint=[path], output_dir=folder)
        for path, folder in apart(same, args.output_dir).items()
    ]
    others = [path for path in paths if path not in same]
    commands += [command(args, checkpoint=others)] if others else []
    raise ValueError(
        f"{' and '.join(same)} would all be written into {Path(args.output_dir) / clash}; give "
        f"each a folder of its own with: {' && '.join(commands)}"
    )


def apart(paths, output_dir):
    """{path: an output folder of its own}, named after the folders that tell the paths apart."""
    above = [Path(path).resolve().parent.parts[1:] for path in paths]
    depth = 1
    while len({parts[-depth:] for parts in above}) < len({*above}):
        depth += 1
    names = ["_".join(parts[-depth:]) or "root" for parts in above]
    if len({*names}) < len(names):  # best.pth and best.ckpt in one folder
        names = [Path(path).name for path in paths]
    return {path: Path(output_dir) / name for path, name in zip(paths, names, strict=True)}


# ---- one checkpoint ------------------------------------------------------------------------------


@dataclass(eq=False)
class Work:
    """One checkpoint: what is to be made of it, and how each file comes out."""

    path: str
    extractor: Extractor
    checkpoint: dict  # as networks.registry.load has it
    choice: expected_inputs.Choice
    given: plan.Given
    jobs: list
    shelf: plan.Shelf
    verdicts: dict = field(default_factory=dict)  # {stem: plan.Verdict}
    files: list = field(default_factory=list)  # written or kept so far; the head first

    @property
    def training(self):
        return next(job for job in self.jobs if job.in_distribution and job.split == "train")

    @property
    def waiting(self):
        """The jobs that are not kept."""
        return [job for job in self.jobs if not self.verdicts[job.stem].kept]

    @property
    def head(self):
        return self.shelf.folder / "head.csv"


def extract_all(path, args, world, seen):
    """One checkpoint -> its head and feature files, each only where it would come out different.

    `seen` holds what was said, and which files were read through, for the checkpoints before it.
    """
    with world.together():
        work = prepare(path, args, world)
    with world.together():
        names = class_names(work) if world.first else None
    work.shelf.origin["class_names"] = world.broadcast_object(names)
    with world.together():
        verdicts = judge(work, args) if world.first else None
    work.verdicts = world.broadcast_object(verdicts)
    with world.together(first_ahead=True):  # which downloads what the others then find
        check_images(work)
        if world.first:
            check_files(work, seen)
    with world.together():
        if world.first:
            work.files.append(write_head(work, args))
    classes, width = work.extractor.classifier.weight.shape[:2]
    print(
        f"{path}: {work.checkpoint['model']}, {width} features, {classes} classes -> "
        f"{work.shelf.folder}"
    )
    print(f"  preprocessing: {work.choice}")
    say_left_out(work, seen)
    say_edited(work)
    probes = {}
    for job in work.jobs:
        make(work, job, args, probes, world)
    with world.together():
        if world.first:
            finish(work, args)


def make(work, job, args, probes, world):
    """The files of one job: kept, or extracted and written."""
    if work.verdicts[job.stem].kept:
        with world.together():
            if world.first:
                keep(work, job, args)
    else:
        start = time.perf_counter()
        found, summaries = extract(work, job, args, probes, world)
        hashes = world.gather_objects(getattr(job.images, "hashes", {}))
        with world.together():
            if world.first:
                for part in filter(None, hashes):  # of the files that other ranks decoded
                    job.images.hashes.update(part)
                write(work, job, args, found, summaries, start)
    with world.together():
        if world.first and job.in_distribution and job.split == "test":
            say_accuracy(work, job)
    work.files.extend(work.shelf.outputs(job).values())


def keep(work, job, args):
    """Leave the files of one job as they are, and let their sidecars say where the images are."""
    verdict = work.verdicts[job.stem]
    work.shelf.renew(job, records.sha256(work.head))
    print(f"  {job.stem}.{args.format}: {images_in_words(verdict.rows)}, {verdict.said}")


def finish(work, args):
    """The record of what was looked at, written and kept."""
    path = work.shelf.folder / "run_networks.json"
    inputs = [work.path, *source_files.files(work.checkpoint["model"])]
    before = records.read_record(path).get("folders", {})
    folders = work.shelf.folders(work.jobs, work.waiting, before)
    arguments, stale = cli.material(args), work.shelf.stale
    records.write_record(path, arguments, inputs, work.files, folders=folders, stale=stale)


# ---- before the long work ------------------------------------------------------------------------


def prepare(path, args, world):
    """Read the checkpoint: what is missing or contradicts itself shows before the long work."""
    content = checkpoints.read(path)
    check_described(path, content, args)
    network, classifier, checkpoint = loading.load(path, args.model, content)
    if not all(values.isfinite().all() for values in network.state_dict().values()):
        raise ValueError(
            f"{path} holds NaN or infinity among its parameters: it has diverged; train it with a "
            "lower --lr"
        )
    origin = {"checkpoint": Path(path).name, "checkpoint_sha256": records.sha256(path)}
    origin |= {name: checkpoint[name] for name in ("weights_sha256", "model_file_sha256")}
    folder = utils.writable_folder(args.output_dir) / Path(path).stem
    check_folder(folder, path, origin, args)
    choice = choose_inputs(path, args, checkpoint, network)
    given = given_by(path, checkpoint, args, choice, folder)
    odin = {"odin_epsilon": args.odin_epsilon, "temperature": args.temperature}
    jobs = plan.plan(given, None if args.odin_epsilon is None else odin)
    stages = classifiers.stages(network, checkpoint["model"]) if args.layers else {}
    extractor = make_extractor(network, classifier, stages, choice, args, world)
    shelf = make_shelf(utils.writable_folder(folder), origin, stages, given, args)
    return Work(path, extractor, checkpoint, choice, given, jobs, shelf)


def make_extractor(network, classifier, stages, choice, args, world):
    network = network.to(world.device, memory_format=torch.channels_last)
    progress = {"progress": cli.progress} if world.first else {}
    return Extractor(
        network,
        classifier,
        choice.preprocessing,
        world,
        args.batch_size,
        args.amp,
        stages,
        **progress,
    )


def make_shelf(folder, origin, stages, given, args):
    """The folder of the features; `origin` says of the network which it is."""
    facts = {
        **origin,
        "preprocessing": given.preprocessing.as_dict(),
        "held_out": list(given.held_out),
        "val_size": given.val_size,
        "precision": "bfloat16" if args.amp else "float32",
    }
    stale = records.Stale(args.allow_stale)
    return plan.Shelf(
        folder, facts, args.data_dir, args.format, args.layers, tuple(stages), stale, args.verify
    )


def check_described(path, content, args):
    """ValueError that asks at once for all that is not said, as one whole command."""
    lacks = {"model": "which network it holds", "dataset": "which data it was trained on"}
    lacks = {
        name: what
        for name, what in lacks.items()
        if content.get(name) is None and getattr(args, name) is None
    }
    if not lacks:
        return
    guess = {**guesses(path, content), **expected_inputs.EXAMPLE}
    wanted = {name: guess[name] for name in lacks}
    remark = ""
    if "=" in (args.dataset or wanted.get("dataset", "")) and not known_inputs(args):
        wanted |= {
            name: value
            for name, value in expected_inputs.EXAMPLE.items()
            if getattr(args, name) is None
        }
        remark = " (with the image size, mean and std of its own training)"
    flags = " and ".join(f"--{name}" for name in lacks)
    which = "it" if len(lacks) == 1 else "both"
    raise ValueError(
        f"{path} does not say {', nor '.join(lacks.values())}; name {which} with {flags}, such as"
        f"{remark}: {command(args, checkpoint=[path], **wanted)}"
    )


def known_inputs(args):
    return {"size", "mean", "std"} <= set(preprocessing_flags(args))


def guesses(path, content):
    """A network of the registry that the file fits, and a data set of as many classes."""
    model, classes = "FILE.py:FUNCTION", None
    for name in registry.MODELS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network, _ = loading.fitted(path, name, content, {})
        except ValueError:
            continue
        model, classes = name, len(classifiers.classifier(network, name).weight)
        break
    return {"model": model, "dataset": {10: "cifar10", 100: "cifar100"}.get(classes, "NAME=FOLDER")}


def check_folder(folder, path, own, args):
    """ValueError where the folder holds another file's features: not replaced unasked."""
    head = records.read_sidecar(folder / "head.csv")
    if args.force or not head or records.same_network(head, own):
        return
    other = head.get("checkpoint_at")
    if other is None or (folder / other).resolve() == Path(path).resolve():  # trained anew
        return
    place = apart([path], args.output_dir)[path]
    raise ValueError(
        f"{folder} holds the features of another network, {os.path.normpath(folder / other)}; "
        f"put those of {path} elsewhere with: "
        f"{command(args, checkpoint=[path], output_dir=place)}, or in their place with: "
        f"{command(args, checkpoint=[path], force=True)}"
    )


def choose_inputs(path, args, checkpoint, network):
    """What the network expects of its images; a warning where flags contradict the checkpoint."""
    flags, own = preprocessing_flags(args), checkpoint.get("preprocessing")
    model = checkpoint["model"]
    name, folder = data.check_id(args.dataset or checkpoint["dataset"])
    sources = [Source("the command line", flags), Source("the checkpoint", own)]
    if not own and len(flags) < len(expected_inputs.WORDS):
        said = registry.preprocessing_of(network, model)
        stated = None if said is None else expected_inputs.check_stated(said, f"--model {model}")
        sources.append(Source(Path(model).name, stated))
    if not own and folder is None:
        row = data.ID[name]
        sources.append(
            Source(
                f"the data set {name}, as the checkpoint names none",
                {"size": row.size, "mean": row.mean, "std": row.std},
            )
        )
    try:
        choice = expected_inputs.choose(sources)
    except LookupError as error:
        raise ValueError(unknown_inputs(path, args, error.args[0], model)) from None
    if own and (contradictions := expected_inputs.contradictions(flags, own)):
        warnings.warn(
            f"{path} says itself what its images must be like, and the command line contradicts "
            "it: "
            f"{', '.join(contradictions)}; leave that out to measure the network as it was trained",
            stacklevel=2,
        )
    return choice


def unknown_inputs(path, args, missing, model):
    words = [expected_inputs.WORDS[name] for name in missing]
    example = {
        name: value
        for name, value in expected_inputs.EXAMPLE.items()
        if getattr(args, name) is None
    }
    place = (
        ""
        if model in registry.MODELS
        else f", or by a line preprocessing = {{...}} in {source_files.parts(model)[0]}"
    )
    flags = " ".join(expected_inputs.FLAGS[name] for name in missing)
    remedy = command(args, checkpoint=[path], **example)
    return (
        f"{path} does not say what its images must be like, and neither does the folder"
        f" {args.dataset}: its {expected_inputs.listed(words)} in training are known from nowhere."
        f" Say them with {flags}{place}, such as, where they are ImageNet's: {remedy}"
        " (--mean 0 --std 1 leaves pixels in [0, 1] as they are)"
    )


def given_by(path, checkpoint, args, choice, folder):
    """What the features depend on beside the weights, by the checkpoint or the command line."""
    own = checkpoint.get("dataset")
    if own and args.dataset and utils.split_name(own)[0] != utils.split_name(args.dataset)[0]:
        raise ValueError(
            f"{path} was trained on {own}, not on {args.dataset}; to see {args.dataset} as "
            "unknown images, give it as "
            f"--ood {args.dataset}"
        )
    text = args.dataset or own
    name, held_out = data.check_id(text)[0], held_out_by(path, checkpoint, args)
    ood = default_sets(name, held_out) if args.ood is None else args.ood
    kept = {text for text in ood if plan.was_made(folder, text)}
    data.check_ood(ood, name, held_out, kept)
    return plan.Given(
        text, held_out, ood, checkpoint.get("val_size", 0), choice.preprocessing, args.data_dir
    )


def held_out_by(path, checkpoint, args):
    """The classes that training left out: by the checkpoint, or of a foreign one by --held-out."""
    own = checkpoint.get("held_out")
    if own is None or args.held_out is None:
        return own or list(dict.fromkeys(args.held_out or []))
    if set(own) != set(args.held_out):
        raise ValueError(
            f"{path} was trained without the classes {', '.join(own) or '(none)'}, not without "
            f"{', '.join(args.held_out)}; leave --held-out out"
        )
    return own


def default_sets(dataset, held_out):
    """The default OOD sets that this checkpoint has: held_out only where classes were held out."""
    if dataset not in data.ID:
        return []
    return [name for name in default_ood(dataset) if name != "held_out" or held_out]


def class_names(work):
    """Of the checkpoint; for a foreign network of its data set, or of the head where it is kept."""
    names, job = work.checkpoint.get("class_names"), work.training
    if names is None:
        head = records.read_sidecar(work.head)
        known = (
            records.same_network(head, work.shelf.origin)
            and head.get("dataset") == work.given.dataset
            and head.get("held_out") == list(work.given.held_out)
        )
        # its names can be seen at no cost
        there = job.folder is not None and work.shelf.source_of(job) is not None
        names = head["class_names"] if known and not there else job.images.class_names
    if len(names) != work.checkpoint["classes"]:
        raise ValueError(
            f"{work.path} tells {work.checkpoint['classes']} classes apart and "
            f"{work.given.dataset} has {len(names)}: it was trained on other data{left_out(work)}"
        )
    return list(names)


def left_out(work):
    """How to say which classes a foreign network was trained without."""
    if work.checkpoint.get("held_out") is not None or work.given.held_out:
        return ""
    return ", or without some of the classes: name those with --held-out CLASS ..."


def judge(work, args):
    """{stem: Verdict} of every job, training images first: NC4's counts depend on them."""
    if args.force:
        return {job.stem: plan.Verdict(False) for job in work.jobs}
    verdicts = {work.training.stem: work.shelf.judge(work.training)}
    training = None
    if args.layers == "stream":
        training = work.shelf.training(work.training, verdicts[work.training.stem])
    return {
        job.stem: verdicts.get(job.stem) or work.shelf.judge(job, training) for job in work.jobs
    }


def check_images(work):
    """Open the images of all jobs that are not kept; ValueError where their classes are others."""
    names = work.shelf.origin["class_names"]
    for job in work.waiting:
        images = job.images
        if not job.in_distribution:
            continue
        found = list(images.class_names)
        if len(found) == len(names) and found != names:
            raise ValueError(
                f"{work.path} was trained on the classes {', '.join(names[:5])} and "
                f"{job.dataset} has "
                f"{', '.join(found[:5])}: it was trained on other data"
            )
        if len(found) != len(names) or int(images.labels.max()) >= len(names):
            raise ValueError(
                f"{work.path} tells {len(names)} classes apart and {job.dataset} has "
                f"{len(found)}: it was trained on "
                "other data"
            )
        if job.split == "train":
            check_count(work, len(images))


def check_count(work, count):
    """Warn where the training images are not as many as the checkpoint was trained on."""
    then = work.checkpoint.get("images")
    if then and work.checkpoint.get("dataset") and count != then:
        warnings.warn(
            f"{work.path} was trained on {then:,} images, and {work.given.text} now has "
            f"{count:,} to train on: what is "
            "extracted as training images is not what the network learned; train it again",
            stacklevel=2,
        )


def check_files(work, seen):
    """ValueError that names every image file, of all sets together, which cannot be read.

    What was extracted once was readable then: where the sidecar names the same files, of the same
    sizes and times, they are not read through again. ODIN's images are those of the test sets.
    """
    failures = []
    for job in work.waiting:
        known = records.read_sidecar(work.shelf.outputs(job)[""]).get("source") == job.images.source
        if not job.odin and not known and (job.stem, job.images.source) not in seen:
            failures += job.images.unreadable(cli.progress)
            seen.add((job.stem, job.images.source))
    reading.refuse(failures)


def say_left_out(work, seen):
    """Print what lies beside images: "mine: 19 images; 3 other files left out (.heic)"."""
    for job in work.waiting:
        if (
            job.images.left_out and job.split != "val" and job.images.root not in seen
        ):  # val lies where the training images lie
            print(
                f"  {job.dataset}{f' ({job.split})' if job.in_distribution else ''}: "
                f"{count(job.images)}"
            )
            seen.add(job.images.root)


def say_edited(work):
    """Print which files are made anew since they were edited."""
    for verdict in work.verdicts.values():
        if verdict.said and not verdict.kept:
            print(f"  {verdict.said}")


def count(images, where=""):
    return (
        f"{images_in_words(len(images))}{where}{f'; {images.left_out}' if images.left_out else ''}"
    )


def images_in_words(number):
    return "1 image" if number == 1 else f"{number:,} images"


# ---- the long work -------------------------------------------------------------------------------


def extract(work, job, args, probes, world):
    """-> ({name: features} on the first rank, {stage: Summary}).

    `probes` of the training images serve the test images.
    """
    extractor, stages = work.extractor, [name for name in work.shelf.outputs(job) if name]
    if args.layers != "stream" or not stages:
        kept = ["", *stages]
        with world.together():
            found, summaries = extractor.run(job, kept), {}
    else:
        kept, classes = [""], len(extractor.classifier.weight)
        if (
            job.in_distribution and job.split == "test" and not probes
        ):  # those of the training images were kept as they are
            with world.together():
                files = work.shelf.outputs(work.training) if world.first else {}
                read = {
                    name: layers.probe(layers.read_summary(file).moments)
                    for name, file in files.items()
                    if name
                }
            probes |= world.broadcast_object(read)
        found, summaries = extractor.tally(job, classes, probes)
        if job.in_distribution and job.split == "train":
            probes |= {name: layers.probe(summary.moments) for name, summary in summaries.items()}
    return extractor.gather(found, kept), summaries


def write(work, job, args, found, summaries, start):
    """Write one job's files; the same layers stored the other way would go stale, and go."""
    shelf, images = work.shelf, job.images
    training = None
    if summaries and job.split != "train":
        training = shelf.training(work.training, work.verdicts[work.training.stem])
    common = {
        "head_sha256": records.sha256(work.head),
        "preprocessing_from": work.choice.origin,
        "source": images.source,
        "source_content": images.content(),
        "place": job.place,
        "ood_class_names": images.class_names,
        **accuracy(work, job, found),
    }
    for depth, (name, file) in enumerate(shelf.outputs(job).items(), start=-1):
        file.parent.mkdir(exist_ok=True)
        sidecar = {
            **records.provenance(cli.material(args), shelf.stale),
            **shelf.facts(job, name, training),
            **common,
            **({"layer": name, "depth": depth} if name else {}),
            "seconds": round(time.perf_counter() - start, 3),
        }
        if name in summaries:
            layers.write_summary(file, summaries[name], {**sidecar, "images": len(images)})
        else:
            store.write_features(file, found[name], images.labels.numpy(), images.paths, sidecar)
        remove_other_way(shelf.folder, file) if name else None
    seconds = time.perf_counter() - start
    print(f"  {job.stem}.{args.format}: {images_in_words(len(images))}, {seconds:.1f} s")


def remove_other_way(folder, file):
    """Remove the same layer stored the other way: features or moments."""
    for other in layers.FOLDERS.values():
        for ending in (".json", *store.SUFFIXES) if other != file.parent.name else ():
            (folder / other / file.name).with_suffix(ending).unlink(missing_ok=True)


def accuracy(work, job, found):
    """{"accuracy": share of ID test images that are classified right}, {} of other images."""
    if not job.in_distribution or job.split != "test":
        return {}
    W, b = classifiers.head(work.extractor.classifier)
    labels = job.images.labels.numpy()
    right = (found[""] @ W.T + b).argmax(1) == labels
    largest = np.bincount(labels).max() / len(labels)
    return {"accuracy": float(right.mean()), "largest_class": float(largest)}


def say_accuracy(work, job):
    """Print the test accuracy, and warn where it makes the preprocessing doubtful."""
    sidecar = records.read_sidecar(work.shelf.outputs(job)[""])
    measured, stated = sidecar["accuracy"], expected_inputs.stated_accuracy(work.checkpoint)
    print(f"  {expected_inputs.say_accuracy(measured, stated)}")
    doubt = expected_inputs.doubt(
        measured, stated, sidecar["largest_class"], sidecar["rows"], work.choice
    )
    if doubt:
        warnings.warn(f"{work.path}: {doubt}", stacklevel=2)


def write_head(work, args):
    """head.csv, kept where it would come out the same: the features that name it stay valid."""
    trained = ("mode", "epoch", "train_acc", "val_acc", "test_acc")
    facts = {**work.shelf.origin, **{name: work.checkpoint.get(name) for name in trained}}
    facts = utils.plain({**facts, "model": work.checkpoint["model"], "dataset": work.given.dataset})
    if not args.force and keeps_head(work, facts):
        return work.head
    classifier = work.extractor.classifier
    at = os.path.relpath(Path(work.path).resolve(), work.shelf.folder.resolve())
    sidecar = {
        **records.provenance(cli.material(args), work.shelf.stale),
        **facts,
        "checkpoint_at": at,
        "preprocessing_from": work.choice.origin,
        "has_bias": classifier.bias is not None,
    }
    names = work.shelf.origin["class_names"]
    store.write_head(work.head, *classifiers.head(classifier), names, sidecar)
    return work.head


def keeps_head(work, facts):
    """True where head.csv is there, current, and unedited or allowed to be stale."""
    sidecar = records.read_sidecar(work.head)
    if not work.head.is_file() or not plan.describes(sidecar, facts):
        return False
    if not plan.is_edited(work.head, sidecar):
        return True
    reason = f"{work.head} was edited since it was written"
    if work.shelf.stale.allowed:
        work.shelf.stale.found(reason, None)
        return True
    print(f"  {reason}: it is written anew (--allow-stale keeps such a file)")
    return False


# ---- only the data -------------------------------------------------------------------------------


def fetch(args):
    """See that all data is at hand and readable, for a compute node without a network."""
    data.check_ood(args.ood, data.check_id(args.dataset)[0], held_out=("any",))
    # nothing is normalised here
    name, dataset = data.id_set(args.dataset, args.data_dir, statistics=((0.0,) * 3, (1.0,) * 3))
    preprocessing = data.Preprocessing(dataset.size, dataset.mean, dataset.std)
    wanted = {
        f"{name} ({split})": partial(data.load_id, dataset, split) for split in ("train", "test")
    }
    wanted |= {
        text: partial(data.load_ood, text, dataset)
        for text in args.ood
        if utils.split_name(text)[0] != "held_out"
    }
    failures = []
    for name, load in wanted.items():
        images = load(preprocessing, args.data_dir)
        failures += images.unreadable(cli.progress)
        print(f"{name}: {count(images, ' at hand')}")
    reading.refuse(failures)


if __name__ == "__main__":
    cli.run(main)
