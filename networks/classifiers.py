"""The layer of a network that reads its features: where it stands, its weights, and the stages
before it.

    layer = classifiers.classifier(network, "resnet18")     # its input is the feature
    W, b = classifiers.head(layer)                          # (C, D), (C,)

The classifier of one of timm's networks is what its `get_classifier` returns. That of one of
torchvision's, or from a person's own file, is the last nn.Linear (or 1x1 convolution) with one
output per class; where that is another layer, the network or its file says so with
`classifier = "path.to.layer"`."""

from typing import cast

import numpy as np
import torch
from torch import nn

from networks.messages import some
from networks.registry import MODELS


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


def stages(network: nn.Module, name: str) -> dict[str, nn.Module]:
    """{name: module} of the network's stages in order of depth; of a foreign network, its direct
    children with parameters."""
    if name in MODELS:
        return {stage: network.get_submodule(stage) for stage in MODELS[name].stages}
    layer = classifier(network, name)
    found = {}
    for stage, module in network.named_children():
        has_parameters = any(True for _ in module.parameters())
        if has_parameters and module is not layer:
            found[stage] = module
    return found
