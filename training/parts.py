"""The parts of a training step that a recipe decides: one builder function per part.

    optimizer = make_optimizer(recipe, network)
    schedule = make_schedule(recipe)                    # schedule(progress) -> share of the rate
    augment = make_augmentation(recipe, preprocessing)  # augment(uint8 images, generator) -> inputs
    average = make_average(recipe, network)             # None where the recipe averages nothing

The loop (training/run.py) calls these and knows no recipe by name. A recipe that needs another
optimiser adds a function and a row in OPTIMIZERS; another schedule or average is a branch of its
builder, chosen by a field of Recipe."""

import math
from collections.abc import Callable

import torch
from torch import nn

from data import Preprocessing
from training import augment
from training.average import Average
from training.recipes import Recipe

# Progress through the run in [0, 1] -> factor of every parameter group's own learning rate.
Schedule = Callable[[float], float]
# (uint8 images (B, 3, S, S), generator) -> normalised float32 (B, 3, S, S)
Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

# ---- optimisers ----------------------------------------------------------------------------------


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser of all parameters. A group's `lr` is its largest learning rate: the
    loop multiplies it by the schedule."""
    return OPTIMIZERS[recipe.optimizer](recipe, network)


def sgd(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, Nesterov's where the recipe says so."""
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        fused=has_fused(network),
    )


def adamw(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, whose weight decay is decoupled from the learning rate."""
    return torch.optim.AdamW(
        network.parameters(),
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        fused=has_fused(network),
    )


def has_fused(network: nn.Module) -> bool:
    """True if torch has fused optimisers for the network's device."""
    device = next(network.parameters()).device
    return device.type in ("cpu", "cuda")


OPTIMIZERS: dict[str, Callable[[Recipe, nn.Module], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
}

# ---- learning-rate schedules ---------------------------------------------------------------------


def make_schedule(recipe: Recipe) -> Schedule:
    """A linear warm-up from 0, then the recipe's milestones or, without any, a cosine to 0.

    The cosine begins where the warm-up ends. Milestones are shares of the whole run, warm-up
    included.
    """
    warmup = recipe.warmup_epochs / recipe.epochs
    decay = by_milestones(recipe) if recipe.milestones else cosine(warmup)

    def schedule(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return decay(progress)

    return schedule


def by_milestones(recipe: Recipe) -> Schedule:
    """The rate times gamma at each milestone that is passed."""

    def schedule(progress: float) -> float:
        passed = sum(progress >= milestone for milestone in recipe.milestones)
        return recipe.gamma**passed

    return schedule


def cosine(start: float) -> Schedule:
    """Half a cosine from 1 at `start` to 0 at the end of the run."""

    def schedule(progress: float) -> float:
        angle = math.pi * (progress - start) / (1 - start)
        return 0.5 * (1 + math.cos(angle))

    return schedule


# ---- augmentation and average --------------------------------------------------------------------


def make_augmentation(recipe: Recipe, preprocessing: Preprocessing) -> Augmentation:
    """The recipe's augmentations in their order, and the normalisation among them."""

    def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return augment.apply(images, recipe.augment, generator, preprocessing)

    return augmented


def make_average(recipe: Recipe, network: nn.Module) -> Average | None:
    """The moving average of the network's weights, or None where the recipe has none."""
    if not recipe.ema:
        return None
    return Average(network, recipe.ema)
