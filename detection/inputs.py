"""The features and the head of one checkpoint, each read once and checked; and the training set to
which every method is fitted."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import machine_memory
import utils
from arrays import scorable_features
from artifacts import blocks, records, store
from feature_files import FeatureFiles
from head import Head
from scores import registry

SHARE = 1 / 4  # of memory: with more, training features stay on the disk


@dataclass(frozen=True, eq=False)
class Inputs:
    """The features of one checkpoint and its head.

    `val` is None without ID validation images or without a head, `head` in a folder of features
    alone. `ood` is {name of the OOD set: its features}. `rest` is W (R, D) and b (R,) of the other
    classes of a head that has more than the data; None where there are none.
    """

    train: store.Features
    val: store.Features | None
    test: store.Features
    ood: dict[str, store.Features]
    head: Head | None
    rest: tuple[np.ndarray, np.ndarray] | None = None
    # ID images under a covariate shift
    csid: dict[str, store.Features] = field(default_factory=dict)

    def right(self) -> np.ndarray | None:
        """(N,) True for each ID test image that is classified right; None without a head, or
        without labels."""
        if self.head is None or not self.test.labelled:
            return None
        predicted = self.head.logits(self.test.features).argmax(1)
        return predicted == self.test.labels


def read(run: FeatureFiles, stale: records.Stale, place: str = "auto") -> Inputs:
    """Read all features of one checkpoint, each once, and refuse what cannot be scored.

    place  where the training features are while they are scored: in "memory", on "disk", or on disk
           where all sets would take more than SHARE of memory ("auto"); the scores are the same
    """

    def features(path: Path) -> store.Features:
        return store.read_features(path, stale, run.command)

    head, val, rest = None, None, None
    if run.head:
        head = store.read_head(run.head, stale, run.command)
        rest = other_rows(run, head, stale)
    if run.head and run.val:
        val = features(run.val)
    ood = {name: features(path) for name, path in run.ood.items()}
    csid = {name: features(path) for name, path in run.csid.items()}
    train = features(run.train) if in_memory(run, place) else on_disk(run, stale)
    found = Inputs(train, val, features(run.test), ood, head, rest, csid)
    check(found)
    return found


def in_memory(run: FeatureFiles, place: str) -> bool:
    """True where training features are to be in memory."""
    if place != "auto":
        return place == "memory"
    memory = machine_memory.total()
    sets = [run.train, run.val, run.test, *run.ood.values(), *run.csid.values()]
    width = blocks.width_of(run.train, run.command)
    rows = sum(blocks.expected_rows(path, width) for path in sets if path)
    return memory is None or 4 * width * rows <= SHARE * memory


def on_disk(run: FeatureFiles, stale: records.Stale) -> store.Features:
    """The training features in a file of the run's folder, which goes with the program."""
    folder = utils.writable_folder(run.folder)
    return store.read_features_to_disk(run.train, folder, stale, run.command)


def other_rows(
    run: FeatureFiles, head: Head, stale: records.Stale
) -> tuple[np.ndarray, np.ndarray] | None:
    """W (R, D) and b (R,) of the classes that head_full.csv has beside those of head.csv; None
    without it. ValueError where the two are not of one classifier."""
    if run.whole_head is None:
        return None
    whole = store.read_head(run.whole_head, stale, run.command)
    try:
        return head.others(whole)
    except ValueError as error:
        raise ValueError(
            f"{run.whole_head} does not belong to {run.head}: {error}; delete it, or make both anew"
            f" with: {run.command}"
        ) from None


def check(found: Inputs) -> None:
    """ValueError for labels that are no class of the head, and for features that cannot be scored.

    `fit` checks the training features when it makes the training set.
    """
    inside = (found.val, found.test, *found.csid.values())
    not_fitted = [images for images in inside if images is not None]
    if found.head is not None:
        for images in (found.train, *not_fitted):
            if images.labelled:
                store.check_labels(images, found.head.class_names)
    for images in (*not_fitted, *found.ood.values()):
        with naming(images.file):
            scorable_features(images.features)


def fit(found: Inputs, bank_size: int = registry.BANK_SIZE) -> registry.Training:
    """The training set, to which each method is fitted; `bank_size` images of it are searched."""
    W, b, val = None, None, None
    if found.head is not None:
        W, b = found.head.W, found.head.b
    if found.val is not None:
        val = found.val.features, found.val.labels
    labels = found.train.labels if found.train.labelled else None
    with naming(found.train.file):
        return registry.Training(found.train.features, labels, W, b, val, found.rest, bank_size)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path of the file in front of the message of a ValueError raised in the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
