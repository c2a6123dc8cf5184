"""Networks by name: what builds each, its stages, and where its classifier stands.

A new network is one row in MODELS: what builds it, its stages, and the attribute path of its
classifier. Two kinds need no row: timm/<name> and torchvision/<name> (library_names.py), and
networks of your own: --model my_network.py:build takes any function (or class) that maps the number
of classes to an nn.Module (source_files.py). Their classifier is found by classifiers.py. What a
checkpoint file may hold stands in checkpoints.py, and how one is loaded into a network in
loading.py."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import resnet
from networks import densenet, fastnet, library_names, source_files, toynet, vit_cifar, wide_resnet
from networks.messages import shown


@dataclass(frozen=True)
class Model:
    """A row of the registry: build(num_classes, dropout=0.0) -> nn.Module, its stages from the
    input on, its classifier, and the dropout that its authors train it with."""

    build: Callable[..., nn.Module]
    stages: tuple[str, ...]
    classifier: str = "fc"
    dropout: float = 0.0


def resnet_row(
    block: type[resnet.BasicBlock] | type[resnet.Bottleneck],
    blocks: tuple[int, ...],
    stem: str = "cifar",
) -> Model:
    """The row of a residual network of four stages with `blocks` blocks each."""
    return Model(
        partial(resnet.ResNet_ImageNet, block=block, blocks=blocks, stem=stem),
        stages=("layer1", "layer2", "layer3", "layer4"),
    )


def wide_row(depth: int, widening: int, dropout: float = 0.0) -> Model:
    """The row of a wide residual network."""
    return Model(
        partial(wide_resnet.WideResNet, depth=depth, widening=widening),
        stages=("block1", "block2", "block3"),
        dropout=dropout,
    )


def dense_row(depth: int, growth: int) -> Model:
    """The row of a DenseNet-BC."""
    return Model(
        partial(densenet.DenseNet, depth=depth, growth=growth),
        stages=("block1", "block2", "block3"),
    )


def vit_row(width: int, depth: int, heads: int) -> Model:
    """The row of a vision transformer for 32-pixel images, whose stages are every other block."""
    return Model(
        partial(vit_cifar.build, width=width, depth=depth, heads=heads),
        stages=tuple(f"blocks.{number}" for number in range(1, depth, 2)),
        classifier="head",
    )


MODELS = {
    "resnet_cifar": Model(resnet.ResNet_CIFAR, stages=("stack1", "stack2", "stack3")),
    "resnet18": resnet_row(resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34": resnet_row(resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50": resnet_row(resnet.Bottleneck, (3, 4, 6, 3)),
    "resnet_imagenet": resnet_row(resnet.BasicBlock, (2, 2, 2, 2), stem="imagenet"),
    "fastnet": Model(fastnet.FastNet, stages=("block1", "block2", "block3")),
    "fastnet_small": Model(fastnet.small, stages=("block1", "block2", "block3")),
    "wide_resnet28_10": wide_row(28, 10, dropout=0.3),
    "wide_resnet40_2": wide_row(40, 2),
    "wide_resnet16_2": wide_row(16, 2),
    "densenet_bc100_12": dense_row(100, 12),
    "densenet_bc40_12": dense_row(40, 12),
    "vit_cifar": vit_row(192, 6, 3),
    "vit_cifar_small": vit_row(128, 6, 4),
    "toynet": Model(toynet.ToyNet, stages=("conv1", "conv2", "fc1"), classifier="fc3"),
}


def check_model(name: str) -> None:
    """Refuse an unknown model before any long work."""
    if name in MODELS:
        return
    if library_names.is_name(name):
        library_names.check(name)
        return
    if ":" not in name:
        raise ValueError(
            f"unknown model {shown(name)!r}; expected one of {', '.join(MODELS)}, timm/NAME or "
            "torchvision/NAME, or FILE.py:FUNCTION for your own"
        )
    file, _ = source_files.parts(name)
    if not file.is_file():
        raise ValueError(f"--model {shown(name)}: there is no file {shown(file)}")


def usual_dropout(name: str) -> float:
    """The dropout that a network's authors train it with; 0 for a network without a row."""
    return MODELS[name].dropout if name in MODELS else 0.0


def build(name: str, num_classes: int, **arguments: Any) -> nn.Module:
    """A network with fresh weights: (N, 3, S, S) -> logits (N, num_classes)."""
    check_model(name)
    if name in MODELS:
        return MODELS[name].build(num_classes, **arguments)
    if library_names.is_name(name):
        return library_names.build(name, num_classes, **arguments)
    return source_files.build(name, num_classes, arguments)


def short_name(name: str) -> str:
    """What a model is called in file names: "my_network.py:build" -> "my_network_build"."""
    if library_names.is_name(name):
        return library_names.short(name)
    file, _, function = name.rpartition(":")
    return f"{Path(file).stem}_{function}" if file else name


def preprocessing_of(network: nn.Module, name: str) -> Any:
    """What a network that is not of MODELS says of its images, unchecked, or None: a person's own
    under `preprocessing`, one of a library by that."""
    said = getattr(network, "own_preprocessing", None)
    if not inspect.isroutine(said):
        return said
    with source_files.explained(name, " in preprocessing()"):
        return said()


def place_of(name: str) -> str:
    """Who says what `preprocessing_of` returns: a file's name, or the library's own facts."""
    return library_names.said_by(name) if library_names.is_name(name) else Path(name).name


def code_sha256(name: str) -> str | None:
    """SHA-256 of a network's code where that is a person's file, which may change; else None."""
    return source_files.sha256(name) if ":" in name else None


def arguments_for(name: str, image_size: int | None) -> dict[str, Any]:
    """The arguments of `build` that depend on the images: their side, where it is part of the
    network."""
    if image_size and library_names.is_name(name) and library_names.has_size(name):
        return {"image_size": image_size}
    return {}
