"""networks/densenet.py: layers and parameters by number, the published names, the network written
out from its state dict, how the weights start, and dropout."""

import pytest
import torch
from helpers import same, saved
from network_cases import blank_state, norm_shapes, settle
from torch import nn
from torch.nn import functional as F

from networks import classifiers, densenet, loading, registry

pytestmark = pytest.mark.usefixtures("one_thread")


def published_shapes(classes, layers=16, growth=12):
    """{name: shape} of the common PyTorch port's state dict."""
    channels = 2 * growth
    shapes = {"conv1.weight": (channels, 3, 3, 3)}
    for number in (1, 2, 3):
        for layer in range(layers):
            prefix = f"block{number}.layer.{layer}"
            shapes |= norm_shapes(f"{prefix}.bn1", channels)
            shapes[f"{prefix}.conv1.weight"] = (4 * growth, channels, 1, 1)
            shapes |= norm_shapes(f"{prefix}.bn2", 4 * growth)
            shapes[f"{prefix}.conv2.weight"] = (growth, 4 * growth, 3, 3)
            channels += growth
        if number < 3:
            shapes |= norm_shapes(f"trans{number}.bn1", channels)
            shapes[f"trans{number}.conv1.weight"] = (channels // 2, channels, 1, 1)
            channels //= 2
    shapes |= norm_shapes("bn1", channels)
    return shapes | {"fc.weight": (classes, channels), "fc.bias": (classes,)}


def written_out(x, state, layers):
    """The network in eval mode from its state dict, as the paper's section 3 has it."""

    def norm_relu(x, prefix):
        mean, variance = state[f"{prefix}.running_mean"], state[f"{prefix}.running_var"]
        weight, bias = state[f"{prefix}.weight"], state[f"{prefix}.bias"]
        return F.batch_norm(x, mean, variance, weight, bias).clamp(min=0)

    def conv(x, name, **options):
        return F.conv2d(x, state[f"{name}.weight"], **options)

    x = conv(x, "conv1", padding=1)
    for number in (1, 2, 3):
        made = [x]
        for layer in range(layers):
            prefix = f"block{number}.layer.{layer}"
            y = conv(norm_relu(torch.cat(made, 1), f"{prefix}.bn1"), f"{prefix}.conv1")
            y = conv(norm_relu(y, f"{prefix}.bn2"), f"{prefix}.conv2", padding=1)
            made.append(y)
        x = torch.cat(made, 1)
        if number < 3:
            x = conv(norm_relu(x, f"trans{number}.bn1"), f"trans{number}.conv1")
            count, channels, height, width = x.shape
            x = x.view(count, channels, height // 2, 2, width // 2, 2).mean((3, 5))
    features = norm_relu(x, "bn1").mean((2, 3))
    return features @ state["fc.weight"].T + state["fc.bias"]


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "weighted", "width"),
    [
        ("densenet_bc100_12", 8, 768_476, 100, 342),
        ("densenet_bc100_12", 10, 769_162, 100, 342),  # 0.8 M, table 2 of the paper
        ("densenet_bc40_12", 10, 176_122, 40, 132),
    ],
)
def test_parameters_layers_with_weights_and_features_by_number(
    name, classes, parameters, weighted, width
):
    with torch.device("meta"):
        network = registry.build(name, classes)
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(layers) == weighted
    assert network.fc.in_features == width


def test_the_docstring_states_the_parameters_of_eight_classes():
    assert "768,476 parameters" in densenet.__doc__


@pytest.mark.parametrize("size", [4, 16, 33])
def test_images_of_any_size_are_accepted(size):
    network = registry.build("densenet_bc40_12", 4).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_an_image_that_would_vanish_is_refused():
    with pytest.raises(ValueError, match="images of 3 x 7 pixels; expected at least 4 x 4"):
        registry.build("densenet_bc40_12", 4)(torch.zeros(1, 3, 3, 7))


def test_the_stages_are_the_blocks():
    network, shapes = registry.build("densenet_bc40_12", 2).eval(), []
    for stage in classifiers.stages(network, "densenet_bc40_12").values():
        stage.register_forward_hook(
            lambda module, inputs, output: shapes.append(tuple(output.shape[1:]))
        )
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32))
    assert shapes == [(96, 32, 32), (120, 16, 16), (132, 8, 8)]


# ---- the published layout ------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_the_common_port():
    with torch.device("meta"):
        state = registry.build("densenet_bc100_12", 100).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_shapes(100)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_state_dict_loads_by_name(tmp_path, prefix):
    state = blank_state(published_shapes(100))
    stored = {prefix + name: value for name, value in state.items()}
    path = saved(tmp_path, {"state_dict": stored, "epoch": 100})
    network, classifier, checkpoint = loading.load(path, "densenet_bc100_12")
    assert same(network.state_dict(), state)
    assert classifier is network.fc and checkpoint["classes"] == 100


# ---- what it computes ----------------------------------------------------------------------------


def test_the_network_is_the_one_that_is_written_out():
    network = settle(registry.build("densenet_bc40_12", 5))
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = network(x), written_out(x, network.state_dict(), layers=6)
    assert expected.std() > 1e-3
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_start_as_the_authors_start_them():
    torch.manual_seed(0)
    network = registry.build("densenet_bc100_12", 10)
    for layer in (network.block2.layer[9].conv1, network.trans1.conv1):
        channels, _, height, width = layer.weight.shape
        deviation = (2 / (channels * height * width)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.03)
    assert not network.fc.bias.any()


def test_dropout_is_off_unless_asked_for_and_never_in_eval_mode():
    x = torch.randn(2, 3, 8, 8)
    plain = registry.build("densenet_bc40_12", 5)
    network = registry.build("densenet_bc40_12", 5, dropout=0.2)
    assert list(plain.state_dict()) == list(network.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(x), plain(x))
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))
