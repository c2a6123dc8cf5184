"""Which modules are a network's stages: by name, by timm's word, or found (classifiers.stages)."""

import numpy as np
import pytest
import timm
import torch
from helpers import class_folders, read_csv, saved
from torch import nn

import data
import run_networks
from networks import classifiers, registry

pytestmark = pytest.mark.usefixtures("one_thread")


class Listed(nn.Module):
    """Stages in a ModuleList and in a ModuleDict."""

    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 5, 3), nn.Sequential(nn.Conv2d(5, 6, 3))])
        self.necks = nn.ModuleDict({"a": nn.Linear(6, 7)})
        self.fc = nn.Linear(7, classes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.necks["a"](self.pool(x).flatten(1)))


class Wrapped(nn.Module):
    """A network that resizes its images for another."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(nn.functional.interpolate(x, 16))


def paths(network, layer):
    return list(classifiers.search(network, layer))


def test_lists_of_modules_are_looked_into():
    network = Listed(3)
    assert paths(network, network.fc) == ["stem", "blocks.0", "blocks.1", "necks.a"]


def test_a_wrapper_is_looked_into():
    network = Wrapped(Listed(3))
    expected = ["inner.stem", "inner.blocks.0", "inner.blocks.1", "inner.necks.a"]
    assert paths(network, network.inner.fc) == expected


def test_direct_children_come_as_before():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    assert paths(network, network[3]) == ["0"]


def test_a_single_sequential_is_taken_apart():
    name = "torchvision/mobilenet_v3_small"
    network = registry.build(name, 5)
    found = list(classifiers.stages(network, name))
    assert found[:3] == ["features.0", "features.1", "features.2"]
    assert found[-1] == "classifier.0"  # a hidden layer before the classifier


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm/test_vit", [f"blocks.{number}" for number in range(6)]),
        ("timm/test_convnext", [f"stages.{number}" for number in range(4)]),
    ],
)
def test_timm_names_the_stages_of_its_networks(name, expected):
    assert list(classifiers.stages(registry.build(name, 5), name)) == expected


def test_stages_are_asked_for_by_path_in_that_order():
    network = Listed(3)
    found = classifiers.stages(network, "net.py:build", ["necks.a", "blocks.1.0"])
    assert list(found) == ["necks.a", "blocks.1.0"]
    assert found["blocks.1.0"] is network.blocks[1][0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("block.0", r"no module of that path; expected one such as blocks\.0"),
        ("blocks", r"keeps a list of modules there.*--stages blocks\.0 blocks\.1"),
    ],
)
def test_a_path_where_nothing_runs_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        classifiers.stages(Listed(3), "net.py:build", [path])


# ---- an extraction -------------------------------------------------------------------------------


@pytest.fixture
def birds(tmp_path):
    class_folders(tmp_path / "birds", ["a", "b", "c"], 3, (40, 36))
    class_folders(tmp_path / "other", ["x"], 3, (40, 36))
    return [
        *("--dataset", f"birds={tmp_path / 'birds'}", "--ood", f"other={tmp_path / 'other'}"),
        *("--output-dir", str(tmp_path / "results"), "--device", "cpu", "--layers"),
    ]


@pytest.mark.filterwarnings("ignore:.*always naming the largest class")
@pytest.mark.parametrize(
    ("name", "size", "asked", "pooled"),
    [
        ("test_vit", 32, ["blocks.2"], lambda tokens: tokens.mean(1)),
        ("test_vit", 32, ["patch_embed"], lambda patches: patches.mean((1, 2))),  # channels last
        ("test_resnet", 32, ["layer2"], lambda maps: maps.mean((2, 3))),
    ],
)
def test_outputs_of_any_form_are_averaged_over_positions(
    birds, tmp_path, name, size, asked, pooled
):
    torch.manual_seed(5)
    more = {"img_size": size} if name == "test_vit" else {}
    network = timm.create_model(name, num_classes=3, **more).eval()
    path = saved(tmp_path, network.state_dict(), "x.pth")
    words = ["--checkpoint", str(path), "--model", f"timm/{name}", "--image-size", str(size)]
    words += ["--mean", "0", "--std", "1", "--crop-share", "1", "--interpolation", "bilinear"]
    run_networks.main([*words, *birds, "--stages", *asked])
    outputs = {}
    for stage in asked:

        def keep(_, __, output, stage=stage):
            outputs[stage] = output

        network.get_submodule(stage).register_forward_hook(keep)
    features = read_csv(tmp_path / "results" / "x" / "ID_birds_test.csv")
    preprocessing = data.Preprocessing(size, (0.0,) * 3, (1.0,) * 3)
    (pixels,) = data.image_folder(tmp_path / "birds" / "test", preprocessing).batches(9)
    with torch.no_grad():
        network(preprocessing.normalise(pixels))
    for stage in asked:
        found = read_csv(tmp_path / "results" / "x" / "layers" / f"ID_birds_test_{stage}.csv")
        values = found.filter(like="ct").to_numpy()
        np.testing.assert_allclose(values, pooled(outputs[stage]).numpy(), rtol=1e-3, atol=1e-4)
    assert len(features) == 9


def test_stages_need_layers(birds, capsys):
    with pytest.raises(SystemExit):
        run_networks.parse_args([*birds[:-1], "--checkpoint", "x.pth", "--stages", "layer1"])
    assert "add --layers" in capsys.readouterr().err


def test_an_error_in_the_forward_of_ones_own_network_has_its_place(birds, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\nclass build(nn.Module):\n"
        "    def __init__(self, classes):\n        super().__init__()\n"
        "        self.fc = nn.Linear(3, classes)\n\n    def forward(self, x):\n"
        "        return self.fc({}['missing'])\n"
    )
    network = nn.Module()
    network.fc = nn.Linear(3, 3)
    path = saved(tmp_path, network.state_dict(), "x.pth")
    words = ["--checkpoint", str(path), "--model", f"{tmp_path / 'net.py'}:build"]
    words += ["--image-size", "8", "--mean", "0", "--std", "1"]
    with pytest.raises(ValueError, match=r"net\.py, line 10 \(KeyError: 'missing'\)"):
        run_networks.main([*words, *birds[:-1]])
