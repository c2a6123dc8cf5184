"""training/winograd.py: the algorithm against torch's convolution, and the layers it replaces."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import registry
from training import winograd

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = [(8, 8), (15, 15), (7, 9), (3, 3), (4, 4), (2, 5), (1, 1)]


def drawn(count, channels_in, channels_out, sides):
    """Images (N, C, H, W), weights (K, C, 3, 3) that learn, and the outputs' gradients."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, channels_in, *sides, generator=generator)
    weights = torch.randn(channels_out, channels_in, 3, 3, generator=generator)
    gradients = torch.randn(count, channels_out, *sides, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    return images.requires_grad_(), weights.requires_grad_(), gradients


@pytest.mark.parametrize("sides", SIDES)
def test_outputs_and_gradients_are_those_of_the_definition(monkeypatch, sides):
    monkeypatch.setattr(winograd, "TILES", 4)  # several blocks, the last of them shorter
    images, weights, gradients = drawn(5, 6, 7, sides)
    outputs = winograd.Convolution.apply(images, weights)
    found = torch.autograd.grad(outputs, (images, weights), gradients)
    exact = F.conv2d(images.double(), weights.double(), padding=1)
    expected = torch.autograd.grad(exact, (images, weights), gradients.double())
    for one, other in zip((outputs, *found), (exact, *expected), strict=True):
        error = (one - other).norm() / other.norm()
        assert error < 1e-5


@pytest.mark.parametrize("tile", [2, 3, 4])
def test_the_transforms_are_exact_in_one_dimension(tile):
    """A^T ((G g) * (B^T d)) is the correlation of d with g, for whole numbers."""
    reach = tile + 2
    A = winograd.powers(reach, tile).T
    B = torch.linalg.inv(winograd.powers(reach, reach)).T
    G = winograd.powers(reach, 3)
    inputs = torch.arange(1.0, reach + 1, dtype=torch.float64) ** 2
    weights = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    expected = inputs.unfold(0, 3, 1) @ weights
    assert torch.allclose(A @ ((G @ weights) * (B @ inputs)), expected, rtol=1e-12)


def test_images_that_need_no_gradient_get_none():
    images, weights, gradients = drawn(2, 3, 4, (6, 6))
    outputs = winograd.Convolution.apply(images.detach(), weights)
    (found,) = torch.autograd.grad(outputs, weights, gradients)
    assert found.shape == weights.shape


def test_outputs_are_channels_last_for_the_layers_that_follow():
    for sides in SIDES[:4]:
        images, weights, _ = drawn(2, 3, 4, sides)
        outputs = winograd.Convolution.apply(images, weights)
        assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_wide_layers_are_replaced_and_keep_their_parameters():
    network = registry.build("resnet18", 10)
    parameters = list(network.parameters())
    names = list(network.state_dict())
    before = copy.deepcopy(network)
    count = winograd.replace(network)
    replaced = [path for path, layer in network.named_modules() if winograd.replaced(layer)]
    assert count == len(replaced) > 0 and "conv1" not in replaced
    assert "layer2.0.conv1" not in replaced  # it has a stride
    assert list(network.state_dict()) == names
    pairs = zip(network.parameters(), parameters, strict=True)
    assert all(one is other for one, other in pairs)
    assert winograd.replace(network) == 0  # nothing is left to replace

    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), before.eval()(images))
        found, expected = network.train()(images), before.train()(images)
    assert not torch.equal(found, expected) and torch.allclose(found, expected, atol=1e-2)


def test_a_bias_is_added_in_training_too():
    layer = nn.Conv2d(winograd.FEWEST_CHANNELS, 5, 3, padding=1)
    network = nn.Sequential(copy.deepcopy(layer))
    assert winograd.replace(network) == 1
    images = torch.randn(2, winograd.FEWEST_CHANNELS, 6, 6)
    assert torch.allclose(network(images), layer(images), atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 512, 3, padding=1),
        nn.Conv2d(512, 512, 3, stride=2, padding=1),
        nn.Conv2d(512, 512, 1),
        nn.Conv2d(512, 512, 3),
        nn.Conv2d(512, 512, 3, padding=1, groups=2),
        nn.Conv2d(512, 512, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(512, 512, 3, padding=2, dilation=2),
        nn.Linear(512, 512),
    ],
)
def test_other_layers_stay_as_they_are(layer):
    assert not winograd.fits(layer)
