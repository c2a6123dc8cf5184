"""ONNX files: extracted like the network that they were made of, and made of a checkpoint."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import shell
from torch import nn

onnx = pytest.importorskip("onnx", reason="onnx is not installed: requirements-onnx.txt")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: requirements-onnx.txt")

import ood_methods  # noqa: E402
import run_networks  # noqa: E402
from artifacts import records, store  # noqa: E402
from networks import onnx_networks  # noqa: E402

SIZE, CLASSES = 8, 3
DATA = ["--dataset", "digits", "--held-out", *"3456789"]
INPUTS = ["--image-size", SIZE, "--mean", 0.5, "--std", 0.25]


class Net(nn.Module):
    """Four features of an image of 8 x 8, and logits of three classes."""

    def __init__(self, kind="plain"):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, images):
        if self.kind == "nhwc":
            images = images.permute(0, 3, 1, 2)
        maps = self.body(images)
        features = maps.mean((2, 3))
        logits = self.fc(features)
        if self.kind == "matmul":
            logits = features.matmul(self.fc.weight.T) + self.fc.bias
        if self.kind == "scaled":  # no Gemm makes these, and they are affine
            logits = logits * 3
        if self.kind == "clipped":
            logits = logits.relu()
        if self.kind == "normalised":
            return nn.functional.normalize(features), logits
        if self.kind == "maps":
            return maps, logits
        if self.kind == "logits":
            return logits
        if self.kind == "alone":
            return features
        return features, logits


def written(path, kind="plain", batch=None, names=("pooled", "scores")):
    """The network as an ONNX file, of any number of images or of `batch`."""
    net = Net(kind).eval()
    outputs = list(names[:1] if kind == "alone" else names[1:] if kind == "logits" else names)
    shape = (batch or 2, SIZE, SIZE, 3) if kind == "nhwc" else (batch or 2, 3, SIZE, SIZE)
    axes = None if batch else {name: {0: "n"} for name in ("x", *outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(shape),),
            path,
            input_names=["x"],
            output_names=outputs,
            dynamic_axes=axes,
            dynamo=False,
        )
    return net


def extracted(path, *more, ood="uniform"):
    ended = shell(
        run_networks.main,
        *("--checkpoint", path, *DATA, *INPUTS, "--ood", ood, "--device", "cpu"),
        *("--output-dir", Path(path).parent / "results", *more),
    )
    return ended


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The features and logits of the test images by the torch network."""
    import data

    preprocessing = data.Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3)
    with torch.no_grad():
        asked = data.SetName.parse("digits")
        dataset = data.id_set(asked, "datasets", SIZE, ((0.5,) * 3, (0.25,) * 3))
        images = data.load_id(dataset, "test", preprocessing, "datasets", list("3456789"))
        pixels = torch.cat([preprocessing.normalise(part) for part in images.batches(500)])
        features, logits = Net().eval()(pixels)
    return features.numpy(), logits.numpy(), images.labels.numpy()


@pytest.mark.parametrize(
    ("kind", "batch", "flags", "said"),
    [
        ("plain", None, [], "the output that a linear layer makes scores of"),
        ("plain", 1, [], "the graph takes 1 images at once"),
        ("plain", 7, ["--feature-output", "pooled"], "the graph takes 7 images at once"),
        ("matmul", None, [], "the linear layer of the graph"),
        ("nhwc", None, [], "the linear layer of the graph"),
        ("logits", None, [], "what enters the last linear layer, which makes scores"),
        ("maps", None, ["--feature-output", "pooled"], "averaged over their positions"),
        ("scaled", None, ["--feature-output", "pooled"], "recovered by least squares"),
    ],
)
def test_features_and_head_are_those_of_the_network(tmp_path, plain, kind, batch, flags, said):
    net = written(tmp_path / "net.onnx", kind, batch)
    ended = extracted(tmp_path / "net.onnx", *flags)
    assert ended.code == 0, ended.err
    assert said in ended.out, ended.out
    folder = tmp_path / "results/net"
    features, _, labels = plain
    found = store.read_features(folder / "ID_digits_test.csv")
    np.testing.assert_allclose(found.features, features, rtol=0, atol=1e-6)
    assert np.array_equal(found.labels, labels)
    head, scale = store.read_head(folder / "head.csv"), 3 if kind == "scaled" else 1
    close = {"rtol": 0, "atol": 1e-3 if kind in ("scaled", "maps") else 1e-7}
    np.testing.assert_allclose(head.W, scale * net.fc.weight.detach().numpy(), **close)
    np.testing.assert_allclose(head.b, scale * net.fc.bias.detach().numpy(), **close)
    sidecar = records.read_sidecar(folder / "ID_digits_test.csv")
    assert sidecar["preprocessing"]["mean"] == [0.5] * 3
    assert sidecar["checkpoint_sha256"] == records.sha256(tmp_path / "net.onnx")
    scored = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP", "KNN")
    assert scored.code == 0 and "warning" not in scored.err, scored.err


@pytest.mark.parametrize("kind", ["alone", "clipped", "normalised"])
def test_without_a_linear_layer_there_are_features_alone(tmp_path, plain, kind):
    written(tmp_path / "net.onnx", kind)
    ended = extracted(tmp_path / "net.onnx", "--feature-output", "pooled")
    assert ended.code == 0, ended.err
    assert "features alone, without a classifier" in ended.out
    if kind != "alone":
        assert "no head: the logits are not an affine function of the features" in ended.out
    folder = tmp_path / "results/net"
    assert not (folder / "head.csv").exists()
    if kind != "normalised":
        found = store.read_features(folder / "ID_digits_test.csv")
        np.testing.assert_allclose(found.features, plain[0], rtol=0, atol=1e-6)
    scored = shell(ood_methods.main, "--checkpoint", folder, "--methods", "KNN")
    assert scored.code == 0, scored.err
    again = extracted(tmp_path / "net.onnx", "--feature-output", "pooled")
    assert again.code == 0 and again.out.count("kept as it is") == 3, again.err


def test_a_second_extraction_keeps_all_and_another_output_is_another_network(tmp_path):
    written(tmp_path / "net.onnx", "scaled")
    extracted(tmp_path / "net.onnx", "--feature-output", "pooled")
    ended = extracted(tmp_path / "net.onnx", "--feature-output", "pooled")
    assert ended.out.count("kept as it is") == 3 and "recovered before" in ended.out
    one, other = (
        onnx_networks.load(str(tmp_path / "net.onnx"), name, "scores")[1]["weights_sha256"]
        for name in ("pooled", "scores")
    )
    assert one != other


def test_scorers_advise_the_command_that_works(tmp_path):
    written(tmp_path / "net.onnx", names=("a", "b"))
    extracted(tmp_path / "net.onnx", "--feature-output", "a", "--logits-output", "b")
    (tmp_path / "results/net/OOD_uniform_test.csv").unlink()
    ended = shell(
        ood_methods.main,
        *("--checkpoint", tmp_path / "net.onnx", "--output-dir", tmp_path / "results"),
        *("--ood", "uniform"),
    )
    assert ended.code == 2 and "--feature-output a --logits-output b" in ended.err
    assert f"--checkpoint {tmp_path / 'net.onnx'}" in ended.err


# ---- what is refused -----------------------------------------------------------------------------


def several(path):
    """A graph of which nothing is obvious: two matrices and no linear layer between them."""
    node = onnx.helper.make_node
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 3, SIZE, SIZE]), ("a", ["n", 192]), ("b", ["n", 192]))
    ]
    nodes = [node("Flatten", ["x"], ["a"]), node("Relu", ["a"], ["b"])]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def test_outputs_are_listed_where_nothing_is_obvious(tmp_path):
    several(tmp_path / "net.onnx")
    ended = extracted(tmp_path / "net.onnx")
    assert ended.code == 2
    assert "it has a (n, 192), b (n, 192); name it with --feature-output NAME" in ended.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--feature-output", "no"], "has no output of that name; it has pooled (n, 4)"),
        (["--feature-output", "pooled", "--logits-output", "x1"], "has no output of that name"),
        (["--odin-epsilon", "0.001"], "onnxruntime does not give"),
        (["--layers"], "an ONNX file has none"),
        (["--amp"], "is of torch networks"),
        (["--model", "resnet18"], "an ONNX file is one itself"),
    ],
)
def test_flags_that_do_not_fit_an_onnx_file(tmp_path, flags, said):
    written(tmp_path / "net.onnx")
    ended = extracted(tmp_path / "net.onnx", *flags)
    assert ended.code == 2 and said in ended.err, ended.err


def test_another_size_than_the_graphs(tmp_path):
    written(tmp_path / "net.onnx")
    ended = extracted(tmp_path / "net.onnx", "--image-size", "16")
    assert ended.code == 2 and "takes images of 8 pixels alone" in ended.err


def test_what_is_not_said_is_asked_for(tmp_path):
    written(tmp_path / "net.onnx")
    ended = shell(run_networks.main, "--checkpoint", tmp_path / "net.onnx", "--device", "cpu")
    assert ended.code == 2 and "--dataset NAME=FOLDER" in ended.err
    ended = shell(
        run_networks.main,
        *("--checkpoint", tmp_path / "net.onnx", "--dataset", f"mine={tmp_path}", "--ood", "svhn"),
    )
    assert ended.code == 2 and "its mean and std in training are known from nowhere" in ended.err


def test_a_file_that_is_no_graph(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x89PNG and more")
    ended = extracted(tmp_path / "net.onnx")
    assert ended.code == 2 and "net.onnx is not an ONNX file" in ended.err


def test_a_torch_checkpoint_has_no_outputs_to_name(own_digits_run):
    ended = shell(
        run_networks.main, "--checkpoint", own_digits_run.checkpoint, "--feature-output", "x"
    )
    assert ended.code == 2 and "names an output of an ONNX file" in ended.err


def test_without_the_packages_a_message_says_what_to_install(tmp_path, monkeypatch):
    written(tmp_path / "net.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    ended = extracted(tmp_path / "net.onnx")
    assert ended.code == 2 and "pip install -r requirements-onnx.txt" in ended.err


# ---- export --------------------------------------------------------------------------------------


def exported(run, target, *more):
    return shell(
        run_networks.main,
        *("--checkpoint", run.checkpoint, "--device", "cpu", "--output-dir", run.output_dir),
        *("--export-onnx", target, *more),
    )


def test_an_exported_network_gives_the_features_of_its_checkpoint(own_digits_run, tmp_path):
    run, target = own_digits_run, tmp_path / "digits.onnx"
    ended = exported(run, target)
    assert ended.code == 0, ended.err
    assert "on 64 test images its features differ by at most" in ended.out
    sidecar = json.loads((tmp_path / "digits.json").read_text())
    assert sidecar["features_differ"] < 1e-5 and sidecar["logits_differ"] < 1e-5
    assert sidecar["exported_from"]["checkpoint_sha256"] == records.sha256(run.checkpoint)
    # it says itself what its images are like
    ended = shell(
        run_networks.main,
        *("--checkpoint", target, "--dataset", "digits", "--held-out", "8", "9"),
        *("--ood", "photos", "--device", "cpu", "--output-dir", tmp_path / "results"),
    )
    assert ended.code == 0, ended.err
    for stem in ("ID_digits_test", "OOD_photos_test"):
        ours, theirs = (
            store.read_features(folder / f"{stem}.csv").features
            for folder in (run.folder, tmp_path / "results/digits")
        )
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())
    ours, theirs = (
        store.read_head(folder / "head.csv") for folder in (run.folder, tmp_path / "results/digits")
    )
    assert np.array_equal(ours.W, theirs.W) and np.array_equal(ours.b, theirs.b)
    said = exported(run, target)
    assert said.code == 2 and "is there already; replace it with --force" in said.err
    assert exported(run, target, "--force").code == 0


def test_an_export_that_differs_is_not_written(own_digits_run, tmp_path, monkeypatch):
    from extraction import exporting

    monkeypatch.setattr(exporting, "TOLERANCE", -1)
    ended = exported(own_digits_run, tmp_path / "digits.onnx")
    assert ended.code == 2 and "was not written" in ended.err
    assert list(tmp_path.glob("digits*")) == [] and list(tmp_path.glob(".digits*")) == []


def test_an_export_needs_a_name_and_a_torch_network(own_digits_run, tmp_path):
    assert "ends in .onnx" in exported(own_digits_run, tmp_path / "net.pth").err
    written(tmp_path / "net.onnx")
    ended = shell(
        run_networks.main,
        *("--checkpoint", tmp_path / "net.onnx", "--export-onnx", tmp_path / "b.onnx"),
    )
    assert ended.code == 2 and "is of one checkpoint with a torch network" in ended.err
