"""What a network expects of its images: said by somebody, and never guessed in silence.

    choice = choose([Source("the command line", {"size": 224}), Source("net.py", {...})])
    choice.preprocessing    data.Preprocessing
    str(choice)             "224 px, bilinear, mean 0.5, std 0.25 (image size from ...)"

Each value is taken from the first source that knows it. Size, mean and std must be known from
somewhere. Wrong ones do not fail: they make wrong features. So the test accuracy that results is
compared with what the checkpoint states, and with chance.
"""

import math
from dataclasses import dataclass, field

from data import Preprocessing
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
BY_DEFAULT = "by default"
DEFAULTS = {"interpolation": "bilinear", "crop_share": 1.0}
# ImageNet's, as most have it
EXAMPLE = {
    "image_size": 224,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
# Under these names projects keep a test accuracy in their checkpoints: ours, pytorch-cifar's,
# torchvision's and timm's kin.
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
# accuracy below what is stated, as a share, that is put down to kernels and precision
TOLERANCE = 0.02
STANDARD_ERRORS = 3
CHANCE = 0.1  # of the way from chance to 1: a network below that has learned next to nothing


# ---- choosing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Who knows some of the values, and which."""

    name: str
    values: dict


@dataclass(frozen=True)
class Choice:
    """A preprocessing, and which source each of its values came from."""

    preprocessing: Preprocessing
    origins: dict = field(default_factory=dict)  # {field: name of its source}

    @property
    def origin(self):
        """Such as "from the checkpoint", or "image size from net.py; mean and std from digits"."""
        groups = {}
        for name, source in self.origins.items():
            groups.setdefault(source, []).append(WORDS[name])
        if len(groups) == 1:
            return f"from {next(iter(groups))}"
        return "; ".join(
            f"{listed(names)} {source if source == BY_DEFAULT else f'from {source}'}"
            for source, names in groups.items()
        )

    @property
    def words(self):
        """ "224 px in the centre of 256, bilinear, mean 0.5, std 0.25"."""
        chosen = self.preprocessing
        size = f"{chosen.size} px"
        if chosen.crop_share != 1:
            size += f" in the centre of {chosen.resized}"
        mean, std = channels(chosen.mean), channels(chosen.std)
        return f"{size}, {chosen.interpolation}, mean {mean}, std {std}"

    def __str__(self):
        return f"{self.words} ({self.origin})"


def listed(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def channels(values):
    """One number where the three channels agree."""
    return " ".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values))


def choose(sources):
    """[Source], the most trusted first -> Choice; LookupError with the fields that none knows."""
    values, origins = {}, {}
    known = [source for source in sources if source.values]
    for name in WORDS:
        source = next((source for source in known if source.values.get(name) is not None), None)
        if source is not None:
            values[name], origins[name] = source.values[name], source.name
        elif name in DEFAULTS:
            values[name] = DEFAULTS[name]
    missing = [name for name in WORDS if name not in values]
    if missing:
        raise LookupError(missing)
    # A checkpoint of ours from before there was a crop share means the default; of another
    # project, the default is an assumption, which is named.
    if set(origins.values()) != {"the checkpoint"}:
        origins |= {name: BY_DEFAULT for name in DEFAULTS if name not in origins}
    return Choice(
        Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])}),
        origins,
    )


def contradictions(given, own):
    """["--image-size 64 (trained with 32)"]: flags that contradict the checkpoint itself."""
    found = []
    for name, value in given.items():
        then = {**DEFAULTS, **own}.get(name)
        if plain(value) != plain(then):
            found.append(f"{FLAGS[name]} {plain(value)} (trained with {plain(then)})")
    return found


def plain(value):
    return (
        channels(tuple(value))
        if isinstance(value, (tuple, list))
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def check_stated(said, place):
    """What a person's network file says under `preprocessing` -> {field: value}, checked."""
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
    values = {
        name: as_channels(value) if name in ("mean", "std") else value
        for name, value in said.items()
    }
    whole = {"size": 1, "mean": (0.0,) * 3, "std": (1.0,) * 3, **values}
    if not entries.is_preprocessing(whole) or ("mean" in values) != ("std" in values):
        raise ValueError(
            f"{place}: preprocessing = {messages.shown(said)} cannot be used: expected a size "
            "of 1 to "
            f"{entries.LARGEST_SIDE}, mean and std together as three numbers or one, std "
            "above 0, "
            f"an interpolation of {', '.join(entries.INTERPOLATIONS)}, and a crop share "
            "above 0 and "
            "at most 1"
        )
    return values


def as_channels(value):
    """A number, or a sequence or array of them -> a tuple of three; anything else as it is."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (int, float)):
        return (value,) * 3
    if isinstance(value, (list, tuple)):
        return tuple(value) * (3 if len(value) == 1 else 1)
    return value


def complaint(flags):
    """What is wrong with the flags among themselves, or None."""
    if ("mean" in flags) != ("std" in flags):
        return (
            "--mean and --std belong together: give both, such as --mean 0 --std 1 for pixels in "
            "[0, 1] as they are"
        )
    if any(abs(value) > 1 for value in flags.get("mean", ())):
        return (
            f"--mean {channels(flags['mean'])}: pixels are in [0, 1], so a mean is at most 1; "
            "where it is for pixels in "
            "[0, 255], divide --mean and --std by 255"
        )
    if "size" in flags and not 1 <= flags["size"] <= entries.LARGEST_SIDE:
        return f"--image-size {flags['size']}: expected 1 to {entries.LARGEST_SIDE} pixels"
    resized = flags.get("size", 1) / flags.get("crop_share", 1.0)
    if resized > entries.LARGEST_SIDE:
        return (
            f"--crop-share {flags['crop_share']:g} makes images of {resized:,.0f} pixels before "
            "they are cropped; expected "
            f"at most {entries.LARGEST_SIDE}"
        )
    return None


# ---- whether it was right ------------------------------------------------------------------------


def stated_accuracy(checkpoint):
    """The test accuracy that a checkpoint's file states, in [0, 1], or None."""
    found = (entries.fraction(checkpoint.get(name)) for name in STATED)
    return next((value for value in found if value), None)


def far_below(measured, stated, images):
    """True where an accuracy is below the stated one by 2 points and by more than noise."""
    variance = max(share * (1 - share) for share in (measured, stated)) / images
    return stated - measured > max(TOLERANCE, STANDARD_ERRORS * math.sqrt(variance))


def near_chance(measured, chance, images):
    """True where an accuracy is hardly above `chance`, the share of the largest class."""
    noise = STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / images)
    return measured < chance + max(CHANCE * (1 - chance), noise)


def say_accuracy(measured, stated):
    """ "test accuracy 48.93% (as the checkpoint states)"."""
    if stated is None:
        return f"test accuracy {measured:.2%} (the checkpoint states none)"
    if abs(measured - stated) < 1e-3:
        return f"test accuracy {measured:.2%} (as the checkpoint states)"
    return f"test accuracy {measured:.2%} (the checkpoint states {stated:.2%})"


def doubt(measured, stated, chance, images, choice):
    """Why this accuracy makes the preprocessing doubtful, and what mends it, or None."""
    if stated is not None and far_below(measured, stated, images):
        why = f"the test accuracy is {measured:.2%}, and the checkpoint states {stated:.2%}"
    elif near_chance(measured, chance, images) and (
        stated is None or abs(measured - stated) > TOLERANCE
    ):
        why = (
            f"the test accuracy is {measured:.2%}, and always naming the largest class gives "
            f"{chance:.2%}"
        )
    else:
        return None
    return (
        f"{why}: probably the images are not prepared as in the network's training, or the "
        f"classes come in another order. The images are made to be {choice.words}; say what is "
        f"right with {' '.join(FLAGS.values())} (--mean 0 --std 1 for pixels in [0, 1] as they are)"
    )
