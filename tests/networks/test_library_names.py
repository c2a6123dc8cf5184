"""networks/library_names.py: networks of timm and torchvision by name, their classifier, what they
expect of images, and weights from a file."""

import math

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import read_csv, saved
from PIL import Image
from torch import nn

import data
import run_networks
import train
from extraction import expected_inputs, extractor
from networks import classifiers, library_names, loading, registry

pytestmark = pytest.mark.usefixtures("one_thread")

# timm's own networks for tests: 0.4 M parameters at most, for images of 160 pixels.
SMALL = ("timm/test_vit", "timm/test_resnet", "timm/test_efficientnet", "timm/test_convnext")


def noise(size, images=2):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(images, 3, size, size, generator=generator)


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm/resnet18", True),
        ("timm/vit_tiny_patch16_224.augreg_in21k", True),
        ("torchvision/resnet18", True),
        ("timm/net.py:build", False),
        ("keras/resnet18", False),
        ("timm/", False),
        ("timm", False),
        ("resnet18", False),
    ],
)
def test_a_name_of_a_library_has_the_library_before_it(name, expected):
    assert library_names.is_name(name) == expected


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timm/resnet81", "timm/resnet18"),
        ("timm/vit_tinny_patch16_224", "timm/vit_tiny_patch16_224"),
        ("torchvision/resnet19", "torchvision/resnet18"),
        ("torchvision/vit_b_61", "torchvision/vit_b_16"),
        ("timm/test_vit.r161_in1k", "timm/test_vit.r160_in1k"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, near):
    with pytest.raises(ValueError) as caught:
        registry.check_model(name)
    assert near in str(caught.value)


def test_a_name_unlike_any_other_is_refused_with_the_way_to_list_them():
    with pytest.raises(ValueError, match=r"no classifier of that name\. All \d,\d+ are listed by"):
        registry.check_model("timm/qqqqqqqq")


def test_a_network_for_detection_is_no_classifier():
    with pytest.raises(ValueError, match="torchvision has no classifier of that name"):
        registry.check_model("torchvision/fasterrcnn_resnet50_fpn")


def test_names_of_such_networks_in_file_names():
    assert registry.short_name("timm/test_vit.r160_in1k") == "timm_test_vit_r160_in1k"
    assert registry.short_name("torchvision/resnet18") == "torchvision_resnet18"


# ---- building ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_the_librarys_own_for_any_number_of_classes(name):
    torch.manual_seed(3)
    network = registry.build(name, 7).eval()
    torch.manual_seed(3)
    reference = timm.create_model(name.removeprefix("timm/"), num_classes=7).eval()
    images = noise(160)
    assert torch.equal(network(images), reference(images))


@pytest.mark.parametrize(
    "name", [*SMALL, "torchvision/mobilenet_v3_small", "torchvision/googlenet"]
)
def test_features_are_the_classifiers_input(name):
    network = registry.build(name, 7).eval()
    layer = classifiers.classifier(network, name)
    features, logits = extractor.rehearse(network, layer, noise(160))
    extractor.check_hook(features, logits, layer, amp=False)
    W, b = classifiers.head(layer)
    by_hand = features.numpy() @ W.T + b
    np.testing.assert_allclose(by_hand, logits.numpy(), rtol=1e-4, atol=1e-5)
    assert W.shape == (7, features.shape[1])


def test_the_classifier_is_found_by_get_classifier_even_where_a_later_layer_fits():
    network = timm.create_model("test_vit", num_classes=7)
    network.later = nn.Linear(7, 7)
    library_names.marked(network, "timm/test_vit", 7)
    assert classifiers.classifier(network, "timm/test_vit") is network.head


def test_a_network_with_two_classifiers_is_refused():
    with pytest.raises(ValueError, match="has 2 classifiers, whose logits are averaged"):
        registry.build("timm/deit_tiny_distilled_patch16_224", 5)


@pytest.mark.parametrize("name", ["timm/test_efficientnet", "torchvision/mobilenet_v3_small"])
def test_dropout_reaches_the_network(name):
    network = registry.build(name, 5, dropout=0.37)
    given = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert 0.37 in given or network.drop_rate == 0.37


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/convnext_tiny"])
def test_a_network_that_makes_nothing_of_dropout_is_refused(name):
    with pytest.raises(ValueError, match="argument 'dropout'"):
        registry.build(name, 5, dropout=0.37)


def test_position_embeddings_are_of_the_size_that_is_asked_for():
    assert registry.arguments_for("timm/test_vit", 96) == {"image_size": 96}
    assert registry.arguments_for("timm/test_resnet", 96) == {}
    assert registry.arguments_for("resnet18", 96) == {}
    network = registry.build("timm/test_vit", 5, image_size=96)
    assert network.pos_embed.shape[1] == 1 + (96 // 16) ** 2
    assert network(noise(96)).shape == (2, 5)


def test_a_size_that_a_network_cannot_have_is_said():
    with pytest.raises(ValueError, match="for images of 31 x 31 pixels"):
        registry.build("torchvision/vit_b_16", 5, image_size=31)


# ---- what a network expects of its images --------------------------------------------------------


def test_timms_configuration_is_read():
    network = registry.build("timm/tf_efficientnet_lite0", 10)
    assert registry.preprocessing_of(network, "timm/tf_efficientnet_lite0") == {
        "size": 224,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "crop_share": 0.875,
    }


def test_torchvisions_transforms_are_read():
    network = registry.build("torchvision/resnet18", 10)
    assert registry.preprocessing_of(network, "torchvision/resnet18") == {
        "size": 224,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bilinear",
        "crop_share": 0.875,
    }


@pytest.mark.parametrize("side", [224, 299, 384, 448])
@pytest.mark.parametrize("share", [0.875, 0.9, 0.95, 0.965, 1.0])
def test_the_side_before_the_crop_is_timms(side, share):
    said = {
        "input_size": (3, side, side),
        "crop_pct": share,
        "crop_mode": "center",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bilinear",
    }
    preprocessing = data.Preprocessing(**library_names.of_timm(said))
    assert preprocessing.resized == math.floor(side / share)


def test_images_are_prepared_as_timm_prepares_them():
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (300, 411, 3), dtype=np.uint8))
    said = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg("test_vit").to_dict()
    )
    expected = timm.data.create_transform(**said)(photo)
    preprocessing = data.Preprocessing(**library_names.preprocessing_named("timm/test_vit"))
    pixels = torch.from_numpy(np.array(preprocessing.resize(photo))).permute(2, 0, 1)
    torch.testing.assert_close(
        preprocessing.normalise(pixels[None])[0], expected, rtol=0, atol=1e-6
    )


def test_images_are_prepared_as_torchvision_prepares_them():
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (300, 411, 3), dtype=np.uint8))
    transforms = torchvision.models.get_model_weights("resnet18").DEFAULT.transforms()
    preprocessing = data.Preprocessing(**library_names.preprocessing_named("torchvision/resnet18"))
    pixels = torch.from_numpy(np.array(preprocessing.resize(photo))).permute(2, 0, 1)
    found = preprocessing.normalise(pixels[None])[0]
    torch.testing.assert_close(found, transforms(photo), rtol=0, atol=1e-5)


def test_images_that_are_not_square_are_refused():
    said = {"input_size": (3, 128, 256), "crop_pct": 1.0, "crop_mode": "center"}
    with pytest.raises(ValueError, match="3 channels and 128 x 256 pixels"):
        library_names.of_timm(said)


@pytest.mark.parametrize("name", [*SMALL, "torchvision/vit_b_16", "torchvision/efficientnet_b0"])
def test_what_a_library_says_can_be_used(name):
    said = library_names.preprocessing_named(name)
    assert expected_inputs.check_stated(said, name) == said
    assert set(said) == set(expected_inputs.WORDS)


# ---- weights from a file -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_state_dict_of_the_librarys_is_loaded_for_as_many_classes_as_it_has(tmp_path, name):
    reference = timm.create_model(name.removeprefix("timm/"), num_classes=9).eval()
    path = saved(tmp_path, reference.state_dict())
    network, layer, content = loading.load(path, name)
    images = noise(160)
    assert torch.equal(network(images), reference(images))
    assert content["classes"] == 9 and len(layer.weight) == 9
    assert content["model_file_sha256"] is None


def test_a_state_dict_of_torchvisions_is_loaded(tmp_path):
    reference = torchvision.models.googlenet(
        num_classes=6, init_weights=False, transform_input=True
    ).eval()
    path = saved(tmp_path, reference.state_dict())  # with its auxiliary classifiers
    network, _, content = loading.load(path, "torchvision/googlenet")
    images = noise(64)
    assert torch.equal(network(images), reference(images))
    assert content["classes"] == 6


def test_position_embeddings_of_a_file_are_resized(tmp_path):
    reference = timm.create_model("test_vit", num_classes=5)
    path = saved(tmp_path, reference.state_dict())
    network, _, content = loading.load(path, "timm/test_vit", image_size=192)
    grid = timm.layers.resample_abs_pos_embed(reference.pos_embed, (12, 12), num_prefix_tokens=1)
    torch.testing.assert_close(network.pos_embed, grid)
    assert network(noise(192)).shape == (2, 5)
    plain = loading.load(path, "timm/test_vit")[2]
    assert content["weights_sha256"] != plain["weights_sha256"]


def test_another_networks_file_is_refused_with_its_parameters(tmp_path):
    path = saved(tmp_path, timm.create_model("test_resnet", num_classes=5).state_dict())
    with pytest.raises(ValueError, match=r"does not fit timm/test_vit: missing: .*blocks"):
        loading.load(path, "timm/test_vit")


# ---- in the scripts ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_from_elsewhere_is_extracted_with_the_librarys_own_preprocessing(tmp_path, capsys):
    reference = timm.create_model("test_resnet", num_classes=8).eval()
    path = saved(tmp_path, reference.state_dict(), "elsewhere.pth")
    words = ["--checkpoint", str(path), "--model", "timm/test_resnet", "--dataset", "digits"]
    words += ["--held-out", "8", "9", "--ood", "photos", "--device", "cpu"]
    words += ["--output-dir", str(tmp_path / "results"), "--image-size", "64"]
    with pytest.warns(UserWarning, match="always naming the largest class"):
        run_networks.main(words)
    said = capsys.readouterr().out
    assert (
        "preprocessing: 64 px in the centre of 67, bilinear, mean 0.5, std 0.5 (image size from the"
        " command line; mean, std, interpolation and crop share from timm's configuration of"
        " test_resnet)"
    ) in said
    folder = tmp_path / "results" / "elsewhere"
    features = read_csv(folder / "OOD_photos_test.csv").filter(like="ct").to_numpy()
    preprocessing = data.Preprocessing(
        **{**library_names.preprocessing_named("timm/test_resnet"), "size": 64}
    )
    photos = data.OOD["photos"]("test", preprocessing, "")
    with torch.no_grad():
        images = preprocessing.normalise(photos.pixels[:50])
        expected = reference.forward_head(reference.forward_features(images), pre_logits=True)
    np.testing.assert_allclose(features[:50], expected.numpy(), rtol=1e-3, atol=1e-5)
    assert features.shape == (len(photos), 96)


@pytest.mark.slow
def test_a_transformer_is_trained_in_the_size_of_the_data_and_extracted(tmp_path):
    words = ["--dataset", "digits", "--model", "timm/test_vit", "--image-size", "32"]
    words += ["--mode", "adamw", "--epochs", "1", "--device", "cpu", "--suffix", "run"]
    train.main([*words, "--output-dir", str(tmp_path)])
    path = tmp_path / "timm_test_vit_final_run.pth"
    network, _, content = loading.load(path)
    assert content["model_args"] == {"dropout": 0.0, "image_size": 32}
    assert network.pos_embed.shape[1] == 1 + 4
    words = ["--checkpoint", str(path), "--ood", "photos", "--device", "cpu"]
    run_networks.main([*words, "--output-dir", str(tmp_path)])
    assert read_csv(tmp_path / path.stem / "head.csv").shape == (8, 66)


def test_training_refuses_a_size_that_the_network_cannot_take(tmp_path):
    words = ["--dataset", "digits", "--model", "timm/test_vit", "--image-size", "33"]
    words += ["--device", "cpu", "--output-dir", str(tmp_path)]
    with pytest.raises(ValueError, match="33 x 33 pixels"):
        train.main(words)
    assert not list(tmp_path.iterdir())
