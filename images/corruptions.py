"""Corruptions of images, of five severities each (Hendrycks and Dietterich, ICLR 2019): ID images
under a shift that leaves their class as it is.

    corruption = parse("fog3")                 # fog of severity 3; "corrupted3": any kind, by lot
    corruption.apply(image)                    # uint8 (S, S, 3) -> the same

The numbers are the authors', those of CIFAR-10-C up to 64 pixels and of ImageNet-C beyond; they
are applied to images in the network's size. What is drawn depends on the seed and on the image's
own pixels, on no other image, so that order, batches and workers change nothing. Of their fifteen
kinds frost is missing, which blends in photographs of frost. Values are rounded, where their code
cuts digits off, and blurs are of SciPy and PIL in place of OpenCV and ImageMagick: the images are
like theirs and not the same.
"""

import io
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image
from scipy import ndimage

SMALL = 64  # pixels of a side up to which the values are those of CIFAR-10-C
MIXED = "corrupted"
SEVERITIES = (1, 2, 3, 4, 5)
GREY = np.array([0.299, 0.587, 0.114])  # of the brightness of red, green and blue

# (float image (S, S, 3) in [0, 1], a value of the severity, generator) -> the same, perhaps beyond
Draw = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """A corruption: how it is made, and its values at the five severities."""

    make: Draw
    small: tuple[Any, ...]  # of CIFAR-10-C
    large: tuple[Any, ...]  # of ImageNet-C

    def value(self, severity: int, side: int) -> Any:
        values = self.small if side <= SMALL else self.large
        return values[severity - 1]


# ---- noise ---------------------------------------------------------------------------------------


def gaussian_noise(image: np.ndarray, scale: float, generator: np.random.Generator) -> np.ndarray:
    return image + generator.normal(0, scale, image.shape)


def shot_noise(image: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    return generator.poisson(image * rate) / rate


def impulse_noise(image: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Single values become 0 or 1."""
    hit = generator.random(image.shape) < share
    return np.where(hit, generator.integers(0, 2, image.shape), image)


# ---- blur ----------------------------------------------------------------------------------------


def smoothed(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of each channel."""
    return ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim], mode="nearest")


def defocus_blur(
    image: np.ndarray, value: tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    """A disk of a radius in pixels, its edge softened."""
    radius, softness = value
    reach = max(8, int(radius))
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float64)
    soft = ndimage.gaussian_filter(
        disk / disk.sum(), softness, truncate=(1 + (radius > 8)) / softness
    )
    return ndimage.convolve(image, soft[:, :, None], mode="mirror")


def glass_blur(
    image: np.ndarray, value: tuple[float, int, int], generator: np.random.Generator
) -> np.ndarray:
    """Pixels take the colour of others nearby, between two blurs. (Their code means to exchange
    two, and gives both the colour of one.)"""
    sigma, reach, times = value
    shuffled, side = smoothed(image, sigma), len(image)
    inner = np.arange(reach + 1, side - reach)
    for _ in range(times):
        moves = generator.integers(-reach, reach, (2, len(inner), len(inner)))
        rows, columns = inner[:, None] + moves[0], inner + moves[1]
        shuffled[np.ix_(inner, inner)] = shuffled[rows, columns]
    return smoothed(shuffled, sigma)


def along_a_line(image: np.ndarray, radius: float, sigma: float, degrees: float) -> np.ndarray:
    """Means over the pixels that lie behind each in one direction, by half a Gaussian's weights."""
    steps = np.arange(2 * int(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)
    found = np.zeros_like(image)
    for step, weight in zip(steps, weights, strict=True):
        if weight > 1e-4:
            way = (step * np.sin(angle), step * np.cos(angle), 0)[: image.ndim]
            found += weight * ndimage.shift(image, way, order=1, mode="nearest")
    return found


def motion_blur(
    image: np.ndarray, value: tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    return along_a_line(image, *value, generator.uniform(-45, 45))


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """The centre of an image, enlarged to its size."""
    side = len(image)
    inside = int(np.ceil(side / factor))
    start = (side - inside) // 2
    centre = image[start : start + inside, start : start + inside]
    large = ndimage.zoom(centre, (factor, factor, 1)[: image.ndim], order=1)
    start = (len(large) - side) // 2
    return large[start : start + side, start : start + side]


def zoom_blur(
    image: np.ndarray, value: tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    """The mean of the image and of its enlargements by factors from 1 on."""
    most, step = value
    factors = np.arange(1, most, step)
    return (image + sum(zoomed(image, factor) for factor in factors)) / (len(factors) + 1)


# ---- weather -------------------------------------------------------------------------------------


def plasma(side: int, decay: float, generator: np.random.Generator) -> np.ndarray:
    """A cloud (side, side) in [0, 1] by midpoint displacement (Fournier, Fussell and Carpenter
    1982), whose roughness falls by `decay` from scale to scale."""
    size = 1 << (side - 1).bit_length()
    heights, step, rough = np.zeros((size, size)), size, 100.0

    def displaced(total: np.ndarray) -> np.ndarray:
        return total / 4 + rough * generator.uniform(-rough, rough, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        across = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = displaced(across + np.roll(across, -1, 1))
        centres = heights[half::step, half::step]
        above = centres + np.roll(centres, 1, 0)
        heights[::step, half::step] = displaced(above + corners + np.roll(corners, -1, 1))
        beside = centres + np.roll(centres, 1, 1)
        heights[half::step, ::step] = displaced(beside + corners + np.roll(corners, -1, 0))
        step, rough = half, rough / decay
    heights -= heights.min()
    return (heights / heights.max())[:side, :side]


def fog(
    image: np.ndarray, value: tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    density, decay = value
    brightest = image.max()
    cloud = plasma(len(image), decay, generator)[:, :, None]
    return (image + density * cloud) * brightest / (brightest + density)


def snow(image: np.ndarray, value: tuple[float, ...], generator: np.random.Generator) -> np.ndarray:
    """Flakes that fall, over an image that is brighter and greyer by `1 - kept`."""
    mean, spread, size, least, radius, sigma, kept = value
    flakes = zoomed(generator.normal(mean, spread, image.shape[:2]), size)
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)
    fallen = along_a_line(flakes, radius, sigma, generator.uniform(-135, -45))[:, :, None]
    grey = (image @ GREY)[:, :, None]
    pale = kept * image + (1 - kept) * np.maximum(image, 1.5 * grey + 0.5)
    return pale + fallen + np.rot90(fallen, 2)


def brightness(image: np.ndarray, value: float, generator: np.random.Generator) -> np.ndarray:
    """A brighter image of the same hue and saturation: its largest channel grows by a value."""
    largest = image.max(axis=2, keepdims=True)
    brighter = (largest + value).clip(0, 1)
    return np.where(largest > 0, image * brighter / np.where(largest > 0, largest, 1), brighter)


# ---- digital -------------------------------------------------------------------------------------


def contrast(image: np.ndarray, value: float, generator: np.random.Generator) -> np.ndarray:
    means = image.mean(axis=(0, 1))
    return (image - means) * value + means


def elastic_transform(
    image: np.ndarray, value: tuple[float, float, float], generator: np.random.Generator
) -> np.ndarray:
    """A random affine map, then smooth displacements; lengths are shares of the side."""
    strength, sigma, moved = (len(image) * share for share in value)
    side = len(image)
    centre, reach = side // 2, side // 3
    points = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    targets = points + generator.uniform(-moved, moved, points.shape)
    homogeneous = np.column_stack([targets, np.ones(3)])
    matrix = np.linalg.solve(homogeneous, points)  # from where in the image each pixel is
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1)
    noise = generator.uniform(-1, 1, (side, side, 2))
    if sigma:
        noise = ndimage.gaussian_filter(noise, (sigma, sigma, 0), mode="reflect", truncate=3)
    places = (grid + strength * noise) @ matrix[:2] + matrix[2]
    channels = [
        ndimage.map_coordinates(channel, places.transpose(2, 0, 1), order=1, mode="mirror")
        for channel in image.transpose(2, 0, 1)
    ]
    return np.stack(channels, axis=2)


def pixelate(image: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Box means over fewer, larger pixels."""
    side = len(image)
    small = as_picture(image).resize((int(side * share),) * 2, Image.Resampling.BOX)
    return as_floats(small.resize((side, side), Image.Resampling.BOX))


def jpeg_compression(image: np.ndarray, quality: int, generator: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    as_picture(image).save(file, "JPEG", quality=quality)
    return as_floats(Image.open(file))


def as_picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(as_bytes(image))


def as_floats(image: Any) -> np.ndarray:
    """uint8 -> float64 in [0, 1]."""
    return np.asarray(image) / 255.0


def as_bytes(image: np.ndarray) -> np.ndarray:
    """float -> uint8, cut to [0, 1] and rounded."""
    return np.round(image.clip(0, 1) * 255).astype(np.uint8)


KINDS: dict[str, Kind] = {
    "gaussian_noise": Kind(
        gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38)
    ),
    "shot_noise": Kind(shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Kind(
        impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)
    ),
    "defocus_blur": Kind(
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Kind(
        glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Kind(
        motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Kind(
        zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": Kind(
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "fog": Kind(
        fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Kind(brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Kind(contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Kind(
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": Kind(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Kind(jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}


# ---- one set -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corruption:
    """What befalls each image of a set: a kind, or any by lot, of a severity, or any by lot."""

    kind: str
    severity: int | None
    seed: int = 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint8 (S, S, 3) -> uint8 (S, S, 3)."""
        own = crc32(image.tobytes())
        generator = np.random.default_rng((self.seed, own))
        names = list(KINDS)
        name = names[generator.integers(len(names))] if self.kind == MIXED else self.kind
        severity = self.severity or int(generator.integers(1, 6))
        kind = KINDS[name]
        return as_bytes(kind.make(as_floats(image), kind.value(severity, len(image)), generator))

    def as_dict(self) -> dict[str, Any]:
        """The values as sidecars keep them."""
        return asdict(self)


def parse(name: str) -> Corruption | None:
    """ "fog3" -> fog of severity 3; "corrupted": any kind and severity, image by image; None for
    what is no corruption."""
    found = re.fullmatch(r"([a-z_]+?)([1-5]?)", name)
    if not found or (found[1] not in KINDS and found[1] != MIXED):
        return None
    if found[1] != MIXED and not found[2]:
        return None
    return Corruption(found[1], int(found[2]) if found[2] else None)


def known() -> str:
    """The names that `parse` takes, in words."""
    return f"{', '.join(KINDS)}, each with a severity from 1 to 5 behind it such as fog3, {MIXED}"
