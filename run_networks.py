"""Extract penultimate-layer features of ID and OOD images, and the classifier's last layer, as CSV.

    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn textures
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood mine=photographs
    # trained elsewhere, on pixels in [0, 1]
    python run_networks.py --checkpoint old.pth --model resnet18 --dataset cifar100 --mean 0 --std 1
    # with the weights that timm publishes
    python run_networks.py --model timm/resnet50 --pretrained --dataset birds=birds --ood textures
    # an ONNX file, which holds features and logits; and the other way round
    python run_networks.py --checkpoint net.onnx --dataset cifar10 --ood svhn --mean 0.5 --std 0.25
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --export-onnx net.onnx
    # ID images under a covariate shift: corrupted test images, and a folder of one's own
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --csid fog3 \\
        sketches=path/to/sketches
    # only download, where there is a network
    python run_networks.py --fetch --dataset cifar100 --ood svhn textures
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --odin-epsilon 0.0014
    python run_networks.py --checkpoint results/toynet_best_digits_s0_fold*.pth --odin-epsilon 0.002
    python run_networks.py --checkpoint results/resnet18_epoch*_cifar100_s0.pth --layers stream
    torchrun --nproc-per-node 2 run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth
    python run_networks.py --checkpoint big.pth --format parquet --shard-rows 65536

Writes into results/<stem>/: head.csv, ID_<dataset>_train.csv (the images that the network was
trained on, held-out classes left out), ID_<dataset>_val.csv (the validation images, where there are
any), ID_<dataset>_test.csv, OOD_<name>_test.csv, CSID_<name>_test.csv (ID images under a covariate
shift, --csid), each with a .json that says how it was made. Every image goes through the
checkpoint's own preprocessing, in eval mode, in data-set order, without augmentation. A member of a
leave-out ensemble (train.py --mode leave-out) is a network whose held-out classes are those that it
leaves out; all/ID_<dataset>_test.csv and _val.csv hold the images of all classes of its ensemble.

A file that is there already and would come out the same is kept, and its images need not be there
any more. One that was edited is made anew, unless --allow-stale keeps it; --force makes all anew.
Files of a folder are looked through first: all that cannot be read are named before anything is
extracted.

What a network from elsewhere expects of its images is said by --image-size, --crop-share,
--interpolation, --mean and --std, or by `preprocessing` in its file, a dict or a function that
returns one. The values of a named data set stand in. Each run says where its values are from, and
which test accuracy results (docs/extraction.md).

--pretrained takes a network of timm or torchvision with their weights, which are saved first as
<output-dir>/<model>_pretrained.pth. --checkpoint with --model timm/NAME takes weights from a file:
.pth, .safetensors, or Google's .npz of a Vision Transformer (docs/pretrained.md).

--odin-epsilon adds ODIN_ID_<dataset>_test.csv and ODIN_OOD_<name>_test.csv, the features of
perturbed test images, for the score ODIN. Of members, and with --perturbation entropy, these are
perturbed/<kind>_T<temperature>_E<epsilon>/ID_<dataset>_test.csv and OOD_<name>_test.csv, of all
classes of the ensemble. Several values of --odin-epsilon or --temperature are a grid, from which a
pair is chosen on the validation images and the OOD set of --val-ood: it is made of these alone.

--layers adds layers/<file>_<stage>.csv, the output of every stage of the network; `--layers stream`
stores no such features but moments/<file>_<stage>.csv, which is all that neural_collapse.py needs
of them, at the price of a second pass over the training images. --stages names the modules.

--shard-rows 65536 writes each set as a folder of shards, ID_<dataset>_train.parquet/00000.parquet
and so on, with one sidecar: every script takes it in place of the file. Whole shards that are there
already are kept, so that an interrupted run goes on, and a broken shard alone is made anew.
--format npy or safetensors writes arrays/ID_<dataset>_train... too, for other programs.

Several processes (torchrun, srun) share the images by whole batches and write the files that one
process writes, byte for byte on like devices; moments agree to rounding, since sums come in another
order. The first rank alone downloads, writes and prints. Each rank loads the data set; a
--batch-size that gives every rank several batches shares the work evenly.
"""

import contextlib
import shlex
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import cli
import console
import machine_memory
import processes
import threads
import utils
from artifacts import current, records
from collapse import layers
from extraction import (
    array_files,
    batching,
    checks,
    expected_inputs,
    exporting,
    fetching,
    making,
    members,
    onnx_files,
    opening,
    perturbation,
    places,
    sharding,
    writing,
)
from extraction.head_rows import Rows
from extraction.options import Options, default_ood, preprocessing_flags
from extraction.plan import Job
from extraction.wording import counted, images_in_words
from extraction.work import Work, is_test, judge
from images import file_facts, openood, reading
from networks import classifiers, entries, library_names, pretrained, source_files
from networks.messages import some
from processes import World

BATCH_HELP = (
    "images that go through the network at once; default: 500, on a CPU at most 512,000 pixels (10"
    " images of 224 x 224), and less where the device has little memory"
)
FORMATS = ("csv", "parquet", *array_files.FORMATS)
WORKERS_HELP = (
    "threads that decode images in files on a CPU, or processes that decode ahead of a GPU; "
    "default: one for each core"
)


# ---- arguments -----------------------------------------------------------------------------------


def make_parser():
    """The parser, its flags in groups."""
    parser = cli.Parser(__doc__)
    checkpoint_help = "checkpoints that train.py wrote, or that were trained elsewhere"
    cli.add_flags(parser, "checkpoint", checkpoint={"nargs": "+", "help": checkpoint_help})
    cli.add_flags(parser, "dataset", "ood", "model", "device", "data-dir", "output-dir")
    cli.add_flags(parser, "batch-size", batch_size={"type": cli.positive, "help": BATCH_HELP})
    add_inputs(parser.add_argument_group("what a network from elsewhere expects of its images"))
    add_outputs(parser.add_argument_group("what is made of each image"))
    add_perturbation(parser.add_argument_group("perturbed images"))
    add_shifted(parser.add_argument_group("more in-distribution images"))
    add_run_flags(parser.add_argument_group("run"))
    return parser


def add_inputs(group):
    """The flags that say what a checkpoint does not."""
    pretrained_help = "with the weights that the library of --model timm/NAME, torchvision/NAME has"
    # None where it is not given: records from before the flag stay current.
    group.add_argument("--pretrained", action="store_true", default=None, help=pretrained_help)
    held_out_help = "classes that the training of a checkpoint from elsewhere left out"
    group.add_argument("--held-out", type=str, nargs="+", metavar="CLASS", help=held_out_help)
    classes_help = (
        "names of the classifier's rows, one line per row; where it has more classes than the data,"
        " the names of the data's classes choose its rows"
    )
    group.add_argument("--classes", type=cli.path, metavar="FILE", help=classes_help)
    add_onnx(group)
    cli.add_flags(group, "image-size", "crop-share", "mean", "std")
    cli.add_flags(group, "interpolation", interpolation={"choices": entries.INTERPOLATIONS})


def add_onnx(group):
    """The flags that say what an ONNX file's outputs are."""
    feature_help = (
        "of an ONNX file: the output, or any value within the graph, that holds the features;"
        " default: where it is obvious"
    )
    group.add_argument("--feature-output", type=str, metavar="NAME", help=feature_help)
    logits_help = "of an ONNX file: the output that holds the logits; default: the other one"
    group.add_argument("--logits-output", type=str, metavar="NAME", help=logits_help)


def add_shifted(group):
    """The flags that name ID images beside those of training and test."""
    csid_help = (
        "ID images under a covariate shift: a folder with one folder of images per class, or a"
        " corruption of the ID test images with a severity from 1 to 5, such as fog3, or corrupted,"
        " any kind and severity image by image"
    )
    group.add_argument(
        "--csid", nargs="+", type=cli.data_set, metavar="NAME|NAME=FOLDER", help=csid_help
    )
    calibration_help = (
        "ID images that the network was not trained on, one folder per class, for p-values and"
        " thresholds with a guarantee; of a network whose own validation images are not known"
    )
    group.add_argument(
        "--calibration", type=cli.data_set, metavar="NAME=FOLDER", help=calibration_help
    )


def add_run_flags(group):
    """The flags that say what is read and what is kept."""
    most = {"default": reading.MAX_PIXELS, "type": cli.positive}
    cli.add_flags(group, "max-pixels", "skip-broken", max_pixels=most)
    cli.add_flags(group, "workers", workers={"help": WORKERS_HELP})
    flag = partial(group.add_argument, action="store_true")
    export_help = "only write the network as an ONNX file, and compare the two on test images"
    group.add_argument("--export-onnx", type=cli.path, metavar="FILE", help=export_help)
    flag("--fetch", help="only see that all data is at hand, downloading what is not")
    flag("--force", help="extract again what is there already")
    flag(
        "--verify", help="compare the images behind kept features by content, not by size and time"
    )
    flag("--allow-stale", help="keep feature files that were edited since, and note that")


def add_outputs(group):
    """The flags that say what is made of each image."""
    add = group.add_argument
    match_help = (
        "give every image the ID images' size and encoding first, in memory, so that scores cannot"
        " see the file; the features go into <stem>_matched/"
    )
    # None without it: records of runs before this flag stay current
    add("--match-format", action="store_const", const=True, help=match_help)
    format_help = (
        "of the feature files; npy and safetensors are written beside Parquet files, for other "
        "programs: arrays/"
    )
    add("--format", choices=FORMATS, default="csv", help=format_help)
    shard_help = (
        "write each set as a folder of shards of N images, a multiple of 16384; one that was "
        "interrupted goes on where it stopped"
    )
    add("--shard-rows", type=int, metavar="N", help=shard_help)
    amp_help = "bfloat16: 3 times as fast on a CPU, features off by about 2e-3"
    add("--amp", action="store_true", help=amp_help)
    layers_help = (
        "every stage's output too, averaged over positions: its features (store: layers/), or "
        "what collapse needs of them (stream: moments/)"
    )
    add("--layers", nargs="?", choices=list(layers.FOLDERS), const="store", help=layers_help)
    stages_help = (
        "paths of the modules that --layers is of, in order of depth, such as layer1 blocks.3;"
        " default: the network's stages, as far as they can be found"
    )
    add("--stages", type=str, nargs="+", metavar="PATH", help=stages_help)


def add_perturbation(group):
    """The flags that say how images are moved before a second pass."""
    add = group.add_argument
    several = {"type": cli.finite, "nargs": "+"}
    odin_help = (
        "extract the test sets a second time with each image moved by E (pixels in [0, 1]) "
        "towards what the network believes; the authors' 0.0014 suits CIFAR"
    )
    add("--odin-epsilon", **several, metavar="E", help=odin_help)
    temperature_help = "of the softmax behind that step; only with --odin-epsilon"
    add("--temperature", **several, metavar="T", default=[1000.0], help=temperature_help)
    adascale_help = (
        "extract validation, test and OOD images a second time with the values that matter least to"
        " the largest logit changed, for the scores AdaSCALE-A and AdaSCALE-L"
    )
    # None without it: records of runs before this flag stay current
    add("--adascale", action="store_const", const=True, help=adascale_help)
    kind_help = (
        "down the gradient of the softmax's entropy, or of the cross-entropy of the predicted "
        "class, as ODIN does; default: entropy for members of an ensemble, otherwise argmax"
    )
    add("--perturbation", choices=perturbation.KINDS, help=kind_help)
    val_help = (
        "several E or T are a grid: extract it for the validation images and this one of the OOD "
        "sets, and no test set"
    )
    add("--val-ood", type=cli.data_set, metavar="NAME", help=val_help)


def parse_args(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.pretrained and (wrong := pretrained_complaint(args)):
        parser.error(wrong)
    if not args.fetch and not args.checkpoint and not args.pretrained:
        parser.error(
            "--checkpoint is needed, such as results/resnet18_best_cifar100_s0.pth; train one "
            "with: python train.py"
        )
    if args.fetch and not args.dataset:
        parser.error("--fetch needs --dataset")
    if args.dataset:
        args.dataset = openood.id_place(args.dataset, args.data_dir)
    if args.odin_epsilon is None:
        args.temperature = None  # it then says nothing about the files
    if wrong := sharding.complaint(args.shard_rows, args.layers):
        parser.error(wrong)
    if args.stages and not args.layers:
        parser.error("--stages says of which modules --layers is; add --layers, or leave it out")
    if args.stages and len(set(args.stages)) < len(args.stages):
        parser.error(f"--stages {' '.join(args.stages)}: a module is named twice")
    inputs_wrong = expected_inputs.complaint(preprocessing_flags(args))
    if wrong := perturbation.complaint(args) or inputs_wrong:
        parser.error(wrong)
    if args.fetch and args.ood is None:
        args.ood = default_ood(args.dataset)
    return args


def pretrained_complaint(args: Any) -> str | None:
    """What is wrong with the arguments beside --pretrained, or None."""
    if args.checkpoint:
        return "--pretrained and --checkpoint both say which weights to take; leave one of them out"
    if not args.model or not library_names.is_name(args.model):
        return (
            "--pretrained needs a network of timm or torchvision, such as --model timm/resnet50;"
            " found " + (f"--model {args.model}" if args.model else "no --model")
        )
    if not args.dataset:
        return "--pretrained needs --dataset, the images that the network knows: NAME=FOLDER"
    return None


def command(args: Any, **changes: Any) -> str:
    """The command line of these arguments, with some of them changed, as a shell takes it."""
    if "checkpoint" in changes:  # which takes the place of published weights
        changes = {"pretrained": False, **changes}
    elif args.pretrained:
        changes = {"checkpoint": None, **changes}
    words = ["python", "run_networks.py"]
    for action in make_parser()._actions:
        value = changes.get(action.dest, getattr(args, action.dest, None))
        if value is None or value is False or value == action.default:
            continue
        words.append(action.option_strings[-1])
        if isinstance(value, (list, tuple)):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)


def options_of(args: Any, world: World) -> Options:
    """The parsed arguments as the steps of an extraction take them."""
    return Options.of(
        args,
        material=cli.material(args),
        command=partial(command, args),
        progress=console.progress,
        # One for all: processes share the images by whole batches.
        memory=world.broadcast_object(batching.memory_of(world.device)),
    )


def main(argv=None):
    args = parse_args(argv)
    reading.limit_pixels(args.max_pixels)
    device = "cpu" if args.fetch else cli.device(args.device)
    with processes.join(device) as world, threads.considerate(world.device):
        if args.fetch:
            with world.together():
                if world.first:
                    fetching.fetch(args, console.progress)
            return
        if world.device.type == "cpu":
            machine_memory.keep_freed()
        options = options_of(args, world)
        if args.pretrained:
            args.checkpoint = [str(saved_weights(args, options, world))]
        with world.together():
            paths = places.distinct(args.checkpoint, options)
            if args.export_onnx:
                exporting.check(paths, args.export_onnx, args.force)
            if world.first and (said := members.check_together(paths, options)):
                print(said)
        if args.export_onnx:
            with world.together():
                export(paths[0], args.export_onnx, options, world)
            return
        seen = checks.Seen()
        for path in paths:
            extract_all(path, options, world, seen)


def export(path: str, target: str, options: Options, world: World) -> None:
    """Write a checkpoint's network as an ONNX file, on the first rank."""
    if not world.first:
        return
    work = opening.prepare(path, options, world)
    work.rows = opening.classes_of(work)
    work.shelf.origin["class_names"] = work.chosen.names
    found = exporting.export(work, target)
    with contextlib.suppress(OSError):  # the folder of features, where there are none
        work.shelf.folder.rmdir()
    print(f"{path} -> {target}: {found.words}")
    print(f"  preprocessing: {work.choice}")


def saved_weights(args: Any, options: Options, world: World) -> Path:
    """The checkpoint of the network that --pretrained names, made by the first rank."""
    with world.together():
        if world.first:
            folder = utils.writable_folder(args.output_dir)
            facts = records.provenance(options.material)
            path = pretrained.save(args.model, folder, facts, partial(taking, options))
            print(f"{args.model}: {records.read_sidecar(path).get('pretrained', '')} -> {path}")
    return pretrained.path_of(args.model, args.output_dir)


def taking(options: Options, file: str) -> str:
    """The command line that takes weights from a file."""
    return options.command(checkpoint=[file])


# ---- one checkpoint ------------------------------------------------------------------------------


def extract_all(path: str, options: Options, world: World, seen: checks.Seen) -> None:
    """One checkpoint -> its head and feature files, each only where it would come out different.

    `seen` holds what was said, and which files were read through, for the checkpoints before it.
    """
    work = opened(path, options, world, seen)
    with world.together():
        said = [*onnx_files.say(work.trained), onnx_files.complete(work)]
    with world.together():
        if world.first:
            work.files += writing.write_head(work)
    say_network(work, said)
    say_left_out(work, seen)
    say_edited(work)
    for job in work.jobs:
        make(work, job)
    with world.together():
        if world.first:
            say_files(work)
            finish(work)
            print(f"features: {work.shelf.folder}")


def opened(path: str, options: Options, world: World, seen: checks.Seen) -> Work:
    """All that can fail before the long work; every rank knows the same in the end."""
    with world.together():
        work = opening.prepare(path, options, world)
    with world.together():
        rows = classes_of(work) if world.first else None
    work.rows = world.broadcast_object(rows)
    work.shelf.origin["class_names"] = work.chosen.names
    with world.together():
        verdicts = judge(work) if world.first else None
    work.verdicts = world.broadcast_object(verdicts)
    with world.together(first_ahead=True):  # which downloads what the others then find
        checks.check_images(work)
        if world.first:
            checks.check_files(work, seen)
    return work


def classes_of(work: Work) -> Rows:
    """The data's classes as rows of the classifier; ValueError where the folder is another ID
    set's."""
    rows = opening.classes_of(work)
    dataset, folder = work.given.dataset, work.shelf.folder
    places.check_dataset(folder, work.path, dataset, rows.names, work.options)
    return rows


def make(work: Work, job: Job) -> None:
    """The files of one job: kept, or extracted and written."""
    if work.verdicts[job.stem].kept:
        with work.world.together():
            if work.world.first:
                keep(work, job)
    elif work.options.shard_rows:
        extract_shards(work, job)
    else:
        extract(work, job)
    with work.world.together():
        if work.world.first and (is_test(job) or job.is_csid):
            say_accuracy(work, job)
        if work.world.first:
            array_files.export(work.outputs(job).features, work.options.format)
    work.files.extend(work.outputs(job).all)


def keep(work: Work, job: Job) -> None:
    """Leave the files of one job as they are, and let their sidecars say where the images are."""
    verdict = work.verdicts[job.stem]
    assert verdict.rows is not None
    work.shelf.renew(job, records.sha256(work.head) if work.has_head else None)
    say_job(work, job, verdict.rows, verdict.said)


def extract(work: Work, job: Job) -> None:
    """Make the files of one job, and write them on the first rank."""
    world = work.world
    made = making.make(work, job)
    hashes = world.gather_objects(getattr(job.images, "hashes", {}))
    with world.together():
        if hashes is None:  # the first rank writes
            return
        for part in filter(None, hashes):  # of the files that other ranks decoded
            job.images.hashes.update(part)
        writing.write(work, job, made)
        say_job(work, job, len(job.images), f"{made.seconds:.1f} s")


def extract_shards(work: Work, job: Job) -> None:
    """Make those shards of one job that are not there yet."""
    found = sharding.extract(work, job)
    with work.world.together():
        if work.world.first:
            say_job(work, job, len(job.images), found.said)


def finish(work: Work) -> None:
    """The record of what was looked at, written and kept."""
    path = work.shelf.folder / "run_networks.json"
    inputs: list = [work.path, *source_files.files(work.trained.model)]
    inputs += work.given.placed.absent if work.given.placed else []  # known to be absent
    if work.options.classes:
        inputs.append(work.options.classes)
    before = current.Record.read(path).folders
    folders = work.shelf.folders(work.jobs, work.waiting, before)
    arguments, stale = work.options.material, work.shelf.stale
    current.write_record(path, arguments, inputs, work.files, folders=folders, stale=stale)


# ---- what is printed -----------------------------------------------------------------------------


def say_network(work: Work, of_graph: list[str]) -> None:
    """Print what the network is, where its features go, and how images are prepared for it."""
    what = "features alone, without a classifier"
    if work.has_head:
        classes, width = classifiers.weight_of(work.trained.classifier).shape[:2]
        what = f"{width} features, {classes} classes"
    print(f"{work.path}: {work.trained.model}, {what} -> {work.shelf.folder}")
    for line in filter(None, of_graph):
        print(f"  {line}")
    if said := work.chosen.said():
        print(f"  classes: {said}; head_full.csv has all of them")
    if member := work.given.member:
        print(
            f"  member {member.fold} of {member.folds} of a leave-out ensemble, without"
            f" {some(member.left_out)}"
        )
    print(f"  preprocessing: {work.choice}")
    extractor = work.extractor
    print(f"  batches of {images_in_words(extractor.batch_size)} ({extractor.batch_size_from})")
    if match := work.choice.preprocessing.match:
        print(f"  every image is first made like the ID images: {match.words} (--match-format)")
    for line in work.given.placed.said if work.given.placed else ():
        print(f"  {line}")
    place = work.given.id_set.split("test").folder
    if place and place.endswith("/val"):
        print(f"  {work.given.dataset} has no folder test: the test images are those in {place}")
    if says_plain(work):
        print("  epsilon 0: the features of plain images serve, no others are made")


def says_plain(work: Work) -> bool:
    """True where an epsilon of 0 was asked for and makes no files of its own."""
    asked = work.options.odin_epsilon or []
    return 0 in asked and not any(job.step and not job.step.epsilon for job in work.jobs)


def say_left_out(work: Work, seen: checks.Seen) -> None:
    """Print what lies beside images, "mine: 19 images; 3 other files left out (.heic)", and which
    broken ones were skipped."""
    for job in work.waiting:
        images = job.images
        if not images.left_out or images.source in seen.said:
            continue
        if job.split == "val":  # which lies where the training images lie
            continue
        split = f" ({job.split})" if job.in_distribution else ""
        print(f"  {job.dataset}{split}: {counted(images)}")
        seen.said.add(images.source)


def say_edited(work: Work) -> None:
    """Print which files are made anew since they were edited."""
    for verdict in work.verdicts.values():
        if verdict.said and not verdict.kept:
            print(f"  {verdict.said}")


def say_job(work: Work, job: Job, count: int, remark: str) -> None:
    """Print the features of one job: "ID_digits_test.csv: 360 images, 0.1 s"."""
    print(f"  {job.stem}.{work.options.stored}: {images_in_words(count)}, {remark}")


def say_files(work: Work) -> None:
    """Print which OOD sets' files differ from those of the ID test set."""
    own, others = {}, {}
    for job in work.jobs:
        if not job.is_plain or job.split != "test":
            continue
        sidecar = records.read_sidecar(work.outputs(job).features)
        if job.in_distribution:
            own = sidecar
        else:
            others[job.dataset] = sidecar
    for line in file_facts.notes_of(own, others):
        print(f"  {line}")


def say_accuracy(work: Work, job: Job) -> None:
    """Print the test accuracy, and warn where it makes the preprocessing doubtful."""
    if not work.has_head:
        return
    sidecar = records.read_sidecar(work.outputs(job).features)
    if job.is_csid:
        print(f"  {sidecar['accuracy']:.2%} of them are classified right")
        return
    stated = expected_inputs.stated_accuracy(work.checkpoint)
    print(f"  {expected_inputs.say_accuracy(sidecar['accuracy'], stated)}")
    if "accuracy_full" in sidecar:
        among = f"{len(work.chosen.whole or []):,} classes of the classifier"
        print(f"  among all {among}: {sidecar['accuracy_full']:.2%}")
    if doubt := checks.accuracy_doubt(work, sidecar):
        warnings.warn(f"{work.path}: {doubt}", stacklevel=2)


if __name__ == "__main__":
    cli.run(main)
