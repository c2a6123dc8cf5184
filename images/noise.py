"""Images of independent noise, around one half of the brightest value in every channel.

kinds()["gaussian"].image(7, 32)       # number 7 of the set gaussian10k, uint8 (32, 32, 3)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

CHANNELS = 3
# of ODIN's noise (Liang et al. 2018), by its code
COUNT = 10_000
DEVIATION = 1.0

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 noise of this shape, every value as likely."""
    return generator.integers(0, 256, shape, dtype=np.uint8)


def gaussian(
    generator: np.random.Generator, shape: tuple[int, ...], deviation: float = 0.25
) -> np.ndarray:
    """uint8 noise of this shape: N(0.5, deviation^2), cut to [0, 1], times 255."""
    values = generator.normal(0.5, deviation, shape)
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Kind:
    """Noise of one distribution, image by image."""

    number: int  # tells the kinds of one seed apart
    draw: Draw

    def image(self, index: int, side: int, seed: int = 0) -> np.ndarray:
        """uint8 (side, side, 3); it depends on the seed and the index, and on no other image."""
        generator = np.random.default_rng((seed, self.number, index))
        return self.draw(generator, (side, side, CHANNELS))


def kinds(deviation: float = DEVIATION) -> dict[str, Kind]:
    """{name: Kind}; `deviation` is that of Gaussian noise before it is cut to [0, 1]."""
    return {
        "uniform": Kind(0, uniform),
        "gaussian": Kind(1, partial(gaussian, deviation=deviation)),
    }
