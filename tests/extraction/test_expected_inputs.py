"""Which source of a preprocessing is believed, how it is said, what contradicts it."""

import numpy as np
import pytest
import torch

from extraction import expected_inputs
from extraction.expected_inputs import Source, choose

FLAGS = {
    "size": 64,
    "mean": (0.0,) * 3,
    "std": (1.0,) * 3,
    "interpolation": "nearest",
    "crop_share": 0.5,
}
OWN = {
    "size": 32,
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bicubic",
    "crop_share": 0.8,
}
STATED = {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3}
NAMED = {"size": 16, "mean": (0.7,) * 3, "std": (0.8,) * 3}


# ---- which source is believed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([FLAGS, OWN, None, None], FLAGS),
        ([{}, OWN, STATED, NAMED], OWN),
        ([{"size": 64}, OWN, None, None], {**OWN, "size": 64}),
        ([{}, None, STATED, NAMED], {**STATED, "interpolation": "bilinear", "crop_share": 1.0}),
        (
            [{}, None, {"interpolation": "bicubic"}, NAMED],
            {**NAMED, "interpolation": "bicubic", "crop_share": 1.0},
        ),
        (
            [{"mean": (0.0,) * 3, "std": (1.0,) * 3}, None, None, NAMED],
            {
                "size": 16,
                "mean": (0.0,) * 3,
                "std": (1.0,) * 3,
                "interpolation": "bilinear",
                "crop_share": 1.0,
            },
        ),
    ],
)
def test_each_value_is_taken_from_the_first_source_that_knows_it(sources, expected):
    found = choose(
        [Source(str(number), values) for number, values in enumerate(sources)]
    ).preprocessing.as_dict()
    assert {
        name: list(value) if isinstance(value, tuple) else value for name, value in found.items()
    } == {
        name: list(value) if isinstance(value, tuple) else value for name, value in expected.items()
    }


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({}, ["size", "mean", "std"]),
        ({"size": 8}, ["mean", "std"]),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, ["size"]),
    ],
)
def test_size_mean_and_std_are_never_made_up(values, missing):
    with pytest.raises(LookupError) as caught:
        choose([Source("the command line", values), Source("the checkpoint", None)])
    assert caught.value.args[0] == missing


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (
            [Source("the checkpoint", {"size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3})],
            "32 px, bilinear, mean 0.5, std 0.25 (from the checkpoint)",
        ),
        (
            [Source("the command line", {"size": 224, "crop_share": 0.875}), Source("net.py", OWN)],
            (
                "224 px in the centre of 256, bicubic, mean 0.1 0.2 0.3, std 0.4 0.5 0.6 (image"
                " size and crop share from the command line; mean, std and interpolation from"
                " net.py)"
            ),
        ),
        (
            [Source("the data set digits", NAMED)],
            (
                "16 px, bilinear, mean 0.7, std 0.8 (image size, mean and std from the data set "
                "digits; interpolation and crop share by default)"
            ),
        ),
    ],
)
def test_a_choice_says_what_it_is_and_from_where(sources, words):
    assert str(choose(sources)) == words


def test_flags_that_say_what_the_checkpoint_says_contradict_nothing():
    same = {"size": 32, "mean": (0.1, 0.2, 0.3), "interpolation": "bicubic"}
    assert expected_inputs.contradictions(same, OWN) == []
    assert expected_inputs.contradictions({"crop_share": 1.0}, {"size": 32}) == [], (
        "the default, where it was not kept"
    )
    assert expected_inputs.contradictions({"size": 64, "mean": (0.0,) * 3}, OWN) == [
        "--image-size 64 (trained with 32)",
        "--mean 0 (trained with 0.1 0.2 0.3)",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"mean": (0.0,) * 3}, "--mean and --std belong together"),
        ({"std": (1.0,) * 3}, "--mean and --std belong together"),
        (
            {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)},
            "divide --mean and --std by 255",
        ),
        ({"size": 4097}, "expected 1 to 4096 pixels"),
        ({"size": 224, "crop_share": 0.01}, "22,400 pixels before they are cropped"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(flags, said):
    assert said in expected_inputs.complaint(flags)


def test_flags_that_can_be_meant_are_not_refused():
    for flags in ({}, FLAGS, {"size": 4096}, {"mean": (-1.0,) * 3, "std": (1 / 255,) * 3}):
        assert expected_inputs.complaint(flags) is None


# ---- what a network file says --------------------------------------------------------------------


@pytest.mark.parametrize(
    "mean", [0.5, [0.5], (0.5, 0.5, 0.5), np.array([0.5, 0.5, 0.5]), torch.tensor([0.5])]
)
def test_a_network_file_may_give_its_channels_in_any_form(mean):
    assert expected_inputs.check_stated({"mean": mean, "std": 1}, "net.py") == {
        "mean": (0.5,) * 3,
        "std": (1,) * 3,
    }


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([224], "is a list; expected a dict"),
        ({}, "has no entry"),
        ({"resize": 3}, "has resize; expected a dict with some of size"),
        ({"size": 0}, "cannot be used"),
        ({"size": 224.5}, "cannot be used"),
        ({"mean": 0.5}, "cannot be used"),
        ({"mean": (0, 0), "std": 1}, "cannot be used"),
        ({"mean": 0, "std": 0}, "cannot be used"),
        ({"interpolation": "lanczos"}, "cannot be used"),
        ({"crop_share": 1.5}, "cannot be used"),
    ],
)
def test_what_cannot_be_a_preprocessing_is_refused_by_name(said, why):
    with pytest.raises(ValueError, match=r"net\.py: preprocessing") as caught:
        expected_inputs.check_stated(said, "net.py")
    assert why in str(caught.value)


# ---- whether it was right ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoint", "stated"),
    [
        ({"test_acc": 0.4893}, 0.4893),
        ({"acc": 95.16, "epoch": 3}, 0.9516),
        ({"best_acc1": 71.5}, 0.715),
        ({}, None),
        ({"acc": None, "best_acc": 88}, 0.88),
        ({"acc": 0.0}, None),
        ({"acc": "high"}, None),
        ({"acc": 950}, None),
        ({"test_acc": 0.9, "acc": 12}, 0.9),
        ({"val_acc": 0.9}, None),
    ],
)
def test_the_accuracy_that_a_file_states(checkpoint, stated):
    assert expected_inputs.stated_accuracy(checkpoint) == pytest.approx(stated)


@pytest.mark.parametrize(
    ("measured", "stated", "images", "far"),
    [
        (0.0535, 0.4893, 10_000, True),
        (0.475, 0.4893, 10_000, False),
        (0.46, 0.4893, 10_000, True),
        (0.46, 0.4893, 100, False),
        (0.3, 0.5, 10, False),
        (0.985, 1.0, 10_000, False),
        (0.9, 1.0, 600, True),
        (0.9, 0.5, 100, False),
    ],
)
def test_far_below_is_more_than_two_points_and_more_than_noise(measured, stated, images, far):
    assert expected_inputs.far_below(measured, stated, images) == far


@pytest.mark.parametrize(
    ("measured", "chance", "images", "near"),
    [
        (0.0535, 0.01, 10_000, True),
        (0.12, 0.01, 10_000, False),
        (0.5, 0.5, 1000, True),
        (0.6, 0.5, 1000, False),
        (0.18, 0.1, 1000, True),
        (0.2, 0.1, 1000, False),
        (0.6, 0.5, 20, True),
    ],
)
def test_near_chance(measured, chance, images, near):
    assert expected_inputs.near_chance(measured, chance, images) == near


def test_a_doubtful_accuracy_names_the_cause_and_the_flags():
    choice = choose([Source("the data set digits", NAMED)])
    far = expected_inputs.doubt(0.0535, 0.4893, 0.01, 10_000, choice)
    assert (
        "5.35%, and the checkpoint states 48.93%" in far
        and "mean 0.7, std 0.8" in far
        and "--mean 0 --std 1" in far
    )
    for flag in ("--image-size", "--crop-share", "--interpolation", "--mean", "--std"):
        assert flag in far
    near = expected_inputs.doubt(0.0535, None, 0.01, 10_000, choice)
    assert "always naming the largest class gives 1.00%" in near
    assert expected_inputs.doubt(0.4893, 0.4893, 0.01, 10_000, choice) is None
    assert expected_inputs.doubt(0.05, 0.05, 0.01, 10_000, choice) is None, (
        "a bad network, measured rightly"
    )
    assert expected_inputs.doubt(0.9, None, 0.1, 1000, choice) is None


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (0.4893, "test accuracy 48.93% (as the checkpoint states)"),
        (0.52, "test accuracy 48.93% (the checkpoint states 52.00%)"),
        (None, "test accuracy 48.93% (the checkpoint states none)"),
    ],
)
def test_the_accuracy_is_said_beside_what_the_checkpoint_states(stated, words):
    assert expected_inputs.say_accuracy(0.4893, stated) == words
