"""networks/fastnet.py: layers and parameters by number, whitening, the partial identity, and what
the rest of the project relies on: features, head, checkpoints, precision."""

import copy

import numpy as np
import pytest
import torch
from helpers import ours, same, saved
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from extraction import extractor
from networks import classifiers, fastnet, loading, registry
from training import parts

pytestmark = pytest.mark.usefixtures("one_thread")


def fresh(classes=100, seed=0, **arguments):
    torch.manual_seed(seed)
    return fastnet.FastNet(classes, **arguments)


def natural(count=40, size=16, seed=1):
    """Smooth coloured images (N, 3, S, S), whose neighbouring pixels and channels agree, as those
    of photographs do."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear")
    shared = smooth.mean(1, keepdim=True)
    return shared + 0.3 * smooth + 0.1 * torch.randn(count, 3, size, size, generator=generator)


def whitened(images, weights):
    """What the first 12 filters make of every patch -> (patches, 12), float64."""
    maps = F.conv2d(images.double(), weights[:12].double())
    return maps.permute(0, 2, 3, 1).reshape(-1, 12)


def second_moments(rows):
    return rows.T @ rows / len(rows)


def caught(network, images):
    """-> (what enters fc, what the network returns)."""
    found = []
    with network.fc.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0])):
        logits = network(images)
    return found[0], logits


# ---- layers --------------------------------------------------------------------------------------


def test_parameters_by_number():
    """Per layer by hand, with 100 classes: weights of 3x3 kernels, and a bias per channel of
    batch norm."""
    counts = {
        "whiten": 24 * 3 * 2 * 2 + 24,
        "block1": 9 * (24 * 128 + 128 * 128 + 128 * 128) + 3 * 128,
        "block2": 9 * (128 * 384 + 384 * 384 + 384 * 384) + 3 * 384,
        "block3": 9 * (384 * 384 + 384 * 384 + 384 * 384) + 3 * 384,
        "dropout": 0,
        "fc": 384 * 100,
    }
    network = fresh()
    found = {
        name: sum(parameter.numel() for parameter in layer.parameters())
        for name, layer in network.named_children()
    }
    assert found == counts
    assert sum(found.values()) == 7_441_848
    assert "7,441,848 parameters" in fastnet.__doc__


def test_the_small_network_by_number():
    """Two convolutions per block of 64, 256 and 256 channels, each followed by its bias."""
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    biases = 2 * (64 + 256 + 256)
    network = registry.build("fastnet_small", 100)
    assert sum(parameter.numel() for parameter in network.parameters()) == (
        convolutions + biases + 24 * 13 + 256 * 100
    )
    assert "1,994,680 parameters" in fastnet.__doc__
    x = torch.randn(2, 64, 7, 7)
    block = network.block2.eval()
    x1 = F.gelu(block.norm1(F.max_pool2d(block.conv1(x), 2)))
    assert torch.equal(block(x), F.gelu(block.norm2(block.conv2(x1))))


def test_only_the_whitening_filters_are_frozen():
    frozen = [name for name, parameter in fresh().named_parameters() if not parameter.requires_grad]
    assert frozen == ["whiten.weight"]


def test_layers_by_number():
    network = fresh()
    kinds = [type(layer) for layer in network.modules()]
    assert kinds.count(nn.Conv2d) == 10
    assert kinds.count(fastnet.BiasNorm) == 9
    assert kinds.count(nn.Linear) == 1
    assert all(layer.bias is None for layer in network.modules() if is_3x3(layer))


def is_3x3(layer):
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        (32, (31, 15, 7, 3)),
        (28, (27, 13, 6, 3)),
        (24, (23, 11, 5, 2)),
        (20, (19, 9, 4, 2)),
        (16, (15, 7, 3, 1)),
        (8, (7, 3, 1, 1)),
        (2, (1, 1, 1, 1)),
    ],
)
def test_maps_of_every_size(size, sides):
    network = fresh(5).eval()
    found = {}
    for name in ("whiten", "block1", "block2", "block3"):
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: output.shape[1:]})
        )
    with torch.no_grad():
        logits = network(torch.randn(2, 3, size, size))
    channels = (24, 128, 384, 384)
    assert list(found.values()) == [
        (width, side, side) for width, side in zip(channels, sides, strict=True)
    ]
    assert logits.shape == (2, 5) and logits.isfinite().all()


def test_the_small_network_costs_what_is_published():
    """3.6e14 FLOP, rounded, for 9.9 epochs, in which the whitening bias learned for three."""
    with torch.device("meta"):
        network, images = fastnet.small(10), torch.empty(2, 3, 32, 32)
    costs = []
    for epoch in (0, fastnet.BIAS_EPOCHS):
        network.begin_epoch(epoch)
        with FlopCounterMode(display=False) as counter:
            network(images).sum().backward()
        costs.append(counter.get_total_flops() / 2)
    mean = (3 * costs[0] + 6.9 * costs[1]) / 9.9
    assert mean == pytest.approx(3.6e14 / (9.9 * 50_000), rel=0.06)


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="images of 1 x 7 pixels; expected at least 2 x 2"):
        fresh(5)(torch.zeros(1, 3, 1, 7))


@pytest.mark.parametrize(
    ("widths", "published"),
    [
        ((128, 512, 512), 7.46e15 / (40 * 50_000)),  # April 2024: 40 epochs
        ((128, 384, 512), 4.91e15 / (37 * 50_000)),  # June 2024: 37 epochs
    ],
)
def test_networks_of_the_published_widths_cost_what_is_published(widths, published):
    """FLOPs of one image's forward and backward pass, by the totals that the author states."""
    with torch.device("meta"):
        network, images = fresh(10, widths=widths), torch.empty(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    assert counter.get_total_flops() / 2 == pytest.approx(published, rel=0.03)
    assert network.fc.weight.shape == (10, widths[2])


def test_batch_norm_has_a_bias_no_scale_and_the_momentum_of_the_paper():
    layer = fastnet.BiasNorm(6).train()
    assert dict(layer.named_parameters()).keys() == {"bias"}
    assert set(layer.state_dict()) == {
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    x = torch.randn(8, 6, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 2
    with torch.no_grad():
        layer.bias.copy_(torch.arange(6.0))
        made = layer(x)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    expected = (x - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()
    assert torch.allclose(made, expected + torch.arange(6.0).view(-1, 1, 1), atol=1e-5)
    # the running mean starts at 0: 0.6 of the old, 0.4 of the new
    assert torch.allclose(layer.running_mean, 0.4 * mean, atol=1e-6)


def test_norm_biases_are_those_of_the_nine_batch_norms():
    network = fresh(5)
    found = parts.norm_biases(network)
    wanted = [
        parameter
        for name, parameter in network.named_parameters()
        if name.startswith("block") and name.endswith(".bias")
    ]
    assert len(wanted) == 9 and found == {id(parameter) for parameter in wanted}


# ---- whitening -----------------------------------------------------------------------------------


def test_whitened_patches_have_the_identity_as_their_covariance():
    images = natural()
    rows = whitened(images, fastnet.whitening(images, epsilon=0.0))
    assert torch.allclose(second_moments(rows), torch.eye(12, dtype=torch.float64), atol=1e-4)


def test_the_epsilon_of_the_paper_shrinks_each_direction_by_its_share():
    """Filter k makes a variance of v / (v + 5e-4) of v, and no covariance."""
    images = natural()
    patches = F.unfold(images.double(), 2).transpose(1, 2).reshape(-1, 12)
    variances = torch.linalg.eigvalsh(second_moments(patches)).flip(0)
    rows = whitened(images, fastnet.whitening(images))
    expected = torch.diag(variances / (variances + 5e-4))
    assert torch.allclose(second_moments(rows), expected, atol=1e-4)
    assert expected.diagonal().min() > 0.9, "the images vary in every direction"


def test_the_filters_come_in_pairs_of_opposite_sign():
    weights = fastnet.whitening(natural())
    assert weights.shape == (24, 3, 2, 2) and weights.dtype == torch.float32
    assert torch.equal(weights[:12], -weights[12:])
    flat = weights[:12].flatten(1)
    largest = flat.gather(1, flat.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_whitening_does_not_depend_on_memory_order_or_on_blocks(monkeypatch):
    images = natural()
    weights = fastnet.whitening(images)
    assert torch.equal(
        weights, fastnet.whitening(images.contiguous(memory_format=torch.channels_last))
    )
    monkeypatch.setattr(fastnet, "IMAGES", 7)
    assert torch.allclose(weights, fastnet.whitening(images), rtol=1e-4, atol=1e-5)


def test_grey_images_repeat_the_filters_of_brightness_in_place_of_colour():
    """Equal channels leave 4 of the 12 directions; the places of the others repeat these, and hold
    no rounding errors divided by the root of 5e-4."""
    grey = natural()[:, :1].expand(-1, 3, -1, -1)
    weights = fastnet.whitening(grey, epsilon=0.0)
    assert torch.equal(weights[:12], weights[:4].repeat(3, 1, 1, 1))
    moments = second_moments(whitened(grey, weights))
    expected = torch.eye(4, dtype=torch.float64).repeat(3, 3)
    assert torch.allclose(moments, expected, atol=1e-4)


def test_images_that_are_all_zero_leave_zero_filters():
    assert not fastnet.whitening(torch.zeros(2, 3, 4, 4)).any()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 3, 8, 8), r"shape \(0, 3, 8, 8\); expected \(N, 3, H, W\)"),
        (torch.zeros(2, 1, 8, 8), r"shape \(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 8), r"shape \(2, 3, 8\)"),
        (torch.zeros(2, 3, 1, 8), "at least one image of 2 x 2 pixels"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "uint8; expected floating-point"),
        (torch.full((2, 3, 8, 8), torch.nan), "NaN or infinite"),
    ],
)
def test_images_that_cannot_be_whitened_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        fastnet.whitening(images)


def test_initialise_sets_the_frozen_filters_in_place_and_nothing_else():
    network, images = fresh(5), natural()
    before = copy.deepcopy(network.state_dict())
    weight = network.whiten.weight
    network.initialise(images)
    assert network.whiten.weight is weight and not weight.requires_grad
    assert torch.equal(weight, fastnet.whitening(images))
    after = network.state_dict()
    assert [key for key in after if not torch.equal(after[key], before[key])] == ["whiten.weight"]


def test_the_filters_do_not_learn_and_their_bias_learns_for_three_epochs():
    network, images = fresh(5), natural(8, 8)
    network.initialise(images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    filters, moved = network.whiten.weight.clone(), []
    for epoch in range(5):
        network.begin_epoch(epoch)
        before = network.whiten.bias.clone()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), torch.arange(8) % 5).backward()
        optimizer.step()
        moved.append(not torch.equal(before, network.whiten.bias))
    assert moved == [True, True, True, False, False]
    assert torch.equal(filters, network.whiten.weight)


# ---- how the weights start -----------------------------------------------------------------------


@pytest.mark.parametrize(("channels_in", "channels_out"), [(4, 4), (4, 7)])
def test_the_first_outputs_of_a_fresh_convolution_are_its_inputs(channels_in, channels_out):
    layer = fastnet.partial_identity(channels_in, channels_out)
    x = torch.randn(2, channels_in, 5, 5)
    with torch.no_grad():
        made = layer(x)
    assert torch.equal(made[:, :channels_in], x)
    others = made[:, channels_in:]
    assert others.shape[1] == channels_out - channels_in
    assert others.abs().amax((0, 2, 3)).gt(0.1).all()


def test_every_convolution_of_a_fresh_network_starts_as_a_partial_identity():
    for layer in filter(is_3x3, fresh(5).modules()):
        copies = layer.weight[: layer.in_channels]
        identity = torch.zeros_like(copies)
        identity[:, :, 1, 1] = torch.eye(layer.in_channels)
        assert torch.equal(copies, identity)


def test_a_fresh_network_picks_single_pixels_until_it_has_seen_images():
    network, x = fresh(5), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        maps = network.whiten(x)
    assert torch.equal(maps[:, 0], x[:, 0, :-1, :-1])  # red, above and to the left
    assert torch.equal(maps[:, 11], x[:, 2, 1:, 1:])  # blue, below and to the right
    assert torch.equal(maps[:, 12:], -maps[:, :12])


def test_the_seed_decides_the_start():
    assert same(fresh(5).state_dict(), fresh(5).state_dict())
    assert not same(fresh(5).state_dict(), fresh(5, seed=1).state_dict())


# ---- features, head and checkpoints --------------------------------------------------------------


def written_out(x, state):
    """The network in eval mode from its state dict, as the paper's text has it: logits / 9."""

    def conv(x, name):
        return F.conv2d(x, state[f"{name}.weight"], padding=1)

    def norm(x, name):
        mean, variance, bias = (
            state[f"{name}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() + bias

    x = F.gelu(F.conv2d(x, state["whiten.weight"], state["whiten.bias"]))
    for block in ("block1", "block2", "block3"):
        x = F.gelu(norm(nn.MaxPool2d(2)(conv(x, f"{block}.conv1")), f"{block}.norm1"))
        y = F.gelu(norm(conv(x, f"{block}.conv2"), f"{block}.norm2"))
        x = x + F.gelu(norm(conv(y, f"{block}.conv3"), f"{block}.norm3"))
    pooled = nn.MaxPool2d(3)(x).flatten(1)
    return pooled @ state["fc.weight"].T / 9


@torch.enable_grad()
def trained(classes=7):
    """A network whose biases and statistics are no longer those of a fresh one."""
    network, images = fresh(classes), natural(24, 32)
    network.initialise(images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(images), torch.arange(24) % classes).backward()
        optimizer.step()
    return network.eval(), images


@pytest.mark.slow
@torch.no_grad()
def test_the_network_is_the_one_that_is_written_out_with_logits_over_nine():
    network, images = trained()
    expected = written_out(images, network.state_dict())
    assert torch.allclose(network(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_the_logits_are_linear_in_more_features_than_there_are_classes():
    network, images = trained(100)
    assert classifiers.classifier(network, "fastnet") is network.fc
    features, logits = caught(network, images)
    assert features.shape == (24, 384) and features.shape[1] > logits.shape[1] == 100
    W, b = classifiers.head(network.fc)
    assert not b.any()
    assert np.allclose(features.numpy() @ W.T + b, logits.numpy(), atol=1e-5)
    extractor.check_hook(features, logits, network.fc, amp=False)


@pytest.mark.slow
@torch.no_grad()
def test_the_head_holds_in_bfloat16_and_channels_last_too():
    network, images = trained()
    exact = network(images)
    network = network.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = caught(network, images)
    extractor.check_hook(features, logits, network.fc, amp=True)
    assert (logits.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_training_step_in_bfloat16_and_channels_last_moves_every_learning_parameter():
    network = fresh(5).to(memory_format=torch.channels_last)
    images = natural(8, 20).contiguous(memory_format=torch.channels_last)
    network.initialise(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    F.cross_entropy(logits.float(), torch.arange(8) % 5).backward()
    for name, parameter in network.named_parameters():
        if name == "whiten.weight":
            assert parameter.grad is None
        else:
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_dropout_is_off_unless_asked_for_and_never_in_eval_mode():
    images = natural(4, 8)
    assert registry.build("fastnet", 5).dropout.p == 0
    network = registry.build("fastnet", 5, dropout=0.5)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.slow
def test_a_checkpoint_restores_the_network_without_images(tmp_path):
    network, images = trained(4)
    path = saved(tmp_path, ours(network, model="fastnet"))
    loaded, classifier, checkpoint = loading.load(path)
    assert same(loaded.state_dict(), network.state_dict())
    assert checkpoint["model"] == "fastnet" and checkpoint["classes"] == 4
    assert classifier is loaded.fc
    assert not loaded.whiten.weight.requires_grad
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


def test_the_stages_of_the_registry_are_the_blocks():
    network = fresh(5)
    assert list(classifiers.stages(network, "fastnet").values()) == [
        network.block1,
        network.block2,
        network.block3,
    ]
