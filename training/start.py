"""What a run starts from: the weights of a file, and a classifier for the classes of the data.

    said = start.from_weights(path, network, "timm/resnet50", class_names, "zeros")

The classifier of a file of other classes is of no use for those of the data. It is replaced by
zeros (as google-research/vision_transformer fine-tunes: the first predictions are uniform, and the
first gradients reach the classifier alone), by the network's own random start, or by the rows that
the file has of the same classes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from networks import checkpoints, classifiers, library_names, loading, wordnet
from networks.messages import some

HEADS = ("zeros", "rows", "drawn")
SHOWN = 3  # classes that a message names


def preprocessing_of(path: str, model: str) -> dict[str, Any]:
    """What the images of a file's weights were like, by the file or else by the network's library;
    {} where neither says."""
    own = checkpoints.read(path).get("preprocessing")
    if own:
        return {**own, "mean": tuple(own["mean"]), "std": tuple(own["std"])}
    if library_names.is_name(model):
        return library_names.preprocessing_named(model)
    return {}


def from_weights(
    path: str,
    network: nn.Module,
    model: str,
    class_names: Sequence[str],
    asked: str | None,
    otherwise: str | None,
) -> str:
    """Give a network the weights of a file -> what is said of its classifier.

    asked      of HEADS: how it starts; None: as the file has it where its classes are the same
    otherwise  of HEADS: how it starts where they are others and nothing is asked for; None: as the
               file has it where it has as many rows, else drawn
    """
    fresh = loading.start_from(path, network, model)
    head = asked or otherwise
    if head is None:
        return "its classifier drawn anew" if fresh else "its classifier too"
    layer = classifiers.classifier(network, model)
    if head == "rows":
        return rows_of_file(path, layer, model, class_names)
    if not asked and not fresh and has_same_classes(path, class_names):
        return "its classifier too, which has the same classes"
    reset(layer, zeros=head == "zeros")
    start = "zeros" if head == "zeros" else "random weights"
    return f"its classifier replaced by one of {len(class_names)} classes that starts from {start}"


def has_same_classes(path: str, class_names: Sequence[str]) -> bool:
    """True where a file states these classes, in this order, or none."""
    names = checkpoints.read(path).get("class_names")
    return names is None or list(names) == list(class_names)


def reset(layer: Any, zeros: bool) -> None:
    """Start a classifier over, from zeros or from its own random weights."""
    layer.reset_parameters()
    if zeros:
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()


def rows_of_file(path: str, layer: Any, model: str, class_names: Sequence[str]) -> str:
    """Give a classifier the rows that a file's has of the same classes; ValueError where one has
    none."""
    _, whole, content = loading.load(path, model)
    names = content.get("class_names") or wordnet.ids(classifiers.count_classes(whole)) or []
    numbers = {name: number for number, name in enumerate(names)}
    missing = [name for name in class_names if name not in numbers]
    if missing:
        raise ValueError(
            f"--head rows: the classifier of {path} has no row that is named"
            f" {some(missing, SHOWN)}; name the folders by their WordNet ids, or give --head zeros"
        )
    rows = [numbers[name] for name in class_names]
    weight, bias = classifiers.weight_of(whole), classifiers.bias_of(whole)
    with torch.no_grad():
        layer.weight.copy_(weight[rows])
        if layer.bias is not None:
            layer.bias.copy_(torch.zeros(len(rows)) if bias is None else bias[rows])
    shown = [
        f"{name} ({words.split(',')[0]})" if (words := wordnet.words(name)) else name
        for name in class_names
    ]
    return f"its classifier's rows of {some(shown, SHOWN)}"
