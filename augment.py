"""Batched augmentation: one random draw an image, by a generator of its own, on whatever device the images are.

`apply` is what training calls; a new augmentation is a function of (images, generator) and a row in AUGMENTATIONS.
"""
import numpy as np
import torch
from torch.nn import functional as F


def crop(images, generator):
    """Random shifts by up to an eighth of the side, zero-padded (4 pixels of 32: He et al. 2016)."""
    count, _, size, _ = images.shape
    padding = size // 8
    windows = F.pad(images, [padding] * 4).unfold(2, size, 1).unfold(3, size, 1)
    down, right = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=images.device)
    return windows[torch.arange(count, device=images.device), :, down, right]


def flip(images, generator):
    """Mirror left and right with probability one half."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def rotation(images, generator, degrees=15):
    """Rotate by a uniform angle in +-degrees, bilinear, zeros outside."""
    angle = (torch.rand(len(images), generator=generator, device=images.device) * 2 - 1) * np.deg2rad(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


def colour_jitter(images, generator, strength=0.2):
    """Brightness, contrast and saturation, each by a uniform factor in 1 +- strength, in that order; hue stays."""
    images = images.float()
    factors = 1 + (torch.rand(3, len(images), 1, 1, 1, generator=generator, device=images.device) * 2 - 1) * strength
    luma = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)

    def blend(images, other, factor):
        return (other + factor * (images - other)).clamp(0, 255)
    images = blend(images, 0, factors[0])
    images = blend(images, (images * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True), factors[1])
    return blend(images, (images * luma).sum(1, keepdim=True), factors[2])


def erasing(images, generator, probability=0.25, tries=10):
    """Random erasing (Zhong et al. 2020) of normalised images: a box of 2-33% of the area, aspect 0.3-3.3, becomes the mean.

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
    rows, columns = (at >= top) & (at < top + height), (at >= left) & (at < left + width)
    inside = (rows & wanted & fits.any(1, keepdim=True))[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(inside, 0.0)


AUGMENTATIONS = {"crop": crop, "flip": flip, "rotation": rotation, "colour_jitter": colour_jitter}


def apply(images, names, generator, preprocessing):
    """uint8 (B, 3, S, S) -> normalised float32 (B, 3, S, S), by the named augmentations in their order; erasing comes last."""
    for name in names:
        if name != "erasing":
            images = AUGMENTATIONS[name](images, generator)
    images = preprocessing.normalise(images)
    return erasing(images, generator) if "erasing" in names else images
