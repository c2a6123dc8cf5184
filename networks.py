"""Networks by name: build one, load a checkpoint into it, find the linear layer that reads its features.

A new network is one row in MODELS: what builds it, its stages, and the attribute path of its classifier. A network of your
own needs no row: --model my_network.py:build takes any function (or class) that maps the number of classes to an nn.Module
whose last linear layer is the classifier.
"""
import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import resnet

STATE_KEYS = ("model_state_dict", "net", "model_state", "state_dict")  # ours first, then those of older projects
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile put these before every name


@dataclass(frozen=True)
class Model:
    """A row of the registry: build(num_classes, dropout=0.0) -> nn.Module, its stages from the input on, and its classifier."""

    build: callable
    stages: tuple
    classifier: str = "fc"


def resnet_row(block, blocks, stem="cifar"):
    return Model(partial(resnet.ResNet_ImageNet, block=block, blocks=blocks, stem=stem),
                 stages=("layer1", "layer2", "layer3", "layer4"))


MODELS = {
    "resnet_cifar": Model(resnet.ResNet_CIFAR, stages=("stack1", "stack2", "stack3")),
    "resnet18": resnet_row(resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34": resnet_row(resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50": resnet_row(resnet.Bottleneck, (3, 4, 6, 3)),
    "resnet_imagenet": resnet_row(resnet.BasicBlock, (2, 2, 2, 2), stem="imagenet"),
}


def check_model(name):
    """Refuse an unknown model before any long work."""
    if name not in MODELS and ":" not in name:
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}, or FILE.py:FUNCTION for your own")
    if ":" in name and not Path(name.rpartition(":")[0]).is_file():
        raise ValueError(f"--model {name}: there is no file {name.rpartition(':')[0]}")


def build(name, num_classes, **arguments):
    """A network with fresh weights: (N, 3, S, S) -> logits (N, num_classes)."""
    check_model(name)
    if name in MODELS:
        return MODELS[name].build(num_classes, **arguments)
    file, _, function = name.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ValueError(f"--model {name}: {file} defines no {function}")
    return getattr(module, function)(num_classes, **{key: value for key, value in arguments.items() if value})


def short_name(name):
    """What a model is called in file names: "my_network.py:build" -> "my_network_build"."""
    file, _, function = name.rpartition(":")
    return f"{Path(file).stem}_{function}" if file else name


def classifier(network, name):
    """The linear layer (C, D) whose input is the feature: by the registry, or the last linear layer of a foreign network."""
    if name in MODELS:
        return network.get_submodule(MODELS[name].classifier)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError(f"{name} has no linear layer; the classifier must be an nn.Linear")
    return layers[-1]


def head(layer):
    """A linear layer -> W (C, D) and b (C,), NumPy float32; zeros where it has no bias."""
    W = layer.weight.detach().float().cpu().numpy()
    return W, np.zeros(len(W), np.float32) if layer.bias is None else layer.bias.detach().float().cpu().numpy()


def stages(network, name):
    """{name: module} of the network's stages in order of depth; of a foreign network, its direct children with parameters."""
    if name in MODELS:
        return {stage: network.get_submodule(stage) for stage in MODELS[name].stages}
    layer = classifier(network, name)
    return {stage: module for stage, module in network.named_children()
            if module is not layer and any(True for _ in module.parameters())}


def read_checkpoint(path):
    """Read a checkpoint of ours, of an older project, or a bare state dict -> dict with `model_state_dict`.

    Always with weights_only=True: a checkpoint runs no code. Accuracies in percent, as older files have them, become
    fractions. Raises ValueError where the file is missing or holds no parameters.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path}; train one with: python train.py")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint makes torch.load raise whatever it stumbles on
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a checkpoint that can be read safely ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a state dict or a dict with {', '.join(STATE_KEYS)}")
    key = next((key for key in STATE_KEYS if isinstance(content.get(key), dict)), None)
    state = content if key is None else content[key]
    if not state or not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()):
        raise ValueError(f"{path} holds no parameters; expected a state dict, or one under {', '.join(STATE_KEYS)}")
    known = {} if key is None else {name: value for name, value in content.items() if name != key}
    for name in ("train_acc", "val_acc", "test_acc"):
        if isinstance(known.get(name), (int, float)) and known[name] > 1:
            known[name] = known[name] / 100
    return {**known, "model_state_dict": {plain_name(name): value for name, value in state.items()}}


def plain_name(name):
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def load(path, model=None):
    """Checkpoint file -> (network in eval mode, its classifier, the checkpoint's dict).

    `model` names the network where the file does not (a bare state dict). Raises ValueError that names the parameters
    which are missing, unexpected or of another shape.
    """
    checkpoint = read_checkpoint(path)
    own = checkpoint.get("model")
    if own and model and own != model:
        raise ValueError(f"{path} holds a {own}, not a {model}; leave --model out")
    name = own or model
    if name is None:
        raise ValueError(f"{path} does not say which network it holds; name it with --model")
    state = checkpoint["model_state_dict"]
    network = build(name, classes_of(state, path), **checkpoint.get("model_args", {}))
    check_keys(network.state_dict(), state, path, name)
    network.load_state_dict(state)
    return network.eval(), classifier(network, name), {**checkpoint, "model": name}


def classes_of(state, path):
    """C, read off the last matrix among the parameters."""
    matrices = [value for value in state.values() if value.ndim == 2]
    if not matrices:
        raise ValueError(f"{path} holds no weight matrix, so it has no linear classifier")
    return len(matrices[-1])


def check_keys(wanted, found, path, name):
    missing, unexpected = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    shapes = [key for key in wanted if key in found and wanted[key].shape != found[key].shape]
    if missing or unexpected or shapes:
        parts = [f"missing: {some(missing)}" if missing else "", f"unexpected: {some(unexpected)}" if unexpected else "",
                 f"other shapes: {some([f'{key} {tuple(found[key].shape)} for {tuple(wanted[key].shape)}' for key in shapes])}"
                 if shapes else ""]
        raise ValueError(f"{path} does not fit {name}: {'; '.join(part for part in parts if part)}")


def some(names, count=6):
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
