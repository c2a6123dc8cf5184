"""training/recipes.py, parts.py and average.py: schedules worked out by hand, overrides that make
sense, and the moving average against a slow one."""

import dataclasses
import math

import pytest
import torch
from torch import nn

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
        ({"nesterov": True, "optimizer": "adamw"}, "needs SGD with a momentum; this run has adamw"),
    ],
)
def test_values_that_no_training_could_use_are_refused_by_the_name_of_their_flag(changes, message):
    with pytest.raises(ValueError, match=message):
        recipes.check(dataclasses.replace(recipes.RECIPES["best"], **changes))


@pytest.mark.parametrize("mode", list(recipes.RECIPES))
def test_every_recipe_is_one_that_can_be_used(mode):
    assert recipes.check(recipes.RECIPES[mode]) is recipes.RECIPES[mode]


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
    without = {"optimizer", "milestones", "gamma", "dropout", "keep"}
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
