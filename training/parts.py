"""The parts of a training step that a recipe decides: one builder function per part.

    optimizer = make_optimizer(recipe, network)
    schedule = make_schedule(recipe)                    # schedule(progress) -> share of the rate
    augment = make_augmentation(recipe, preprocessing)  # augment(images, generator, moment)
    mix = make_mixing(recipe, classes)                  # mix(inputs, labels, generator) -> both
    average = make_average(recipe, network)             # None where the recipe averages nothing

The loop (training/run.py) calls these and knows no recipe by name. A recipe that needs another
optimiser adds a function and a row in OPTIMIZERS; another schedule or average is a branch of its
builder, chosen by a field of Recipe."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from images.preprocessing import Preprocessing
from training import augment
from training.augment import Moment
from training.average import Average
from training.mixing import Mix, Mixing, unmixed
from training.muon import Muon
from training.recipes import Recipe

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
SIDE_STEPS = 8  # of the full side: 4 pixels of 32. A compiled network sees few shapes
# Progress through the run in [0, 1] -> factor of every parameter group's own learning rate.
Schedule = Callable[[float], float]
# (uint8 images (B, 3, S, S), generator, moment) -> normalised float32 (B, 3, s, s), s <= S
Augmentation = Callable[[torch.Tensor, torch.Generator, Moment], torch.Tensor]

# ---- optimisers ----------------------------------------------------------------------------------


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser of all parameters. A group's `lr` is its largest learning rate: the
    loop multiplies it by the schedule."""
    return OPTIMIZERS[recipe.optimizer](recipe, network)


Group = dict[str, Any]  # as torch.optim takes it: "params", and what differs from the defaults


def parameter_groups(
    recipe: Recipe, network: nn.Module, besides: Iterable[nn.Parameter] = ()
) -> list[Group]:
    """The network's parameters, but for those of `besides`, in groups of one learning rate and one
    weight decay.

    The biases of normalisation layers may learn `norm_lr` times as fast; their weight decay is
    divided by that, so that a step shrinks them as it shrinks the others (Jordan 2024 takes 64).
    Without `decay_norm`, biases and scales, the parameters of a single dimension, do not shrink at
    all (Goyal et al. 2017, section 5.3)."""
    fast = norm_biases(network) if recipe.norm_lr != 1 else set()
    left_out = {id(parameter) for parameter in besides}
    groups: dict[tuple[float, float], Group] = {}
    for parameter in network.parameters():
        if id(parameter) in left_out:
            continue
        factor = recipe.norm_lr if id(parameter) in fast else 1.0
        decays = recipe.decay_norm or parameter.ndim > 1
        weight_decay = recipe.weight_decay / factor if decays else 0.0
        rates = {"lr": recipe.lr * factor, "weight_decay": weight_decay}
        group = groups.setdefault((factor, weight_decay), {"params": [], **rates})
        group["params"].append(parameter)
    return list(groups.values())


def norm_biases(network: nn.Module) -> set[int]:
    """The ids of the biases of batch, layer, group and instance norm."""
    found = set()
    for module in network.modules():
        if isinstance(module, NORMS) and isinstance(module.bias, nn.Parameter):
            found.add(id(module.bias))
    return found


def sgd(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, Nesterov's where the recipe says so."""
    return torch.optim.SGD(
        parameter_groups(recipe, network),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        fused=has_fused(network),
    )


def adamw(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, whose weight decay is decoupled from the learning rate."""
    return torch.optim.AdamW(
        parameter_groups(recipe, network),
        lr=recipe.lr,
        betas=(recipe.betas[0], recipe.betas[1]),
        weight_decay=recipe.weight_decay,
        fused=has_fused(network),
    )


def muon(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Muon for the weights of convolutions that learn, and SGD for all other parameters."""
    filters = [weight for weight in convolutions(network) if weight.requires_grad]
    if not filters:
        raise ValueError(
            "--optimizer muon moves convolutions, and this network has none that learn; take"
            " --optimizer sgd or adamw"
        )
    orthogonal = {
        "params": filters,
        "lr": recipe.muon_lr,
        "momentum": recipe.muon_momentum,
        "nesterov": True,
        "orthogonal": True,
    }
    return Muon(
        [*parameter_groups(recipe, network, besides=filters), orthogonal],
        dtype=torch.bfloat16 if has_bfloat16(filters[0].device) else torch.float32,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        fused=has_fused(network),
    )


def convolutions(network: nn.Module) -> list[nn.Parameter]:
    """The weights of all convolutions."""
    found = []
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS) and isinstance(module.weight, nn.Parameter):
            found.append(module.weight)
    return found


def has_fused(network: nn.Module) -> bool:
    """True if torch has fused optimisers for the network's device."""
    device = next(network.parameters()).device
    return device.type in ("cpu", "cuda")


OPTIMIZERS: dict[str, Callable[[Recipe, nn.Module], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
    "muon": muon,
}


def has_bfloat16(device: torch.device) -> bool:
    """True if the device multiplies bfloat16 matrices natively, so that it gains by them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and supported()


# ---- learning-rate schedules ---------------------------------------------------------------------


def make_schedule(recipe: Recipe) -> Schedule:
    """A linear warm-up from 0, then the recipe's milestones or, without any, a fall to `lr_min`.

    The fall begins where the warm-up ends. Milestones are shares of the whole run, or epochs (of a
    run by steps: steps), warm-up included.
    """
    rise = recipe.warmup_steps or recipe.warmup_epochs
    warmup = recipe.warmup_share or rise / recipe.length
    if recipe.milestones:
        decay = by_milestones(recipe)
    else:
        end = recipe.lr_min / recipe.lr if recipe.lr_min else 0.0
        decay = DECAYS[recipe.decay](warmup, end)

    def schedule(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return decay(progress)

    return schedule


def by_milestones(recipe: Recipe) -> Schedule:
    """The rate times gamma at each milestone that is passed."""
    shares = [when if when < 1 else when / recipe.length for when in recipe.milestones]

    def schedule(progress: float) -> float:
        passed = sum(progress >= share for share in shares)
        return recipe.gamma**passed

    return schedule


def cosine(start: float, end: float) -> Schedule:
    """Half a cosine from 1 at `start` to `end` at the end of the run (Loshchilov and Hutter
    2017)."""

    def schedule(progress: float) -> float:
        angle = math.pi * (progress - start) / (1 - start)
        return end + (1 - end) * 0.5 * (1 + math.cos(angle))

    return schedule


def linear(start: float, end: float) -> Schedule:
    """A straight line from 1 at `start` to `end` at the end of the run."""

    def schedule(progress: float) -> float:
        return 1 - (1 - end) * (progress - start) / (1 - start)

    return schedule


DECAYS: dict[str, Callable[[float, float], Schedule]] = {"cosine": cosine, "linear": linear}


# ---- augmentation, mixing and average ------------------------------------------------------------


def make_augmentation(recipe: Recipe, preprocessing: Preprocessing) -> Augmentation:
    """The recipe's augmentations in their order, the normalisation among them, and the size that
    images have at that moment."""
    side = make_sides(recipe, preprocessing.size)
    settings = {"rand": {"ops": recipe.rand_ops, "magnitude": recipe.rand_magnitude}}

    def augmented(images: torch.Tensor, generator: torch.Generator, moment: Moment) -> torch.Tensor:
        inputs = augment.apply(images, recipe.augment, generator, preprocessing, moment, settings)
        return augment.resized(inputs, side(moment.progress))

    return augmented


def make_sides(recipe: Recipe, size: int) -> Callable[[float], int]:
    """Progress through the run in [0, 1] -> side of the training images in pixels.

    It grows linearly from `start_size` of the full side to the whole at `full_size_at`, in steps of
    an eighth of the side (progressive resizing: Howard 2018; Tan and Le 2021)."""

    def side(progress: float) -> int:
        grown = min(progress / recipe.full_size_at, 1.0)
        share = recipe.start_size + (1 - recipe.start_size) * grown
        steps = round(share * SIDE_STEPS)
        return max(1, round(steps * size / SIDE_STEPS))

    return side


def make_mixing(recipe: Recipe, classes: int) -> Mix:
    """The recipe's mixup and CutMix of augmented batches."""
    if not recipe.mixup and not recipe.cutmix:
        return unmixed
    return Mixing(classes, recipe.mixup, recipe.cutmix, recipe.mix_prob)


def make_average(recipe: Recipe, network: nn.Module) -> Average | None:
    """The moving average of the network's weights, or None where the recipe has none."""
    if not recipe.ema:
        return None
    return Average(network, recipe.ema)
