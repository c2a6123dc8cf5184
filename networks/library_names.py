"""Classifiers of timm and torchvision by name: --model timm/<name>, --model torchvision/<name>.

    network = library_names.build("timm/vit_tiny_patch16_224", 10)
    library_names.own_preprocessing(network)    # as its weights were trained, {field: value}

timm is imported where one of its names is used, and nowhere else. A name of timm's may have a tag
behind a dot, such as vit_base_patch16_224.augreg_in21k, which says how its weights were trained;
without one it is timm's default. Three attributes are set on a network, as on one from a person's
file (source_files.py): own_classes, own_classifier and own_preprocessing."""

import contextlib
import difflib
import math
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from networks.messages import shown, some

LIBRARIES = ("timm", "torchvision")
NEAREST = 5  # names that a message suggests
ALIKE = 0.5  # share of letters that a suggested name has in common with the one that was typed
# What these two networks add for training alone, and a warning about their start, are turned off.
# Their published weights want images that the network shifts to another mean first.
ARGUMENTS = {
    "googlenet": {"aux_logits": False, "init_weights": False, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": False, "transform_input": True},
}
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # parameters of what was turned off
CHANNELS = 3


# ---- names ---------------------------------------------------------------------------------------


def is_name(name: str) -> bool:
    """True for timm/<name> and torchvision/<name>; timm/net.py:build is a person's own file."""
    library, slash, rest = name.partition("/")
    return library in LIBRARIES and bool(slash and rest) and ":" not in rest


def split(name: str) -> tuple[str, str]:
    """ "timm/resnet18.a1_in1k" -> ("timm", "resnet18.a1_in1k")."""
    library, _, own = name.partition("/")
    return library, own


def short(name: str) -> str:
    """What such a network is called in file names: timm_resnet18_a1_in1k."""
    return name.replace("/", "_").replace(".", "_")


def check(name: str) -> None:
    """ValueError for a name that the library does not know, with those that come nearest."""
    library, own = split(name)
    if library == "torchvision":
        refuse_unknown(name, own, torchvision_names())
        return
    timm = import_timm()
    architecture, _, tag = own.partition(".")
    refuse_unknown(name, architecture, timm.list_models())
    tags = timm.models.list_pretrained(f"{architecture}.*")
    if tag and own not in tags:
        known = some([f"timm/{other}" for other in tags]) or "(none has weights)"
        raise ValueError(
            f"--model {shown(name)}: timm knows {architecture}, and no weights of it called"
            f" {shown(tag)}; expected one of {known}"
        )


def refuse_unknown(name: str, own: str, known: list[str]) -> None:
    """ValueError unless the library has a network of this name."""
    if own in known:
        return
    library = split(name)[0]
    nearest = difflib.get_close_matches(own, known, NEAREST, ALIKE)
    listing = "timm.list_models()"
    if library == "torchvision":
        listing = "torchvision.models.list_models()"
    names = some([f"{library}/{other}" for other in nearest], NEAREST)
    come = f"; the nearest are {names}" if nearest else ""
    code = shlex.quote(f"import {library}; print(*{listing})")
    raise ValueError(
        f"--model {shown(name)}: {library} has no classifier of that name{come}. All {len(known):,}"
        f" are listed by: python -c {code}"
    )


def torchvision_names() -> list[str]:
    """torchvision's classifiers; its networks for detection or video are no such thing."""
    models = torchvision_models()
    return models.list_models(module=models)


def torchvision_models() -> Any:
    """torchvision.models, which takes seconds to import: a network of our own does without."""
    from torchvision import models

    return models


def import_timm() -> Any:
    """The package timm; ValueError where it is not installed."""
    try:
        import timm
    except ImportError:
        raise ValueError(
            "--model timm/... needs the package timm; install it with: pip install timm"
        ) from None
    return timm


# ---- building ------------------------------------------------------------------------------------


def build(
    name: str, num_classes: int, dropout: float = 0.0, image_size: int | None = None
) -> nn.Module:
    """A network with fresh weights: (N, 3, S, S) -> logits (N, num_classes).

    `dropout` is that before the classifier. `image_size` is the side S of its images where that is
    part of the network, as of transformers with position embeddings; others take any. ValueError
    where a network has no dropout, or cannot be built for that size."""
    check(name)
    library, own = split(name)
    make = build_timm if library == "timm" else build_torchvision
    network = make(own, num_classes, dropout, image_size)
    return marked(network, name, num_classes)


def marked(network: nn.Module, name: str, num_classes: int | None = None) -> nn.Module:
    """The network with what the other modules ask of one that is not of our own registry."""
    marks: Any = network  # nn.Module's own types allow tensors and layers alone
    marks.own_classifier = timm_classifier(network, name) if name.startswith("timm/") else None
    marks.own_classes = num_classes
    marks.own_preprocessing = own_preprocessing(network, name)
    return network


def build_timm(
    own: str, num_classes: int | None, dropout: float, image_size: int | None, **more: Any
) -> nn.Module:
    """timm's network of this name; None classes stand for as many as its weights have."""
    timm = import_timm()
    given = dict(more)
    if num_classes is not None:
        given["num_classes"] = num_classes
    if dropout:
        given["drop_rate"] = dropout
    if image_size and needs_size("timm/" + own, image_size):
        given["img_size"] = image_size
    with explained(f"timm/{own}", image_size):
        return timm.create_model(own, **given)


def build_torchvision(
    own: str, num_classes: int | None, dropout: float, image_size: int | None, weights: Any = None
) -> nn.Module:
    """torchvision's network of this name; None classes stand for as many as its weights have."""
    given: dict[str, Any] = {"weights": weights}
    if weights is None:
        given |= ARGUMENTS.get(own, {})
    if num_classes is not None:
        given["num_classes"] = num_classes
    if dropout:
        given["dropout"] = dropout
    if image_size and needs_size(f"torchvision/{own}", image_size):
        given["image_size"] = image_size
    with explained(f"torchvision/{own}", image_size):
        network = torchvision_models().get_model(own, **given)
    if dropout and not has_dropout(network, dropout):
        # Some take the argument and make nothing of it.
        raise ValueError(f"torchvision/{own} makes nothing of an argument 'dropout'")
    return network


def has_dropout(network: nn.Module, share: float) -> bool:
    """True if a layer of the network drops this share."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]
    return any(layer.p == share for layer in layers)


@contextlib.contextmanager
def explained(name: str, image_size: int | None) -> Iterator[None]:
    """Within the block an error of the library's becomes one line that names the network."""
    at = f" for images of {image_size} x {image_size} pixels" if image_size else ""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} cannot be built{at}: {said}") from error


def needs_size(name: str, image_size: int) -> bool:
    """True where a network must be built for this size, which is not its usual one."""
    library, own = split(name)
    if library == "torchvision":
        return own.startswith("vit_") and image_size != usual_size(name)
    said = timm_config(own)
    return bool(said.fixed_input_size) and image_size != said.input_size[-1]


def usual_size(name: str) -> int | None:
    """Side of the images that a network's weights were trained on, in pixels."""
    return preprocessing_named(name).get("size")


def has_size(name: str) -> bool:
    """True where the side of the images is part of the network."""
    library, own = split(name)
    if library == "torchvision":
        return own.startswith("vit_")
    return bool(timm_config(own).fixed_input_size)


def timm_config(own: str) -> Any:
    """timm's facts about a network's weights: `pretrained_cfg`, with its defaults."""
    import_timm()
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(own)


def timm_classifier(network: Any, name: str) -> str:
    """Path of the layer that timm's `get_classifier` returns; ValueError where there is none."""
    layer = network.get_classifier()
    for path, module in network.named_modules():
        if module is layer and not isinstance(layer, nn.Identity):
            return path
    if isinstance(layer, tuple):
        what = f"has {len(layer)} classifiers, whose logits are averaged"
    else:
        what = "has no classifier, only features"
    raise ValueError(f"{name} {what}; expected a network whose logits are made by one linear layer")


# ---- preprocessing -------------------------------------------------------------------------------


def own_preprocessing(network: Any, name: str) -> dict[str, Any]:
    """What the images of a network's weights were like: {field of images.preprocessing: value}.

    By timm's `pretrained_cfg`, or torchvision's transforms of its default weights. {} where the
    library says nothing."""
    library, own = split(name)
    if library == "torchvision":
        return preprocessing_named(name)
    from timm.data import resolve_model_data_config

    said = resolve_model_data_config(network, pretrained_cfg=timm_config(own).to_dict())
    return of_timm(said)


def preprocessing_named(name: str) -> dict[str, Any]:
    """The same by the name alone."""
    library, own = split(name)
    if library == "timm":
        import_timm()
        from timm.data import resolve_data_config

        return of_timm(resolve_data_config(pretrained_cfg=timm_config(own).to_dict()))
    weights = torchvision_models().get_model_weights(own)
    return of_torchvision(weights.DEFAULT.transforms())


def of_timm(said: Mapping[str, Any]) -> dict[str, Any]:
    """timm's data configuration -> {field: value}.

    timm resizes the shorter side to floor(size / crop_pct) and we to round(size / crop_share), so
    that the share is written as the size over timm's own."""
    channels, height, width = said["input_size"]
    if channels != CHANNELS or height != width:
        raise ValueError(
            f"this network takes images of {channels} channels and {height} x {width} pixels;"
            " expected square images of 3 channels"
        )
    # The quotient of 224 and 0.875 may lie a rounding error below 256.
    resized = math.floor(height / said["crop_pct"] + 1e-9)
    if said["crop_mode"] == "squash" and said["crop_pct"] == 1:
        warnings.warn(
            "timm squashes images of this network into a square; here their centre is cropped",
            stacklevel=2,
        )
    return {
        "size": height,
        "mean": tuple(said["mean"]),
        "std": tuple(said["std"]),
        "interpolation": said["interpolation"],
        "crop_share": height / resized,
    }


def of_torchvision(transforms: Any) -> dict[str, Any]:
    """The transforms of torchvision's weights -> {field: value}."""
    (size,), (resized,) = transforms.crop_size, transforms.resize_size
    return {
        "size": size,
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "interpolation": transforms.interpolation.value,
        "crop_share": size / resized,
    }


def said_by(name: str) -> str:
    """Who says what the images of a network are like, as the end of "224 px ... (from ...)"."""
    library, own = split(name)
    if library == "timm":
        return f"timm's configuration of {own}"
    return f"torchvision's transforms of {own}"


# ---- weights from a file -------------------------------------------------------------------------


def adapted(
    network: nn.Module, name: str, state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A file's parameters as this network takes them: older names and other sizes of images.

    timm's own filter of each family resizes position embeddings and renames what older files call
    otherwise; torchvision's resizes the position embeddings of its ViTs. Where they cannot make
    anything of the file it is returned as it is, and its misfit is named by the caller."""
    library, own = split(name)
    if library == "torchvision":
        return adapted_torchvision(network, own, state)
    module = sys.modules[type(network).__module__]
    filtered = getattr(module, "checkpoint_filter_fn", None)
    if filtered is None:
        return dict(state)
    try:
        with torch.no_grad():
            return dict(filtered(dict(state), network))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return dict(state)


def adapted_torchvision(
    network: Any, own: str, state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The same for torchvision: without what serves training alone, with resized embeddings."""
    found = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    position = "encoder.pos_embedding"
    if not own.startswith("vit_") or position not in found:
        return found
    if found[position].shape[1] == network.state_dict()[position].shape[1]:
        return found
    from torchvision.models.vision_transformer import interpolate_embeddings

    try:
        resized = interpolate_embeddings(network.image_size, network.patch_size, dict(found))
    except (RuntimeError, ValueError):
        return found
    return dict(resized)
