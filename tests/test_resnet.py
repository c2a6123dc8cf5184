"""resnet.py: parameter counts and names, the same numbers as torchvision and as a functional
version, logits."""

import pytest
import torch
import torchvision
from network_cases import settle
from torch.nn import functional as F

import resnet
from networks import registry

pytestmark = pytest.mark.usefixtures("one_thread")


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def images(count=2, size=32, seed=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def cifar_names():
    """State-dict names of the 3-stack network, as issue 2 spells them out."""

    def norm(prefix):
        return {
            f"{prefix}.{part}"
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        }

    names = {"conv1.weight", "fc.weight", "fc.bias"} | norm("bn1")
    for stack in (1, 2, 3):
        for block in (0, 1):
            prefix = f"stack{stack}.{block}"
            names |= {f"{prefix}.first_conv.weight", f"{prefix}.second_conv.weight"}
            names |= norm(f"{prefix}.bn1") | norm(f"{prefix}.bn2")
        if stack > 1:
            names |= {f"stack{stack}.0.shortcut.0.weight"} | norm(f"stack{stack}.0.shortcut.1")
    return names


@pytest.mark.parametrize(("name", "count"), [("resnet_cifar", 181_108), ("resnet18", 11_220_132)])
def test_parameter_counts_with_100_classes(name, count):
    assert parameters(registry.build(name, 100)) == count


def test_state_dict_names_of_resnet_cifar_are_those_of_checkpoints_trained_elsewhere():
    assert set(resnet.ResNet_CIFAR(100).state_dict()) == cifar_names()


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_state_dict_names_with_the_cifar_stem_are_those_of_torchvision(name):
    ours, theirs = (
        registry.build(name, 10).state_dict(),
        getattr(torchvision.models, name)(num_classes=10).state_dict(),
    )
    assert list(ours) == list(theirs)
    assert [key for key in ours if ours[key].shape != theirs[key].shape] == ["conv1.weight"]
    assert ours["conv1.weight"].shape == (64, 3, 3, 3)


@pytest.mark.parametrize(
    ("name", "block", "blocks"),
    [
        ("resnet18", resnet.BasicBlock, (2, 2, 2, 2)),
        ("resnet34", resnet.BasicBlock, (3, 4, 6, 3)),
        ("resnet50", resnet.Bottleneck, (3, 4, 6, 3)),
    ],
)
def test_torchvision_weights_give_torchvision_outputs(name, block, blocks):
    theirs = settle(getattr(torchvision.models, name)(num_classes=10))
    ours = resnet.ResNet_ImageNet(10, block, blocks, stem="imagenet").eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(size=64)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    assert expected.std() > 1e-3
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_resnet_imagenet_of_the_registry_is_torchvisions_resnet18():
    theirs = settle(torchvision.models.resnet18(num_classes=7))
    ours = registry.build("resnet_imagenet", 7).eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(size=64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def functional_resnet_cifar(x, state):
    """The 3-stack network written out from its state dict in eval mode: He et al. 2016 with 1x1
    projections."""

    def norm(x, prefix):
        shape, at = (1, -1, 1, 1), lambda part: state[f"{prefix}.{part}"]
        scaled = (x - at("running_mean").view(shape)) / (
            at("running_var").view(shape) + 1e-5
        ).sqrt()
        return scaled * at("weight").view(shape) + at("bias").view(shape)

    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for stack in (1, 2, 3):
        for block in (0, 1):
            prefix, stride = f"stack{stack}.{block}", 2 if stack > 1 and block == 0 else 1
            y = norm(
                F.conv2d(x, state[f"{prefix}.first_conv.weight"], stride=stride, padding=1),
                f"{prefix}.bn1",
            )
            y = norm(
                F.conv2d(y.clamp(min=0), state[f"{prefix}.second_conv.weight"], padding=1),
                f"{prefix}.bn2",
            )
            if stride == 2:
                x = norm(
                    F.conv2d(x, state[f"{prefix}.shortcut.0.weight"], stride=2),
                    f"{prefix}.shortcut.1",
                )
            x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def test_resnet_cifar_equals_the_network_written_out_from_its_state_dict():
    network, x = settle(resnet.ResNet_CIFAR(10)), images(3)
    with torch.no_grad():
        assert torch.allclose(
            network(x), functional_resnet_cifar(x, network.state_dict()), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["resnet_cifar", "resnet18", "resnet_imagenet"])
def test_outputs_are_logits_and_linear_in_the_features(name):
    torch.manual_seed(0)  # with 2 of 150 seeds, no logit of resnet_cifar is negative
    network, caught = settle(registry.build(name, 5)), []
    network.fc.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        network.fc.weight.mul_(3)
        logits = network(images(4))
        assert torch.allclose(logits, caught[0] @ network.fc.weight.T + network.fc.bias, atol=1e-5)
    assert caught[0].shape == (4, network.fc.in_features)
    assert (logits < 0).any() and not torch.allclose(logits.sum(1), torch.ones(4), atol=0.01)


@pytest.mark.parametrize(
    ("name", "width"),
    [("resnet_cifar", 64), ("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)],
)
def test_feature_widths(name, width):
    assert registry.build(name, 3).fc.in_features == width


@pytest.mark.parametrize(("name", "side"), [("resnet18", 32), ("resnet_imagenet", 8)])
def test_the_cifar_stem_keeps_the_resolution_and_the_imagenet_stem_quarters_it(name, side):
    network, shapes = registry.build(name, 2).eval(), []
    network.layer1.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(output.shape[2:]))
    )
    with torch.no_grad():
        network(images(1, 32))
    assert shapes == [(side, side)]


@pytest.mark.parametrize("size", [8, 16, 28, 33, 64])
def test_images_of_any_size_are_accepted(size):
    with torch.no_grad():
        assert resnet.ResNet_CIFAR(4).eval()(images(2, size)).shape == (2, 4)


@pytest.mark.parametrize("name", ["resnet_cifar", "resnet18"])
def test_dropout_stands_before_the_classifier_in_training_alone(name):
    torch.manual_seed(0)
    plain, dropped = settle(registry.build(name, 3)), registry.build(name, 3, dropout=0.5)
    assert list(plain.state_dict()) == list(dropped.state_dict())
    dropped.load_state_dict(plain.state_dict())
    caught, x = [], images(8)
    dropped.fc.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        assert torch.equal(dropped.eval()(x), plain(x))
        dropped.train()(x)
    clean, thinned = caught
    assert (clean == 0).float().mean() < 0.1
    assert 0.4 < (thinned == 0).float().mean() < 0.6


def test_convolutions_start_he_normal_over_the_fan_out():
    torch.manual_seed(0)
    network = registry.build("resnet18", 10)
    for layer in (
        network.layer2[0].conv1,
        network.layer4[1].conv2,
        network.layer3[0].downsample[0],
    ):
        channels, _, height, width = layer.weight.shape
        assert layer.weight.std().item() == pytest.approx(
            (2 / (channels * height * width)) ** 0.5, rel=0.03
        )
