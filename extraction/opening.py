"""Opening a checkpoint: its network, its images and its folder. What is missing or contradicts
itself shows here, before the long work."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch

import data
import utils
from artifacts import records
from extraction import batching, checks, head_rows, inputs, matching, onnx_files, places, plan
from extraction.expected_inputs import Choice
from extraction.extractor import Extractor, silent
from extraction.head_rows import Named, Rows
from extraction.options import Options, default_ood
from extraction.perturbation import Step
from extraction.work import Trained, Work
from images.members import Member
from networks import checkpoints, classifiers, loading, onnx_graphs
from networks.messages import some
from processes import World
from utils import SetName


def prepare(path: str, options: Options, world: World) -> Work:
    """Read a checkpoint -> all that its extraction needs; no image has been opened yet.

    ValueError for a file that cannot be read or used, for a folder that holds another network's
    features, and for what neither the file nor the command line says."""
    onnx_files.check_flags(path, options)
    trained = read(path, options)
    check_parameters(trained)
    origin = origin_of(trained)
    folder = utils.writable_folder(options.output_dir) / places.folder_name(path, options)
    places.check_folder(folder, path, origin, options)
    choice = inputs.choose_inputs(trained, options)
    onnx_files.check_size(trained, choice.preprocessing.size)
    given = given_by(trained, options, choice, folder)
    if options.match_format:
        match = matching.match_of(given, folder)
        given, choice = matching.matched(given, choice, match)
    check_val_ood(path, given, options.val_ood)
    steps = asked_steps(options, given.member)
    jobs = plan.plan(given, steps, options.val_ood, bool(options.adascale))
    check_workers(jobs, options)
    stages = stages_of(trained, options)
    extractor = make_extractor(trained, stages, choice, options, world)
    shelf = make_shelf(utils.writable_folder(folder), origin, stages, given, options)
    return Work(trained, options, extractor, choice, given, jobs, shelf)


def read(path: str, options: Options) -> Trained:
    """The network in a checkpoint, or in an ONNX file."""
    if onnx_graphs.is_onnx(path):
        checks.check_described(path, {"model": path}, options)
        return onnx_files.opened(path, options)
    content = checkpoints.read(path)
    checks.check_described(path, content, options)
    return Trained(path, *loading.load(path, options.model, content, options.image_size))


def stages_of(trained: Trained, options: Options) -> dict[str, torch.nn.Module]:
    """{name: module} of the stages whose outputs are kept, by --stages or as they are found."""
    if not options.layers:
        return {}
    return classifiers.stages(trained.network, trained.model, options.stages or ())


def check_parameters(trained: Trained) -> None:
    """ValueError for a network with NaN or infinity among its parameters."""
    parameters = trained.network.state_dict().values()
    if not all(values.isfinite().all() for values in parameters):
        raise ValueError(
            f"{trained.path} holds NaN or infinity among its parameters: it has diverged; train it "
            "with a lower --lr"
        )


def origin_of(trained: Trained) -> dict[str, Any]:
    """Which network this is, as every sidecar says it."""
    return {
        "checkpoint": Path(trained.path).name,
        "checkpoint_sha256": records.sha256(trained.path),
        "weights_sha256": trained.content["weights_sha256"],
        "model_file_sha256": trained.content["model_file_sha256"],
    }


def asked_steps(options: Options, member: Member | None) -> list[Step]:
    """How images are to be moved, once for each pair of temperature and epsilon."""
    if options.odin_epsilon is None or options.temperature is None:
        return []
    kind = options.perturbation or ("entropy" if member else "argmax")
    pairs = product(options.temperature, options.odin_epsilon)
    return [Step(kind, epsilon, temperature) for temperature, epsilon in pairs]


def check_val_ood(path: str, given: plan.Given, val_ood: SetName | None) -> None:
    """ValueError where a grid has no images to be chosen on."""
    if val_ood is None:
        return
    if not given.val_size:
        raise ValueError(
            f"{path} was trained without validation images, on which one pair of the grid would be"
            " chosen; train it with --val-size, or give one --odin-epsilon and one --temperature"
        )
    if not any(is_same(val_ood, asked) for asked in given.ood):
        known = ", ".join(map(str, given.ood)) or "(none)"
        raise ValueError(
            f"--val-ood {val_ood} is not among the OOD sets, {known}; name it with --ood too"
        )
    if val_ood.is_held_out and not given.held_out_by_all:
        raise ValueError(
            f"--val-ood held_out: each class that {path} leaves out is known to other members of"
            " its ensemble; name another OOD set"
        )


def is_same(short: SetName, asked: SetName) -> bool:
    """True if a set's name, with or without its folder, is that of an OOD set."""
    return short.name == asked.name and short.folder in (None, asked.folder)


def make_extractor(
    trained: Trained,
    stages: dict[str, torch.nn.Module],
    choice: Choice,
    options: Options,
    world: World,
) -> Extractor:
    """The network on this rank's device; the first rank alone shows its progress."""
    network = trained.network.to(world.device).to(memory_format=torch.channels_last)
    side = choice.preprocessing.size
    images, origin = batching.choose(options.batch_size, side, world.device.type, options.memory)
    return Extractor(
        network,
        trained.classifier,
        choice.preprocessing,
        world,
        images,
        options.amp,
        stages,
        options.progress if world.first else silent,
        origin,
        options.workers,
    )


def check_workers(jobs: Iterable[plan.Job], options: Options) -> None:
    """ValueError for --workers where no images lie in files."""
    if options.workers is None:
        return
    names = []
    for job in jobs:
        if data.folder_of(job.place, options.data_dir) is not None:
            return
        names.append(job.place.name)
    raise ValueError(
        f"--workers {options.workers} is of images in files, and {some(list(dict.fromkeys(names)))}"
        " are read into memory as a whole; leave it out"
    )


def make_shelf(
    folder: Path,
    origin: dict[str, Any],
    stages: dict[str, torch.nn.Module],
    given: plan.Given,
    options: Options,
) -> plan.Shelf:
    """The folder of the features; `origin` says which network made them."""
    facts = {
        **origin,
        "preprocessing": given.preprocessing.as_dict(),
        "held_out": list(given.held_out),
        "val_size": given.val_size,
        "precision": "bfloat16" if options.amp else "float32",
        **member_facts(given.member),
    }
    return plan.Shelf(
        folder,
        facts,
        options.data_dir,
        options.stored,
        options.layers,
        tuple(stages),
        records.Stale(options.allow_stale),
        options.verify,
        shard_rows=options.shard_rows,
    )


def member_facts(member: Member | None) -> dict[str, Any]:
    """What all sidecars of a leave-out ensemble's member say of it."""
    return {"leave_out": member.as_dict()} if member else {}


# ---- what the features depend on -----------------------------------------------------------------


def given_by(trained: Trained, options: Options, choice: Choice, folder: Path) -> plan.Given:
    """What the features depend on beside the weights, by the checkpoint or the command line.

    ValueError for another data set than the checkpoint's own, and for an OOD set that there is
    not."""
    own, asked = dataset_of(trained), options.dataset
    if own and asked and own.name != asked.name:
        raise ValueError(
            f"{trained.path} was trained on {own}, not on {asked}; to see {asked} as unknown "
            f"images, give it as --ood {asked}"
        )
    dataset = asked or own
    assert dataset is not None, "check_described asks for it"
    data.check_id(dataset)
    held_out = held_out_by(trained, options)
    asked_sets = default_sets(dataset.name, held_out) if options.ood is None else options.ood
    made = plan.places_made(folder)
    placed = data.placed(asked_sets, dataset.name, options.data_dir, made)
    ood = placed.sets
    kept = [other for other in ood if plan.was_made(folder, other)]
    data.check_ood(ood, dataset.name, options.data_dir, held_out, kept)
    val_size = trained.content.get("val_size", 0)
    member = Member.of(trained.content)
    csid = options.csid or []
    check_shifted(trained, options, member, val_size)
    data.check_csid(csid, [*ood, dataset])
    return plan.Given(
        dataset,
        held_out,
        ood,
        val_size,
        choice.preprocessing,
        options.data_dir,
        member,
        bool(options.skip_broken),
        placed,
        csid,
        options.calibration,
    )


def check_shifted(trained: Trained, options: Options, member: Member | None, val_size: int) -> None:
    """ValueError for --csid, --calibration and --adascale where they say nothing of the
    checkpoint."""
    if options.adascale and not val_size and not options.calibration:
        raise ValueError(
            f"--adascale compares with ID validation images, and {trained.path} has none; give"
            " some that it was not trained on with --calibration NAME=FOLDER"
        )
    if member and (options.csid or options.calibration or options.adascale):
        flag = "--csid" if options.csid else "--adascale" if options.adascale else "--calibration"
        raise ValueError(
            f"{flag} is of a single network, and {trained.path} is a member of a leave-out"
            " ensemble; leave it out"
        )
    if options.calibration is None:
        return
    if val_size:
        raise ValueError(
            f"--calibration: {trained.path} was trained with {val_size:,} validation images held"
            " out, which serve as such; leave it out"
        )
    if options.calibration.folder is None:
        raise ValueError(
            f"--calibration {options.calibration}: expected NAME=FOLDER with one folder of images"
            " per class, none of which the network was trained on"
        )
    data.check_place(options.calibration, f"--calibration {options.calibration}")


def held_out_by(trained: Trained, options: Options) -> list[str]:
    """The classes that training left out: by the checkpoint, or of a foreign one by --held-out;
    those that a member of an ensemble leaves out are among them."""
    own, asked = trained.content.get("held_out"), options.held_out
    if own is None:
        return list(dict.fromkeys(asked or []))
    if member := Member.of(trained.content):
        own = [*own, *member.left_out]
    if asked is not None and set(own) != set(asked):
        raise ValueError(
            f"{trained.path} was trained without the classes {', '.join(own) or '(none)'}, not "
            f"without {', '.join(asked)}; leave --held-out out"
        )
    return own


def dataset_of(trained: Trained) -> SetName | None:
    """The data set that a checkpoint names as its own."""
    text = trained.content.get("dataset")
    return SetName.parse(text) if text else None


def default_sets(name: str, held_out: list[str]) -> list[SetName]:
    """The default OOD sets that this checkpoint has: held_out only where classes were held out."""
    if name not in data.ID:
        return []
    sets = default_ood(SetName(name, name))
    return [asked for asked in sets if held_out or not asked.is_held_out]


def classes_of(work: Work) -> Rows:
    """The classes of the data, and which rows of the classifier they are.

    They are named by the checkpoint; of a foreign network by its data set, or by the head where it
    is kept. ValueError where they are not as many as the network has and nothing says which of
    its rows they are; no image is decoded before."""
    checkpoint, classes = work.checkpoint, work.trained.classes
    own = checkpoint.get("class_names")
    if own and checkpoint.get("dataset"):
        if work.options.classes:
            raise ValueError(
                f"{work.path} names its {classes:,} classes itself; leave --classes out"
            )
        return Rows(list(own))
    names = names_of_head(work) or list(work.training.images.class_names)
    if classes is None:
        return Rows(names)
    known = named_rows(work, names)
    if known:
        return chosen_rows(work, known, names)
    if len(names) != classes:
        raise ValueError(
            f"{work.path} tells {classes:,} classes apart and {work.given.dataset} has"
            f" {len(names):,}: it was trained on other data{left_out(work)}; where they are some of"
            " its classes, name all that it knows, one line per row of its classifier, with:"
            " --classes list.txt"
        )
    return Rows(names)


def named_rows(work: Work, names: list[str]) -> Named | None:
    """The names of the classifier's rows: by --classes, by the checkpoint, or of ImageNet's heads
    by their size; None where nobody says."""
    classes = work.trained.classes
    assert classes is not None, "classes_of returns before"
    if work.options.classes:
        return head_rows.read_list(work.options.classes, classes, names)
    own = work.checkpoint.get("class_names")
    if own:
        return Named(list(own), "the names in the checkpoint")
    return head_rows.by_size(classes, names)


def chosen_rows(work: Work, known: Named, names: list[str]) -> Rows:
    """The rows of the data's classes; ValueError, with what to do, where one has none."""
    try:
        return head_rows.choose(known, names)
    except ValueError as error:
        raise ValueError(
            f"{work.path} does not know {work.given.dataset}: {error}. Name the rows of its"
            " classifier as the data names its classes, one line per row, with: --classes list.txt,"
            f" or leave classes out with: --held-out CLASS ..."
        ) from None


def names_of_head(work: Work) -> list[str] | None:
    """The class names that the kept head has, where it is of this network and data set.

    None where a folder of images is there: its names can be seen at no cost."""
    head, job = records.read_sidecar(work.head), work.training
    if not records.same_network(head, work.shelf.origin):
        return None
    if head.get("dataset") != work.given.dataset:
        return None
    if head.get("held_out") != list(work.given.held_out):
        return None
    if job.folder is not None and work.shelf.source_of(job) is not None:
        return None
    return head["class_names"]


def left_out(work: Work) -> str:
    """How a message says which classes a foreign network was trained without."""
    if work.checkpoint.get("held_out") is not None or work.given.held_out:
        return ""
    return ", or without some of the classes: name those with --held-out CLASS ..."
