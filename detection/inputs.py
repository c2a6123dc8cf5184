"""The features and the head of one checkpoint, each read once and checked, and the training set
that every method is fitted to."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arrays import scorable_features
from artifacts import records, store
from feature_files import FeatureFiles
from head import Head
from scores import registry


@dataclass(frozen=True, eq=False)
class Inputs:
    """The features of one checkpoint, and its head, None where there is none."""

    train: store.Features
    val: store.Features | None
    test: store.Features
    ood: dict[str, store.Features]
    head: Head | None

    def right(self) -> np.ndarray | None:
        """(N,) whether each ID test image is classified right; None without a head."""
        if self.head is None:
            return None
        return self.head.logits(self.test.features).argmax(1) == self.test.labels


def read(run: FeatureFiles, stale: records.Stale) -> Inputs:
    """Read all features of one checkpoint, each once, and refuse what cannot be scored."""

    def features(path):
        return store.read_features(path, stale, run.command) if path else None

    head = store.read_head(run.head, stale, run.command) if run.head else None
    val = features(run.val) if run.head else None
    ood = {name: features(path) for name, path in run.ood.items()}
    found = Inputs(features(run.train), val, features(run.test), ood, head)
    check(found)
    return found


def check(found: Inputs) -> None:
    """ValueError for labels that are no class of the head, and for features that cannot be scored.

    Training features are checked as the training set is made.
    """
    if found.head:
        for images in (found.train, found.val, found.test):
            if images:
                store.check_labels(images, found.head.class_names)
    for images in (found.val, found.test, *found.ood.values()):
        if images:
            with naming(images.file):
                scorable_features(images.features)


def fit(found: Inputs) -> registry.Training:
    """The training set, which each method is fitted to."""
    W = found.head.W if found.head else None
    b = found.head.b if found.head else None
    val = (found.val.features, found.val.labels) if found.val else None
    with naming(found.train.file):
        return registry.Training(found.train.features, found.train.labels, W, b, val)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before the message of a ValueError that is raised in the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
