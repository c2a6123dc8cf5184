"""The files of an extraction: head.csv, features and moments, each with the sidecar that says how
it was made."""

import os
from pathlib import Path
from typing import Any

import numpy as np

import utils
from artifacts import records, shards, store
from collapse import layers
from extraction import head_rows, plan
from extraction.making import Made
from extraction.plan import Job
from extraction.work import Work, is_test
from images import file_facts, reading
from images.sets import ImageFiles
from networks import classifiers

# What the sidecar of a head says of the training.
TRAINED = ("mode", "epoch", "train_acc", "val_acc", "test_acc")


# ---- features and moments ------------------------------------------------------------------------


def write(work: Work, job: Job, made: Made) -> None:
    """Write one job's files; the same layers stored the other way would go stale, and go."""
    files, images = work.outputs(job), job.images
    common = facts_of_images(work, job)
    if (is_test(job) or job.is_csid) and work.has_head:
        common |= accuracy(work, made.features, images.labels.numpy())
    training = training_facts(work, job, made)
    features = {
        **sidecar_start(work),
        **work.shelf.facts(job, None, training),
        **common,
        "seconds": round(made.seconds, 3),
    }
    labels = images.labels.numpy()
    files.features.parent.mkdir(parents=True, exist_ok=True)
    store.write_features(files.features, made.features, labels, images.paths, features)
    for depth, (name, file) in enumerate(files.stages.items()):
        file.parent.mkdir(exist_ok=True)
        sidecar = {
            **sidecar_start(work),
            **work.shelf.facts(job, name, training),
            **common,
            "layer": name,
            "depth": depth,
            "seconds": round(made.seconds, 3),
        }
        if name in made.summaries:
            sidecar["images"] = len(images)
            layers.write_summary(file, made.summaries[name], sidecar)
        else:
            assert made.rows is not None
            pooled = made.rows.stages[name]
            assert pooled is not None, "a stage's features are kept where they are not streamed"
            store.write_features(file, pooled, labels, images.paths, sidecar)
        remove_other_way(work.shelf.folder, file)


def sidecar_start(work: Work) -> dict[str, Any]:
    """How a file came about: the command, the arguments, versions, and the time; and how many
    pixels an image may have, where that is not the default."""
    start = records.provenance(work.options.material, work.shelf.stale)
    if reading.max_pixels != reading.MAX_PIXELS:
        start["max_pixels"] = reading.max_pixels
    return start


def training_facts(work: Work, job: Job, made: Made) -> list[Any] | None:
    """Which training images the counts of a job's moments depend on; None where none do."""
    if not made.summaries or job.split == "train":
        return None
    return work.shelf.training(work.training, work.verdicts[work.training.stem])


def facts_of_images(work: Work, job: Job) -> dict[str, Any]:
    """What all sidecars of a job say of its images, and of how they were prepared."""
    images = job.images
    facts = {
        "preprocessing_from": work.choice.origin,
        "source": images.source,
        "source_content": images.content(),
        "place": str(job.place),
        "ood_class_names": images.class_names,
        "batch_size": work.extractor.batch_size,
        "batch_size_from": work.extractor.batch_size_from,
    }
    if work.has_head:
        facts["head_sha256"] = records.sha256(work.head)
    if skipped := getattr(images, "skipped", {}):
        facts["skipped"] = skipped  # {path: why}; images.places leaves them out
    if job.is_plain and job.split == "test" and isinstance(images, ImageFiles):
        looks = file_facts.measure(images.root, images.paths, images.threads)
        facts["files"] = looks.as_dict() if looks else None
    return facts


def accuracy(work: Work, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The share of ID test images (N, D) that are classified right among the data's classes, and
    that of the largest class; where the classifier has more, also the share among all of them."""
    whole = classifiers.head(work.trained.classifier)
    rows = work.chosen.rows
    largest = np.bincount(labels).max() / len(labels)
    found = {
        "accuracy": share_right(features, *work.chosen.of(*whole), labels),
        "largest_class": float(largest),
    }
    if rows is not None:
        found["accuracy_full"] = share_right(features, *whole, np.asarray(rows)[labels])
    return found


def share_right(features: np.ndarray, W: np.ndarray, b: np.ndarray, labels: np.ndarray) -> float:
    """The share of images (N, D) whose largest logit is that of their label (N,)."""
    right = (features @ W.T + b).argmax(1) == labels
    return float(right.mean())


def remove_other_way(folder: Path, file: Path) -> None:
    """Remove the same layer stored the other way: features or moments."""
    for other in layers.FOLDERS.values():
        if other == file.parent.name:
            continue
        for ending in (".json", *store.SUFFIXES):
            shards.remove((folder / other / file.name).with_suffix(ending))


# ---- the head ------------------------------------------------------------------------------------


def write_head(work: Work) -> list[Path]:
    """head.csv, kept where it would come out the same: the features that name it stay valid.

    Where the data has some of the classifier's classes, head_full.csv beside it holds all rows. A
    network of features alone has neither: those of another one go."""
    if not work.has_head:
        for path in (work.head, work.whole_head):
            path.unlink(missing_ok=True)
            records.sidecar_path(path).unlink(missing_ok=True)
        return []
    whole = [work.whole_head] if work.chosen.whole is not None else []
    return [kept_or_written_head(work), *whole]


def kept_or_written_head(work: Work) -> Path:
    """head.csv, written unless it would come out the same."""
    facts = head_facts(work)
    if not work.options.force and keeps_head(work, facts):
        return work.head
    classifier = work.trained.classifier
    sidecar = {
        **sidecar_start(work),
        **facts,
        "checkpoint_at": os.path.relpath(Path(work.path).resolve(), work.shelf.folder.resolve()),
        "preprocessing_from": work.choice.origin,
        "has_bias": classifier.bias is not None,
    }
    W, b = classifiers.head(classifier)
    if work.chosen.whole is None:
        work.whole_head.unlink(missing_ok=True)
        records.sidecar_path(work.whole_head).unlink(missing_ok=True)
    else:
        all_names = {"class_names": work.chosen.whole}
        store.write_head(work.whole_head, W, b, work.chosen.whole, {**sidecar, **all_names})
    store.write_head(work.head, *work.chosen.of(W, b), work.class_names, sidecar)
    return work.head


def head_facts(work: Work) -> dict[str, Any]:
    """What the sidecar of a head must say for it to be kept."""
    facts = dict(work.shelf.origin)
    for name in TRAINED:
        facts[name] = work.checkpoint.get(name)
    if "step" in work.checkpoint:  # of a run by steps
        facts["step"] = work.checkpoint["step"]
    facts["model"] = work.trained.model
    facts["dataset"] = work.given.dataset
    if work.chosen.rows is not None:
        facts["head_rows"] = work.chosen.rows
        facts["class_words"] = [head_rows.with_word(name) for name in work.class_names]
    return utils.plain(facts)


def keeps_head(work: Work, facts: dict[str, Any]) -> bool:
    """True where head.csv is there, current, and unedited or allowed to be stale."""
    sidecar = records.read_sidecar(work.head)
    if work.chosen.whole is not None and not work.whole_head.is_file():
        return False
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
