"""Training of a classifier alone, on features that the rest of the network computes once.

    frozen.check(recipe, given)                 # ValueError for flags that would do nothing
    sets = frozen.sets(run, images, folder, say)     # the same images, as features in memory

Features are those of clean images in eval mode, in float32: what run_networks.py extracts, up to
rounding. They are kept in a file that is named after all that they depend on, so that another run
from the same weights, with another rate or seed, finds them. Only the classifier learns; it is an
ordinary linear layer of an ordinary network, which the checkpoint holds whole."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from images.preprocessing import Preprocessing
from images.sets import Images, Set
from networks import checkpoints, classifiers
from training.augment import Moment
from training.evaluation import Evaluator
from training.recipes import Recipe
from training.state import State

# Of a batch on a CPU: 500 images of 32 x 32, 10 of 224 x 224 (docs/extraction.md has the rates).
PIXELS = 512_000
MOST = 500  # images of a batch
# Fields of a recipe that change images, or what lies before the classifier.
OF_IMAGES = ("augment", "mixup", "cutmix", "start_size", "dropout", "ema", "folds")
OF_THE_RUN = ("compile", "winograd", "tta")  # flags that do


# ---- what goes together --------------------------------------------------------------------------


def check(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """ValueError that names a flag which would do nothing beside --freeze."""
    if not recipe.freeze:
        return
    found = [name for name in OF_IMAGES if given.get(name) and getattr(recipe, name)]
    found += [name for name in OF_THE_RUN if given.get(name)]
    if not found and recipe.folds:
        found = ["mode"]
    if found:
        flag = f"--{found[0].replace('_', '-')}"
        raise ValueError(
            f"--freeze trains the classifier alone, on features of clean images, so that {flag}"
            " does nothing: leave one of the two out"
        )


def check_classifier(network: nn.Module, model: str) -> None:
    """ValueError for a classifier that is no linear layer of vectors."""
    if not isinstance(classifiers.classifier(network, model), nn.Linear):
        raise ValueError(
            f"--freeze needs a network whose classifier is an nn.Linear, and that of {model} is a"
            " convolution; leave --freeze out"
        )


# ---- features in place of images -----------------------------------------------------------------


class AsTheyAre:
    """In place of a preprocessing: features are not normalised."""

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        return images


def unchanged(images: torch.Tensor, generator: torch.Generator, moment: Moment) -> torch.Tensor:
    """In place of an augmentation."""
    return images


class Maker(Protocol):
    """What `sets` has to know of a run: training.run.Run."""

    state: State

    def autocast(self) -> AbstractContextManager[Any]: ...

    def stop_if_asked(self, losses: torch.Tensor | None = None) -> None: ...


def sets(
    run: Maker, images: Sequence[Set], folder: Path, say: Callable[[str], None]
) -> list[Images]:
    """Sets of images -> the same with features (N, D) for pixels, by the run's network.

    They are read from a file in `folder` where they are in one; otherwise made, and written there.
    Raises signals.Stopped where a signal came."""
    place = folder / f"features_{key(run.state, images)[:16]}.pt"
    if place.is_file():
        found = read(place, [len(part) for part in images])
        say(f"features: {counts(images)}, read from {place}")
    else:
        found = made(run, images)
        checkpoints.write(place, {"features": found})
        say(f"features: {counts(images)}, {found[0].shape[1]} of each -> {place}")
    return [as_features(part, rows) for part, rows in zip(images, found, strict=True)]


def made(run: Maker, images: Sequence[Set]) -> list[torch.Tensor]:
    """The features (N, D) of each set, in one pass over its images."""
    state = run.state
    classifier = classifiers.classifier(state.network, state.facts.model)
    preprocessing = state.facts.preprocessing
    evaluator = Evaluator(
        state.world,
        preprocessing,
        run.autocast,
        run.stop_if_asked,
        batch_size(preprocessing),
    )
    found = []
    for part in images:
        rows = None
        if len(part):
            rows = evaluator.features(state.network, classifier, part)
        found.append(torch.empty(0, width(classifier)) if rows is None else rows.clone())
    return found


def batch_size(preprocessing: Preprocessing) -> int:
    """Images of a pass without gradients."""
    return max(1, min(MOST, PIXELS // preprocessing.size**2))


def width(classifier: nn.Module) -> int:
    """D of a classifier."""
    return classifiers.weight_of(classifier).shape[1]


def as_features(images: Set, rows: torch.Tensor) -> Images:
    """A set with rows (N, D) in place of its pixels."""
    return Images(rows, images.labels, images.class_names, images.source, hashed=images.content())


def counts(images: Sequence[Set]) -> str:
    """ "1,800 training, 200 validation, 1,000 test images"."""
    names = ("training", "validation", "test")
    return ", ".join(f"{len(part):,} {name}" for part, name in zip(images, names, strict=True))


# ---- the file ------------------------------------------------------------------------------------


def key(state: State, images: Sequence[Set]) -> str:
    """A hash of all that features depend on: weights but for the classifier's, how images are
    prepared, and which they are."""
    facts = state.facts
    place = classifiers.classifier_path(state.network, facts.model)
    weights = {
        name: value
        for name, value in state.network.state_dict().items()
        if not name.startswith(f"{place}.")
    }
    known = {
        "weights": checkpoints.weights_sha256(facts.model, facts.model_args, weights),
        "preprocessing": facts.preprocessing.as_dict(),
        "images": [[part.content(), hash_of(part)] for part in images],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def hash_of(images: Set) -> str:
    """A hash of which images of their source a set has, as far as labels and paths tell."""
    digest = hashlib.sha256(images.labels.cpu().numpy().tobytes())
    digest.update("\n".join(images.paths or ()).encode())
    return digest.hexdigest()


def read(place: Path, lengths: Sequence[int]) -> list[torch.Tensor]:
    """The features of a file that `sets` wrote; ValueError where it is another."""
    found = torch.load(place, weights_only=True)["features"]
    if [len(rows) for rows in found] != list(lengths):
        raise ValueError(f"{place} does not hold the features of these images; remove it")
    return found
