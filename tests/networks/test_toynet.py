"""networks/toynet.py: layers and parameters by number, sizes, and the network written out."""

import pytest
import torch
from torch.nn import functional as F

from networks import classifiers, registry, toynet

pytestmark = pytest.mark.usefixtures("one_thread")


def written_out(x, state):
    """The tutorial's network from its state dict, for images of 32x32 pixels."""
    for name in ("conv1", "conv2"):
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"]).clamp(min=0)
        count, channels, height, width = x.shape
        x = x.view(count, channels, height // 2, 2, width // 2, 2).amax((3, 5))
    x = x.reshape(len(x), 400)
    for name in ("fc1", "fc2"):
        x = (x @ state[f"{name}.weight"].T + state[f"{name}.bias"]).clamp(min=0)
    return x @ state["fc3.weight"].T + state["fc3.bias"]


def test_parameters_by_number():
    counts = {
        "conv1": 6 * 3 * 25 + 6,
        "conv2": 16 * 6 * 25 + 16,
        "fc1": 120 * 400 + 120,
        "fc2": 84 * 120 + 84,
        "dropout": 0,
        "fc3": 10 * 84 + 10,
    }
    network = registry.build("toynet", 10)
    found = {}
    for name, layer in network.named_children():
        found[name] = sum(parameter.numel() for parameter in layer.parameters())
    assert found == counts
    assert sum(found.values()) == 62_006
    assert "62,006 parameters" in toynet.__doc__


def test_an_image_of_32_pixels_goes_through_the_tutorials_network():
    torch.manual_seed(0)
    network, x = registry.build("toynet", 7).eval(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = written_out(x, network.state_dict())
        assert torch.allclose(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [16, 20, 33, 64])
def test_images_of_other_sizes_are_accepted(size):
    with torch.no_grad():
        assert registry.build("toynet", 4).eval()(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_a_smaller_image_is_refused():
    with pytest.raises(ValueError, match="images of 15 x 40 pixels; expected at least 16 x 16"):
        registry.build("toynet", 4)(torch.zeros(1, 3, 15, 40))


def test_the_stages_come_before_the_features():
    network = registry.build("toynet", 4)
    assert list(classifiers.stages(network, "toynet").values()) == [
        network.conv1,
        network.conv2,
        network.fc1,
    ]
    assert classifiers.classifier(network, "toynet") is network.fc3
