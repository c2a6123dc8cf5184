"""training/recipes.py, parts.py and average.py: schedules worked out by hand, overrides that make
sense, and the moving average against a slow one."""

import dataclasses
import math
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

import data
import train
from training import average, parts, recipes

# ---- learning-rate schedules ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "epochs", "epoch", "expected"),
    [
        ("best", 200, 0, 0.1),
        ("best", 200, 50, 0.1 * (1 + math.sqrt(0.5)) / 2),
        ("best", 200, 100, 0.05),
        ("best", 200, 200, 0.0),
        ("adamw", 200, 0, 1e-3),
        ("adamw", 200, 150, 1e-3 * (1 - math.sqrt(0.5)) / 2),
        ("sgd", 182, 90, 0.1),
        ("sgd", 182, 91, 0.01),
        ("sgd", 182, 136, 0.01),
        ("sgd", 182, 137, 0.001),
        ("sgd", 40, 20, 0.01),
        ("regularised", 200, 59, 0.1),
        ("regularised", 200, 60, 0.02),
        ("regularised", 200, 120, 0.004),
        ("regularised", 200, 159, 0.004),
        ("regularised", 200, 160, 0.0008),
        ("collapse", 350, 116, 0.05),
        ("collapse", 350, 117, 0.005),
        ("collapse", 350, 233, 0.005),
        ("collapse", 350, 234, 0.0005),
        ("collapse", 3, 1, 0.005),
        ("collapse", 3, 2, 0.0005),
    ],
)
def test_learning_rates_at_points_worked_out_by_hand(mode, epochs, epoch, expected):
    recipe = recipes.RECIPES[mode]
    assert recipe.lr * parts.make_schedule(recipe)(epoch / epochs) == pytest.approx(
        expected, abs=1e-15
    )


@pytest.mark.parametrize(
    ("mode", "progress", "expected"),
    [
        ("best", 0.0, 0.0),
        ("best", 0.05, 0.5),
        ("best", 0.1, 1.0),
        ("best", 0.55, 0.5),
        ("best", 1.0, 0.0),
        ("sgd", 0.05, 0.5),
        ("sgd", 0.4, 1.0),
        ("sgd", 0.5, 0.1),
        ("sgd", 0.75, 0.01),
    ],
)
def test_a_warm_up_rises_to_the_full_rate_where_the_rest_begins(mode, progress, expected):
    recipe = dataclasses.replace(recipes.RECIPES[mode], epochs=50, warmup_epochs=5)
    assert parts.make_schedule(recipe)(progress) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "progress", "expected"),
    [
        ({"lr_min": 0.01}, 0.0, 0.1),
        ({"lr_min": 0.01}, 0.5, 0.055),
        ({"lr_min": 0.01}, 1.0, 0.01),
        ({"decay": "linear"}, 0.25, 0.075),
        ({"decay": "linear", "lr_min": 0.02}, 1.0, 0.02),
        ({"decay": "linear", "lr_min": 0.02, "warmup_epochs": 50}, 0.625, 0.06),
        ({"milestones": (60, 120, 160), "gamma": 0.2}, 0.299, 0.1),
        ({"milestones": (60, 120, 160), "gamma": 0.2}, 0.3, 0.02),
        ({"milestones": (60, 0.9), "gamma": 0.2}, 0.9, 0.004),
    ],
)
def test_the_end_of_a_schedule_and_milestones_in_epochs_by_hand(changes, progress, expected):
    recipe = dataclasses.replace(recipes.RECIPES["best"], **changes)
    assert recipe.lr * parts.make_schedule(recipe)(progress) == pytest.approx(expected, rel=1e-12)


def test_schedules_are_those_of_torch():
    """At the start of each epoch, where torch's schedulers step."""
    recipe = dataclasses.replace(recipes.RECIPES["best"], epochs=30, lr_min=0.004)
    milestones = dataclasses.replace(recipe, lr_min=0.0, milestones=(9, 21), gamma=0.3)
    schedulers = torch.optim.lr_scheduler
    for ours, theirs in (
        (recipe, lambda o: schedulers.CosineAnnealingLR(o, 30, eta_min=0.004)),
        (milestones, lambda o: schedulers.MultiStepLR(o, [9, 21], 0.3)),
    ):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler = theirs(optimizer)
        for epoch in range(30):
            rate = 0.1 * parts.make_schedule(ours)(epoch / 30)
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize("epochs", [1, 16, 100])
def test_the_fast_recipe_is_one_cycle_whatever_its_length(epochs):
    recipe = dataclasses.replace(recipes.RECIPES["fast"], epochs=epochs)
    schedule = parts.make_schedule(recipes.check(recipe))
    factors = [schedule(progress) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0])


# ---- progressive sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "start", "full_at", "expected"),
    [
        (32, 0.625, 1.0, [20, 20, 24, 24, 28, 28, 32, 32]),
        (32, 0.625, 0.5, [20, 24, 28, 32, 32, 32, 32, 32]),
        (32, 1.0, 1.0, [32] * 8),
        (224, 0.5, 1.0, [112, 140, 140, 168, 168, 196, 196, 224]),
        (30, 0.5, 1.0, [15, 19, 19, 22, 22, 26, 26, 30]),
        (3, 0.01, 1.0, [1, 1, 1, 1, 2, 2, 3, 3]),
    ],
)
def test_images_grow_in_eighths_to_their_full_size(size, start, full_at, expected):
    recipe = dataclasses.replace(recipes.RECIPES["fast"], start_size=start, full_size_at=full_at)
    side = parts.make_sides(recipe, size)
    assert [side(progress / 7) for progress in range(8)] == expected


# ---- what no training could use ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1.0}, "--lr is -1; expected at least 0"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"momentum": 1.0}, "--momentum is 1; expected at least 0 and below 1"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1"),
        ({"label_smoothing": 1.0}, "--label-smoothing is 1"),
        ({"ema": 1.0}, "--ema is 1; expected at least 0 and below 1"),
        (
            {"warmup_epochs": 200.0},
            "--warmup is 200; expected at least 0 and below 200, the number of epochs",
        ),
        (
            {"nesterov": True, "momentum": 0.0},
            "this run has sgd, momentum 0: leave it out, or add --no-nesterov",
        ),
        (
            {"nesterov": True, "optimizer": "adamw"},
            "needs SGD or Muon with a momentum; this run has adamw",
        ),
        ({"lr_min": 0.2}, "--lr-min is 0.2, above the learning rate 0.1"),
        ({"lr_min": -1.0}, "--lr-min is -1; expected at least 0"),
        ({"betas": (0.9, 1.0)}, "--betas has 1; expected at least 0 and below 1"),
        ({"milestones": (100, 200)}, "--milestones has 200; expected epochs above 0 and below 200"),
        ({"milestones": (0.0,)}, "--milestones has 0; expected epochs above 0"),
        ({"norm_lr": 0.0}, "--norm-lr is 0; expected a factor above 0"),
        ({"clip": -1.0}, "--clip is -1"),
        (
            {"warmup_epochs": 2.0, "warmup_share": 0.2},
            "--warmup is 2 epochs and --warmup-share 0.2 of the run; expected one of the two",
        ),
        ({"warmup_share": 1.0}, "--warmup-share is 1; expected at least 0 and below 1"),
        ({"start_size": 0.0}, "--start-size is 0; expected a share above 0 and at most 1"),
        ({"full_size_at": 1.5}, "--full-size-at is 1.5; expected a share above 0 and at most 1"),
        ({"muon_momentum": 1.0}, "--muon-momentum is 1; expected at least 0 and below 1"),
        ({"dropout": 1.0}, "--dropout is 1; expected at least 0 and below 1"),
        ({"patience": -1}, "--patience is -1; expected at least 0"),
        ({"rand_ops": 0}, "--rand-ops is 0; expected at least 1"),
        ({"rand_magnitude": 31}, "--rand-magnitude is 31; expected at least 0 and below 31"),
        ({"mixup": -0.1}, "--mixup is -0.1; expected at least 0"),
        ({"cutmix": math.nan}, "--cutmix is nan; expected at least 0"),
        ({"mix_prob": 0.0}, "--mix-prob is 0; expected a share above 0 and at most 1"),
        ({"mix_prob": 1.5}, "--mix-prob is 1.5; expected a share above 0 and at most 1"),
    ],
)
def test_values_that_no_training_could_use_are_refused_by_the_name_of_their_flag(changes, message):
    with pytest.raises(ValueError, match=message):
        recipes.check(dataclasses.replace(recipes.RECIPES["best"], **changes))


@pytest.mark.parametrize("mode", list(recipes.RECIPES))
def test_every_recipe_is_one_that_can_be_used(mode):
    assert recipes.check(recipes.RECIPES[mode]) is recipes.RECIPES[mode]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "adamw", "--momentum", "0.8"], "--momentum is of SGD and Muon, and the optim"),
        (["--mode", "best", "--betas", "0.9", "0.99"], "--betas is of AdamW, and the optimiser is"),
        (["--mode", "best", "--muon-lr", "0.2"], "--muon-lr is of Muon, and the optimiser is sgd"),
        (["--mode", "best", "--full-size-at", "0.5"], "--full-size-at needs a --start-size below"),
        (["--mode", "best", "--gamma", "0.2"], "--gamma needs --milestones"),
        (["--mode", "sgd", "--lr-min", "0.01"], "--lr-min is for runs without milestones"),
        (["--mode", "sgd", "--decay", "linear"], "--decay is for runs without milestones"),
        (["--rand-ops", "3"], "--rand-ops is of rand, which --augment does not name"),
        (["--augment", "auto", "--rand-magnitude", "9"], "--rand-magnitude is of rand, which"),
        (["--mix-prob", "0.5"], "--mix-prob needs --mixup or --cutmix"),
        (["--mixup", "0", "--mix-prob", "1"], "--mix-prob needs --mixup or --cutmix"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused_by_its_name(words, message):
    args = train.parse_args(words)
    with pytest.raises(ValueError, match=message):
        train.resolve(args, data.ID["cifar100"])


# The recipes of docs/training.md, from their authors' code: train.py, utils.py and
# conf/global_settings.py of weiaicunzai/pytorch-cifar100; openood/trainers/base_trainer.py,
# base_preprocessor.py and configs/ of Jingkang50/OpenOOD; timm's train.py with options of its own.
PUBLISHED = {
    "pytorch-cifar100": recipes.Recipe(
        epochs=200,
        lr=0.1,
        weight_decay=5e-4,
        milestones=(59, 119, 159),
        gamma=0.2,
        warmup_epochs=1,
        augment=("crop", "flip", "rotation_nearest"),
    ),
    "OpenOOD": recipes.Recipe(
        epochs=100, lr=0.1, weight_decay=5e-4, nesterov=True, lr_min=1e-6, augment=("crop", "flip")
    ),
    "timm": recipes.Recipe(
        epochs=300,
        lr=0.1 * 128 / 256,
        weight_decay=2e-5,
        nesterov=True,
        decay_norm=False,
        warmup_epochs=5,
        augment=("crop", "flip", "rand", "erasing"),
        rand_magnitude=27,
        mixup=0.1,
        cutmix=1.0,
        label_smoothing=0.1,
        ema=0.9998,
    ),
}


def published_commands():
    """The words of the commands of docs/training.md that train resnet18 on all images."""
    text = (Path(train.__file__).parent / "docs" / "training.md").read_text(encoding="utf-8")
    start = "    python train.py --dataset cifar100 --model resnet18 --val-size 0 "
    lines = [line for line in text.splitlines() if line.startswith(start)]
    return [shlex.split(line)[2:] for line in lines]


@pytest.mark.parametrize(("number", "name"), list(enumerate(PUBLISHED)))
def test_the_command_of_a_published_recipe_gives_that_recipe(number, name):
    commands = published_commands()
    assert len(commands) == len(PUBLISHED)
    args = train.parse_args(commands[number])
    assert train.resolve(args, data.ID["cifar100"]) == PUBLISHED[name]
    assert args.val_size == 0


def test_a_published_schedule_is_that_of_a_loop_which_counts_epochs_from_one():
    """weiaicunzai's: from the second epoch on, MultiStepLR is told the number of the epoch that
    begins; in the first, each of the steps raises the rate."""
    recipe = PUBLISHED["pytorch-cifar100"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 120, 160], 0.2)
    schedule = parts.make_schedule(recipe)
    for epoch in range(2, recipe.epochs + 1):
        optimizer.step()
        while theirs.last_epoch < epoch:
            theirs.step()
        rate = recipe.lr * schedule((epoch - 1) / recipe.epochs)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"]), epoch
    for step in (0, 39, 390):
        assert recipe.lr * schedule(step / 391 / 200) == pytest.approx(0.1 * step / 391)


# ---- optimisers ----------------------------------------------------------------------------------


def test_the_optimiser_is_what_the_recipe_says():
    network = nn.Linear(2, 2)
    sgd = parts.make_optimizer(
        dataclasses.replace(recipes.RECIPES["best"], nesterov=True, momentum=0.7), network
    )
    assert isinstance(sgd, torch.optim.SGD) and (
        sgd.defaults["momentum"],
        sgd.defaults["nesterov"],
    ) == (0.7, True)
    assert sgd.defaults["weight_decay"] == 5e-4 and sgd.defaults["fused"]
    adamw = parts.make_optimizer(recipes.RECIPES["adamw"], network)
    assert isinstance(adamw, torch.optim.AdamW) and adamw.defaults["weight_decay"] == 1e-2


def small_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_one_group_holds_all_parameters_unless_the_recipe_divides_them():
    network = small_network()
    (group,) = parts.make_optimizer(recipes.RECIPES["best"], network).param_groups
    assert group["params"] == list(network.parameters())
    assert (group["lr"], group["weight_decay"]) == (0.1, 5e-4)


def test_norm_biases_learn_faster_and_shrink_alike():
    network = small_network()
    recipe = dataclasses.replace(recipes.RECIPES["best"], norm_lr=64.0)
    others, fast = parts.make_optimizer(recipe, network).param_groups
    assert fast["params"] == [network[1].bias] and len(others["params"]) == 5
    assert (fast["lr"], others["lr"]) == (6.4, 0.1)
    assert fast["lr"] * fast["weight_decay"] == pytest.approx(others["lr"] * 5e-4)


def test_biases_and_scales_may_be_left_out_of_the_weight_decay():
    network = small_network()
    for mode in ("best", "adamw"):
        recipe = dataclasses.replace(recipes.RECIPES[mode], decay_norm=False)
        shrinking, others = parts.make_optimizer(recipe, network).param_groups
        assert shrinking["params"] == [network[0].weight, network[3].weight]
        assert shrinking["weight_decay"] == recipe.weight_decay and others["weight_decay"] == 0
        assert {id(p) for p in others["params"]} == {
            id(p) for p in (network[0].bias, network[1].weight, network[1].bias, network[3].bias)
        }


def test_every_optimizer_and_decay_that_a_flag_offers_is_built():
    assert set(parts.OPTIMIZERS) == set(recipes.OPTIMIZERS)
    assert set(parts.DECAYS) == set(recipes.DECAYS)


# ---- the moving average --------------------------------------------------------------------------


def test_the_average_is_that_of_a_slow_loop_over_numbers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    moving = average.Average(network, decay=0.4)
    expected = {name: value.double().clone() for name, value in network.state_dict().items()}
    for step in range(1, 8):
        network(torch.randn(6, 3)).sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        moving.update()
        # 2/11, 3/12, 4/13, 5/14, 6/15 = 0.4, and 0.4 from there on
        decay = min(0.4, (1 + step) / (10 + step))
        expected = {
            name: decay * expected[name] + (1 - decay) * value.double()
            for name, value in network.state_dict().items()
        }
    for name, value in moving.network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == network.state_dict()[name] == 7
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(value, network.state_dict()[name])


def test_an_average_follows_weights_that_are_loaded_and_wants_no_gradient():
    network = nn.Linear(2, 2)
    moving = average.Average(network, decay=0.0)
    network.load_state_dict({"weight": torch.full((2, 2), 3.0), "bias": torch.zeros(2)})
    moving.update()
    assert (
        torch.equal(moving.network.weight, torch.full((2, 2), 3.0))
        and not moving.network.weight.requires_grad
    )


# ---- flags ---------------------------------------------------------------------------------------


def test_every_field_has_a_flag_or_is_known_to_have_none():
    without = {"keep"}
    names = {field.name for field in dataclasses.fields(recipes.Recipe)}
    assert names == {*recipes.flags(), *recipes.SHARED_FLAGS, *without}


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--lr", "0.3"], "lr", 0.3),
        (["--warmup", "2"], "warmup_epochs", 2.0),
        (["--no-nesterov"], "nesterov", False),
        (["--augment"], "augment", ()),
        (["--augment", "crop"], "augment", ("crop",)),
        (["--batch-size", "64"], "batch_size", 64),
        (["--no-stop"], "patience", 0),
        (["--optimizer", "adamw"], "optimizer", "adamw"),
        (["--betas", "0.8", "0.99"], "betas", (0.8, 0.99)),
        (["--no-decay-norm"], "decay_norm", False),
        (["--norm-lr", "64"], "norm_lr", 64.0),
        (["--clip", "1"], "clip", 1.0),
        (["--warmup-share", "0.2"], "warmup_share", 0.2),
        (["--start-size", "0.625"], "start_size", 0.625),
        (["--decay", "linear"], "decay", "linear"),
        (["--lr-min", "0.001"], "lr_min", 0.001),
        (["--milestones", "60", "120"], "milestones", (60.0, 120.0)),
        (["--milestones"], "milestones", ()),
        (["--gamma", "0.2"], "gamma", 0.2),
        (["--dropout", "0.1"], "dropout", 0.1),
        (["--rand-ops", "3"], "rand_ops", 3),
        (["--rand-magnitude", "14"], "rand_magnitude", 14),
        (["--mixup", "0.2"], "mixup", 0.2),
        (["--cutmix", "1"], "cutmix", 1.0),
        (["--mix-prob", "0.5"], "mix_prob", 0.5),
    ],
)
def test_a_flag_overrides_its_field_alone(words, field, value):
    args = train.parse_args(words)
    before = recipes.RECIPES["best"]
    after = recipes.overridden(before, vars(args))
    assert getattr(after, field) == value
    assert after == dataclasses.replace(before, **{field: value})


def test_a_flag_is_there_for_a_field_as_soon_as_the_field_is():
    parser = train.make_parser()
    for flag in recipes.flags().values():
        assert parser.knows(flag.spelled)
