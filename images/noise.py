"""Images of independent noise, around one half of the brightest value in every channel."""

import numpy as np


def uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 noise of this shape, every value as likely."""
    return generator.integers(0, 256, shape, dtype=np.uint8)


def gaussian(
    generator: np.random.Generator, shape: tuple[int, ...], deviation: float = 0.25
) -> np.ndarray:
    """uint8 noise of this shape: N(0.5, deviation^2), cut to [0, 1], times 255."""
    values = generator.normal(0.5, deviation, shape)
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)
