"""How to train: recipes as rows of a table.

A new recipe is a row in RECIPES; training/parts.py builds the optimiser, the schedule and the
augmentation from it. docs/training.md reports what was tried, and what it did to accuracy and to
OOD scores."""

import math
from collections.abc import Callable, Mapping
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


AUGMENTATIONS = (*augment.OF_PIXELS, *augment.OF_MOMENTS, *augment.OF_INPUTS)
STRONGEST = augment.RAND_LEVELS - 1  # of rand_magnitude
OPTIMIZERS = ("sgd", "adamw", "muon")  # parts.OPTIMIZERS builds them
DECAYS = ("cosine", "linear")  # parts.DECAYS


@dataclass(frozen=True)
class Recipe:
    """How to train. A field made by `flag` has a flag in train.py that overrides the mode's value.

    milestones  at which the learning rate is multiplied by gamma: shares of the run below 1, so
                that --epochs stretches a schedule and keeps its shape, or numbers of epochs;
                without any the rate falls to lr_min by `decay`, step by step
    steps       length of a run that counts steps: it is measured every eval_every steps, and what
                happens once an epoch in other runs happens then, so that `epochs` is the number of
                these evaluations; 0 in a run that counts epochs
    batch_size  images per step, of all processes together; a member of a leave-out ensemble sees as
                many outliers besides
    keep        the checkpoint that main.py continues with: "best" or "final"

    epochs and batch_size have flags that all scripts have in common (SHARED_FLAGS).
    """

    epochs: int
    lr: float = flag(type=float, help="override the recipe's learning rate")
    weight_decay: float = flag(type=float, help="override the recipe's weight decay")
    steps: int = flag(
        0,
        type=int,
        help="length of the run, in a mode that counts steps (finetune); others take --epochs",
    )
    eval_every: int = flag(
        0,
        type=int,
        metavar="STEPS",
        help="in a mode that counts steps: measure, log and choose the best checkpoint every so"
        " many",
    )
    optimizer: str = flag("sgd", choices=OPTIMIZERS, help="override the recipe's optimiser")
    momentum: float = flag(0.9, type=float, help="override the recipe's momentum; of SGD")
    nesterov: bool = flag(
        False, type=bool, help="override whether the recipe uses Nesterov momentum"
    )
    betas: tuple[float, ...] = flag(
        (0.9, 0.999),
        type=float,
        nargs=2,
        metavar=("BETA1", "BETA2"),
        help="decay rates of AdamW's moving averages of the gradient and of its square",
    )
    muon_lr: float = flag(
        0.24,
        type=float,
        metavar="RATE",
        help="largest learning rate of the convolutions under Muon: the share of their norm that a "
        "step changes; --lr is that of the other parameters",
    )
    muon_momentum: float = flag(0.6, type=float, help="momentum of the convolutions under Muon")
    decay_norm: bool = flag(
        True,
        type=bool,
        help="whether the weight decay shrinks biases and the scales of normalisation layers too",
    )
    norm_lr: float = flag(
        1.0,
        type=float,
        metavar="FACTOR",
        help="multiply the learning rate of the biases of normalisation layers by this, and divide "
        "their weight decay by it",
    )
    clip: float = flag(
        0.0,
        type=float,
        metavar="NORM",
        help="shrink gradients of a larger norm to this norm; 0: never",
    )
    batch_size: int = 128
    grad_accumulation: int = flag(
        1,
        type=int,
        metavar="PARTS",
        help="send a step's --batch-size images through the network in so many parts, of less"
        " memory each; gradients are those of the whole",
    )
    warmup_epochs: float = flag(
        0.0,
        type=float,
        spelled="--warmup",
        metavar="EPOCHS",
        help="raise the learning rate linearly from 0 over this many epochs",
    )
    warmup_share: float = flag(
        0.0,
        type=float,
        metavar="SHARE",
        help="in place of --warmup: raise it over this share of the run, such as 0.2",
    )
    warmup_steps: int = flag(
        0,
        type=int,
        metavar="STEPS",
        help="in a mode that counts steps: raise the learning rate linearly from 0 over so many",
    )
    decay: str = flag(
        "cosine",
        choices=DECAYS,
        help="how the learning rate falls after the warm-up, where there are no milestones",
    )
    lr_min: float = flag(
        0.0,
        type=float,
        metavar="RATE",
        help="learning rate at the end of the run, where there are no milestones",
    )
    milestones: tuple[float, ...] = flag(
        (),
        type=float,
        nargs="*",
        metavar="WHEN",
        help="multiply the learning rate by --gamma at each of these epochs (or steps), or shares "
        "of the run below 1; without a value: none, and the rate falls by --decay",
    )
    gamma: float = flag(0.1, type=float, help="factor of the learning rate at each milestone")
    augment: tuple[str, ...] = flag(
        ("crop", "flip"),
        nargs="*",
        choices=AUGMENTATIONS,
        metavar="NAME",
        help=f"augmentations to use instead of the recipe's, any of {', '.join(AUGMENTATIONS)} "
        "(rotation is bilinear, rotation_nearest what torchvision does by default); without a "
        "name: no augmentation",
    )
    rand_ops: int = flag(
        2, type=int, metavar="N", help="operations per image of the augmentation rand"
    )
    rand_magnitude: int = flag(
        9,
        type=int,
        metavar="M",
        help=f"strength of the augmentation rand, from 0 to {STRONGEST}",
    )
    mixup: float = flag(
        0.0,
        type=float,
        metavar="ALPHA",
        help="mix images and labels of each batch, as shares drawn from Beta(ALPHA, ALPHA); "
        "0: never",
    )
    cutmix: float = flag(
        0.0,
        type=float,
        metavar="ALPHA",
        help="paste a box of another image of the batch, and mix the labels by area, drawn from "
        "Beta(ALPHA, ALPHA); with --mixup one of the two is drawn for each batch; 0: never",
    )
    mix_prob: float = flag(
        1.0, type=float, metavar="SHARE", help="share of the batches that --mixup or --cutmix mixes"
    )
    start_size: float = flag(
        1.0,
        type=float,
        metavar="SHARE",
        help="train on smaller images first: their side as a share of the full one, such as 0.625 "
        "for 20 of 32 pixels",
    )
    full_size_at: float = flag(
        1.0,
        type=float,
        metavar="SHARE",
        help="share of the run over which smaller images grow to their full size",
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
    dropout: float = flag(
        0.0, type=float, metavar="SHARE", help="share of the features that training drops at random"
    )
    patience: int = flag(
        0,
        type=int,
        help="stop after this many epochs (or evaluations) without a better validation accuracy; "
        "0: never",
    )
    folds: int = flag(
        0,
        type=int,
        metavar="K",
        help="train members of an ensemble of K classifiers, each without the classes of one fold, "
        "whose images are its outliers; needs --fold; 0: one network of all classes",
    )
    margin: float = flag(
        0.4,
        type=float,
        metavar="NATS",
        help="with --folds: by how much the outliers' mean entropy is to be above the images'",
    )
    beta: float = flag(
        0.2, type=float, metavar="WEIGHT", help="with --folds: weight of that in the loss"
    )
    freeze: bool = flag(
        False,
        type=bool,
        help="train the classifier alone, on features of clean images that the network computes "
        "once; needs --weights or --pretrained",
    )
    keep: str = "best"

    @property
    def length(self) -> int:
        """The length of the run, in its own unit: steps or epochs."""
        return self.steps or self.epochs

    def steps_before(self, epochs: int) -> int:
        """Of a run by steps: the steps that lie before the end of so many evaluations."""
        return min(epochs * self.eval_every, self.steps)


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
    for name, value in chosen.items():
        if isinstance(value, list):
            chosen[name] = tuple(value)
    return counted(replace(recipe, **chosen))


def counted(recipe: Recipe) -> Recipe:
    """The recipe; of a run by steps, with as many epochs as it has evaluations."""
    if not recipe.steps or recipe.eval_every < 1:
        return recipe
    return replace(recipe, epochs=math.ceil(recipe.steps / recipe.eval_every))


# Flags of the one kind of run, and what the other kind has in their place.
BY_STEPS = {"steps": "--epochs", "eval_every": "--save-every", "warmup_steps": "--warmup"}
BY_EPOCHS = {"epochs": "--steps", "warmup_epochs": "--warmup-steps"}


def refuse_other_unit(mode: str, given: Mapping[str, Any]) -> None:
    """ValueError that names a flag for runs by steps where the mode counts epochs, or the other way
    round."""
    counts, others, other = "epochs", BY_STEPS, "steps"
    if RECIPES[mode].steps:
        counts, others, other = "steps", BY_EPOCHS, "epochs"
    for name, instead in others.items():
        if given.get(name) is None:
            continue
        spelled = "--epochs" if name == "epochs" else flags()[name].spelled
        modes = [
            one for one, recipe in RECIPES.items() if bool(recipe.steps) != (counts == "steps")
        ]
        raise ValueError(
            f"{spelled} is of modes that count {other} ({', '.join(modes)}), and --mode {mode}"
            f" counts {counts}; give {instead}, or another --mode"
        )


def defaults() -> dict[str, Any]:
    """{field: its default} of the fields that have one: what a recipe of an earlier version did,
    without the field."""
    return {item.name: item.default for item in fields(Recipe) if item.default is not MISSING}


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
        augment=("crop", "flip", "rotation_nearest", "colour_jitter", "hue", "erasing"),
    ),
    # After Jordan 2024: one cycle of the rate, few large batches, images that grow, alternating
    # flips. The rates are his for a sum of losses, as they are for a mean of 512.
    "fast": Recipe(
        epochs=16,
        lr=0.6,
        weight_decay=1.3e-3,
        optimizer="muon",
        momentum=0.85,
        nesterov=True,
        norm_lr=64,
        batch_size=512,
        warmup_share=0.2,
        decay="linear",
        augment=("crop", "alternating_flip"),
        start_size=0.625,
    ),
    # Vyas et al. 2018: 100 images and 100 outliers a step, lr / 10 after 50 and 75 epochs. The last
    # epoch is the one to keep: accuracy does not see the entropies.
    "leave-out": Recipe(
        epochs=100,
        lr=0.1,
        weight_decay=5e-4,
        batch_size=100,
        milestones=(0.5, 0.75),
        folds=5,
        keep="final",
    ),
    # Dosovitskiy et al. 2021, section 4.1 and table 4, as the code of NECO (Ammar et al. 2024) runs
    # it: SGD of 512 images a step without weight decay, rate 0.03, gradients clipped at norm 1.
    # Both crop training images at random scales; here they are shifted and mirrored.
    "finetune": counted(
        Recipe(
            epochs=1,
            steps=1000,
            eval_every=90,
            lr=3e-2,
            weight_decay=0.0,
            clip=1.0,
            batch_size=512,
            warmup_steps=200,
        )
    ),
}


# Field: the limits of its values, the lower one included and the upper one not. An infinite
# learning rate passes: the run then stops at its first step with the reason.
LIMITS = {
    "lr": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "lr_min": (0, math.inf),
    "muon_lr": (0, math.inf),
    "muon_momentum": (0, 1),
    "warmup_share": (0, 1),
    "norm_lr": (0, math.inf),
    "clip": (0, math.inf),
    "grad_accumulation": (1, math.inf),
    "warmup_steps": (0, math.inf),
    "gamma": (0, math.inf),
    "dropout": (0, 1),
    "patience": (0, math.inf),
    "rand_ops": (1, math.inf),
    "rand_magnitude": (0, augment.RAND_LEVELS),
    "mixup": (0, math.inf),
    "cutmix": (0, math.inf),
    "label_smoothing": (0, 1),
    "ema": (0, 1),
    "folds": (0, math.inf),
    "margin": (0, math.inf),
    "beta": (0, math.inf),
}


# Field: when its flag does nothing, in words, and whether that is so.
IDLE: dict[str, tuple[str, Callable[[Recipe], bool]]] = {
    "momentum": (
        "is of SGD and Muon, and the optimiser is {optimizer}",
        lambda r: r.optimizer == "adamw",
    ),
    "muon_lr": ("is of Muon, and the optimiser is {optimizer}", lambda r: r.optimizer != "muon"),
    "muon_momentum": (
        "is of Muon, and the optimiser is {optimizer}",
        lambda r: r.optimizer != "muon",
    ),
    "full_size_at": ("needs a --start-size below 1", lambda r: r.start_size == 1),
    "betas": ("is of AdamW, and the optimiser is {optimizer}", lambda r: r.optimizer != "adamw"),
    "gamma": ("needs --milestones, and this run has none", lambda r: not r.milestones),
    "rand_ops": ("is of rand, which --augment does not name", lambda r: "rand" not in r.augment),
    "rand_magnitude": (
        "is of rand, which --augment does not name",
        lambda r: "rand" not in r.augment,
    ),
    "mix_prob": ("needs --mixup or --cutmix", lambda r: not (r.mixup or r.cutmix)),
    "decay": (
        "is for runs without milestones; give --milestones without a value",
        lambda r: bool(r.milestones),
    ),
    "lr_min": (
        "is for runs without milestones; give --milestones without a value",
        lambda r: bool(r.milestones),
    ),
    "margin": ("needs --folds, or --mode leave-out", lambda r: not r.folds),
    "beta": ("needs --folds, or --mode leave-out", lambda r: not r.folds),
}


def refuse_idle(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """ValueError that names a flag which was given and would do nothing in this recipe."""
    for name, (words, is_idle) in IDLE.items():
        if given.get(name) is not None and is_idle(recipe):
            reason = words.format(optimizer=recipe.optimizer)
            raise ValueError(f"{flags()[name].spelled} {reason}")


def check(recipe: Recipe) -> Recipe:
    """The recipe; ValueError for a value that no training could use, before any long work."""
    for name, (low, high) in LIMITS.items():
        value = getattr(recipe, name)
        if name == "lr" and value == math.inf:
            continue
        if not low <= value < high:
            flag = "learning rate --lr" if name == "lr" else f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} is {value:g}; expected at least {low} and below {high:g}")
    check_warmup(recipe)
    for name in ("start_size", "full_size_at", "mix_prob"):
        share = getattr(recipe, name)
        if not 0 < share <= 1:
            raise ValueError(
                f"--{name.replace('_', '-')} is {share:g}; expected a share above 0 and at most 1"
            )
    if recipe.folds and (recipe.mixup or recipe.cutmix):
        raise ValueError(
            "--mixup and --cutmix would mix images with outliers, which have no class; leave them"
            " out of a leave-out ensemble"
        )
    if recipe.folds and recipe.grad_accumulation > 1:
        raise ValueError(
            "--grad-accumulation: the loss of a leave-out ensemble goes by the mean entropies of a"
            " whole batch; leave it out"
        )
    if recipe.lr_min > recipe.lr:
        raise ValueError(
            f"--lr-min is {recipe.lr_min:g}, above the learning rate {recipe.lr:g}, from which it"
            " falls"
        )
    for beta in recipe.betas:
        if not 0 <= beta < 1:
            raise ValueError(f"--betas has {beta:g}; expected at least 0 and below 1")
    for when in recipe.milestones:
        if not 0 < when < recipe.length:
            unit = "steps" if recipe.steps else "epochs"
            raise ValueError(
                f"--milestones has {when:g}; expected {unit} above 0 and below {recipe.length:g},"
                " or shares of the run below 1"
            )
    if not recipe.norm_lr:
        raise ValueError("--norm-lr is 0; expected a factor above 0")
    if recipe.nesterov and (recipe.optimizer == "adamw" or not recipe.momentum):
        raise ValueError(
            f"Nesterov's momentum needs SGD or Muon with a momentum; this run has"
            f" {recipe.optimizer}, momentum {recipe.momentum:g}: leave it out, or add --no-nesterov"
        )
    return recipe


def check_warmup(recipe: Recipe) -> None:
    """ValueError for a warm-up that does not end within the run, and for two of them."""
    if not 0 <= recipe.warmup_epochs < recipe.epochs:
        raise ValueError(
            f"--warmup is {recipe.warmup_epochs:g}; expected at least 0 and below"
            f" {recipe.epochs:g}, the number of epochs"
        )
    if recipe.warmup_epochs and recipe.warmup_share:
        raise ValueError(
            f"--warmup is {recipe.warmup_epochs:g} epochs and --warmup-share"
            f" {recipe.warmup_share:g} of the run; expected one of the two, and 0 for the other"
        )
    if recipe.warmup_steps and recipe.warmup_share:
        raise ValueError(
            f"--warmup-steps is {recipe.warmup_steps} and --warmup-share {recipe.warmup_share:g} of"
            " the run; expected one of the two, and 0 for the other"
        )
    if recipe.steps and recipe.warmup_steps >= recipe.steps:
        raise ValueError(
            f"--warmup-steps is {recipe.warmup_steps}; expected below {recipe.steps}, the number of"
            f" --steps; the recipe's share would be: --warmup-steps {recipe.steps // 5}"
        )


def check_given_steps(given: Mapping[str, Any]) -> None:
    """ValueError for a length of the run, or of the stretch between evaluations, below one step."""
    for name in ("steps", "eval_every"):
        value = given.get(name)
        if value is not None and value < 1:
            raise ValueError(f"{flags()[name].spelled} is {value}; expected at least 1")
