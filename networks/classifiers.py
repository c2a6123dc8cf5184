"""The layer of a network that reads its features: where it stands, its weights, and the stages
before it.

    layer = classifiers.classifier(network, "resnet18")     # its input is the feature
    W, b = classifiers.head(layer)                          # (C, D), (C,)

The classifier of one of timm's networks is what its `get_classifier` returns. That of one of
torchvision's, or from a person's own file, is the last nn.Linear (or 1x1 convolution) with one
output per class; where that is another layer, the network or its file says so with
`classifier = "path.to.layer"`."""

import difflib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from networks.messages import shown, some
from networks.registry import MODELS

LISTS = (nn.ModuleList, nn.ModuleDict)  # they hold modules and are never called
NEAREST = 5  # paths that a message suggests


class NoClassifier(nn.Identity):
    """Stands where a classifier would, in a network of features alone: it hands them on."""


def readouts(network: nn.Module) -> dict[str, nn.Module]:
    """{path: layer} of what could be a classifier, in order: nn.Linear, and 1x1 convolutions of
    every position."""
    found = {}
    for path, layer in network.named_modules():
        if is_readout(layer):
            found[path] = layer
    return found


def is_readout(layer: nn.Module) -> bool:
    """True for a layer that could be a classifier."""
    if isinstance(layer, nn.Linear):
        return True
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding in ((0, 0), "valid", "same")
        and layer.groups == 1
    )


def classifier_path(network: nn.Module, name: str) -> str:
    """Where the classifier stands: by registry, by the person's word, or the last layer that fits.

    A linear layer comes before a convolution. Whether it makes the network's output is seen when
    images go through. ValueError where there is no such layer."""
    if name in MODELS:
        return MODELS[name].classifier
    found = readouts(network)
    if network.own_classifier is not None:
        own = cast(str, network.own_classifier)
        if own in found:
            return own
        raise ValueError(
            f"{name} says classifier = {own!r}, and no linear layer stands "
            f"there; expected one of: {some(list(found)) or 'it has none'}"
        )
    linear = [path for path, layer in found.items() if isinstance(layer, nn.Linear)]
    fitting = [
        path for path, layer in found.items() if len(weight_of(layer)) == network.own_classes
    ]
    both = [path for path in linear if path in fitting]
    for candidates in (both, fitting, linear):
        if candidates:
            return candidates[-1]
    raise ValueError(
        f"{name} has no linear layer; the classifier must be an nn.Linear, or a 1x1 nn.Conv2d"
    )


def classifier(network: nn.Module, name: str) -> nn.Module:
    """The layer whose input is the feature, and whose weight is (C, D) or (C, D, 1, 1)."""
    return network.get_submodule(classifier_path(network, name))


def weight_of(layer: nn.Module) -> torch.Tensor:
    """The weight of a linear layer or a 1x1 convolution, (C, D) or (C, D, 1, 1)."""
    return cast(torch.Tensor, layer.weight)


def bias_of(layer: nn.Module) -> torch.Tensor | None:
    """The bias of a linear layer or a 1x1 convolution (C,), None where it has none."""
    return cast(torch.Tensor | None, layer.bias)


def count_classes(layer: nn.Module) -> int:
    """C of a classifier."""
    return len(weight_of(layer))


@torch.no_grad()
def output_layer(network: nn.Module, batch: torch.Tensor) -> str | None:
    """Path of the layer that makes the network's logits of this batch, or None."""
    outputs: dict[str, torch.Tensor] = {}
    hooks = []
    for path, layer in readouts(network).items():

        def keep(module, inputs, output, path=path):
            outputs[path] = output

        hooks.append(layer.register_forward_hook(keep))
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


def head(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """A classifier -> W (C, D) and b (C,), NumPy float32; zeros where it has no bias."""
    W = weight_of(layer).detach().flatten(1).float().cpu().numpy()
    bias = bias_of(layer)
    if bias is None:
        return W, np.zeros(len(W), np.float32)
    return W, bias.detach().float().cpu().numpy()


def vectors(inputs: torch.Tensor) -> torch.Tensor:
    """What enters a classifier, (N, D) or (N, D, H, W) -> (N, D): a 1x1 convolution and the mean
    over positions commute."""
    return inputs.flatten(2).mean(2) if inputs.ndim == 4 else inputs


# ---- stages --------------------------------------------------------------------------------------


def stages(network: nn.Module, name: str, asked: Sequence[str] = ()) -> dict[str, nn.Module]:
    """{name: module} of the network's stages in order of depth.

    They are those that are `asked` for by their paths; or else those of the registry, of timm's
    `feature_info`, or found by `search`. ValueError for a path where no module stands, or one that
    never runs by itself."""
    if asked:
        return {path: stage_at(network, name, path) for path in asked}
    if name in MODELS:
        return {stage: network.get_submodule(stage) for stage in MODELS[name].stages}
    return stages_of_timm(network, name) or search(network, classifier(network, name))


def stage_at(network: nn.Module, name: str, path: str) -> nn.Module:
    """The module of a path."""
    found = dict(network.named_modules())
    del found[""]
    if path in found and not isinstance(found[path], LISTS):
        return found[path]
    if path in found:
        inner = [f"{path}.{child}" for child, _ in found[path].named_children()]
        raise ValueError(
            f"--stages {shown(path)}: {name} keeps a list of modules there, which never runs by"
            f" itself; name what is in it: --stages {' '.join(inner)}"
        )
    nearest = difflib.get_close_matches(path, found, NEAREST) or list(found)
    raise ValueError(
        f"--stages {shown(path)}: {name} has no module of that path; expected one such as"
        f" {some(nearest, NEAREST)}"
    )


def stages_of_timm(network: nn.Module, name: str) -> dict[str, nn.Module]:
    """The modules that timm's `feature_info` names; {} for a network that is none of timm's."""
    info: Any = getattr(network, "feature_info", None)
    if not name.startswith("timm/") or not isinstance(info, list):
        return {}
    found = dict(network.named_modules())
    paths = [row.get("module") for row in info]
    return {path: found[path] for path in paths if path in found}


def search(root: nn.Module, layer: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """{path: module} of the children with parameters, in order, without the classifier `layer`.

    Lists of modules, and what holds the classifier, are looked into: neither is a stage. Where one
    Sequential is all that stands before them, its parts are the stages."""
    children = with_parameters(root, layer, prefix)
    whole = [module for module in children.values() if not is_looked_into(module, layer)]
    found: dict[str, nn.Module] = {}
    for path, module in children.items():
        if is_looked_into(module, layer):
            found |= search(module, layer, f"{path}.")
        elif len(whole) == 1 and isinstance(module, nn.Sequential):
            found |= with_parameters(module, layer, f"{path}.")
        else:
            found[path] = module
    return found


def with_parameters(root: nn.Module, layer: nn.Module, prefix: str) -> dict[str, nn.Module]:
    """{path: module} of the children that have parameters, without the classifier `layer`."""
    children = {f"{prefix}{name}": module for name, module in root.named_children()}
    return {
        path: module
        for path, module in children.items()
        if module is not layer and any(True for _ in module.parameters())
    }


def is_looked_into(module: nn.Module, layer: nn.Module) -> bool:
    """True for what is no stage itself: a list of modules, or what holds the classifier."""
    return isinstance(module, LISTS) or any(part is layer for part in module.modules())
