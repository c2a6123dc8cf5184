"""Networks from elsewhere: who says how their images are prepared; the accuracy shows it."""

import re
import shlex
import warnings

import numpy as np
import pytest
import torch
from helpers import class_folders

import data
import run_networks
from artifacts import records, store
from networks import loading, registry

pytestmark = [
    pytest.mark.slow,  # most tests extract a small network
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*the test accuracy is"),
]
LINEAR = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))
"""
RAW = data.Preprocessing(16, (0.0,) * 3, (1.0,) * 3)
SHIFTED = {"size": 16, "mean": (0.9,) * 3, "std": (0.05,) * 3}


def digits(split, preprocessing):
    images = data.load_id(data.ID["digits"], split, preprocessing, None)
    pixels = torch.nn.functional.avg_pool2d(
        preprocessing.normalise(images.pixels).contiguous(), 2
    ).flatten(1)
    return pixels.double(), images.labels


def fitted(preprocessing):
    """LINEAR's weights by least squares on digits prepared so -> (state dict, test accuracy)."""
    pixels, labels = digits("train", preprocessing)
    ones = torch.ones(len(pixels), 1, dtype=torch.float64)
    # Three equal channels, and pixels that never change: ridge makes the solution one.
    inputs = torch.cat([pixels, ones], 1)
    gram = inputs.T @ inputs + 1e-3 * torch.eye(inputs.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(gram, inputs.T @ torch.nn.functional.one_hot(labels).double())
    state = {"2.weight": solution[:-1].T.float(), "2.bias": solution[-1].float()}
    pixels, labels = digits("test", preprocessing)
    right = (pixels @ solution[:-1] + solution[-1]).argmax(1) == labels
    return state, right.double().mean().item()


@pytest.fixture(scope="module")
def shifted():
    return fitted(data.Preprocessing(**SHIFTED))


@pytest.fixture
def elsewhere(tmp_path, shifted):
    """A checkpoint of another project that states its accuracy, and its network's file."""
    state, accuracy = shifted
    (tmp_path / "net.py").write_text(LINEAR)
    torch.save({"net": state, "acc": 100 * accuracy}, tmp_path / "old.pth")
    return tmp_path


def start(folder, *words, model="net.py"):
    run_networks.main(
        [
            "--checkpoint",
            str(folder / "old.pth"),
            "--model",
            f"{folder / model}:build",
            "--dataset",
            "digits",
            "--ood",
            "uniform",
            "--device",
            "cpu",
            "--output-dir",
            str(folder / "results"),
            *map(str, words),
        ]
    )
    return folder / "results" / "old"


def sidecar(folder):
    return records.read_sidecar(folder / "ID_digits_test.csv")


# ---- flags ---------------------------------------------------------------------------------------


def test_without_flags_the_accuracy_contradicts_the_file_and_that_is_said(
    elsewhere, shifted, capsys
):
    with pytest.warns(UserWarning, match="the checkpoint states") as caught:
        folder = start(elsewhere)
    said = next(str(warning.message) for warning in caught if "states" in str(warning.message))
    assert "not prepared as in the network's training" in said and "--mean 0 --std 1" in said
    assert sidecar(folder)["accuracy"] < 0.5 < shifted[1]
    out = capsys.readouterr().out
    assert (
        "preprocessing: 16 px, bilinear, mean 0.3054, std 0.3186 (image size, mean and std from "
        "the data set digits, as the "
        "checkpoint names none; interpolation and crop share by default)" in out
    )
    assert (
        f"test accuracy {sidecar(folder)['accuracy']:.2%} (the checkpoint states {shifted[1]:.2%})"
        in out
    )


def test_flags_make_the_features_of_the_networks_own_training(elsewhere, shifted, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        folder = start(elsewhere, "--mean", 0.9, "--std", "0.05")
    out = capsys.readouterr().out
    assert f"test accuracy {shifted[1]:.2%} (as the checkpoint states)" in out
    assert (
        "mean 0.9, std 0.05 (image size from the data set digits, as the checkpoint names none; "
        "mean and std from the command "
        "line; interpolation and crop share by default)" in out
    )
    assert sidecar(folder)["accuracy"] == pytest.approx(shifted[1])
    assert sidecar(folder)["preprocessing"] == {
        "size": 16,
        "mean": [0.9] * 3,
        "std": [0.05] * 3,
        "interpolation": "bilinear",
        "crop_share": 1.0,
    }
    pixels, labels = digits("test", data.Preprocessing(**SHIFTED))
    found = store.read_features(folder / "ID_digits_test.csv")
    assert (
        np.abs(found.features - pixels.numpy()).max() < 1e-5
        and found.labels.tolist() == labels.tolist()
    )
    head = store.read_head(folder / "head.csv")
    W, b = head.W, head.b
    assert ((found.features @ W.T + b).argmax(1) == found.labels).mean() == pytest.approx(
        shifted[1]
    )


def test_mean_0_and_std_1_are_pixels_as_they_are(elsewhere):
    folder = start(elsewhere, "--mean", 0, "--std", 1)
    found = store.read_features(folder / "ID_digits_test.csv").features
    assert (
        np.abs(found - digits("test", RAW)[0].numpy()).max() < 1e-6
        and found.min() == 0
        and found.max() <= 1
    )


def test_other_flags_make_all_features_anew_and_the_same_ones_keep_them(elsewhere, capsys):
    start(elsewhere, "--mean", 0, "--std", 1)
    start(elsewhere, "--mean", 0.9, "--std", 0.05)
    assert "kept as it is" not in capsys.readouterr().out
    start(elsewhere, "--mean", 0.9, "--std", 0.05, "--crop-share", "1.0", "--image-size", 16)
    assert capsys.readouterr().out.count("kept as it is") == 3


def test_size_crop_share_and_interpolation_reach_every_image(tmp_path):
    (tmp_path / "net.py").write_text(LINEAR)
    torch.save({"2.weight": torch.randn(10, 192), "2.bias": torch.zeros(10)}, tmp_path / "old.pth")
    words = [
        "--image-size",
        16,
        "--crop-share",
        0.5,
        "--interpolation",
        "nearest",
        "--mean",
        0.1,
        0.2,
        0.3,
        "--std",
        0.5,
    ]
    folder = start(tmp_path, *words)
    preprocessing = data.Preprocessing(16, (0.1, 0.2, 0.3), (0.5,) * 3, "nearest", 0.5)
    assert preprocessing.resized == 32
    assert (
        np.abs(
            store.read_features(folder / "ID_digits_test.csv").features
            - digits("test", preprocessing)[0].numpy()
        ).max()
        < 1e-5
    )
    assert (
        records.read_sidecar(folder / "OOD_uniform_test.csv")["preprocessing"]["crop_share"] == 0.5
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--mean", "0"],
        ["--std", "1"],
        ["--mean", "0", "0", "--std", "1"],
        ["--mean", "0", "--std", "0"],
        ["--image-size", "0"],
        ["--image-size", "4097"],
        ["--crop-share", "0"],
        ["--crop-share", "1.5"],
        ["--interpolation", "lanczos"],
        ["--mean", "nan", "--std", "1"],
        ["--mean", "123.7", "--std", "58.4"],
        ["--mean", "0", "--std", "inf"],
        ["--image-size", "224", "--crop-share", "0.001"],
    ],
)
def test_flags_out_of_range_are_usage_errors(words, capsys):
    with pytest.raises(SystemExit) as caught:
        run_networks.parse_args(["--checkpoint", "x.pth", *words])
    assert caught.value.code == 2 and "expected" in capsys.readouterr().err.replace(
        "belong together", "expected"
    ).replace("divide", "expected").replace("invalid choice", "expected")


# ---- a network file of one's own -----------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        f"preprocessing = {SHIFTED}",
        f"def preprocessing():\n    return {SHIFTED}",
        (
            "def build(num_classes, plain=build):\n    network = plain(num_classes)\n"
            f"    network.preprocessing = {SHIFTED}\n    return network"
        ),
    ],
)
def test_a_network_file_says_how_its_images_are_prepared(elsewhere, shifted, said, capsys):
    (elsewhere / "net.py").write_text(f"{LINEAR}\n{said}\n")
    folder = start(elsewhere)
    assert sidecar(folder)["accuracy"] == pytest.approx(shifted[1])
    assert "(image size, mean and std from net.py:build; interpolation" in capsys.readouterr().out


def test_flags_come_before_the_network_file(elsewhere):
    (elsewhere / "net.py").write_text(f"{LINEAR}\npreprocessing = {SHIFTED}\n")
    assert sidecar(start(elsewhere, "--mean", 0, "--std", 1))["preprocessing"]["mean"] == [0.0] * 3


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("preprocessing = [224]", "preprocessing is a list; expected a dict"),
        ("preprocessing = {'size': -1}", "cannot be used"),
        (
            "def preprocessing(image):\n    return image",
            r"failed in preprocessing\(\).*missing 1 required positional argument",
        ),
    ],
)
def test_a_network_file_that_says_what_cannot_be_is_named(elsewhere, said, message):
    (elsewhere / "net.py").write_text(f"{LINEAR}\n{said}\n")
    with pytest.raises(ValueError, match=message):
        start(elsewhere)
    assert not list(elsewhere.rglob("*.csv"))


def test_a_layer_that_is_called_preprocessing_says_nothing(elsewhere):
    (elsewhere / "net.py").write_text(LINEAR + "\nimport torch.nn as preprocessing\n")
    assert sidecar(start(elsewhere))["preprocessing"]["mean"] == list(data.ID["digits"].mean)


# ---- folders -------------------------------------------------------------------------------------


@pytest.fixture
def insects(tmp_path):
    """Photographs of two classes, and a network from elsewhere that tells two classes apart."""
    class_folders(tmp_path / "insects", ("ant", "bee"), 3, (40, 30))
    torch.manual_seed(0)
    torch.save(registry.build("resnet_cifar", 2).state_dict(), tmp_path / "old.pth")
    return tmp_path


def foreign_words(folder):
    return [
        "--checkpoint",
        str(folder / "old.pth"),
        "--model",
        "resnet_cifar",
        "--dataset",
        f"insects={folder / 'insects'}",
        "--device",
        "cpu",
        "--output-dir",
        str(folder / "results"),
    ]


def run_command(message):
    """Run the `python run_networks.py ...` that a message shows, as it stands."""
    shown = re.search(
        r"python run_networks\.py (.*?)(?: \(--|, or in their place|$)", message
    ).group(1)
    run_networks.main(shlex.split(shown))


def test_of_a_folder_nothing_is_guessed_and_no_image_is_decoded(insects, monkeypatch):
    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match="known from nowhere") as caught,
    ):
        patch.setattr(data.image_folder.__globals__["Reader"], "decoded", None)
        run_networks.main(foreign_words(insects))
    said = str(caught.value)
    assert (
        "image size, mean and std" in said
        and "--image-size --mean --std" in said
        and "--mean 0 --std 1" in said
    )
    assert not list(insects.rglob("*.csv"))
    run_command(said)
    found = records.read_sidecar(insects / "results" / "old" / "ID_insects_test.csv")[
        "preprocessing"
    ]
    assert (found["size"], found["mean"]) == (224, [0.485, 0.456, 0.406])


def test_of_a_folder_only_what_is_missing_is_asked_for(insects):
    with pytest.raises(
        ValueError, match=r"its mean and std in training are known from nowhere.* --mean --std, "
    ):
        run_networks.main([*foreign_words(insects), "--image-size", "24"])
    run_networks.main(
        [*foreign_words(insects), "--image-size", "24", "--mean", "0.5", "--std", "0.25"]
    )
    found = records.read_sidecar(insects / "results" / "old" / "ID_insects_test.csv")[
        "preprocessing"
    ]
    assert (found["size"], found["mean"], found["std"]) == (24, [0.5] * 3, [0.25] * 3)


# ---- a checkpoint of ours ------------------------------------------------------------------------


def own_words(run):
    return [
        "--checkpoint",
        str(run.checkpoint),
        "--device",
        "cpu",
        "--output-dir",
        str(run.output_dir),
        "--ood",
        "held_out",
    ]


def test_a_checkpoint_of_ours_says_it_all_itself(own_digits_run, capsys):
    run_networks.main(own_words(own_digits_run))
    out, stated = capsys.readouterr().out, loading.load(own_digits_run.checkpoint)[2]["test_acc"]
    assert "preprocessing: 16 px, bilinear, mean 0.3054, std 0.3186 (from the checkpoint)" in out
    assert f"test accuracy {stated:.2%} (as the checkpoint states)" in out
    assert sidecar(own_digits_run.folder)["accuracy"] == pytest.approx(stated)
    assert sidecar(own_digits_run.folder)["preprocessing_from"] == "from the checkpoint"


def test_flags_that_contradict_a_checkpoint_of_ours_hold_and_are_said(own_digits_run):
    with pytest.warns(
        UserWarning,
        match=r"contradicts it: --image-size 12 \(trained with 16\), --mean 0 \(trained with 0",
    ):
        run_networks.main(
            [*own_words(own_digits_run), "--image-size", "12", "--mean", "0", "--std", "1"]
        )
    found = sidecar(own_digits_run.folder)
    assert (found["preprocessing"]["size"], found["preprocessing"]["std"]) == (12, [1.0] * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run_networks.main([*own_words(own_digits_run), "--image-size", "16"])


# ---- what a file does not say --------------------------------------------------------------------


def test_a_bare_file_asks_for_network_and_data_in_one_go(insects, tmp_path):
    torch.save(registry.build("resnet18", 100).state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="nor which data") as caught:
        run_networks.main(["--checkpoint", str(tmp_path / "bare.pth")])
    said = str(caught.value)
    assert (
        "which network it holds, nor which data it was trained on; name both with --model and "
        "--dataset" in said
    )
    args = run_networks.parse_args(shlex.split(said.partition("python run_networks.py ")[2]))
    assert (args.checkpoint, args.model, str(args.dataset)) == (
        [str(tmp_path / "bare.pth")],
        "resnet18",
        "cifar100",
    )
    words = foreign_words(insects)
    del words[2:4]
    with pytest.raises(
        ValueError, match=r"which network it holds; name it with --model.*its own training"
    ) as caught:
        run_networks.main(words)
    run_command(str(caught.value))
    assert (
        records.read_sidecar(insects / "results" / "old" / "ID_insects_test.csv")["preprocessing"][
            "size"
        ]
        == 224
    )
