"""networks/pretrained.py: published weights saved as a checkpoint of ours, and what is said where
they cannot be had. No test downloads: the libraries' caches are filled with random weights."""

import shlex
import urllib.error

import pytest
import timm
import torch
import torchvision
from helpers import class_folders, read_csv
from safetensors.torch import save_file

import main
import run_networks
from artifacts import records
from networks import checkpoints, loading, pretrained, wordnet

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = "torchvision/shufflenet_v2_x0_5"  # 1.4 M parameters


def command(file):
    return f"python run_networks.py --checkpoint {file}"


@pytest.fixture
def offline(monkeypatch):
    """Every address is unreachable, at once."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def cache(tmp_path, monkeypatch, offline):
    """torch's cache with random weights of SMALL in it -> that network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.manual_seed(2)
    network = torchvision.models.get_model(SMALL.partition("/")[2]).eval()
    file = pretrained.cached_file(pretrained.source(SMALL))
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    return network


def images(size):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


# ---- saving --------------------------------------------------------------------------------------


def test_published_weights_become_a_checkpoint_of_ours(cache, tmp_path):
    path = pretrained.save(SMALL, tmp_path, {"command": "x"}, command)
    assert path == tmp_path / "torchvision_shufflenet_v2_x0_5_pretrained.pth"
    network, _, content = loading.load(path)  # the file says which network it holds
    with torch.no_grad():
        assert torch.equal(network(images(64)), cache(images(64)))
    assert checkpoints.is_ours(checkpoints.read(path) | {"versions": {}})
    assert content["class_names"] == wordnet.ids(1000)
    assert content["preprocessing"]["size"] == 224
    assert content["pretrained"].startswith("torchvision's weights of shufflenet_v2_x0_5: https://")
    sidecar = records.checkpoint_sidecar(path)
    assert sidecar["weights_sha256"] == content["weights_sha256"]
    assert sidecar["command"] == "x"


def test_it_is_made_once(cache, tmp_path):
    path = pretrained.save(SMALL, tmp_path, {}, command)
    before = path.stat().st_mtime_ns
    pretrained.cached_file(pretrained.source(SMALL)).unlink()
    assert pretrained.save(SMALL, tmp_path, {}, command) == path
    assert path.stat().st_mtime_ns == before


def test_another_file_of_that_name_is_not_replaced(cache, tmp_path):
    path = pretrained.path_of(SMALL, tmp_path)
    torch.save(cache.state_dict(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"not the pretrained {SMALL}; choose another folder"):
        pretrained.save(SMALL, tmp_path, {}, command)
    assert path.read_bytes() == before


def test_weights_that_timm_keeps_on_its_hub_are_found_in_its_cache(tmp_path, monkeypatch, offline):
    torch.manual_seed(2)
    network = timm.create_model("test_vit").eval()
    file = tmp_path / "model.safetensors"
    save_file(network.state_dict(), file)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(file))
    path = pretrained.save("timm/test_vit", tmp_path, {}, command)
    loaded = loading.load(path)[0]
    with torch.no_grad():
        assert torch.equal(loaded(images(160)), network(images(160)))


# ---- what cannot be had --------------------------------------------------------------------------


def test_weights_that_cannot_be_downloaded_say_where_they_are_and_what_takes_them(
    tmp_path, offline, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(ValueError) as caught:
        pretrained.save("timm/test_vit", tmp_path, {}, command)
    said = str(caught.value)
    assert "the weights of timm/test_vit cannot be downloaded (no network)" in said
    assert (
        "/timm/test_vit.r160_in1k/resolve/main/model.safetensors where that can be reached" in said
    )
    assert said.endswith("run: python run_networks.py --checkpoint timm_test_vit.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_command_that_is_named_takes_the_file(tmp_path, offline, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    words = ["--model", SMALL, "--pretrained", "--dataset", "birds=birds", "--ood", "textures"]
    words += ["--output-dir", str(tmp_path)]
    with pytest.raises(ValueError) as caught:
        run_networks.main(words)
    said = str(caught.value)
    named = said.partition(" and run: python run_networks.py ")[2].partition(" (put into")[0]
    args = run_networks.parse_args(shlex.split(named))
    assert args.checkpoint == ["torchvision_shufflenet_v2_x0_5.pth"]
    assert args.model == SMALL and args.dataset.text == "birds=birds" and not args.pretrained


def test_weights_without_a_classifier_are_refused(tmp_path):
    with pytest.raises(ValueError, match="features without a classifier"):
        pretrained.save("timm/vit_base_patch16_224.mae", tmp_path, {}, command)


def test_a_network_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="timm has no weights of coatnet_0_224"):
        pretrained.save("timm/coatnet_0_224", tmp_path, {}, command)


# ---- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "x.pth"], "both say which weights"),
        ([], "such as --model timm/resnet50; found no --model"),
        (["--model", "resnet18"], "such as --model timm/resnet50; found --model resnet18"),
        (["--model", "timm/resnet18"], "--pretrained needs --dataset"),
    ],
)
def test_pretrained_needs_a_library_and_a_data_set(words, message, capsys):
    with pytest.raises(SystemExit):
        run_networks.parse_args(["--pretrained", *words])
    assert message in " ".join(capsys.readouterr().err.split())


def test_main_hands_pretrained_to_the_extraction_alone(tmp_path):
    words = ["--model", "timm/test_vit", "--pretrained", "--dataset", "birds=birds"]
    words += ["--ood", "textures", "--output-dir", str(tmp_path)]
    chain = main.prepare(words)
    checkpoint = str(tmp_path / "timm_test_vit_pretrained.pth")
    assert "--pretrained" in chain.words["extract"] and "train" not in chain.words
    assert "--checkpoint" not in chain.words["extract"]
    others = [own for name, own in chain.words.items() if name != "extract"]
    assert all(own[-2:] == ["--checkpoint", checkpoint] for own in others)
    assert chain.folder == tmp_path / "timm_test_vit_pretrained"


def test_main_trains_nothing_with_pretrained(capsys):
    words = ["--model", "timm/test_vit", "--pretrained", "--dataset", "birds=birds"]
    for more in (["--mode", "best"], ["--lr", "0.1"], ["--checkpoint", "x.pth"]):
        with pytest.raises(SystemExit):
            main.parse_args([*words, *more])
    assert "is of training, and --pretrained trains nothing" in capsys.readouterr().err


# ---- an extraction -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*always naming the largest class")
@pytest.mark.filterwarnings("ignore:.*the command line contradicts it")
def test_a_pretrained_network_is_extracted_without_training_and_is_current_then(
    cache, tmp_path, capsys
):
    ids = ["n01440764", "n02102040", "n03000684"]
    class_folders(tmp_path / "three", ids, 2, (40, 36))
    class_folders(tmp_path / "other", ["x"], 2, (40, 36))
    words = ["--model", SMALL, "--pretrained", "--dataset", f"three={tmp_path / 'three'}"]
    words += ["--ood", f"other={tmp_path / 'other'}", "--image-size", "64", "--device", "cpu"]
    words += ["--output-dir", str(tmp_path / "results")]
    run_networks.main(words)
    said = capsys.readouterr().out
    assert "3 of the classifier's 1,000, by the names in the checkpoint: n01440764 (tench)" in said
    folder = tmp_path / "results" / "torchvision_shufflenet_v2_x0_5_pretrained"
    assert list(read_csv(folder / "head.csv")["class"]) == ids
    head = records.read_sidecar(folder / "head.csv")
    checkpoint = pretrained.path_of(SMALL, tmp_path / "results")
    assert head["checkpoint_sha256"] == records.sha256(checkpoint)
    chain = main.prepare(words)
    assert main.why_outdated("extract", chain) == ""
    run_networks.main(words)
    assert capsys.readouterr().out.count("kept as it is") == 3
