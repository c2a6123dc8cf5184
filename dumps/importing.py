"""What an import is made of: features, labels and a head, each found in a file, and checked against
each other before anything is written."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

import head_from_logits
from dumps import heads, labels, sources
from dumps.entries import FLOAT
from dumps.labels import OOD_LABEL, Classes
from dumps.sources import Source
from head import Head
from utils import SetName


@dataclass(frozen=True)
class Asked:
    """The flags of import_features.py that say what is read, under their own names."""

    train: str
    labels: str | None
    val: str | None
    val_labels: str | None
    test: str
    test_labels: str | None
    ood: list[SetName]
    head: str | None
    logits: str | None
    class_names: str | None
    dataset: SetName

    @classmethod
    def of(cls, args: Any) -> "Asked":
        return cls(**{row.name: getattr(args, row.name) for row in fields(cls)})


@dataclass(frozen=True, eq=False)
class Images:
    """The features of one set, not yet read, with labels and paths.

    labels    (N,) int64, None where nobody gave any; not of OOD sets
    """

    stem: str  # of its file
    dataset: str
    split: str
    flag: str
    source: Source
    labels: np.ndarray | None
    labels_from: Source | None
    paths: list[str] | None
    place: str | None = None  # NAME=FILE, of an OOD set

    @property
    def count(self) -> int:
        """N."""
        return self.source.entry.rows

    @property
    def width(self) -> int:
        """D."""
        return sources.width_of(self.source.entry)

    @property
    def written_labels(self) -> np.ndarray:
        """(N,) as the file has them: -1 of OOD images, and where there are none."""
        if self.labels is None:
            return np.full(self.count, OOD_LABEL, np.int64)
        return self.labels

    @property
    def sources(self) -> dict[str, object]:
        """Which arrays it is made of, for its sidecar."""
        found: dict[str, object] = {"features": self.source.facts()}
        if self.labels_from:
            assert self.labels is not None
            numbers = hashlib.sha256(self.labels.tobytes()).hexdigest()
            found["labels"] = {**self.labels_from.facts(), "numbers_sha256": numbers}
        return found

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, list[str] | None]]:
        """Its rows as they are written: features float32, labels, paths."""
        start, all_labels = 0, self.written_labels
        for features in sources.float32_blocks(self.source):
            rows = slice(start, start + len(features))
            yield features, all_labels[rows], self.paths[rows] if self.paths else None
            start += len(features)


@dataclass(frozen=True)
class Accuracy:
    """The share of ID test images that the head takes for their label; that of the largest
    class."""

    share: float
    largest_class: float

    @property
    def words(self) -> str:
        return (
            f"test accuracy by this head {self.share:.2%} (always naming the largest class:"
            f" {self.largest_class:.2%})"
        )


@dataclass(frozen=True, eq=False)
class Run:
    """All of an import, checked."""

    sets: list[Images]  # the training images first
    head: Head | None
    head_facts: dict[str, object]  # where the head is from
    classes: Classes
    accuracy: Accuracy | None
    said: list[str]

    @property
    def train(self) -> Images:
        return self.sets[0]

    @property
    def identity(self) -> str:
        """What tells this import from another: the hash of its training features and labels."""
        facts = [whence(facts) for facts in self.train.sources.values()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def whence(facts: Any) -> list[Any]:
    """What makes an array the same: the bytes of its file, its key and, of labels, the numbers that
    they became; not the file's name."""
    return [facts["sha256"], facts["key"], facts.get("numbers_sha256")]


# ---- gathered ------------------------------------------------------------------------------------


def gather(asked: Asked, head_there: Head | None = None) -> Run:
    """Find, check and describe all that was asked for; ValueError for the first fault.

    head_there: the head of an earlier import of the same features, which stays where the command
    names none."""
    train = sources.matrix(*sources.opened(asked.train, "--train"), "--train")
    width = sources.width_of(train.entry)
    test = matching(asked.test, "--test", train)
    val = matching(asked.val, "--val", train) if asked.val else None
    ood = {each.name: matching(str(each.folder), f"--ood {each.name}", train) for each in asked.ood}
    refuse_same([("--train", train), ("--val", val), ("--test", test), *ood_flags(ood)])
    given, said = find_head(asked, train, width)
    head = given.head if given else head_there
    names_file = labels.read_names(asked.class_names) if asked.class_names else None
    names = names_file
    if names is None and head is not None and (given is None or given.names_known):
        names = head.class_names
    found = {
        "train": raw_labels(train, asked.labels, "--labels"),
        "test": raw_labels(test, asked.test_labels, "--test-labels"),
    }
    if val:
        found["val"] = raw_labels(val, asked.val_labels, "--val-labels")
        refuse_without_labels(val, found["val"][0])
    head_rows = len(head.W) if head else None
    raw = found["train"][0] or found["test"][0]
    classes = labels.classes_of(raw, names, head_rows)
    own = {"train": train, "test": test} | ({"val": val} if val else {})
    sets = [id_images(asked, split, own[split], *found[split], classes) for split in own]
    sets += [ood_images(each, ood[each.name]) for each in asked.ood]
    for images in sets:
        check_finite(images)
    if head is not None:
        head = Head(head.W, head.b, classes.names)
    accuracy = measured(sets[1], head)
    said += [rounding(images) for images in sets if images.source.entry.dtype in ("float64", "F64")]
    return Run(sets, head, given.facts if given else {}, classes, accuracy, said)


def ood_flags(ood: dict[str, Source]) -> list[tuple[str, Source | None]]:
    return [(f"--ood {name}", source) for name, source in ood.items()]


def matching(text: str, flag: str, train: Source) -> Source:
    """A matrix as wide as the training features."""
    found = sources.matrix(*sources.opened(text, flag), flag)
    wanted, width = sources.width_of(train.entry), sources.width_of(found.entry)
    if width != wanted:
        raise ValueError(
            f"{flag} {found.name} is {width:,} features wide, and --train {train.name} {wanted:,};"
            " take all from one layer of one network"
        )
    if not found.entry.rows:
        raise ValueError(f"{flag} {found.name} holds no rows; expected some")
    return found


def refuse_same(given: list[tuple[str, Source | None]]) -> None:
    """ValueError where one array is given as two sets."""
    seen: dict[tuple[object, ...], str] = {}
    for flag, source in given:
        if source is None:
            continue
        facts = source.facts()
        key = (facts["sha256"], facts["key"])
        if key in seen:
            raise ValueError(
                f"{source.name} is given as {seen[key]} and as {flag}: the same bytes cannot be"
                " both; give each set its own features"
            )
        seen[key] = flag


def raw_labels(
    features: Source, text: str | None, flag: str
) -> tuple[labels.Raw | None, Source | None]:
    """The labels of a set by its flag, or beside its features -> (labels, where they are from)."""
    if text:
        source: Source | None = sources.column(*sources.opened(text, flag), flag)
    else:
        source = sources.beside(features, flag)
    if source is None:
        return None, None
    return labels.read(source, features.entry.rows, features.name, flag), source


def refuse_without_labels(val: Source, raw: labels.Raw | None) -> None:
    """ValueError for validation images without labels."""
    if raw is None:
        raise ValueError(
            f"--val {val.name} has no labels, by which ID validation images calibrate; give them"
            " with --val-labels FILE, or leave --val out"
        )


def id_images(
    asked: Asked,
    split: str,
    source: Source,
    raw: labels.Raw | None,
    labels_from: Source | None,
    classes: Classes,
) -> Images:
    """The ID images of a split; ValueError for labels that are no classes."""
    flag = f"--{split}"
    own = labels.numbered(raw, classes, flag) if raw else None
    name = asked.dataset.name
    stem = f"ID_{name}_{split}"
    return Images(stem, name, split, flag, source, own, labels_from, paths_of(source))


def ood_images(asked: SetName, source: Source) -> Images:
    """An OOD set; the labels that its file may have are of other classes, and are left out."""
    flag = f"--ood {asked.name}"
    stem = f"OOD_{asked.name}_test"
    paths = paths_of(source)
    return Images(stem, asked.name, "test", flag, source, None, None, paths, str(asked))


def paths_of(source: Source) -> list[str] | None:
    """The images' paths beside their features, if there are any, and none is empty."""
    found = sources.paths_beside(source)
    if found is None:
        return None
    texts = [labels.as_text(value) for value in found.entry.whole().reshape(-1).tolist()]
    return texts if all(texts) else None


def check_finite(images: Images) -> None:
    """ValueError for NaN and infinity, and a file that ends before its last row."""
    count = sum(len(block) for block in sources.float32_blocks(images.source))
    if count != images.count:
        raise ValueError(
            f"{images.flag} {images.source.name} holds {count:,} rows, and its header says"
            f" {images.count:,}; it was cut short, save it again"
        )


def rounding(images: Images) -> str:
    """What is said of features that lose digits."""
    return f"{images.source.name} is float64, and is rounded to float32"


# ---- the head ------------------------------------------------------------------------------------


def find_head(asked: Asked, train: Source, width: int) -> tuple[heads.Given | None, list[str]]:
    """The head by --head or --logits -> (it, what to say of it)."""
    if asked.head:
        given = heads.read(asked.head, width)
        return given, given.said
    if asked.logits:
        return recovered(asked.logits, train)
    return None, []


def recovered(text: str, train: Source) -> tuple[heads.Given, list[str]]:
    """The head that made the training logits of the training features."""
    logits = sources.matrix(*sources.opened(text, "--logits"), "--logits")
    if logits.entry.rows != train.entry.rows:
        raise ValueError(
            f"--logits {logits.name} holds {logits.entry.rows:,} rows, and --train {train.name}"
            f" {train.entry.rows:,}; expected one row of logits per training image"
        )
    if logits.entry.kind != FLOAT or sources.width_of(logits.entry) < 2:
        raise ValueError(
            f"--logits {logits.name} has shape {logits.entry.shape} of {logits.entry.dtype};"
            " expected numbers (N, C) of at least two classes"
        )

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(sources.float32_blocks(train), sources.float32_blocks(logits), strict=True)

    try:
        found = head_from_logits.solve(pairs)
    except ValueError as error:
        raise ValueError(f"--logits {logits.name}: {error}") from None
    facts = {
        "logits": logits.facts(),
        "residual": found.residual,
        "rank": found.rank,
        "tolerance": head_from_logits.TOLERANCE,
    }
    line = f"head: {found.words}"
    return heads.Given(Head(found.W, found.b), False, facts, [line]), [line]


def measured(test: Images, head: Head | None) -> Accuracy | None:
    """How many of the ID test images the head takes for their label; None without one of them."""
    if head is None or test.labels is None:
        return None
    right = 0
    for features, wanted, _ in test.blocks():
        right += int((head.logits(features).argmax(axis=1) == wanted).sum())
    largest = np.bincount(test.labels).max() / test.count
    return Accuracy(right / test.count, float(largest))
