"""How to train: recipes as rows of a table, learning-rate schedules, optimisers, and the moving
average of the weights.

A new recipe is a row in RECIPES. docs/training.md has what was tried, and what it did to accuracy
and to OOD scores."""

import copy
import math
from dataclasses import MISSING, dataclass, field, fields, replace

import torch

from training import augment


def flag(default=MISSING, *, help, spelled=None, **options):
    """A field of Recipe with its flag: `help` and, where they differ from the default's, its
    spelling, type, action, number of values, choices and metavar."""
    return field(default=default, metadata={"help": help, "spelled": spelled, **options})


AUGMENTATIONS = (*augment.OF_PIXELS, *augment.OF_INPUTS)


@dataclass(frozen=True)
class Recipe:
    """How to train. A field made by `flag` is a flag of train.py, which overrides the mode's value.

    `milestones` are shares of the epochs, so that --epochs stretches a schedule and keeps its
    shape; without them the rate follows a cosine to zero, step by step. `keep` is the checkpoint
    that main.py goes on with. epochs and batch_size (images per step of all processes together)
    have flags that all scripts share.
    """

    epochs: int
    lr: float = flag(type=float, help="override the recipe's learning rate")
    weight_decay: float = flag(type=float, help="override the recipe's weight decay")
    optimizer: str = "sgd"
    momentum: float = flag(0.9, type=float, help="override the recipe's momentum")
    nesterov: bool = flag(False, type=bool, help="override whether the momentum is Nesterov's")
    batch_size: int = 128
    warmup_epochs: float = flag(
        0.0,
        type=float,
        spelled="--warmup",
        metavar="EPOCHS",
        help="let the learning rate rise from 0 over this many epochs",
    )
    milestones: tuple = ()
    gamma: float = 0.1
    augment: tuple = flag(
        ("crop", "flip"),
        nargs="*",
        choices=AUGMENTATIONS,
        metavar="NAME",
        help=f"in place of the recipe's: {', '.join(AUGMENTATIONS)}; nothing: none",
    )
    label_smoothing: float = flag(
        0.0, type=float, metavar="SHARE", help="spread this share of each label over all classes"
    )
    ema: float = flag(
        0.0,
        type=float,
        metavar="DECAY",
        help="validate and keep a moving average of the weights, with this decay per step, "
        "such as 0.999",
    )
    dropout: float = 0.0
    patience: int = flag(
        0,
        type=int,
        help="stop after this many epochs without a better validation accuracy; 0: never",
    )
    keep: str = "best"


SHARED_FLAGS = ("epochs", "batch_size")  # of cli.FLAGS, which every script spells alike


def flags() -> dict[str, tuple[str, dict]]:
    """{field: (its flag, options for argparse)} of the fields that train.py alone has flags
    for."""
    found = {}
    for item in fields(Recipe):
        if item.metadata:
            options = dict(item.metadata)
            spelled = options.pop("spelled") or f"--{item.name.replace('_', '-')}"
            found[item.name] = (spelled, options)
    return found


def overridden(recipe: Recipe, given: dict) -> Recipe:
    """The recipe with the values that flags gave, {field: value}, None where one was not given."""
    names = (*SHARED_FLAGS, *flags())
    chosen = {name: given[name] for name in names if given.get(name) is not None}
    if "augment" in chosen:
        chosen["augment"] = tuple(chosen["augment"])
    return replace(recipe, **chosen)


RECIPES = {
    # He et al. 2016, section 4.2: 64,000 steps of 128 on 45,000 images, lr / 10 after 32,000 and
    # 48,000.
    "sgd": Recipe(epochs=182, lr=0.1, weight_decay=1e-4, milestones=(0.5, 0.75)),
    "best": Recipe(epochs=200, lr=0.1, weight_decay=5e-4, nesterov=True),
    "adamw": Recipe(epochs=200, lr=1e-3, weight_decay=1e-2, optimizer="adamw"),
    # Papyan et al. 2020: no augmentation, lr / 10 at 1/3 and 2/3, far past 100% training accuracy;
    # its end is what counts.
    "collapse": Recipe(
        epochs=350, lr=0.05, weight_decay=5e-4, milestones=(1 / 3, 2 / 3), augment=(), keep="final"
    ),
    "regularised": Recipe(
        epochs=200,
        lr=0.1,
        weight_decay=5e-4,
        milestones=(0.3, 0.6, 0.8),
        gamma=0.2,
        dropout=0.5,
        augment=("crop", "flip", "rotation", "colour_jitter", "erasing"),
    ),
}


def check(recipe):
    """The recipe; ValueError for a value that no training could use, before any long work."""
    limits = {
        "lr": (0, math.inf),
        "momentum": (0, 1),
        "weight_decay": (0, math.inf),
        "label_smoothing": (0, 1),
        "ema": (0, 1),
        "warmup_epochs": (0, recipe.epochs),
    }
    for name, (low, high) in limits.items():
        value = getattr(recipe, name)
        if not low <= value < high and not (
            name == "lr" and value == high
        ):  # an infinite rate stops at its first step, by name
            flag = {"lr": "learning rate --lr", "warmup_epochs": "--warmup"}.get(
                name, f"--{name.replace('_', '-')}"
            )
            raise ValueError(
                f"{flag} is {value:g}; expected at least {low} and below {high:g}"
                + (", the number of epochs" if name == "warmup_epochs" else "")
            )
    if recipe.nesterov and (recipe.optimizer != "sgd" or not recipe.momentum):
        raise ValueError(
            f"Nesterov's momentum needs SGD with a momentum; this run has {recipe.optimizer},"
            f" momentum {recipe.momentum:g}: leave it out, or add --no-nesterov"
        )
    return recipe


def scale(recipe, progress):
    """Share of the base learning rate at `progress` in [0, 1] of the run: a linear warm-up, then
    cosine or steps.

    The cosine begins where the warm-up ends; milestones are shares of the whole run, warm-up
    included."""
    warmup = recipe.warmup_epochs / recipe.epochs
    if progress < warmup:
        return progress / warmup
    if not recipe.milestones:
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)


def make_optimizer(recipe, network):
    """SGD with momentum, or AdamW; fused where the device has it."""
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        fused=fused,
    )


class Average:
    """Exponential moving average of a network's parameters and buffers, kept in a network of its
    own.

    a <- d a + (1 - d) w after each step, d = min(decay, (1 + t) / (10 + t)) after t steps: without
    the warm-up of d the first, random weights would weigh for 1 / (1 - decay) steps. Batch norm's
    running statistics are averaged too, so that no pass over the images is needed before the
    averaged network is used; they are those of the trained network's activations, not of its own,
    which a slowly changing network makes the same. All parameters move in one fused call: torch's
    own AveragedModel asks a GPU for its step count at each step, and so waits for it."""

    def __init__(self, network, decay):
        self.decay, self.steps = decay, 0
        self.network = copy.deepcopy(network).requires_grad_(False)
        pairs = list(
            zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        )
        self.moving = list(
            zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        )
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self):
        """Move by one step towards the network as it now is."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(*self.moving, 1 - decay)
        for mine, its in self.counters:
            mine.copy_(its)
