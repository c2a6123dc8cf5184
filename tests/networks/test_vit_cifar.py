"""networks/vit_cifar.py: sizes by number, the features that the classifier reads, other sizes of
images, and that timm's own blocks make the same."""

import timm
import torch
from torch.nn import functional as F

from networks import classifiers, registry, vit_cifar


def by_hand(width, depth, classes):
    """Parameters: patches and their bias, positions, blocks, the last norm, the classifier."""
    patches = 4 * 4 * 3 * width + width
    positions = 64 * width
    attention = width * 3 * width + 3 * width + width * width + width
    mlp = width * 4 * width + 4 * width + 4 * width * width + width
    block = attention + mlp + 4 * width  # and two layer norms
    return patches + positions + depth * block + 2 * width + width * classes + classes


def test_parameters_and_stages_by_number():
    for name, width, count in (("vit_cifar", 192, 2_710_564), ("vit_cifar_small", 128, 1_217_252)):
        network = registry.build(name, 100)
        assert sum(value.numel() for value in network.parameters()) == count
        assert by_hand(width, 6, 100) == count
        assert list(classifiers.stages(network, name)) == ["blocks.1", "blocks.3", "blocks.5"]
        layer = classifiers.classifier(network, name)
        assert layer is network.head and layer.in_features == width


def test_features_are_the_normalised_mean_over_the_patches():
    torch.manual_seed(0)
    network = registry.build("vit_cifar_small", 10).eval()
    images = torch.randn(3, 3, 32, 32)
    caught = []
    network.head.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        logits = network(images)
        rows = network.patch_embed.proj(images).flatten(2).transpose(1, 2) + network.pos_embed
        for block in network.blocks:
            rows = block(rows)
        mean = rows.mean(1)
        weight, bias = network.fc_norm.weight, network.fc_norm.bias
        expected = F.layer_norm(mean, (128,), weight, bias, network.fc_norm.eps)
        torch.testing.assert_close(caught[0], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, F.linear(expected, *network.head.parameters()))


def test_it_is_timms_transformer_of_that_size():
    torch.manual_seed(0)
    own = vit_cifar.build(7, width=64, depth=2, heads=2).eval()
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=4, num_classes=7, global_pool="avg", class_token=False,
        embed_dim=64, depth=2, num_heads=2,
    ).eval()  # fmt: skip
    theirs.load_state_dict(own.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(own(images), theirs(images))


def test_smaller_images_go_through_as_growing_ones_need():
    network = registry.build("vit_cifar_small", 5).eval()
    with torch.no_grad():
        for side in (16, 20, 30, 32, 40):
            assert network(torch.randn(2, 3, side, side)).shape == (2, 5)
