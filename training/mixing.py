"""Mixed batches: mixup and CutMix.

    mix = Mixing(classes=100, mixup=0.2, cutmix=1.0)
    images, targets = mix(images, labels, generator)

Each image x is mixed with another one of its batch, x', and so are their labels:

mixup    lambda x + (1 - lambda) x' (Zhang et al. 2018, section 2)
CutMix   x with a box of x' in the same place, of (1 - lambda) of the area (Yun et al. 2019,
         section 3.1); what the edges cut off counts for x

lambda ~ Beta(alpha, alpha). A batch has one lambda and one box. x' is the image before x in the
batch, whose order is random, as in torchvision's MixUp and CutMix."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Generator, Tensor
from torch.nn import functional as F

# (images (B, 3, S, S), labels (B,), generator) -> images, and labels (B,) or targets (B, C)
Mix = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Mixing:
    """Mixes a batch of normalised images, and makes soft targets of its labels.

    mixup, cutmix   alpha of each, 0 for none; one at least is above 0. With both, one of them is
                    drawn for each batch, as likely as the other
    share           of the batches that are mixed
    """

    classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    share: float = 1.0

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S), labels (B,) -> images, targets (B, C), float32 rows of sum 1.

        The draws follow from the generator's seed alone and leave its state as it is. numpy makes
        them: torch's Beta distribution takes no generator, and a GPU would have to be waited for.
        """
        draw = np.random.default_rng(generator.initial_seed())
        targets = F.one_hot(labels, self.classes).float()
        if draw.random() >= self.share:
            return images, targets
        if not self.takes_cutmix(draw):
            kept = draw.beta(self.mixup, self.mixup)
            return mixed(images, kept), mixed(targets, kept)
        size = images.shape[-1]
        box = draw_box(size, draw.beta(self.cutmix, self.cutmix), draw)
        return pasted(images, box), mixed(targets, 1 - box.area / size**2)

    def takes_cutmix(self, draw: np.random.Generator) -> bool:
        """True if a batch gets CutMix, and not mixup."""
        if self.mixup and self.cutmix:
            return draw.random() < 0.5
        return self.cutmix > 0


def unmixed(images: Tensor, labels: Tensor, _: Generator) -> tuple[Tensor, Tensor]:
    """A batch as it is, with its labels: what takes the place of `Mixing` where nothing is
    mixed."""
    return images, labels


def heavier(targets: Tensor) -> Tensor:
    """Targets (B, C), or labels (B,), which stay -> labels (B,) of the largest share."""
    return targets if targets.ndim == 1 else targets.argmax(1)


def mixed(values: Tensor, kept: float) -> Tensor:
    """Images, or targets: `kept` of each row, and the rest of the row before it."""
    return values * kept + values.roll(1, 0) * (1 - kept)


class Box(NamedTuple):
    """Rows from `top` on and columns from `left` on; `bottom` and `right` lie outside."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Pixels in the box."""
        return (self.bottom - self.top) * (self.right - self.left)


def draw_box(size: int, kept: float, draw: np.random.Generator) -> Box:
    """A square around a uniform pixel, cut off at the edges of size x size pixels; whole, it leaves
    the share `kept`.

    Its side is rounded down to an even number, as Yun et al. do.
    """
    half = int(0.5 * size * (1 - kept) ** 0.5)
    y, x = draw.integers(size, size=2).tolist()
    top = max(y - half, 0)
    left = max(x - half, 0)
    return Box(top, min(y + half, size), left, min(x + half, size))


def pasted(images: Tensor, box: Box) -> Tensor:
    """Images with the box of the image before each."""
    top, bottom, left, right = box
    result = images.clone()
    result[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    return result
