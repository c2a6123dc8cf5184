"""What the entries of a checkpoint file may be: checks of tensors, and of what train.py writes.

    entries.check_tensors(state, path)     # ordinary tensors of real numbers
    entries.check_own(content, path)       # a file of ours: every entry as train.py writes it

A value comes from a file that anybody may have made, so each check takes any value at all."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from networks.messages import SAVE, brief, shown

ACCURACIES = ("train_acc", "val_acc", "test_acc")
INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic")
LARGEST_SIDE = 4096  # pixels
LARGEST_COUNT = 2**53  # whole numbers below it survive JSON

# ---- tensors -------------------------------------------------------------------------------------


def is_state(value: Any) -> bool:
    """True for a dict of named tensors, at least one."""
    if not isinstance(value, dict) or not value:
        return False
    if not all(isinstance(name, str) for name in value):
        return False
    return all(isinstance(tensor, torch.Tensor) for tensor in value.values())


def is_strided(tensor: torch.Tensor) -> bool:
    """True for a dense tensor that is not quantized."""
    return tensor.layout is torch.strided and not tensor.is_quantized


def check_tensors(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """ValueError for a parameter that is not an ordinary tensor of real numbers, or claims more
    than the file holds."""
    for name, value in state.items():
        if wrong := complaint(value):
            raise ValueError(
                f"{path}: the parameter {shown(name)} {wrong}; save real weights with: {SAVE}"
            )


def complaint(value: torch.Tensor) -> str | None:
    """What is wrong with a parameter, or None."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter) or not is_strided(value):
        return "is not an ordinary tensor"
    if value.device.type != "cpu":
        return "has a shape but no values"
    if value.is_complex():
        return "holds complex numbers"
    claimed = value.numel() * value.element_size()
    if claimed > value.untyped_storage().nbytes():
        return f"has the shape {tuple(value.shape)} and the file holds fewer values than that"
    return None


# ---- kinds of values -----------------------------------------------------------------------------


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_COUNT


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def is_names(value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    return all(isinstance(name, str) for name in value)


def is_classes(value: Any) -> bool:
    return is_names(value) and len(value) >= 2


def is_accuracy(value: Any) -> bool:
    """True for a share, a percentage or None."""
    return value is None or (is_number(value) and 0 <= value <= 100)


def is_arguments(value: Any) -> bool:
    """True for arguments of a network: dropout and image_size are the only ones that train.py
    sets."""
    if not isinstance(value, dict) or not set(value) <= {"dropout", "image_size"}:
        return False
    dropout = value.get("dropout", 0.0)
    is_share = is_number(dropout) and 0 <= dropout < 1
    return is_share and is_side(value.get("image_size", LARGEST_SIDE))


def is_channels(value: Any, lowest: float = -math.inf) -> bool:
    """True for three finite numbers above `lowest`."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return False
    return all(is_number(number) and lowest < number < 1e6 for number in value)


def is_preprocessing(value: Any) -> bool:
    """True for what a Preprocessing can be made of; older files have no interpolation and no crop
    share."""
    needed = {"size", "mean", "std"}
    if not isinstance(value, dict) or not needed <= set(value):
        return False
    if not set(value) <= needed | {"interpolation", "crop_share"}:
        return False
    return (
        is_side(value["size"])
        and is_channels(value["mean"])
        and is_channels(value["std"], lowest=0.0)
        and is_interpolation(value.get("interpolation", "bilinear"))
        and is_crop_share(value.get("crop_share", 1.0), value["size"])
    )


def is_side(value: Any) -> bool:
    """True for the side of a square image, in pixels."""
    return is_count(value) and 1 <= value <= LARGEST_SIDE


def is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and value in INTERPOLATIONS


def is_crop_share(value: Any, side: int) -> bool:
    """True for a share of the resized image, which is at most LARGEST_SIDE pixels wide."""
    return is_number(value) and side / LARGEST_SIDE <= value <= 1


def is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def is_history(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(row, dict) for row in value)


def is_best(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return is_number(value.get("val_acc")) and is_count(value.get("epoch"))


def is_member(value: Any) -> bool:
    """True for what images.members.Member holds: of classes that are dealt into folds, those
    that this member leaves out."""
    if not isinstance(value, dict) or set(value) != {"fold", "folds", "classes", "left_out"}:
        return False
    if not is_count(value["fold"]) or not is_count(value["folds"]):
        return False
    if not is_classes(value["classes"]) or not is_names(value["left_out"]):
        return False
    is_within = set(value["left_out"]) < set(value["classes"])
    return 1 <= value["fold"] <= value["folds"] and is_within


def is_partial(value: Any) -> bool:
    return value is None or isinstance(value, dict)


# ---- the entries of our own files ----------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One entry of a file of ours: whether a value fits, and what an error says was expected."""

    fits: Callable[[Any], bool]
    expected: str


# An entry that an older version did not write may be absent.
EXPECTED = {
    "model": Entry(is_text, "the name of a network"),
    "pretrained": Entry(is_text, "where the weights are from"),
    "model_args": Entry(is_arguments, "a dict with dropout in [0, 1) and image_size at most"),
    "dataset": Entry(is_text, "the name of a data set"),
    "class_names": Entry(is_classes, "a list of at least two names"),
    "held_out": Entry(is_names, "a list of names"),
    "leave_out": Entry(is_member, "a dict with fold, folds, classes and left_out"),
    "val_size": Entry(is_count, "a whole number of images"),
    "images": Entry(is_count, "a whole number of images"),
    "preprocessing": Entry(
        is_preprocessing,
        f"a dict with size (1 to {LARGEST_SIDE}), mean and std (three numbers, std above 0) and"
        f" interpolation ({', '.join(INTERPOLATIONS)})",
    ),
    "recipe": Entry(is_dict, "a dict"),
    "versions": Entry(is_dict, "a dict"),
    "arguments": Entry(is_dict, "a dict"),
    "mode": Entry(is_text, "the name of a recipe"),
    "epoch": Entry(is_count, "a whole number of epochs"),
    "step": Entry(is_count, "a whole number of steps"),
    "history": Entry(is_history, "a list of dicts, one per epoch"),
    "best": Entry(is_best, "a dict with val_acc and epoch"),
    "partial": Entry(is_partial, "a dict, or None"),
    **dict.fromkeys(ACCURACIES, Entry(is_accuracy, "a share in [0, 1]")),
}


def check_own(content: Mapping[str, Any], path: Path) -> None:
    """ValueError that names the first entry of a file of ours which cannot be what train.py
    writes there."""
    for name, entry in EXPECTED.items():
        if name in content and not entry.fits(content[name]):
            raise ValueError(
                f"{path}: its entry {name} is {shown(brief(content[name]), 80)}; expected "
                f"{entry.expected}. The file was changed after train.py wrote it; train it again, "
                "or give a state dict with --model and --dataset"
            )


def fraction(value: Any) -> float | None:
    """An accuracy, in percent or as a share -> a share in [0, 1]; None where it is no number of
    either kind."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not 0 <= value <= 100:
        return None
    return value / 100 if value > 1 else value


def single(value: Any) -> Any:
    """A tensor with one real number -> that number; anything else as it is."""
    if not isinstance(value, torch.Tensor) or value.ndim:
        return value
    if value.device.type != "cpu" or not is_strided(value) or value.is_complex():
        return value
    return value.item()
