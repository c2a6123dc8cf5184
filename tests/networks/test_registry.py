"""networks/registry.py: the registry, and every kind of checkpoint file that is read, refused or
converted."""

import os
import pickle

import numpy as np
import pytest
import torch
from helpers import ours, same, saved, tiny
from torch import nn

from networks import checkpoints, classifiers, loading, registry

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = """
from torch import nn


def build(num_classes):
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.ReLU())
    return nn.Sequential(*body, nn.Linear(5, num_classes))


class Net(nn.Module):
    def __init__(self, num_classes, dropout=0.0):
        super().__init__()
        body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6), nn.Dropout(dropout))
        self.layers = nn.Sequential(*body, nn.Linear(6, num_classes))

    def forward(self, x):
        return self.layers(x)


def convolutions(num_classes):
    return nn.Sequential(nn.Conv2d(3, num_classes, 8), nn.Flatten())
"""


@pytest.fixture
def own_file(tmp_path):
    file = tmp_path / "my_network.py"
    file.write_text(OWN)
    return file


# ---- checkpoints that are read -------------------------------------------------------------------


def test_a_bare_state_dict_is_loaded_into_the_named_network(tmp_path):
    wanted = tiny()
    network, classifier, checkpoint = loading.load(
        saved(tmp_path, wanted.state_dict()), "resnet_cifar"
    )
    assert same(network.state_dict(), wanted.state_dict())
    assert classifier is network.fc and classifier.out_features == 4
    assert not network.training and checkpoint["model"] == "resnet_cifar"


@pytest.mark.parametrize("key", ["model_state_dict", "net", "model_state", "state_dict"])
def test_the_keys_of_older_projects_are_known(tmp_path, key):
    wanted = tiny()
    path = saved(tmp_path, {key: wanted.state_dict(), "epoch": 12, "acc": 63.5})
    network, _, checkpoint = loading.load(path, "resnet_cifar")
    assert same(network.state_dict(), wanted.state_dict())
    assert checkpoint["epoch"] == 12 and {"model_state_dict", "epoch", "acc", "model"} <= set(
        checkpoint
    )


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_the_prefixes_of_parallel_and_compiled_networks_are_taken_off(tmp_path, prefix):
    wanted = tiny()
    state = {prefix + key: value for key, value in wanted.state_dict().items()}
    assert same(
        loading.load(saved(tmp_path, state), "resnet_cifar")[0].state_dict(), wanted.state_dict()
    )


def test_a_prefix_within_a_name_stays(tmp_path):
    assert list(
        checkpoints.read(saved(tmp_path, {"head.module.weight": torch.zeros(2, 2)}))[
            "model_state_dict"
        ]
    ) == ["head.module.weight"]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(66.04, 0.6604), (100, 1.0), (0.6604, 0.6604), (1.0, 1.0), (0.0, 0.0), (None, None)],
)
def test_accuracies_in_percent_become_fractions(tmp_path, stored, expected):
    path = saved(
        tmp_path,
        {"net": tiny().state_dict(), "train_acc": stored, "val_acc": stored, "test_acc": stored},
    )
    checkpoint = checkpoints.read(path)
    assert [checkpoint[name] for name in ("train_acc", "val_acc", "test_acc")] == (
        [None] * 3 if expected is None else pytest.approx([expected] * 3)
    )


def test_a_checkpoint_names_its_own_network_and_its_arguments(tmp_path):
    torch.manual_seed(0)
    wanted = registry.build("resnet_cifar", 3, dropout=0.5)
    path = saved(tmp_path, ours(wanted, model_args={"dropout": 0.5}))
    network, _, _ = loading.load(path)
    assert network.dropout.p == 0.5 and same(network.state_dict(), wanted.state_dict())
    assert loading.load(path, "resnet_cifar")[2]["model"] == "resnet_cifar"


def test_half_precision_parameters_are_read_into_float32(tmp_path):
    wanted = tiny()
    path = saved(
        tmp_path,
        {
            key: value.half() if value.is_floating_point() else value
            for key, value in wanted.state_dict().items()
        },
    )
    classifier = loading.load(path, "resnet_cifar")[1]
    assert classifier.weight.dtype == torch.float32
    assert torch.equal(classifier.weight, wanted.fc.weight.half().float())


# ---- checkpoints that are refused ----------------------------------------------------------------


def test_missing_unexpected_and_misshapen_parameters_are_named(tmp_path):
    state = dict(tiny().state_dict())
    state["layer9.weight"] = state.pop("conv1.weight")
    state["stack2.0.first_conv.weight"] = torch.zeros(32, 16, 5, 5)
    with pytest.raises(ValueError) as caught:
        loading.load(saved(tmp_path, state), "resnet_cifar")
    text = str(caught.value)
    assert "missing: conv1.weight" in text and "unexpected: layer9.weight" in text
    assert (
        "stack2.0.first_conv.weight (32, 16, 5, 5) for (32, 16, 3, 3)" in text
        and "network.pth" in text
    )


def test_a_network_of_another_kind_is_refused_with_a_few_names_and_a_count(tmp_path):
    path = saved(tmp_path, tiny().state_dict())
    with pytest.raises(
        ValueError,
        match=(
            r"does not fit resnet18: missing: bn1|does not fit resnet18: missing: .* and \d+ more"
        ),
    ):
        loading.load(path, "resnet18")


def test_another_model_than_the_checkpoints_is_refused(tmp_path):
    path = saved(tmp_path, ours(tiny()))
    with pytest.raises(ValueError, match="holds a resnet_cifar, not a resnet18"):
        loading.load(path, "resnet18")


def test_a_bare_state_dict_asks_for_the_model(tmp_path):
    with pytest.raises(ValueError, match="name it with --model"):
        loading.load(saved(tmp_path, tiny().state_dict()))


class Danger:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickled_object_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "danger.pth", tmp_path / "trace"
    torch.save({"net": tiny().state_dict(), "extra": Danger(trace)}, path)
    with pytest.raises(
        ValueError, match=r"danger\.pth is not a checkpoint that can be read safely"
    ):
        checkpoints.read(path)
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Danger(trace)))
    with pytest.raises(ValueError, match="can be read safely"):
        checkpoints.read(path)
    assert not trace.exists()


def test_a_whole_pickled_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="can be read safely"):
        checkpoints.read(saved(tmp_path, nn.Linear(2, 2)))


def truncated():
    import io

    buffer = io.BytesIO()
    torch.save(tiny().state_dict(), buffer)
    return buffer.getvalue()[:10_000]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is text\n",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04" + bytes(100),
        np.random.default_rng(0).bytes(5000),
        None,
    ],
    ids=["empty", "text", "empty pickle", "broken zip", "noise", "truncated"],
)
def test_what_is_no_checkpoint_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "odd.pth"
    path.write_bytes(truncated() if content is None else content)
    with pytest.raises(ValueError, match=r"odd\.pth"):
        checkpoints.read(path)


@pytest.mark.parametrize(
    "content",
    [[1, 2], torch.zeros(3), {}, {"epoch": 3}, {"net": {}}, {0: torch.zeros(2, 2)}, {"a": None}],
    ids=["list", "tensor", "empty dict", "no parameters", "empty net", "numbered", "none"],
)
def test_a_file_without_named_parameters_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"network\.pth holds"):
        checkpoints.read(saved(tmp_path, content))


def test_a_missing_file_is_named_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint .*absent\.pth; .*train\.py"):
        checkpoints.read(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoints.read(tmp_path)


def test_a_network_without_a_matrix_is_refused(tmp_path, own_file):
    path = saved(tmp_path, registry.build(f"{own_file}:convolutions", 4).state_dict())
    with pytest.raises(ValueError, match="no linear classifier"):
        loading.load(path, f"{own_file}:convolutions")


# ---- networks by name ----------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["build", "Net"])
def test_a_network_of_your_own_is_built_saved_and_loaded(tmp_path, own_file, function):
    name = f"{own_file}:{function}"
    torch.manual_seed(0)
    wanted = registry.build(name, 3)
    network, classifier, checkpoint = loading.load(
        saved(tmp_path, {"net": wanted.state_dict()}), name
    )
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x), wanted.eval()(x)) and checkpoint["model"] == name
    assert classifier.out_features == 3
    assert classifier is [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]


def test_dropout_reaches_your_own_network_only_where_it_is_asked_for(own_file):
    assert registry.build(f"{own_file}:Net", 2, dropout=0.25).layers[2].p == 0.25
    assert isinstance(registry.build(f"{own_file}:build", 2, dropout=0.0), nn.Sequential)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "unknown model 'resnet19'; expected one of resnet_cifar, resnet18"),
        ("absent.py:build", "there is no file absent.py"),
    ],
)
def test_an_unknown_network_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        registry.check_model(name)
    with pytest.raises(ValueError, match=message):
        registry.build(name, 2)


def test_a_function_that_the_file_does_not_define_is_named(own_file):
    with pytest.raises(ValueError, match=r"my_network\.py defines no missing"):
        registry.build(f"{own_file}:missing", 2)


def test_names_of_networks_in_file_names():
    assert registry.short_name("resnet18") == "resnet18"
    assert registry.short_name("some/where/my_network.py:build") == "my_network_build"


@pytest.mark.parametrize("name", list(registry.MODELS))
def test_every_row_of_the_registry_builds_a_network_whose_classifier_stands_where_it_says(name):
    network = registry.build(name, 3)
    layer = classifiers.classifier(network, name)
    assert isinstance(layer, nn.Linear) and layer.out_features == 3
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_network_without_a_linear_layer_has_no_classifier(own_file):
    name = f"{own_file}:convolutions"
    with pytest.raises(ValueError, match="no linear layer"):
        classifiers.classifier(registry.build(name, 3), name)
