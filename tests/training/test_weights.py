"""train.py --weights: what a run starts from, and how it then sees images."""

import pytest
import timm
import torch
from helpers import class_folders, saved

import train
from networks import loading, registry

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "timm/test_resnet"


@pytest.fixture
def published(tmp_path):
    """Weights of 1,000 classes -> (their network, their file)."""
    torch.manual_seed(6)
    network = timm.create_model("test_resnet").eval()
    return network, saved(tmp_path, network.state_dict(), "published.pth")


def test_all_but_the_classifier_is_taken_from_a_file_of_other_classes(published):
    network, path = published
    own = registry.build(MODEL, 3)
    before = own.fc.weight.clone()
    assert loading.start_from(path, own, MODEL) == ["fc.weight", "fc.bias"]
    state, expected = own.state_dict(), network.state_dict()
    rest = [name for name in expected if not name.startswith("fc.")]
    assert all(torch.equal(state[name], expected[name]) for name in rest)
    assert torch.equal(own.fc.weight, before)


def test_the_classifier_is_taken_too_where_its_classes_are_as_many(published):
    network, path = published
    own = registry.build(MODEL, 1000)
    assert loading.start_from(path, own, MODEL) == []
    assert torch.equal(own.fc.weight, network.fc.weight)


def test_weights_without_a_classifier_will_do(tmp_path):
    network = timm.create_model("test_vit", num_classes=0)
    path = saved(tmp_path, network.state_dict())
    own = registry.build("timm/test_vit", 3)
    assert loading.start_from(path, own, "timm/test_vit") == ["head.weight", "head.bias"]
    assert torch.equal(own.pos_embed, network.pos_embed)


def test_another_networks_weights_are_refused(published):
    with pytest.raises(ValueError, match=r"does not fit timm/test_vit: missing"):
        loading.start_from(published[1], registry.build("timm/test_vit", 3), "timm/test_vit")


@pytest.mark.slow
def test_a_run_starts_from_weights_with_the_librarys_preprocessing(published, tmp_path, capsys):
    network, path = published
    class_folders(tmp_path / "birds", ["a", "b", "c"], 4, (40, 36))
    words = ["--dataset", f"birds={tmp_path / 'birds'}", "--model", MODEL, "--weights", str(path)]
    words += ["--mode", "sgd", "--lr", "1e-9", "--epochs", "1", "--batch-size", "4", "--val-size"]
    words += ["0", "--image-size", "32", "--device", "cpu", "--no-amp", "--suffix", "run"]
    train.main([*words, "--weight-decay", "0", "--output-dir", str(tmp_path / "results")])
    log = (tmp_path / "results" / "timm_test_resnet_log_run.txt").read_text()
    images = "32 px in the centre of 34, bilinear, mean 0.5, std 0.5"
    assert f"starts from {path}, its classifier drawn anew; images: {images}\n" in log
    content = torch.load(tmp_path / "results" / "timm_test_resnet_final_run.pth", weights_only=True)
    preprocessing = content["preprocessing"]
    assert preprocessing["size"] == 32 and tuple(preprocessing["mean"]) == (0.5,) * 3
    assert preprocessing["interpolation"] == "bilinear"
    assert preprocessing["crop_share"] == pytest.approx(160 / 168)
    # At a rate of 1e-9 the weights are where they started.
    state, expected = content["model_state_dict"], network.state_dict()
    torch.testing.assert_close(state["layer1.0.conv1.weight"], expected["layer1.0.conv1.weight"])


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(published, tmp_path):
    class_folders(tmp_path / "birds", ["a", "b", "c"], 4, (40, 36))
    words = ["--dataset", f"birds={tmp_path / 'birds'}", "--model", "timm/test_vit", "--weights"]
    words += [str(published[1]), "--image-size", "32", "--device", "cpu", "--batch-size", "4"]
    with pytest.raises(ValueError, match="does not fit timm/test_vit"):
        train.main([*words, "--output-dir", str(tmp_path / "results")])
    assert not list((tmp_path / "results").iterdir())
