"""Batched augmentation: one random draw per image, from a generator of its own, on the device that
holds the images.

`apply` is what training calls. A new augmentation is a function of (images, generator) and a row in
OF_PIXELS, or in OF_INPUTS if it works on normalised images. Those of TAKE_BYTES take bytes, so a
recipe names them before those of LEAVE_BYTES, which return unrounded floats."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from images.preprocessing import Preprocessing

Settings = Mapping[str, Mapping[str, Any]]  # augmentation -> arguments of its function
# Of a linear congruential generator (Knuth, MMIX), whose products wrap around at 64 bits.
MULTIPLIER = 6364136223846793005
INCREMENT = 1442695040888963407

# ---- random draws --------------------------------------------------------------------------------


def uniform(generator: Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def integers(generator: Generator, below: int, *shape: int) -> Tensor:
    """Uniform whole numbers from 0 to below - 1, on the generator's device."""
    return torch.randint(below, shape, generator=generator, device=generator.device)


def random_signs(generator: Generator, count: int) -> Tensor:
    """(count,) of -1 and 1, each as likely."""
    draws = integers(generator, 2, count)
    return draws * 2 - 1


# ---- crop, flip, rotation, colour jitter, hue ----------------------------------------------------


def crop(images: Tensor, generator: Generator) -> Tensor:
    """Random shifts by up to an eighth of the side, zero-padded (4 pixels of 32: He et al.
    2016)."""
    count, channels, size, _ = images.shape
    device = images.device
    padding = size // 8
    side = size + 2 * padding
    down, right = integers(generator, 2 * padding + 1, 2, count, 1, 1)

    # Row by row: each row of a crop is a run of `size` neighbours in the padded batch, so that one
    # index copies a row and not a pixel.
    planes = torch.arange(count * channels, device=device).view(count, channels, 1)
    rows = down + torch.arange(size, device=device)
    starts = planes * side * side + rows * side + right

    padded = F.pad(images, [padding] * 4)
    runs = padded.flatten().unfold(0, size, 1)
    copied = runs.index_select(0, starts.flatten())
    return copied.view(images.shape)


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror left and right with probability one half."""
    count, device = len(images), images.device
    mirrored = uniform(generator, count) < 0.5
    # Whole images are chosen from both kinds: torch.where, pixel by pixel, takes five times as long
    # on a CPU.
    both = torch.cat([images, images.flip(-1)])
    rows = torch.arange(count, device=device)
    return both.index_select(0, rows + count * mirrored)


@dataclass(frozen=True)
class Moment:
    """Which images a step sees, and when.

    rows      (B,) int64: their numbers in the training set
    epoch     from 0
    progress  through the run, in [0, 1]
    seed      of the run
    """

    rows: Tensor
    epoch: int
    progress: float
    seed: int


def alternating_flip(images: Tensor, moment: Moment) -> Tensor:
    """Mirror half of the images in the first epoch, and each of them in every other epoch from
    then on: two epochs see both sides of every image (Jordan 2024, section 3.6)."""
    first = bits(moment.rows, moment.seed)
    mirrored = (first + moment.epoch) % 2 == 1
    return torch.where(each(mirrored), images.flip(-1), images)


def bits(rows: Tensor, seed: int) -> Tensor:
    """(B,) numbers -> (B,) of 0 and 1, each as likely, the same whenever a number comes again."""
    mixed_up = rows + (seed % 2**31 << 32)
    for _ in range(3):
        mixed_up = (mixed_up ^ (mixed_up >> 29)) * MULTIPLIER + INCREMENT
    return (mixed_up >> 40) & 1


def rotation(images: Tensor, generator: Generator, degrees: float = 15) -> Tensor:
    """Rotate by a uniform angle in +-degrees, zeros outside; float32.

    Bilinear, where torchvision's RandomRotation takes the nearest pixel by default, as
    `rotation_nearest` does.
    """
    draws = uniform(generator, len(images))
    angle = (draws * 2 - 1) * np.deg2rad(degrees)
    cosine = angle.cos()
    sine = angle.sin()
    zero = torch.zeros_like(angle)

    entries = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1)
    matrices = entries.view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


def rotation_nearest(images: Tensor, generator: Generator, degrees: float = 15) -> Tensor:
    """Rotate by a uniform angle in +-degrees, nearest neighbour, zeros outside; bytes stay
    bytes."""
    draws = uniform(generator, len(images))
    angle = (draws * 2 - 1) * degrees
    operation = torch.full_like(angle, OPERATIONS.index("Rotate"), dtype=torch.long)
    return geometry(images, operation, angle)


def colour_jitter(images: Tensor, generator: Generator, strength: float = 0.2) -> Tensor:
    """Brightness, contrast and saturation, in this order, each by a uniform factor in 1 +-
    strength; float32.

    The hue stays: name `hue` behind it. torchvision's ColorJitter changes all four, in an order
    that it draws.
    """
    draws = uniform(generator, 3, len(images), 1, 1, 1)
    brightness, contrast, saturation = 1 + (draws * 2 - 1) * strength

    images = mixed(images.float(), 0, brightness)
    mean = luma(images).mean((2, 3), keepdim=True)
    images = mixed(images, mean, contrast)
    return mixed(images, luma(images), saturation)


def mixed(images: Tensor, other: Tensor | int, factor: Tensor) -> Tensor:
    """From `other` (factor 0) to the images (factor 1) and beyond, cut to [0, 255]."""
    blended = other + factor * (images - other)
    return blended.clamp(0, 255)


def luma(images: Tensor) -> Tensor:
    """(B, 3, S, S) -> unrounded grey levels (B, 1, S, S)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    weighted = images * weights.view(1, 3, 1, 1)
    return weighted.sum(1, keepdim=True)


def hue(images: Tensor, generator: Generator, turn: float = 0.1) -> Tensor:
    """Turn each image's hue by a uniform share of the colour circle in +-turn; value and chroma of
    each pixel stay. float32.

    Agrees with torchvision's adjust_hue on floats but for rounding."""
    draws = uniform(generator, len(images), 1, 1, 1)
    turned = (draws * 2 - 1) * turn
    pixels = images.float()
    value = pixels.amax(1, keepdim=True)
    chroma = value - pixels.amin(1, keepdim=True)
    sixths = hue_sixths(pixels, value, chroma) + 6 * turned

    # Round the circle a channel falls from the value for one sixth, is at the smallest for two,
    # rises for one and is at the value for two; `place` is where on this way each channel is.
    at_red = torch.tensor([5.0, 3.0, 1.0], device=images.device)
    place = (at_red.view(1, 3, 1, 1) + sixths) % 6
    share = torch.minimum(place, 4 - place).clamp(0, 1)
    return value - chroma * share


def hue_sixths(pixels: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Hues (B, 1, S, S) of pixels (B, 3, S, S) in sixths of the colour circle, from red over green
    to blue; that of a grey pixel is 0.

    value, chroma: (B, 1, S, S), the largest channel and how far it is above the smallest."""
    red, green, blue = pixels.split(1, dim=1)
    divisor = torch.where(chroma == 0, 1, chroma)
    near_red = (green - blue) / divisor
    near_green = (blue - red) / divisor + 2
    near_blue = (red - green) / divisor + 4
    others = torch.where(green == value, near_green, near_blue)
    return torch.where(red == value, near_red, others)


# ---- TrivialAugment, RandAugment and AutoAugment -------------------------------------------------

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
)
SIGNED = OPERATIONS[1:10]  # their magnitude is negative half of the time
TRIVIAL_LEVELS, RAND_LEVELS, AUTO_LEVELS = 31, 31, 10
# the policy found on CIFAR-10: sub-policies of two operations, each (name, probability, level)
AUTO = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


def trivial(images: Tensor, generator: Generator) -> Tensor:
    """TrivialAugment (Müller & Hutter 2021, algorithm 1), wide space: one operation per image, of
    any strength.

    uint8 -> uint8. As in torchvision's TrivialAugmentWide, operation, magnitude (one of 31) and
    sign are drawn uniformly for each image; nearest neighbour, zeros outside. It mirrors nothing.
    In torchvision an image shifts by up to 32 pixels, the whole side of a CIFAR image; a smaller
    image shifts by up to its own side, or it would leave the frame more often.
    """
    count, _, size, _ = images.shape
    kinds = len(OPERATIONS) - 1  # all but Invert
    operation = integers(generator, kinds, count)
    level = integers(generator, TRIVIAL_LEVELS, count)
    sign = where_signed(operation, random_signs(generator, count))
    magnitude = wide_magnitudes(size, images.device)[operation, level]
    return operate(images, operation, magnitude * sign)


def rand(images: Tensor, generator: Generator, ops: int = 2, magnitude: int = 9) -> Tensor:
    """RandAugment (Cubuk et al. 2020): `ops` operations per image, one after the other, all of one
    strength.

    uint8 -> uint8, as torchvision's RandAugment: each operation is drawn uniformly, its sign too;
    magnitude is the number of a level, from 0 to RAND_LEVELS - 1. Nearest neighbour, zeros outside.
    It mirrors nothing.
    """
    count, _, size, _ = images.shape
    kinds = len(OPERATIONS) - 1  # all but Invert
    strengths = policy_magnitudes(RAND_LEVELS, size, images.device)[:, magnitude]
    for _ in range(ops):
        operation = integers(generator, kinds, count)
        sign = where_signed(operation, random_signs(generator, count))
        images = operate(images, operation, strengths[operation] * sign)
    return images


def auto(images: Tensor, generator: Generator) -> Tensor:
    """AutoAugment (Cubuk et al. 2019, table 7), the policy for CIFAR-10: one of 25 pairs of
    operations per image.

    uint8 -> uint8, as torchvision's AutoAugment with that policy; nearest neighbour, zeros outside.
    It mirrors nothing, but it inverts a tenth of the images of two sub-policies, and shifts by up
    to 45% of the side, which may move a digit out of the image.
    """
    count, _, size, _ = images.shape
    operations, probabilities, magnitudes = auto_policy(size, images.device)
    chosen = integers(generator, len(AUTO), count)
    for step in range(2):
        wanted = uniform(generator, count) < probabilities[chosen, step]
        operation = operations[chosen, step] * wanted  # Identity is number 0
        sign = where_signed(operation, random_signs(generator, count))
        magnitude = magnitudes[chosen, step]
        images = operate(images, operation, magnitude * sign)
    return images


@cache
def wide_magnitudes(size: int, device: torch.device) -> Tensor:
    """(operations, 31) magnitudes of TrivialAugment's wide space."""
    return magnitudes(
        TRIVIAL_LEVELS,
        device,
        shear=0.99,
        shift=min(32.0, size),
        degrees=135.0,
        factor=0.99,
        bits=2,
    )


@cache
def policy_magnitudes(levels: int, size: int, device: torch.device) -> Tensor:
    """(operations, levels) magnitudes of the space that AutoAugment and RandAugment share."""
    return magnitudes(
        levels,
        device,
        shear=0.3,
        shift=150.0 / 331.0 * size,
        degrees=30.0,
        factor=0.9,
        bits=4,
    )


@cache
def auto_policy(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Operation, probability and magnitude of each step of each sub-policy: (25, 2) each."""
    space = policy_magnitudes(AUTO_LEVELS, size, device)
    steps = [step for pair in AUTO for step in pair]
    numbers = [OPERATIONS.index(name) for name, _, _ in steps]
    operation = torch.tensor(numbers, device=device).view(-1, 2)
    probability = torch.tensor([chance for _, chance, _ in steps], device=device).view(-1, 2)
    level = torch.tensor([level for _, _, level in steps], device=device).view(-1, 2)
    return operation, probability, space[operation, level]


def magnitudes(
    levels: int,
    device: torch.device,
    shear: float,
    shift: float,
    degrees: float,
    factor: float,
    bits: int,
) -> Tensor:
    """(operations, levels): evenly spaced from no change to the given extremes.

    Shifts are whole pixels; factors are what is added to 1.
    """
    extremes = {
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": shift,
        "TranslateY": shift,
        "Rotate": degrees,
        "Brightness": factor,
        "Color": factor,
        "Contrast": factor,
        "Sharpness": factor,
    }
    rows = [torch.linspace(0.0, extremes.get(name, 0.0), levels) for name in OPERATIONS]
    table = torch.stack(rows)
    for name in ("TranslateX", "TranslateY"):
        table[OPERATIONS.index(name)].trunc_()
    table[OPERATIONS.index("Posterize")] = torch.linspace(8.0, bits, levels).round()
    table[OPERATIONS.index("Solarize")] = torch.linspace(1.0, 0.0, levels)
    return table.to(device)


@cache
def signed(device: torch.device) -> Tensor:
    """(operations,) True for those whose magnitude has a sign."""
    flags = [name in SIGNED for name in OPERATIONS]
    return torch.tensor(flags, device=device)


def where_signed(operation: Tensor, sign: Tensor) -> Tensor:
    """(B,) of +-1 -> the same where the operation has a sign, else 1."""
    has_sign = signed(operation.device)[operation]
    return torch.where(has_sign, sign, 1)


def operate(
    images: Tensor, operation: Tensor, magnitude: Tensor, by_rows: bool | None = None
) -> Tensor:
    """uint8 images (B, 3, S, S), each changed by its own operation (B,), an index into OPERATIONS,
    at its own magnitude (B,).

    by_rows: True if each function gets only its own images; the default on a CPU. A GPU would have
    to wait to learn how many there are, and puts all images through all functions in less time.
    """
    assert images.dtype == torch.uint8, (
        f"{images.dtype}: {', '.join(TAKE_BYTES)} stand before what leaves bytes behind"
    )
    if by_rows is None:
        by_rows = images.device.type == "cpu"
    result = images.clone()
    for names, function in FUNCTIONS.items():
        first = OPERATIONS.index(names[0])
        last = OPERATIONS.index(names[-1])
        wanted = (operation >= first) & (operation <= last)
        if not by_rows:
            changed = function(images, operation, magnitude)
            result = torch.where(each(wanted), changed, result)
            continue
        rows = wanted.nonzero()[:, 0]
        if not len(rows):
            continue
        chosen = [whole.index_select(0, rows) for whole in (images, operation, magnitude)]
        changed = function(*chosen)
        result.index_copy_(0, rows, changed)
    return result


def each(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def only(name: str, operation: Tensor, magnitude: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1), the magnitude of the images of one operation, 0 for the others."""
    wanted = operation == OPERATIONS.index(name)
    kept = torch.where(wanted, magnitude, 0.0)
    return kept.view(-1, 1, 1)


def geometry(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Shear (about the upper left corner), shift by pixels, or rotate (anticlockwise, degrees):
    nearest neighbour."""
    count, channels, size, _ = images.shape
    angle = only("Rotate", operation, torch.deg2rad(magnitude))
    shear_x = only("ShearX", operation, magnitude)
    shear_y = only("ShearY", operation, magnitude)
    shift_x = shear_x * (size / 2) - only("TranslateX", operation, magnitude)
    shift_y = shear_y * (size / 2) - only("TranslateY", operation, magnitude)

    # Coordinates from the centre; then where each pixel of the result comes from (B, S, S).
    middle = (size - 1) / 2
    x = torch.arange(size, device=images.device) - middle
    y = x[:, None]
    cosine = angle.cos()
    sine = angle.sin()
    column = cosine * x + (shear_x - sine) * y + shift_x + middle
    row = (shear_y + sine) * x + cosine * y + shift_y + middle
    column = column.round().long()
    row = row.round().long()
    inside = within(column, 0, size) & within(row, 0, size)

    source = torch.where(inside, row * size + column, 0)
    source = source.view(count, 1, -1)
    source = source.expand(-1, channels, -1)
    moved = images.flatten(2).gather(2, source)
    return moved.view(images.shape) * inside[:, None]


def within(values: Tensor, start: Tensor | int, stop: Tensor | int) -> Tensor:
    """True where start <= value < stop."""
    return (values >= start) & (values < stop)


def to_bytes(pixels: Tensor) -> Tensor:
    """Cut to [0, 255], in place, and round down."""
    pixels.clamp_(0, 255)
    return pixels.to(torch.uint8)


def blend(images: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """images + magnitude * (images - other), as torchvision sums it, cut to bytes."""
    own = images * each(1 + magnitude)
    others = other * each(-magnitude)
    return to_bytes(own + others)


def grey(images: Tensor) -> Tensor:
    """(B, 3, S, S) -> whole grey levels (B, 1, S, S) as float32, with torchvision's weights."""
    pixels = images.to(torch.float32)
    red, green, blue = pixels.split(1, dim=1)
    level = red * 0.2989 + green * 0.587 + blue * 0.114
    return level.floor_()


def brightness(images: Tensor, _: Tensor, magnitude: Tensor) -> Tensor:
    """Times 1 + magnitude."""
    factor = each(1 + magnitude)
    return to_bytes(images * factor)


def colour(images: Tensor, _: Tensor, magnitude: Tensor) -> Tensor:
    """Away from the image's grey levels."""
    return blend(images, grey(images), magnitude)


def contrast(images: Tensor, _: Tensor, magnitude: Tensor) -> Tensor:
    """Away from the image's mean grey level."""
    mean = grey(images).mean((1, 2, 3), keepdim=True)
    return blend(images, mean, magnitude)


def sharpness(images: Tensor, _: Tensor, magnitude: Tensor) -> Tensor:
    """Away from the mean of the 3x3 neighbours, in which the pixel itself counts five times; the
    outermost pixels stay."""
    if images.shape[-1] <= 2:
        return images
    pixels = images.to(torch.float32)
    inner = pixels[:, :, 1:-1, 1:-1]

    # The sum over a block of 3 x 3, first over its rows and then over its columns.
    above = pixels[:, :, :-2]
    below = pixels[:, :, 2:]
    rows = above + pixels[:, :, 1:-1] + below
    left = rows[..., :-2]
    right = rows[..., 2:]
    block = left + rows[..., 1:-1] + right

    smooth = (block + 4 * inner) / 13
    smooth.round_()
    blended = inner + (smooth - inner) * each(-magnitude)
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = to_bytes(blended)
    return result


def posterize(images: Tensor, _: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` of each byte."""
    dropped = 8 - bits.long().clamp(0, 8)
    mask = each(255 << dropped)
    return images & mask.to(torch.uint8)


def solarize(images: Tensor, _: Tensor, threshold: Tensor) -> Tensor:
    """Invert the pixels from the threshold, a share of 255, on."""
    bright = images >= each(255 * threshold)
    return torch.where(bright, ~images, images)


def invert(images: Tensor, *_: Tensor) -> Tensor:
    """255 minus the pixel."""
    return ~images


def autocontrast(images: Tensor, *_: Tensor) -> Tensor:
    """Stretch each channel to [0, 255]."""
    return transforms.autocontrast(images)


def equalize(images: Tensor, *_: Tensor) -> Tensor:
    """Equalize each channel's histogram."""
    return transforms.equalize(images)


# Each takes (images, operation, magnitude); the names of one row are neighbours in OPERATIONS.
FUNCTIONS: dict[tuple[str, ...], Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    OPERATIONS[1:6]: geometry,
    ("Brightness",): brightness,
    ("Color",): colour,
    ("Contrast",): contrast,
    ("Sharpness",): sharpness,
    ("Posterize",): posterize,
    ("Solarize",): solarize,
    ("AutoContrast",): autocontrast,
    ("Equalize",): equalize,
    ("Invert",): invert,
}


# ---- normalised images ---------------------------------------------------------------------------


def erasing(
    images: Tensor, generator: Generator, probability: float = 0.25, tries: int = 10
) -> Tensor:
    """Random erasing (Zhong et al. 2020) of normalised images: a box of 2-33% of the area, aspect
    0.3-3.3, becomes the mean.

    As in torchvision, the first of ten drawn boxes that fits is taken, and no box where none fits.
    """
    count, _, size, _ = images.shape
    areas, aspects, downs, rights = uniform(generator, 4, count, tries)

    # The boxes of all tries (B, tries), their aspects uniform on the logarithmic scale.
    area = (0.02 + areas * 0.31) * size * size
    lowest = np.log(0.3)
    highest = np.log(3.3)
    aspect = torch.exp(lowest + aspects * (highest - lowest))
    heights = (area * aspect).sqrt().round()
    widths = (area / aspect).sqrt().round()

    # The first that fits (B, 1), at a uniform place.
    fits = (heights < size) & (widths < size)
    first = fits.int().argmax(1, keepdim=True)
    height = heights.gather(1, first)
    width = widths.gather(1, first)
    top = downs.gather(1, first) * (size - height + 1)
    left = rights.gather(1, first) * (size - width + 1)
    top = top.floor()
    left = left.floor()

    # An image that is not to be erased gets a box of no height.
    wanted = uniform(generator, count, 1) < probability
    wanted &= fits.any(1, keepdim=True)
    bottom = top + height * wanted
    return with_box(images, top, bottom, left, left + width)


def cutout(images: Tensor, generator: Generator) -> Tensor:
    """Cutout (DeVries & Taylor 2017) of normalised images: a square around any pixel, cut off at
    the edges, becomes the mean.

    Its side is a quarter of the image's: 8 pixels of 32, which they found best on CIFAR-100 (16 on
    CIFAR-10).
    """
    count, _, size, _ = images.shape
    y, x = integers(generator, size, 2, count, 1)
    half = size // 8
    return with_box(images, y - half, y + half, x - half, x + half)


def with_box(images: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Images with zeros, the mean, in one box each; the bounds are (B, 1), and the lower and right
    ones lie outside."""
    pixel = torch.arange(images.shape[-1], device=images.device)
    rows = within(pixel, top, bottom)
    columns = within(pixel, left, right)
    rows = rows[:, None, :, None]
    columns = columns[:, None, None, :]
    inside = rows & columns
    return images.masked_fill(inside, 0.0)


OF_PIXELS: dict[str, Callable[..., Tensor]] = {
    "crop": crop,
    "flip": flip,
    "rotation": rotation,
    "rotation_nearest": rotation_nearest,
    "colour_jitter": colour_jitter,
    "hue": hue,
    "trivial": trivial,
    "rand": rand,
    "auto": auto,
}
OF_MOMENTS: dict[str, Callable[[Tensor, Moment], Tensor]] = {"alternating_flip": alternating_flip}
OF_INPUTS: dict[str, Callable[..., Tensor]] = {
    "erasing": erasing,
    "cutout": cutout,
}
MIRRORING = ("flip", "alternating_flip")
TAKE_BYTES = ("trivial", "rand", "auto")
LEAVE_BYTES = ("rotation", "colour_jitter", "hue")  # they return float32


def unmirrored(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the augmentations that mirror nothing."""
    return tuple(name for name in names if name not in MIRRORING)


def check(names: Sequence[str]) -> None:
    """ValueError where an augmentation that takes bytes comes after one that returns floats."""
    behind = False
    for name in names:
        if behind and name in TAKE_BYTES:
            raise ValueError(
                f"--augment {' '.join(names)}: {name} works on bytes; name it before"
                f" {', '.join(LEAVE_BYTES)}, which leave them behind"
            )
        behind = behind or name in LEAVE_BYTES


def apply(
    images: Tensor,
    names: Sequence[str],
    generator: Generator,
    preprocessing: Preprocessing,
    moment: Moment | None = None,
    settings: Settings | None = None,
) -> Tensor:
    """uint8 (B, 3, S, S) -> normalised float32 (B, 3, S, S), by the named augmentations in their
    order.

    Erasing and cutout come after the normalisation, wherever they are named.
    settings: {name: arguments of its function} where they are not the defaults.
    """
    settings = settings or {}
    for name in names:
        if name in OF_PIXELS:
            images = OF_PIXELS[name](images, generator, **settings.get(name, {}))
        elif name in OF_MOMENTS:
            assert moment is not None, f"{name} goes by what training has seen"
            images = OF_MOMENTS[name](images, moment)
    images = preprocessing.normalise(images)
    for name in names:
        if name in OF_INPUTS:
            images = OF_INPUTS[name](images, generator, **settings.get(name, {}))
    return images


def resized(images: Tensor, side: int) -> Tensor:
    """Normalised images (B, 3, S, S) -> (B, 3, side, side), bilinear with antialiasing."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)
