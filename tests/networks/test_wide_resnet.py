"""networks/wide_resnet.py: layers and parameters by number, the published names, the network
written out from its state dict, how the weights start, and dropout."""

import pytest
import torch
from helpers import same, saved
from network_cases import blank_state, norm_shapes, settle
from torch import nn
from torch.nn import functional as F

from networks import classifiers, loading, registry, wide_resnet

pytestmark = pytest.mark.usefixtures("one_thread")


def published_shapes(depth, widening, classes):
    """{name: shape} of the common PyTorch port's state dict."""
    blocks = (depth - 4) // 6
    shapes = {"conv1.weight": (16, 3, 3, 3)}
    channels = 16
    for number, width in enumerate((16 * widening, 32 * widening, 64 * widening), start=1):
        for block in range(blocks):
            prefix = f"block{number}.layer.{block}"
            shapes |= norm_shapes(f"{prefix}.bn1", channels)
            shapes[f"{prefix}.conv1.weight"] = (width, channels, 3, 3)
            shapes |= norm_shapes(f"{prefix}.bn2", width)
            shapes[f"{prefix}.conv2.weight"] = (width, width, 3, 3)
            if channels != width:
                shapes[f"{prefix}.convShortcut.weight"] = (width, channels, 1, 1)
            channels = width
    shapes |= norm_shapes("bn1", channels)
    return shapes | {"fc.weight": (classes, channels), "fc.bias": (classes,)}


def written_out(x, state, blocks):
    """The network in eval mode from its state dict, as the paper's figure 1d has its blocks."""

    def norm_relu(x, prefix):
        mean, variance = state[f"{prefix}.running_mean"], state[f"{prefix}.running_var"]
        weight, bias = state[f"{prefix}.weight"], state[f"{prefix}.bias"]
        return F.batch_norm(x, mean, variance, weight, bias).clamp(min=0)

    def conv(x, name, **options):
        return F.conv2d(x, state[f"{name}.weight"], **options)

    x = conv(x, "conv1", padding=1)
    for number in (1, 2, 3):
        for block in range(blocks):
            prefix = f"block{number}.layer.{block}"
            stride = 2 if number > 1 and block == 0 else 1
            active = norm_relu(x, f"{prefix}.bn1")
            y = conv(active, f"{prefix}.conv1", padding=1, stride=stride)
            y = conv(norm_relu(y, f"{prefix}.bn2"), f"{prefix}.conv2", padding=1)
            if block == 0:
                x = conv(active, f"{prefix}.convShortcut", stride=stride)
            x = x + y
    features = norm_relu(x, "bn1").mean((2, 3))
    return features @ state["fc.weight"].T + state["fc.bias"]


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "convolutions", "width"),
    [
        ("wide_resnet28_10", 8, 36_477_912, 28, 640),
        ("wide_resnet28_10", 10, 36_479_194, 28, 640),  # 36.5 M, table 4 of the paper
        ("wide_resnet40_2", 10, 2_243_546, 40, 128),  # 2.2 M
        ("wide_resnet16_2", 10, 691_674, 16, 128),
    ],
)
def test_parameters_convolutions_and_features_by_number(
    name, classes, parameters, convolutions, width
):
    with torch.device("meta"):
        network = registry.build(name, classes)
    layers = [type(layer) for layer in network.modules()]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert layers.count(nn.Conv2d) == convolutions
    assert layers.count(nn.Linear) == 1
    assert network.fc.in_features == width


def test_the_docstring_states_the_parameters_of_eight_classes():
    assert "36,477,912 parameters" in wide_resnet.__doc__


@pytest.mark.parametrize("size", [8, 16, 33, 64])
def test_images_of_any_size_are_accepted(size):
    network = registry.build("wide_resnet16_2", 4).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_the_stages_halve_the_map_and_double_the_width():
    network, shapes = registry.build("wide_resnet16_2", 2).eval(), []
    for stage in classifiers.stages(network, "wide_resnet16_2").values():
        stage.register_forward_hook(
            lambda module, inputs, output: shapes.append(tuple(output.shape[1:]))
        )
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32))
    assert shapes == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]


# ---- the published layout ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "depth", "widening"), [("wide_resnet28_10", 28, 10), ("wide_resnet40_2", 40, 2)]
)
def test_names_and_shapes_are_those_of_the_common_port(name, depth, widening):
    with torch.device("meta"):
        state = registry.build(name, 10).state_dict()
    found = {key: tuple(value.shape) for key, value in state.items()}
    assert found == published_shapes(depth, widening, 10)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_state_dict_loads_by_name(tmp_path, prefix):
    state = blank_state(published_shapes(40, 2, 10))
    stored = {prefix + name: value for name, value in state.items()}
    path = saved(tmp_path, {"state_dict": stored, "epoch": 200, "best_prec1": 94.7})
    network, classifier, checkpoint = loading.load(path, "wide_resnet40_2")
    assert same(network.state_dict(), state)
    assert classifier is network.fc and checkpoint["classes"] == 10


# ---- what it computes ----------------------------------------------------------------------------


def test_the_network_is_the_one_that_is_written_out():
    network = settle(registry.build("wide_resnet16_2", 5))
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = network(x), written_out(x, network.state_dict(), blocks=2)
    assert expected.std() > 1e-3
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_start_as_the_authors_start_them():
    torch.manual_seed(0)
    network = registry.build("wide_resnet16_2", 10)
    for layer in (network.block2.layer[0].conv1, network.block3.layer[1].conv2):
        channels, _, height, width = layer.weight.shape
        deviation = (2 / (channels * height * width)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.03)
    assert not network.fc.bias.any()


def test_dropout_stands_between_the_convolutions_of_a_block_in_training_alone():
    x = torch.randn(2, 3, 16, 16)
    network = registry.build("wide_resnet16_2", 5, dropout=0.3)
    shares = []
    for module in network.modules():
        if isinstance(module, wide_resnet.WideBlock):
            module.conv2.register_forward_pre_hook(
                lambda module, inputs: shares.append((inputs[0] == 0).float().mean().item())
            )
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
        in_training = sum(shares) / len(shares)
        shares.clear()
        network.eval()
        assert torch.equal(network(x), network(x))
    assert len(shares) == 2 * 6
    assert in_training == pytest.approx(0.5 + 0.3 * 0.5, abs=0.05)  # ReLU's half, then dropout's


def test_the_large_one_trains_with_the_dropout_of_its_authors():
    assert registry.usual_dropout("wide_resnet28_10") == 0.3
    assert registry.usual_dropout("wide_resnet40_2") == 0
    assert registry.usual_dropout("my_network.py:build") == 0
