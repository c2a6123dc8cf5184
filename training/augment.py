"""Batched augmentation: one random draw an image, by a generator of its own, on whatever device the
images are.

`apply` is what training calls. A new augmentation is a function of (images, generator) and a row in
OF_PIXELS, or in OF_INPUTS where it comes after the normalisation. "trivial" and "auto" take bytes,
so that a recipe names them before "rotation" and "colour_jitter", which round nothing."""

from functools import cache

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

# ---- crop, flip, rotation, colour jitter ---------------------------------------------------------


def crop(images, generator):
    """Random shifts by up to an eighth of the side, zero-padded (4 pixels of 32: He et al.
    2016)."""
    count, channels, size, _ = images.shape
    padding, side = size // 8, size + 2 * (size // 8)
    down, right = torch.randint(
        0, 2 * padding + 1, (2, count, 1, 1), generator=generator, device=images.device
    )
    # Row by row: each is a run of `size` neighbours in the padded batch, so that one index copies a
    # row and not a pixel.
    planes = (
        torch.arange(count * channels, device=images.device).view(count, channels, 1) * side * side
    )
    starts = planes + (down + torch.arange(size, device=images.device)) * side + right
    runs = F.pad(images, [padding] * 4).flatten().unfold(0, size, 1)
    return runs.index_select(0, starts.flatten()).view(images.shape)


def flip(images, generator):
    """Mirror left and right with probability one half."""
    mirrored = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    # Whole images are chosen from both kinds: torch.where, pixel by pixel, takes five times as long
    # on a CPU.
    rows = torch.arange(len(images), device=images.device) + len(images) * mirrored
    return torch.cat([images, images.flip(-1)]).index_select(0, rows)


def rotation(images, generator, degrees=15):
    """Rotate by a uniform angle in +-degrees, bilinear, zeros outside."""
    angle = (
        torch.rand(len(images), generator=generator, device=images.device) * 2 - 1
    ) * np.deg2rad(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


def colour_jitter(images, generator, strength=0.2):
    """Brightness, contrast and saturation, each by a uniform factor in 1 +- strength, in that
    order; hue stays."""
    images = images.float()
    factors = (
        1
        + (torch.rand(3, len(images), 1, 1, 1, generator=generator, device=images.device) * 2 - 1)
        * strength
    )
    luma = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)

    def blend(images, other, factor):
        return (other + factor * (images - other)).clamp(0, 255)

    images = blend(images, 0, factors[0])
    images = blend(
        images, (images * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True), factors[1]
    )
    return blend(images, (images * luma).sum(1, keepdim=True), factors[2])


# ---- TrivialAugment and AutoAugment --------------------------------------------------------------

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
SIGNED = OPERATIONS[1:10]  # those whose magnitude is as often negative
TRIVIAL_LEVELS, AUTO_LEVELS = 31, 10
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


def trivial(images, generator):
    """TrivialAugment (Müller & Hutter 2021, algorithm 1), wide space: one operation an image, of
    any strength.

    uint8 -> uint8. Operation, one of 31 magnitudes and sign are uniform, each image by itself, as
    in torchvision's TrivialAugmentWide; nearest neighbour, zeros outside. It mirrors nothing.
    Translation goes up to 32 pixels there, which is the whole side of a CIFAR image; an image that
    is smaller goes by up to its own side, or it would be lost more often."""
    count, device, drawn = (
        len(images),
        images.device,
        dict(generator=generator, device=images.device),
    )
    operation = torch.randint(len(OPERATIONS) - 1, (count,), **drawn)  # all but Invert
    level = torch.randint(TRIVIAL_LEVELS, (count,), **drawn)
    sign = torch.randint(2, (count,), **drawn) * 2 - 1
    magnitude = wide_magnitudes(images.shape[-1], device)[operation, level]
    return operate(images, operation, magnitude * signs(device, operation, sign))


def auto(images, generator):
    """AutoAugment (Cubuk et al. 2019, table 7), the policy for CIFAR-10: one of 25 pairs of
    operations an image.

    uint8 -> uint8, as torchvision's AutoAugment with that policy; nearest neighbour, zeros outside.
    It mirrors nothing, but it inverts a tenth of the images of two sub-policies and shifts by up to
    45% of the side, which may move a digit out."""
    count, device, drawn = (
        len(images),
        images.device,
        dict(generator=generator, device=images.device),
    )
    chosen = torch.randint(len(AUTO), (count,), **drawn)
    for step in range(2):
        operation, probability, magnitude = (
            column[chosen, step] for column in auto_policy(images.shape[-1], device)
        )
        operation = operation * (torch.rand(count, **drawn) < probability)  # Identity is number 0
        sign = torch.randint(2, (count,), **drawn) * 2 - 1
        images = operate(images, operation, magnitude * signs(device, operation, sign))
    return images


@cache
def wide_magnitudes(size, device):
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
def auto_policy(size, device):
    """Of the 25 sub-policies and their two steps: operation, probability and magnitude, each (25,
    2)."""
    space = magnitudes(
        AUTO_LEVELS, device, shear=0.3, shift=150.0 / 331.0 * size, degrees=30.0, factor=0.9, bits=4
    )
    operation = torch.tensor(
        [[OPERATIONS.index(name) for name, _, _ in pair] for pair in AUTO], device=device
    )
    probability = torch.tensor([[part[1] for part in pair] for pair in AUTO], device=device)
    level = torch.tensor([[part[2] for part in pair] for pair in AUTO], device=device)
    return operation, probability, space[operation, level]


def magnitudes(levels, device, shear, shift, degrees, factor, bits):
    """(operations, levels): evenly from nothing to the given extremes; shift in whole pixels,
    factors as what is added to 1."""
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
    table = torch.stack(
        [torch.linspace(0.0, extremes.get(name, 0.0), levels) for name in OPERATIONS]
    )
    for name in ("TranslateX", "TranslateY"):
        table[OPERATIONS.index(name)].trunc_()
    table[OPERATIONS.index("Posterize")] = torch.linspace(8.0, bits, levels).round()
    table[OPERATIONS.index("Solarize")] = torch.linspace(1.0, 0.0, levels)
    return table.to(device)


@cache
def signed(device):
    return torch.tensor([name in SIGNED for name in OPERATIONS], device=device)


def signs(device, operation, sign):
    """(B,) of +-1 -> the same where the operation has a sign, else 1."""
    return torch.where(signed(device)[operation], sign, 1)


def operate(images, operation, magnitude, by_rows=None):
    """uint8 images (B, 3, S, S), each by its own operation (B,), an index into OPERATIONS, at its
    own magnitude (B,).

    `by_rows`: whether a function sees its own images alone, as on a CPU. A GPU would have to wait
    to learn how many there are; to put all images through all functions costs it less."""
    assert images.dtype == torch.uint8, (
        f"{images.dtype}: trivial and auto stand before what leaves bytes behind"
    )
    by_rows = images.device.type == "cpu" if by_rows is None else by_rows
    result = images.clone()
    for names, function in FUNCTIONS.items():
        wanted = (operation >= OPERATIONS.index(names[0])) & (
            operation <= OPERATIONS.index(names[-1])
        )
        if not by_rows:
            result = torch.where(each(wanted), function(images, operation, magnitude), result)
        elif len(rows := wanted.nonzero()[:, 0]):
            result.index_copy_(
                0,
                rows,
                function(
                    *(whole.index_select(0, rows) for whole in (images, operation, magnitude))
                ),
            )
    return result


def each(values):
    """(B,) -> (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def geometry(images, operation, magnitude):
    """Shear (about the upper left corner), shift by pixels, or rotate (anticlockwise, degrees):
    nearest neighbour."""
    count, channels, size, _ = images.shape

    def of(name, values=magnitude):
        return torch.where(operation == OPERATIONS.index(name), values, 0.0).view(-1, 1, 1)

    angle, shear_x, shear_y = of("Rotate", torch.deg2rad(magnitude)), of("ShearX"), of("ShearY")
    at = torch.arange(size, device=images.device) - (size - 1) / 2  # from the centre
    x, y = at, at[:, None]
    cosine, sine = angle.cos(), angle.sin()
    # Where each pixel of the result comes from (count, size, size).
    middle = (size - 1) / 2
    shift_x = shear_x * (size / 2) - of("TranslateX")
    column = (cosine * x + (shear_x - sine) * y + shift_x + middle).round().long()
    shift_y = shear_y * (size / 2) - of("TranslateY")
    row = ((shear_y + sine) * x + cosine * y + shift_y + middle).round().long()
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    source = torch.where(inside, row * size + column, 0)
    source = source.view(count, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, source).view(images.shape) * inside[:, None]


def blend(images, other, magnitude):
    """images + magnitude * (images - other), as torchvision sums it, cut to bytes."""
    factor = each(1 + magnitude)
    return (images * factor + other * each(-magnitude)).clamp_(0, 255).to(torch.uint8)


def grey(images):
    """(B, 3, S, S) -> whole grey levels (B, 1, S, S) as float32, with torchvision's weights."""
    red, green, blue = images.to(torch.float32).split(1, dim=1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).floor_()


def brightness(images, _, magnitude):
    return (images * each(1 + magnitude)).clamp_(0, 255).to(torch.uint8)


def colour(images, _, magnitude):
    return blend(images, grey(images), magnitude)


def contrast(images, _, magnitude):
    return blend(images, grey(images).mean((1, 2, 3), keepdim=True), magnitude)


def sharpness(images, _, magnitude):
    """Away from the mean of the 3x3 neighbours, the pixel itself counted five times; the outermost
    pixels stay."""
    if images.shape[-1] <= 2:
        return images
    pixels = images.to(torch.float32)
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    inner = pixels[:, :, 1:-1, 1:-1]
    smooth = ((rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner) / 13).round_()
    result = images.clone()
    blended = inner + (smooth - inner) * each(-magnitude)
    result[:, :, 1:-1, 1:-1] = blended.clamp_(0, 255).to(torch.uint8)
    return result


def posterize(images, _, bits):
    return images & each(255 << (8 - bits.long().clamp(0, 8))).to(torch.uint8)


def solarize(images, _, threshold):
    return torch.where(images >= each(255 * threshold), ~images, images)


def invert(images, *_):
    return ~images


def autocontrast(images, *_):
    return transforms.autocontrast(images)


def equalize(images, *_):
    return transforms.equalize(images)


# of (images, operation, magnitude); the names of one row are neighbours in OPERATIONS
FUNCTIONS = {
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


# ---- of normalised images ------------------------------------------------------------------------


def erasing(images, generator, probability=0.25, tries=10):
    """Random erasing (Zhong et al. 2020) of normalised images: a box of 2-33% of the area, aspect
    0.3-3.3, becomes the mean.

    As in torchvision, the first of ten drawn boxes that fits is taken, and no box where none fits.
    """
    count, _, size, _ = images.shape
    draws = torch.rand(4, count, tries, generator=generator, device=images.device)
    area = (0.02 + draws[0] * 0.31) * size * size
    aspect = torch.exp(np.log(0.3) + draws[1] * (np.log(3.3) - np.log(0.3)))
    height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (height < size) & (width < size)
    chosen = fits.int().argmax(1, keepdim=True)
    height, width = height.gather(1, chosen), width.gather(1, chosen)
    top = (draws[2].gather(1, chosen) * (size - height + 1)).floor()
    left = (draws[3].gather(1, chosen) * (size - width + 1)).floor()
    wanted = torch.rand(count, 1, generator=generator, device=images.device) < probability
    at = torch.arange(size, device=images.device)
    rows = (at >= top) & (at < top + height)
    columns = (at >= left) & (at < left + width)
    inside = (rows & wanted & fits.any(1, keepdim=True))[:, None, :, None] & columns[
        :, None, None, :
    ]
    return images.masked_fill(inside, 0.0)


def cutout(images, generator):
    """Cutout (DeVries & Taylor 2017) of normalised images: a square around any pixel, cut off at
    the edges, becomes the mean.

    A quarter of the side: 8 pixels of 32, which they found best on CIFAR-100 (16 on CIFAR-10).
    """
    count, _, size, _ = images.shape
    down, right = torch.randint(size, (2, count, 1), generator=generator, device=images.device)
    at = torch.arange(size, device=images.device)
    half = size // 8
    rows = (at >= down - half) & (at < down + half)
    columns = (at >= right - half) & (at < right + half)
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)


OF_PIXELS = {
    "crop": crop,
    "flip": flip,
    "rotation": rotation,
    "colour_jitter": colour_jitter,
    "trivial": trivial,
    "auto": auto,
}
OF_INPUTS = {"erasing": erasing, "cutout": cutout}


def check(names):
    """ValueError where an augmentation of bytes stands behind one that leaves bytes behind."""
    behind = False
    for name in names:
        if name in ("trivial", "auto") and behind:
            raise ValueError(
                f"--augment {' '.join(names)}: {name} works on bytes; name it before rotation and"
                " colour_jitter, which leave them behind"
            )
        behind |= name in ("rotation", "colour_jitter")


def apply(images, names, generator, preprocessing):
    """uint8 (B, 3, S, S) -> normalised float32 (B, 3, S, S), by the named augmentations in their
    order.

    Erasing and cutout come after the normalisation, wherever they are named.
    """
    for name in names:
        if name not in OF_INPUTS:
            images = OF_PIXELS[name](images, generator)
    images = preprocessing.normalise(images)
    for name in names:
        if name in OF_INPUTS:
            images = OF_INPUTS[name](images, generator)
    return images
