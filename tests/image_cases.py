"""Small image files for the tests of images/ and data.py."""

import numpy as np
from PIL import Image

import data


def plainly(size):
    """Preprocessing whose normalisation only divides by 255."""
    return data.Preprocessing(size, (0.0,) * 3, (1.0,) * 3)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, array=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(12, 12, 3) if array is None else array).save(path, **options)
    return path


def pixels_of(folder, size):
    return data.image_folder(folder, plainly(size)).in_memory().pixels.permute(0, 2, 3, 1).numpy()
