"""Input perturbation (ODIN, Liang et al. 2018; Vyas et al. 2018): move an image a little towards
what the network believes.

ID images gain more confidence from the step than OOD images do, which widens the gap between their
scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import feature_files

KINDS = ("entropy", "argmax")
ADASCALE = "adascale"
LEAST_IMPORTANT = 0.05  # of an image's values, that AdaSCALE moves
LARGEST = 0.5  # from here on an epsilon cannot be one of pixels in [0, 1]
HELD_BYTES = 2**29  # of directions: 174,000 images of 32 pixels, 3,500 of 224


@dataclass(frozen=True)
class Step:
    """How far each pixel is moved, and down which gradient."""

    kind: str  # of KINDS
    epsilon: float  # in pixels in [0, 1]
    temperature: float

    @property
    def folder(self) -> str:
        """Where the features of images that were moved so lie, below the checkpoint's folder."""
        return f"{feature_files.perturbed_folder(self.kind, self.temperature, self.epsilon)}/"

    @property
    def facts(self) -> dict[str, float]:
        """What sidecars say of it."""
        return {"odin_epsilon": self.epsilon, "temperature": self.temperature}


# ---- the step ------------------------------------------------------------------------------------


def perturb(network: torch.nn.Module, images: Tensor, step: Step, std: Sequence[float]) -> Tensor:
    """Images (N, 3, S, S), normalised by `std` -> x - epsilon * sign(grad_x loss).

    The loss is the entropy of softmax(logits / T) (Vyas et al. 2018, algorithm 2), or for "argmax"
    -log S(x; T) with S the largest of these probabilities (Liang et al. 2018, eq. 2). `epsilon` is
    in units of pixels in [0, 1], so it is divided by each channel's `std` (3,); the authors' code
    divides by rounded CIFAR values for every data set. The network must be in eval mode; its
    parameters gain no gradient."""
    return move(images, direction(network, images, step), step.epsilon, std)


def direction(network: torch.nn.Module, images: Tensor, step: Step) -> Tensor:
    """The sign of grad_x loss, int8 (N, 3, S, S): it depends on the loss and the temperature, and
    is the same for every epsilon."""
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        loss = LOSSES[step.kind](network(images) / step.temperature)
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient.sign().to(torch.int8)


def move(images: Tensor, signs: Tensor, epsilon: float, std: Sequence[float]) -> Tensor:
    """Images (N, 3, S, S), normalised by `std` -> x - epsilon * signs, epsilon in pixels."""
    size = epsilon / torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return images.detach() - size * signs


class Directions:
    """The directions of the set of images that was moved last, so that a grid of several epsilons
    passes each image backwards once for each temperature.

    They take a byte for each pixel's channel: what does not fit into `limit` bytes is not held."""

    def __init__(self, limit: int = HELD_BYTES):
        self.limit = limit
        self.of: tuple | None = None  # the images, and the gradient that the directions are of
        self.batches: dict[int, Tensor] = {}  # by the row that a batch begins with
        self.size = 0

    def find(
        self, network: torch.nn.Module, images: Tensor, step: Step, of: str, row: int
    ) -> Tensor:
        """The direction (n, 3, S, S) of a batch of the set `of` that begins at `row`."""
        key = (of, step.kind, step.temperature)
        if key != self.of:
            self.of, self.batches, self.size = key, {}, 0
        if row in self.batches:
            return self.batches[row]
        found = direction(network, images, step)
        if self.size + found.nelement() <= self.limit:
            self.batches[row] = found
            self.size += found.nelement()
        return found


def change_least(network: torch.nn.Module, images: Tensor, size: float) -> Tensor:
    """Images (N, 3, S, S), normalised -> the same with the 5% of each one's values that matter
    least to its largest logit moved up the gradient by `size`, in normalised units (AdaSCALE: Regmi
    2025, section 3)."""
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        logits = network(images)
        (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), images)
    flat = gradient.abs().flatten(1)
    count = int(flat.shape[1] * LEAST_IMPORTANT)
    least = flat.topk(count, dim=1, largest=False).indices
    mask = torch.zeros_like(flat).scatter_(1, least, 1).view(gradient.shape)
    return (images + size * gradient.sign() * mask).detach()


ADASCALE_STEP = Step(ADASCALE, 0.5, 1.0)


def certainty_loss(scaled: Tensor) -> Tensor:
    """Logits / T (N, C) -> (): the sum of -log S over images."""
    return F.cross_entropy(scaled, scaled.argmax(1), reduction="sum")


def entropy_loss(scaled: Tensor) -> Tensor:
    """Logits / T (N, C) -> (): a sum whose gradient, not its value, is that of the entropies.

    dH/dz_j = -p_j (z_j - sum_k p_k z_k). Where T is large, autograd of -p log p loses most digits
    of it: every log p is nearly -log C, and only differences count."""
    values = scaled.detach()
    shares = values.softmax(1)
    slope = shares * (values - (shares * values).sum(1, keepdim=True))
    return -(slope * scaled).sum()


LOSSES = {"entropy": entropy_loss, "argmax": certainty_loss}


# ---- what the command line asks for --------------------------------------------------------------


def complaint(args: Any) -> str | None:
    """What is wrong with --odin-epsilon, --temperature, --perturbation and --val-ood, or None."""
    if args.odin_epsilon is None:
        given = [flag for flag in ("perturbation", "val_ood") if getattr(args, flag)]
        flags = " and ".join(f"--{flag.replace('_', '-')}" for flag in given)
        return f"{flags} without --odin-epsilon moves no image; add it" if given else None
    if min(args.odin_epsilon) < 0 or min(args.temperature) <= 0:
        return "--odin-epsilon must be 0 or more, and --temperature above 0"
    if max(args.odin_epsilon) >= LARGEST:
        return (
            f"--odin-epsilon {max(args.odin_epsilon):g} looks like one of normalised or 0-255"
            " pixels; expected pixel units in [0, 1], such as 0.002"
        )
    return repeated(args) or without_a_set(args)


def repeated(args: Any) -> str | None:
    """Which of the values would go into one folder, or None."""
    for flag, values in (("odin-epsilon", args.odin_epsilon), ("temperature", args.temperature)):
        words = [f"{value:g}" for value in values]
        for word in words:
            if words.count(word) > 1:
                return f"--{flag} names {word} twice (six digits count); name each value once"
    return None


def without_a_set(args: Any) -> str | None:
    """What a grid lacks, or what a single pair has too much, or None."""
    count = len(args.odin_epsilon) * len(args.temperature)
    if count > 1 and not args.val_ood:
        return (
            f"{count} pairs of epsilon and temperature are a grid, of which one is chosen on"
            " validation images: name the OOD set for that with --val-ood NAME"
        )
    if count == 1 and args.val_ood:
        return (
            "--val-ood is for a grid of several --odin-epsilon or --temperature; a single pair is"
            " extracted for all test sets: leave --val-ood out"
        )
    return None
