"""The class whose mean is nearest to an image's feature, for the images of the gallery.

Class means are of the training features, distances Euclidean, as NC4 has it. The page shows the
class where it is not the one that the classifier takes the image for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from artifacts import blocks, records, store
from reporting.scored import ScoredRun, ScoredSet

# Values of all features together that a report reads for this: 50,000 + 36,000 images of 512
# features are 44 million. More would make its seconds minutes.
MOST_VALUES = 60_000_000


class Unknown(Exception):
    """Why nobody can say which class mean is nearest."""


@dataclass(frozen=True)
class Nearest:
    """{set: the class of each image} by the key that the gallery has for a set; or why not."""

    classes: dict[str, np.ndarray] = field(default_factory=dict)  # (N,) numbers of classes
    why_not: str = ""

    def of(self, key: str, row: int) -> int | None:
        """The number of the class; None where it is not known."""
        return int(self.classes[key][row]) if key in self.classes else None


def nearest(run: ScoredRun, parts: Mapping[str, ScoredSet]) -> Nearest:
    """The nearest classes of all sets; none of them where the features are not at hand."""
    try:
        files = {key: features_of(part) for key, part in parts.items()}
        train = train_file(run)
        check_size([train, *files.values()])
        means = class_means(train)
        return Nearest({key: nearest_classes(file, means) for key, file in files.items()})
    except (Unknown, ValueError, OSError) as reason:
        return Nearest(why_not=str(reason))


def features_of(part: ScoredSet) -> Path:
    """The file of a set's features, of as many images as have scores. Unknown without one."""
    found = part.features and store.feature_file(part.features.parent, part.features.name)
    if not found:
        raise Unknown(f"the features of {part.name} are not there")
    rows = records.read_sidecar(found).get("rows")
    if rows is not None and rows != len(part):
        raise Unknown(f"{found.name} has {rows:,} rows, and {part.name} {len(part):,} scores")
    return found


def train_file(run: ScoredRun) -> Path:
    """The training features of the same network. Unknown without them."""
    own = features_of(run.id)
    found = store.feature_file(own.parent, f"ID_{run.id.name}_train")
    if found is None:
        raise Unknown(f"ID_{run.id.name}_train is not there")
    ours, theirs = records.origin(own), records.origin(found)
    is_known = any(ours.values()) and any(theirs.values())
    if is_known and not records.same_network(ours, theirs):
        raise Unknown(f"{found.name} is of another network than {own.name}")
    return found


def check_size(files: Sequence[Path]) -> None:
    """Unknown where the features are too many for a report, or nobody knows how many they are."""
    values = 0
    for file in files:
        said = records.read_sidecar(file)
        rows, width = said.get("rows"), said.get("width")
        if rows is None or width is None:
            raise Unknown(f"no sidecar says how many features {file.name} has")
        values += rows * width
    if values > MOST_VALUES:
        raise Unknown(f"{values:,} values of features are more than a report reads for it")


def class_means(train: Path) -> np.ndarray:
    """(C, D) float64 means of training features; NaN for a class without images."""
    sums = np.zeros((0, 0))
    counts = np.zeros(0)
    for block in blocks.blocks(train):
        classes = max(len(sums), int(block.labels.max()) + 1)
        grown = np.zeros((classes, block.features.shape[1]))
        grown[: len(sums)] = sums if len(sums) else grown[:0]
        counts = np.append(counts, np.zeros(classes - len(counts)))
        counts += np.bincount(block.labels, minlength=classes)
        np.add.at(grown, block.labels, block.features)
        sums = grown
    with np.errstate(invalid="ignore"):
        return sums / counts[:, None]


def nearest_classes(file: Path, means: np.ndarray) -> np.ndarray:
    """(N,) the class whose mean (C, D) is nearest to each feature; ties go to the first."""
    centre = np.nanmean(means, axis=0)  # no large common offset costs digits
    offsets = np.nan_to_num(means - centre)
    bias = np.where(np.isnan(means).any(axis=1), np.inf, (offsets**2).sum(axis=1) / 2)
    found = [
        ((block.features - centre) @ offsets.T - bias).argmax(axis=1)
        for block in blocks.blocks(file)
    ]
    return np.concatenate(found)
