"""What is checked before anything is extracted: that the checkpoint is described, and that its
images are the right ones and can be read."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from artifacts import records
from extraction import expected_inputs, plan
from extraction.options import Options
from extraction.work import Work
from images import reading
from images.sets import ImageFiles, Images
from networks import classifiers, loading, registry

# What a checkpoint from elsewhere may leave unsaid, by flag.
UNSAID = {"model": "which network it holds", "dataset": "which data it was trained on"}
# Data sets that a message suggests, by the number of their classes.
SUGGESTED = {10: "cifar10", 100: "cifar100"}


@dataclass
class Seen:
    """What need not be done again for the next checkpoint of one command."""

    read: set[tuple[str, str]] = field(default_factory=set)  # (stem, source) of files read through
    said: set[str] = field(default_factory=set)  # sources of sets whose other files were named


# ---- the checkpoint ------------------------------------------------------------------------------


def check_described(path: str, content: Mapping[str, Any], options: Options) -> None:
    """ValueError that asks at once for all that is not said, as one whole command."""
    lacks = {}
    for name, what in UNSAID.items():
        if content.get(name) is None and getattr(options, name) is None:
            lacks[name] = what
    if not lacks:
        return
    guess = guesses(path, content)
    wanted: dict[str, Any] = {name: guess[name] for name in lacks}
    remark = ""
    dataset = str(options.dataset or wanted.get("dataset", ""))
    if "=" in dataset and not options.knows_inputs:
        wanted |= options.example_inputs
        remark = " (with the image size, mean and std of its own training)"
    flags = " and ".join(f"--{name}" for name in lacks)
    which = "it" if len(lacks) == 1 else "both"
    raise ValueError(
        f"{path} does not say {', nor '.join(lacks.values())}; name {which} with {flags}, such as"
        f"{remark}: {options.command(checkpoint=[path], **wanted)}"
    )


def guesses(path: str, content: Mapping[str, Any]) -> dict[str, str]:
    """{flag: value} for an example: a network of the registry that the file fits, and a data set of
    as many classes."""
    for name in registry.MODELS:
        if "model_state_dict" not in content:  # an ONNX file
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network, _ = loading.fitted(path, name, content, {})
        except ValueError:
            continue
        classes = classifiers.count_classes(classifiers.classifier(network, name))
        return {"model": name, "dataset": SUGGESTED.get(classes, "NAME=FOLDER")}
    return {"model": "FILE.py:FUNCTION", "dataset": "NAME=FOLDER"}


# ---- the images ----------------------------------------------------------------------------------


def check_images(work: Work) -> None:
    """Open the images of all jobs that are not kept; ValueError where their classes are others."""
    for job in work.waiting:
        images = job.images
        if not job.in_distribution:
            continue
        check_classes(work, job, images)
        if job.split == "train":
            check_count(work, len(images))


def check_classes(work: Work, job: plan.Job, images: Images | ImageFiles) -> None:
    """ValueError where the classes of ID images are not those of the network."""
    names, found = work.classes_of(job), list(images.class_names)
    if len(found) == len(names) and found != names:
        raise ValueError(
            f"{work.path} was trained on the classes {', '.join(names[:5])} and "
            f"{job.dataset} has {', '.join(found[:5])}: it was trained on other data"
        )
    if len(found) != len(names) or int(images.labels.max()) >= len(names):
        raise ValueError(
            f"{work.path} tells {len(names)} classes apart and {job.dataset} has "
            f"{len(found)}: it was trained on other data"
        )


def check_count(work: Work, count: int) -> None:
    """Warn where the training images are not as many as the checkpoint was trained on."""
    then = work.checkpoint.get("images")
    if then and work.checkpoint.get("dataset") and count != then:
        warnings.warn(
            f"{work.path} was trained on {then:,} images, and {work.given.id_set} now has "
            f"{count:,} to train on: what is extracted as training images is not what the network "
            "learned; train it again",
            stacklevel=2,
        )


def check_files(work: Work, seen: Seen) -> None:
    """ValueError that names every image file, of all sets together, which cannot be read.

    What was extracted once was readable then: where the sidecar names the same files, of the same
    sizes and times, they are not read through again. Perturbed images are those of other jobs.
    With --skip-broken the sets were read through when they were opened.
    """
    failures = []
    for job in work.waiting:
        images = job.images
        if work.given.skip_broken:
            continue
        key = (job.stem, images.source)
        sidecar = records.read_sidecar(work.outputs(job).features)
        if job.step or sidecar.get("source") == images.source or key in seen.read:
            continue
        failures += images.unreadable(work.options.progress)
        seen.read.add(key)
    reading.refuse(failures)


def accuracy_doubt(work: Work, sidecar: Mapping[str, Any]) -> str | None:
    """Why the test accuracy in a sidecar makes the preprocessing doubtful, or None."""
    stated = expected_inputs.stated_accuracy(work.checkpoint)
    # What a checkpoint states is of all its classes.
    measured = sidecar.get("accuracy_full", sidecar["accuracy"])
    return expected_inputs.doubt(
        measured, stated, sidecar["largest_class"], sidecar["rows"], work.choice
    )
