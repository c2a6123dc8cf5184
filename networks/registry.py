"""Networks by name: build one, load a checkpoint into it, find the layer that reads its features.

A new network is one row in MODELS: what builds it, its stages, and the attribute path of its
classifier. A network of your own needs no row: --model my_network.py:build takes any function (or
class) that maps the number of classes to an nn.Module. Its classifier is the last nn.Linear (or 1x1
convolution) with one output per class; where that is another layer, the network or its file says so
with `classifier = "path.to.layer"`. What a checkpoint file may hold is checkpoints.py's."""

import inspect
import re
import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import resnet
from networks import checkpoints, fastnet, source_files
from networks.checkpoints import shown

COUNTER = "num_batches_tracked"  # of batch norm since torch 0.4; says nothing about features
GUESSES = 8  # numbers of classes tried where nothing says which matrix is the classifier's


@dataclass(frozen=True)
class Model:
    """A row of the registry: build(num_classes, dropout=0.0) -> nn.Module, its stages from the
    input on, and its classifier."""

    build: Callable[..., nn.Module]
    stages: tuple
    classifier: str = "fc"


def resnet_row(block, blocks, stem="cifar"):
    return Model(
        partial(resnet.ResNet_ImageNet, block=block, blocks=blocks, stem=stem),
        stages=("layer1", "layer2", "layer3", "layer4"),
    )


MODELS = {
    "resnet_cifar": Model(resnet.ResNet_CIFAR, stages=("stack1", "stack2", "stack3")),
    "resnet18": resnet_row(resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34": resnet_row(resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50": resnet_row(resnet.Bottleneck, (3, 4, 6, 3)),
    "resnet_imagenet": resnet_row(resnet.BasicBlock, (2, 2, 2, 2), stem="imagenet"),
    "fastnet": Model(fastnet.FastNet, stages=("block1", "block2", "block3")),
}


def check_model(name):
    """Refuse an unknown model before any long work."""
    if name in MODELS:
        return
    if ":" not in name:
        raise ValueError(
            f"unknown model {shown(name)!r}; expected one of {', '.join(MODELS)}, or "
            "FILE.py:FUNCTION for your own"
        )
    file, _ = source_files.parts(name)
    if not file.is_file():
        raise ValueError(f"--model {shown(name)}: there is no file {shown(file)}")


def build(name, num_classes, **arguments):
    """A network with fresh weights: (N, 3, S, S) -> logits (N, num_classes)."""
    check_model(name)
    if name in MODELS:
        return MODELS[name].build(num_classes, **arguments)
    return source_files.build(name, num_classes, arguments)


def short_name(name):
    """What a model is called in file names: "my_network.py:build" -> "my_network_build"."""
    file, _, function = name.rpartition(":")
    return f"{Path(file).stem}_{function}" if file else name


# ---- the classifier ------------------------------------------------------------------------------


def readouts(network):
    """{path: layer} of what could be a classifier, in order: nn.Linear, and 1x1 convolutions of
    every position."""
    return {path: layer for path, layer in network.named_modules() if is_readout(layer)}


def is_readout(layer):
    if isinstance(layer, nn.Linear):
        return True
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding in ((0, 0), "valid", "same")
        and layer.groups == 1
    )


def classifier_path(network, name):
    """Where the classifier stands: by registry, by the person's word, or as the last that fits.

    A linear layer comes before a convolution. Whether it makes the network's output is seen when
    images go through."""
    if name in MODELS:
        return MODELS[name].classifier
    found = readouts(network)
    if network.own_classifier is not None:
        if network.own_classifier not in found:
            raise ValueError(
                f"{name} says classifier = {network.own_classifier!r}, and no linear layer stands "
                "there; expected one "
                f"of: {some(list(found)) or 'it has none'}"
            )
        return network.own_classifier
    linear = [path for path, layer in found.items() if isinstance(layer, nn.Linear)]
    fitting = [path for path, layer in found.items() if len(layer.weight) == network.own_classes]
    for candidates in ([path for path in linear if path in fitting], fitting, linear):
        if candidates:
            return candidates[-1]
    raise ValueError(
        f"{name} has no linear layer; the classifier must be an nn.Linear, or a 1x1 nn.Conv2d"
    )


def classifier(network, name):
    """The layer whose input is the feature, and whose weight is (C, D) or (C, D, 1, 1)."""
    return network.get_submodule(classifier_path(network, name))


@torch.no_grad()
def output_layer(network, batch):
    """Path of the layer that makes the network's logits of this batch, or None."""
    outputs, layers = {}, readouts(network)
    hooks = [
        layer.register_forward_hook(
            lambda module, inputs, output, path=path: outputs.update({path: output})
        )
        for path, layer in layers.items()
    ]
    try:
        logits = network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for path, output in outputs.items():
        made = vectors(output)
        if made.shape == logits.shape and torch.allclose(made, logits, atol=1e-5):
            return path
    return None


def head(layer):
    """A classifier -> W (C, D) and b (C,), NumPy float32; zeros where it has no bias."""
    W = layer.weight.detach().flatten(1).float().cpu().numpy()
    if layer.bias is None:
        return W, np.zeros(len(W), np.float32)
    return W, layer.bias.detach().float().cpu().numpy()


def vectors(inputs):
    """What enters a classifier, (N, D) or (N, D, H, W) -> (N, D): a 1x1 convolution and the mean
    over positions commute."""
    return inputs.flatten(2).mean(2) if inputs.ndim == 4 else inputs


def stages(network, name):
    """{name: module} of the network's stages in order of depth; of a foreign network, its direct
    children with parameters."""
    if name in MODELS:
        return {stage: network.get_submodule(stage) for stage in MODELS[name].stages}
    layer = classifier(network, name)
    return {
        stage: module
        for stage, module in network.named_children()
        if module is not layer and any(True for _ in module.parameters())
    }


def preprocessing_of(network, name):
    """What a person's own network says of its images under `preprocessing`, unchecked, or None."""
    said = getattr(network, "own_preprocessing", None)
    if not inspect.isroutine(said):
        return said
    with source_files.explained(name, " in preprocessing()"):
        return said()


# ---- a checkpoint's network ----------------------------------------------------------------------


def load(path, model=None, content=None):
    """Checkpoint file -> (network in eval mode, its classifier, the checkpoint's dict).

    `model` names the network where the file does not; a network that is code must always be named,
    since a file never chooses code to run. The dict has three more entries: `classes`,
    `weights_sha256`, and `model_file_sha256` (None for a network of the registry). ValueError names
    the parameters that are missing, unexpected or of another shape. `content` is what
    checkpoints.read made of the file, where that is known."""
    checkpoint = content or checkpoints.read(path)
    name = chosen(path, checkpoint.get("model"), model)
    check_model(name)
    arguments = checkpoint.get("model_args", {})
    network, state = fitted(path, name, checkpoint, arguments)
    network.load_state_dict(state)
    layer = classifier(network, name)
    names = checkpoint.get("class_names")
    if names and len(names) != len(layer.weight):
        raise ValueError(
            f"{path} names {len(names)} classes, and its classifier has {len(layer.weight)} outputs"
        )
    facts = {
        "classes": len(layer.weight),
        "weights_sha256": checkpoints.weights_sha256(name, arguments, network.state_dict()),
        "model_file_sha256": None if name in MODELS else source_files.sha256(name),
    }
    return network.eval(), layer, {**checkpoint, "model": name, "model_state_dict": state, **facts}


def chosen(path, own, given):
    """The network's name, by the file's own word and by --model. Nothing has been built or run so
    far."""
    if own is None and given is None:
        raise ValueError(f"{path} does not say which network it holds; name it with --model")
    if own is None:
        return given
    if ":" in own:
        return chosen_file(path, own, given)
    if given and own != given:
        raise ValueError(f"{path} holds a {shown(own)}, not a {given}; leave --model out")
    return own


def chosen_file(path, own, given):
    """The person's own FILE.py:FUNCTION, which must be the one that the checkpoint names; it may
    have moved."""
    file, function = source_files.parts(own)
    if given is None:
        raise ValueError(
            f"{path} was trained with the network {shown(own)}. That file is code, and a "
            "checkpoint never chooses code "
            f"to run; where you trust the file, add: --model {shlex.quote(shown(own))}"
        )
    given_file, given_function = source_files.parts(given)
    if (file.name, function) != (given_file.name, given_function):
        raise ValueError(
            f"{path} holds a {shown(own)}, not a {given}; where you trust that file, give: "
            f"--model {shlex.quote(shown(own))}"
        )
    return given


def fitted(path, name, checkpoint, arguments):
    """Build the network for as many classes as the file has -> (network, its state dict);
    ValueError where none fits."""
    found, misfits = checkpoint["model_state_dict"], []
    for classes in possible_classes(name, checkpoint, path):
        network = build(name, classes, **arguments)
        wanted = network.state_dict()
        state, left_out = aligned(found, wanted, path)
        wrong = misfit(wanted, state)
        if not wrong:
            if left_out:
                warnings.warn(
                    f"{path}: left out, since {name} has no such parameters: {some(left_out)}",
                    stacklevel=3,
                )
            return network, state
        misfits.append(wrong)
    closest = min(misfits, key=lambda wrong: sum(len(names) for names in wrong.values()))
    parts = "; ".join(f"{kind}: {some(names)}" for kind, names in closest.items())
    raise ValueError(f"{path} does not fit {name}: {parts}")


def possible_classes(name, checkpoint, path):
    """Numbers of classes to build the network for, the likeliest first."""
    if "class_names" in checkpoint:
        return [len(checkpoint["class_names"])]
    state = checkpoint["model_state_dict"]
    if name in MODELS:
        ending = f"{MODELS[name].classifier}.weight"
        matrices = [value for value in state.items() if value[1].ndim == 2]
        rows = [len(value) for key, value in matrices if f".{key}".endswith(f".{ending}")]
        return rows[:1] or [classes_of(state, path)]
    rows = [len(value) for value in reversed(state.values()) if is_matrix(value)]
    return list(dict.fromkeys(rows))[:GUESSES] or [classes_of(state, path)]


def is_matrix(value):
    """True for the weight of a linear layer or of a 1x1 convolution."""
    is_flat = value.ndim == 2
    is_1x1 = value.ndim == 4 and value.shape[2:] == (1, 1)
    return (is_flat or is_1x1) and len(value) > 0


def classes_of(state, path):
    """C, read off the last matrix among the parameters."""
    matrices = [value for value in state.values() if is_matrix(value)]
    if not matrices:
        raise ValueError(f"{path} holds no weight matrix, so it has no linear classifier")
    return len(matrices[-1])


# ---- names of parameters -------------------------------------------------------------------------


def aligned(found, wanted, path):
    """A file's parameters under the network's own names -> (state dict, names that were left out).

    One prefix before all of them is taken off. What lies beside them is left out where it is a
    second copy (a moving average) or stands under another prefix. Batch norm's counter, which files
    before torch 0.4 lack, is filled in."""
    needed = [name for name in wanted if not name.endswith(COUNTER)]
    covering = covering_prefixes(found, needed)
    prefix = best_prefix(covering, path)
    state = {
        name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)
    }
    outside = [name for name in found if not name.startswith(prefix)]
    copies = tuple(
        other.removeprefix(prefix)
        for other in covering
        if other != prefix and other.startswith(prefix)
    )
    beside = [
        name
        for name in state
        if name not in wanted and (is_average(name) or name.startswith(copies))
    ]
    for name in beside:
        del state[name]
    counters = {
        name: value
        for name, value in wanted.items()
        if name.endswith(COUNTER) and name not in state
    }
    return {**state, **counters}, [*outside, *(prefix + name for name in beside)]


def covering_prefixes(found, needed):
    """The prefixes under which most needed parameters are found, each equally many; [""] where
    that is less than half."""
    counts = {"": sum(name in found for name in needed)}
    for anchor in {needed[0], needed[-1]} if needed else ():
        for name in found:
            prefix = name.removesuffix(anchor)
            if name.endswith(f".{anchor}") and prefix not in counts:
                counts[prefix] = sum(prefix + other in found for other in needed)
    most = max(counts.values())
    return (
        [prefix for prefix, count in counts.items() if count == most]
        if 2 * most >= len(needed)
        else [""]
    )


def best_prefix(covering, path):
    """The prefix of the network itself where its copies stand beside it; ValueError where that
    cannot be told."""
    if "" in covering:
        return ""
    plain = [prefix for prefix in covering if not is_average(prefix)] or covering
    if len(plain) > 1:
        raise ValueError(
            f"{path} holds the network several times, under {', '.join(map(shown, plain))}; save "
            "the one that is "
            f"meant, in the program that made it, with: {checkpoints.SAVE}"
        )
    return plain[0]


def is_average(name):
    """True for the names that moving averages of weights go by, and what stands beside them."""
    return bool(re.search(r"(^|_)(ema|averag|teacher|num_updates)", name.partition(".")[0].lower()))


def misfit(wanted, found):
    """{what is wrong: [names]} of a state dict beside the network's; empty where it fits."""
    shapes = []
    for name in wanted:
        if name in found and wanted[name].shape != found[name].shape:
            shapes.append(f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}")
    wrong = {
        "missing": sorted(set(wanted) - set(found)),
        "unexpected": sorted(set(found) - set(wanted)),
        "other shapes": shapes,
    }
    return {kind: names for kind, names in wrong.items() if names}


def some(names, count=6):
    text = ", ".join(map(shown, names[:count]))
    return text + (f" and {len(names) - count} more" if len(names) > count else "")
