"""A checkpoint's network: which one it is, for how many classes, and its weights in place.

    network, classifier, checkpoint = loading.load("results/resnet18_best_cifar100_s0.pth")

A file never chooses code to run: a network that is code must be named by --model, and be the one
that the file names."""

import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from networks import checkpoints, classifiers, library_names, parameters, source_files
from networks.messages import shown, some
from networks.registry import MODELS, arguments_for, build, check_model, code_sha256

ANY_CLASSES = 2  # of a network that is built to see where its classifier stands
GUESSES = 8  # numbers of classes tried where nothing says which matrix is the classifier's


def load(
    path: str | Path,
    model: str | None = None,
    content: dict[str, Any] | None = None,
    image_size: int | None = None,
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """Checkpoint file -> (network in eval mode, its classifier, the checkpoint's dict).

    `model` names the network where the file does not; a network that is code must always be named,
    since a file never chooses code to run. The dict has three more entries: `classes`,
    `weights_sha256`, and `model_file_sha256` (None for a network of the registry). ValueError names
    the parameters that are missing, unexpected or of another shape. `content` is what
    checkpoints.read made of the file, where that is known. `image_size` is asked for by the person,
    in pixels: position embeddings are resized to it."""
    checkpoint = content or checkpoints.read(path)
    name = chosen(path, checkpoint.get("model"), model)
    check_model(name)
    arguments = {**checkpoint.get("model_args", {}), **arguments_for(name, image_size)}
    network, state = fitted(path, name, checkpoint, arguments)
    network.load_state_dict(state)
    layer = classifiers.classifier(network, name)
    classes = classifiers.count_classes(layer)
    names = checkpoint.get("class_names")
    if names and len(names) != classes:
        raise ValueError(
            f"{path} names {len(names)} classes, and its classifier has {classes} outputs"
        )
    loaded = {
        **checkpoint,
        "model": name,
        "model_state_dict": state,
        "classes": classes,
        "weights_sha256": checkpoints.weights_sha256(name, arguments, network.state_dict()),
        "model_file_sha256": code_sha256(name),
    }
    return network.eval(), layer, loaded


def start_from(path: str | Path, network: nn.Module, name: str) -> list[str]:
    """Give a network, built for the classes of new data, the weights of a file of any classes.

    Returns the classifier's parameters that stay as they are, since the file's have another shape
    or are not there. ValueError where any other parameter does not fit."""
    content = checkpoints.read(path)
    wanted = network.state_dict()
    state, _ = parameters.aligned(content["model_state_dict"], wanted, path)
    if parameters.misfit(wanted, state) and library_names.is_name(name):
        state = library_names.adapted(network, name, state)
    place = classifiers.classifier_path(network, name)
    fresh = [
        parameter
        for parameter in (f"{place}.weight", f"{place}.bias")
        if parameter in wanted and not same_shape(wanted[parameter], state.get(parameter))
    ]
    state |= {parameter: wanted[parameter] for parameter in fresh}
    wrong = parameters.misfit(wanted, state)
    if wrong:
        raise ValueError(f"{path} does not fit {name}: {wrong}")
    network.load_state_dict(state)
    return fresh


def same_shape(value: torch.Tensor, other: torch.Tensor | None) -> bool:
    """True where there is another tensor, of the same shape."""
    return other is not None and other.shape == value.shape


# ---- which network -------------------------------------------------------------------------------


def chosen(path: str | Path, own: str | None, given: str | None) -> str:
    """The network's name, by the file's own word and by --model. Nothing has been built or run so
    far."""
    if own is None and given is None:
        raise ValueError(f"{path} does not say which network it holds; name it with --model")
    if own is None:
        assert given is not None
        return given
    if ":" in own:
        return chosen_file(path, own, given)
    if given and own != given:
        raise ValueError(f"{path} holds a {shown(own)}, not a {given}; leave --model out")
    return own


def chosen_file(path: str | Path, own: str, given: str | None) -> str:
    """The person's own FILE.py:FUNCTION, which must be the one that the checkpoint names; it may
    have moved."""
    remedy = f"--model {shlex.quote(shown(own))}"
    if given is None:
        raise ValueError(
            f"{path} was trained with the network {shown(own)}. That file is code, and a "
            "checkpoint never chooses code "
            f"to run; where you trust the file, add: {remedy}"
        )
    file, function = source_files.parts(own)
    given_file, given_function = source_files.parts(given)
    if (file.name, function) != (given_file.name, given_function):
        raise ValueError(
            f"{path} holds a {shown(own)}, not a {given}; where you trust that file, give: {remedy}"
        )
    return given


# ---- how many classes ----------------------------------------------------------------------------


def fitted(
    path: str | Path, name: str, checkpoint: Mapping[str, Any], arguments: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Build the network for as many classes as the file has -> (network, its state dict);
    ValueError where none fits."""
    misfits = []
    for classes in possible_classes(name, checkpoint, path, arguments):
        network = build(name, classes, **arguments)
        wanted = network.state_dict()
        state, left_out = parameters.aligned(checkpoint["model_state_dict"], wanted, path)
        wrong = parameters.misfit(wanted, state)
        if wrong and library_names.is_name(name):
            state = library_names.adapted(network, name, state)
            wrong = parameters.misfit(wanted, state)
        if wrong:
            misfits.append(wrong)
            continue
        if left_out:
            warnings.warn(
                f"{path}: left out, since {name} has no such parameters: {some(left_out)}",
                stacklevel=3,
            )
        return network, state
    closest = min(misfits, key=len)
    raise ValueError(f"{path} does not fit {name}: {closest}")


def possible_classes(
    name: str, checkpoint: Mapping[str, Any], path: str | Path, arguments: Mapping[str, Any]
) -> list[int]:
    """Numbers of classes to build the network for, the likeliest first."""
    if "class_names" in checkpoint:
        return [len(checkpoint["class_names"])]
    state = checkpoint["model_state_dict"]
    if name in MODELS:
        rows = rows_of(state, f"{MODELS[name].classifier}.weight")
        return rows[:1] or [classes_of(state, path)]
    if library_names.is_name(name):
        # One look at the network says which matrix is the classifier's.
        network = build(name, ANY_CLASSES, **arguments)
        place = classifiers.classifier_path(network, name)
        rows = rows_of(state, f"{place}.weight")
        if rows:
            return rows[:1]
    rows = [len(value) for value in reversed(state.values()) if is_matrix(value)]
    distinct = list(dict.fromkeys(rows))
    return distinct[:GUESSES] or [classes_of(state, path)]


def rows_of(state: Mapping[str, torch.Tensor], ending: str) -> list[int]:
    """The numbers of rows of the matrices whose name is, or ends in, `ending`."""
    found = []
    for name, value in state.items():
        if is_matrix(value) and f".{name}".endswith(f".{ending}"):
            found.append(len(value))
    return found


def is_matrix(value: torch.Tensor) -> bool:
    """True for the weight of a linear layer or of a 1x1 convolution."""
    is_flat = value.ndim == 2
    is_1x1 = value.ndim == 4 and value.shape[2:] == (1, 1)
    return (is_flat or is_1x1) and len(value) > 0


def classes_of(state: Mapping[str, torch.Tensor], path: str | Path) -> int:
    """C, read off the last matrix among the parameters."""
    matrices = [value for value in state.values() if is_matrix(value)]
    if not matrices:
        raise ValueError(f"{path} holds no weight matrix, so it has no linear classifier")
    return len(matrices[-1])
