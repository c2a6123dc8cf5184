"""How to train: recipes as rows of a table.

A new recipe is a row in RECIPES; training/parts.py builds the optimiser, the schedule and the
augmentation from it. docs/training.md reports what was tried, and what it did to accuracy and to
OOD scores."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from training import augment


def flag(default: Any = MISSING, *, help: str, spelled: str | None = None, **options: Any) -> Any:
    """A field of Recipe that train.py has a flag for.

    `spelled` is the flag where it is not the field's name; `options` are argparse's, such as type,
    nargs, choices and metavar.
    """
    metadata = {"help": help, "spelled": spelled, **options}
    return field(default=default, metadata=metadata)


AUGMENTATIONS = (*augment.OF_PIXELS, *augment.OF_INPUTS)


@dataclass(frozen=True)
class Recipe:
    """How to train. A field made by `flag` has a flag in train.py that overrides the mode's value.

    milestones  shares of the run at which the learning rate is multiplied by gamma, so that
                --epochs stretches a schedule and keeps its shape; without any the rate follows a
                cosine to 0, step by step
    batch_size  images per step, of all processes together
    keep        the checkpoint that main.py continues with: "best" or "final"

    epochs and batch_size have flags that all scripts have in common (SHARED_FLAGS).
    """

    epochs: int
    lr: float = flag(type=float, help="override the recipe's learning rate")
    weight_decay: float = flag(type=float, help="override the recipe's weight decay")
    optimizer: str = "sgd"
    momentum: float = flag(0.9, type=float, help="override the recipe's momentum")
    nesterov: bool = flag(
        False, type=bool, help="override whether the recipe uses Nesterov momentum"
    )
    batch_size: int = 128
    warmup_epochs: float = flag(
        0.0,
        type=float,
        spelled="--warmup",
        metavar="EPOCHS",
        help="raise the learning rate linearly from 0 over this many epochs",
    )
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    augment: tuple[str, ...] = flag(
        ("crop", "flip"),
        nargs="*",
        choices=AUGMENTATIONS,
        metavar="NAME",
        help=f"augmentations to use instead of the recipe's, any of {', '.join(AUGMENTATIONS)}; "
        "without a name: no augmentation",
    )
    label_smoothing: float = flag(
        0.0, type=float, metavar="SHARE", help="spread this share of each label over all classes"
    )
    ema: float = flag(
        0.0,
        type=float,
        metavar="DECAY",
        help="validate and save a moving average of the weights with this decay per step, "
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


@dataclass(frozen=True)
class Flag:
    """A field's flag on the command line, and its options for argparse."""

    spelled: str
    options: dict[str, Any]


def flags() -> dict[str, Flag]:
    """{field: its flag} of the fields that only train.py has flags for."""
    found = {}
    for item in fields(Recipe):
        if not item.metadata:
            continue
        options = dict(item.metadata)
        spelled = options.pop("spelled") or f"--{item.name.replace('_', '-')}"
        found[item.name] = Flag(spelled, options)
    return found


def overridden(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with the values that flags gave, {field: value}; None means that a flag was not
    given."""
    names = (*SHARED_FLAGS, *flags())
    chosen = {name: given[name] for name in names if given.get(name) is not None}
    if "augment" in chosen:
        chosen["augment"] = tuple(chosen["augment"])
    return replace(recipe, **chosen)


RECIPES: dict[str, Recipe] = {
    # He et al. 2016, section 4.2: 64,000 steps of 128 on 45,000 images, lr / 10 after 32,000 and
    # 48,000.
    "sgd": Recipe(epochs=182, lr=0.1, weight_decay=1e-4, milestones=(0.5, 0.75)),
    "best": Recipe(epochs=200, lr=0.1, weight_decay=5e-4, nesterov=True),
    "adamw": Recipe(epochs=200, lr=1e-3, weight_decay=1e-2, optimizer="adamw"),
    # Papyan et al. 2020: no augmentation, lr / 10 at 1/3 and 2/3, far past 100% training accuracy.
    # The last epoch is the one to keep.
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


# Field: the limits of its values, the lower one included and the upper one not. An infinite
# learning rate passes: the run then stops at its first step with the reason.
LIMITS = {
    "lr": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "label_smoothing": (0, 1),
    "ema": (0, 1),
}


def check(recipe: Recipe) -> Recipe:
    """The recipe; ValueError for a value that no training could use, before any long work."""
    for name, (low, high) in LIMITS.items():
        value = getattr(recipe, name)
        if name == "lr" and value == math.inf:
            continue
        if not low <= value < high:
            flag = "learning rate --lr" if name == "lr" else f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} is {value:g}; expected at least {low} and below {high:g}")
    if not 0 <= recipe.warmup_epochs < recipe.epochs:
        raise ValueError(
            f"--warmup is {recipe.warmup_epochs:g}; expected at least 0 and below"
            f" {recipe.epochs:g}, the number of epochs"
        )
    if recipe.nesterov and (recipe.optimizer != "sgd" or not recipe.momentum):
        raise ValueError(
            f"Nesterov's momentum needs SGD with a momentum; this run has {recipe.optimizer},"
            f" momentum {recipe.momentum:g}: leave it out, or add --no-nesterov"
        )
    return recipe
