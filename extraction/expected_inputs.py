"""What a network expects of its images: stated by some source, and never guessed in silence.

    choice = choose([Source("the command line", {"size": 224}), Source("net.py", {...})])
    choice.preprocessing    images.preprocessing.Preprocessing
    str(choice)             "224 px, bilinear, mean 0.5, std 0.25 (image size from ...)"

Each value is taken from the first source that knows it. Some source must know size, mean and std.
Wrong values raise no error, they only make wrong features. That is why the resulting test accuracy
is compared with the one that the checkpoint states, and with chance.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from images.preprocessing import Preprocessing, channels
from networks import entries, messages

WORDS = {
    "size": "image size",
    "mean": "mean",
    "std": "std",
    "interpolation": "interpolation",
    "crop_share": "crop share",
}
FLAGS = {
    "size": "--image-size",
    "mean": "--mean",
    "std": "--std",
    "interpolation": "--interpolation",
    "crop_share": "--crop-share",
}
CHECKPOINT = "the checkpoint"
BY_DEFAULT = "by default"
DEFAULTS: dict[str, Any] = {"interpolation": "bilinear", "crop_share": 1.0}
# The most common preprocessing: ImageNet's.
EXAMPLE: dict[str, Any] = {
    "image_size": 224,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
# Names under which projects keep the test accuracy in a checkpoint: this one, pytorch-cifar, and
# those that follow torchvision or timm.
STATED = (
    "test_acc",
    "test_accuracy",
    "acc",
    "accuracy",
    "acc1",
    "best_acc",
    "best_acc1",
    "best_prec1",
    "best_accuracy",
)
# Kernels and precision explain an accuracy that differs from the stated one by up to this share.
TOLERANCE = 0.02
STANDARD_ERRORS = 3  # a difference in accuracy below this many is noise
# A network has learned next to nothing below this share of the way from chance to 1.
CHANCE = 0.1


# ---- choosing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A source that knows some of the values, and which values these are."""

    name: str
    values: Mapping[str, Any] | None

    def get(self, name: str) -> Any:
        """The value of a field, or None if this source does not know it."""
        if self.values is None:
            return None
        return self.values.get(name)


@dataclass(frozen=True)
class Choice:
    """A preprocessing, and which source each of its values came from."""

    preprocessing: Preprocessing
    origins: dict[str, str] = field(default_factory=dict)  # {field: name of its source}

    @property
    def origin(self) -> str:
        """Such as "from the checkpoint", or "image size from net.py; mean and std from digits"."""
        by_source: dict[str, list[str]] = {}
        for name, source in self.origins.items():
            by_source.setdefault(source, []).append(WORDS[name])
        if len(by_source) == 1:
            (only,) = by_source
            return f"from {only}"
        parts = []
        for source, names in by_source.items():
            place = source if source == BY_DEFAULT else f"from {source}"
            parts.append(f"{listed(names)} {place}")
        return "; ".join(parts)

    @property
    def words(self) -> str:
        """ "224 px in the centre of 256, bilinear, mean 0.5, std 0.25"."""
        return self.preprocessing.words

    def __str__(self) -> str:
        return f"{self.words} ({self.origin})"


def listed(names: Sequence[str]) -> str:
    """["size", "mean", "std"] -> "size, mean and std"."""
    *others, last = names
    if not others:
        return last
    return f"{', '.join(others)} and {last}"


def choose(sources: Sequence[Source]) -> Choice:
    """Take each value from the first source that knows it; the most trusted source comes first.

    LookupError with the names of the fields that no source knows and that have no default.
    """
    values, origins = dict(DEFAULTS), {}
    for name in WORDS:
        source = first_to_know(name, sources)
        if source is not None:
            values[name] = source.get(name)
            origins[name] = source.name
    missing = [name for name in WORDS if name not in values]
    if missing:
        raise LookupError(missing)
    # Checkpoints of this project without a crop share were made with the default. For another
    # project's, the default is an assumption, and the choice names it.
    if set(origins.values()) != {CHECKPOINT}:
        for name in DEFAULTS:
            origins.setdefault(name, BY_DEFAULT)
    values["mean"] = tuple(values["mean"])
    values["std"] = tuple(values["std"])
    return Choice(Preprocessing(**values), origins)


def first_to_know(name: str, sources: Iterable[Source]) -> Source | None:
    """The first source that knows the field `name`."""
    for source in sources:
        if source.get(name) is not None:
            return source
    return None


def contradictions(given: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """["--image-size 64 (trained with 32)"]: flags that contradict the checkpoint itself.

    given: values of the flags. own: values in the checkpoint. Both are {field: value}.
    """
    found = []
    trained_with = {**DEFAULTS, **own}
    for name, value in given.items():
        now, then = plain(value), plain(trained_with.get(name))
        if now != then:
            found.append(f"{FLAGS[name]} {now} (trained with {then})")
    return found


def plain(value: Any) -> str:
    """The value of a field as a message shows it."""
    if isinstance(value, (tuple, list)):
        return channels(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def check_stated(said: Any, place: str) -> dict[str, Any]:
    """The values that a person's network file states under `preprocessing`, as {field: value}.

    ValueError, which names `place`, if they are of another kind or out of range.
    """
    expected = (
        f"expected a dict with some of {', '.join(WORDS)}, or a function without arguments that"
        ' returns one, such as: preprocessing = {"size": 224, "mean": (0.485, 0.456, 0.406),'
        ' "std": (0.229, 0.224, 0.225), "crop_share": 0.875}'
    )
    if not isinstance(said, dict):
        raise ValueError(f"{place}: preprocessing is a {type(said).__name__}; {expected}")
    unknown = [str(name) for name in said if name not in WORDS]
    if unknown or not said:
        raise ValueError(
            f"{place}: preprocessing has {', '.join(unknown) or 'no entry'}; {expected}"
        )
    values = dict(said)
    for name in ("mean", "std"):
        if name in values:
            values[name] = as_channels(values[name])
    if not is_usable(values):
        raise ValueError(
            f"{place}: preprocessing = {messages.shown(said)} cannot be used: expected a size of 1"
            f" to {entries.LARGEST_SIDE}, mean and std together as three numbers or one, std above"
            f" 0, an interpolation of {', '.join(entries.INTERPOLATIONS)}, and a crop share above 0"
            " and at most 1"
        )
    return values


def is_usable(values: Mapping[str, Any]) -> bool:
    """True if these values are in range, and mean and std are given together or not at all."""
    if ("mean" in values) != ("std" in values):
        return False
    complete = {"size": 1, "mean": (0.0,) * 3, "std": (1.0,) * 3, **values}
    return entries.is_preprocessing(complete)


def as_channels(value: Any) -> Any:
    """A number, or a sequence or array of one or three, as a tuple of three.

    Anything else is returned as it is, for `check_stated` to refuse.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (int, float)):
        return (value,) * 3
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) == 1:
        return tuple(value) * 3
    return tuple(value)


def complaint(flags: Mapping[str, Any]) -> str | None:
    """What is wrong with the flags among themselves, or None. flags: {field: value}."""
    if ("mean" in flags) != ("std" in flags):
        return (
            "--mean and --std belong together: give both, such as --mean 0 --std 1 for pixels in"
            " [0, 1] as they are"
        )
    if any(abs(value) > 1 for value in flags.get("mean", ())):
        return (
            f"--mean {channels(flags['mean'])}: pixels are in [0, 1], so a mean is at most 1; where"
            " it is for pixels in [0, 255], divide --mean and --std by 255"
        )
    if "size" in flags and not 1 <= flags["size"] <= entries.LARGEST_SIDE:
        return f"--image-size {flags['size']}: expected 1 to {entries.LARGEST_SIDE} pixels"
    resized = flags.get("size", 1) / flags.get("crop_share", 1.0)
    if resized > entries.LARGEST_SIDE:
        return (
            f"--crop-share {flags['crop_share']:g} makes images of {resized:,.0f} pixels before"
            f" they are cropped; expected at most {entries.LARGEST_SIDE}"
        )
    return None


# ---- whether it was right ------------------------------------------------------------------------


def stated_accuracy(checkpoint: Mapping[str, Any]) -> float | None:
    """The test accuracy that a checkpoint's file states, in (0, 1], or None.

    An accuracy of 0 counts as not stated.
    """
    for name in STATED:
        accuracy = entries.fraction(checkpoint.get(name))
        if accuracy:
            return accuracy
    return None


def far_below(measured: float, stated: float, images: int) -> bool:
    """True if an accuracy is below the stated one by 2 points and by more than noise.

    Accuracies are in [0, 1]; `images` is the number of test images.
    """
    larger_variance = max(variance(measured), variance(stated))
    noise = STANDARD_ERRORS * math.sqrt(larger_variance / images)
    return stated - measured > max(TOLERANCE, noise)


def near_chance(measured: float, chance: float, images: int) -> bool:
    """True if an accuracy is hardly above `chance`, the share of the largest class."""
    noise = STANDARD_ERRORS * math.sqrt(variance(chance) / images)
    learned_little = CHANCE * (1 - chance)
    return measured < chance + max(learned_little, noise)


def variance(share: float) -> float:
    """Variance of one image's result, right or wrong, if this share of them is right."""
    return share * (1 - share)


def say_accuracy(measured: float, stated: float | None) -> str:
    """ "test accuracy 48.93% (as the checkpoint states)"."""
    if stated is None:
        return f"test accuracy {measured:.2%} (the checkpoint states none)"
    if abs(measured - stated) < 1e-3:
        return f"test accuracy {measured:.2%} (as the checkpoint states)"
    return f"test accuracy {measured:.2%} (the checkpoint states {stated:.2%})"


def doubt(
    measured: float, stated: float | None, chance: float, images: int, choice: Choice
) -> str | None:
    """Why this accuracy makes the preprocessing doubtful, and what to do about it, or None."""
    why = why_doubtful(measured, stated, chance, images)
    if why is None:
        return None
    return (
        f"{why}: probably the images are not prepared as in the network's training, or the classes"
        f" come in another order. The images are made to be {choice.words}; say what is right with"
        f" {' '.join(FLAGS.values())} (--mean 0 --std 1 for pixels in [0, 1] as they are)"
    )


def why_doubtful(measured: float, stated: float | None, chance: float, images: int) -> str | None:
    """The comparison that an accuracy fails, as a clause; None if it passes both."""
    if stated is not None and far_below(measured, stated, images):
        return f"the test accuracy is {measured:.2%}, and the checkpoint states {stated:.2%}"
    as_stated = stated is not None and abs(measured - stated) <= TOLERANCE
    if near_chance(measured, chance, images) and not as_stated:
        return (
            f"the test accuracy is {measured:.2%}, and always naming the largest class gives"
            f" {chance:.2%}"
        )
    return None
