"""networks/weight_files.py: .safetensors, and Google's .npz of a Vision Transformer."""

import numpy as np
import pytest
import timm
import torch
from helpers import saved
from safetensors.torch import save_file

from networks import checkpoints, loading, weight_files

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = "timm/test_vit"  # width 64, 6 blocks, 2 heads, patches of 16 pixels


def vit(classes=5):
    """timm's network with known random weights, none of them 0."""
    torch.manual_seed(1)
    network = timm.create_model("test_vit", num_classes=classes).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn(value.shape) * 0.05)
    return network


def google(network):
    """The arrays of Google's .npz, written from a network of timm's part by part."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    heads = network.blocks[0].attn.num_heads
    width = network.embed_dim
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for number in range(len(network.blocks)):
        ours, theirs = f"blocks.{number}", f"Transformer/encoderblock_{number}"
        for norm, place in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}/{place}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/{place}/bias"] = state[f"{ours}.{norm}.bias"]
        for layer, place in (("mlp.fc1", "Dense_0"), ("mlp.fc2", "Dense_1")):
            arrays[f"{theirs}/MlpBlock_3/{place}/kernel"] = state[f"{ours}.{layer}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/{place}/bias"] = state[f"{ours}.{layer}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * width, (part + 1) * width)
            kernel = state[f"{ours}.attn.qkv.weight"][rows].T
            arrays[f"{attention}/{name}/kernel"] = kernel.reshape(width, heads, width // heads)
            bias = state[f"{ours}.attn.qkv.bias"][rows]
            arrays[f"{attention}/{name}/bias"] = bias.reshape(heads, width // heads)
        kernel = state[f"{ours}.attn.proj.weight"].T
        arrays[f"{attention}/out/kernel"] = kernel.reshape(heads, width // heads, width)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
    return arrays


def written(folder, arrays, name="ViT.npz", prefix=""):
    np.savez(folder / name, **{prefix + key: array for key, array in arrays.items()})
    return folder / name


def images(size=160):
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


# ---- Google's .npz -------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
def test_a_vits_npz_gives_exactly_the_same_outputs(tmp_path, prefix):
    reference = vit()
    path = written(tmp_path, google(reference), prefix=prefix)
    network, layer, content = loading.load(path, MODEL)
    with torch.no_grad():
        assert torch.equal(network(images()), reference(images()))
    assert content["classes"] == 5 and layer is network.head


def test_timms_own_loader_makes_the_same_of_it(tmp_path):
    path = written(tmp_path, google(vit()))
    reference = timm.create_model("test_vit", num_classes=5).eval()
    reference.load_pretrained(str(path))
    found = weight_files.read_npz(path)
    expected = reference.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_position_embeddings_of_an_npz_are_resized_to_the_images(tmp_path):
    reference = vit()
    path = written(tmp_path, google(reference))
    network, _, _ = loading.load(path, MODEL, image_size=224)
    assert network.pos_embed.shape == (1, 1 + 14 * 14, 64)
    assert torch.equal(network.pos_embed[:, :1], reference.pos_embed[:, :1])  # of the class token
    # bicubic interpolation keeps a plane as it is, but for its border
    old = reference.pos_embed[0, 1:].mean().item()
    assert network.pos_embed[0, 1:].mean().item() == pytest.approx(old, abs=2e-3)
    with torch.no_grad():
        assert network(images(224)).isfinite().all()


def test_a_constant_position_embedding_stays_so(tmp_path):
    arrays = google(vit())
    name = "Transformer/posembed_input/pos_embedding"
    arrays[name] = np.full_like(arrays[name], 0.25)
    network, _, _ = loading.load(written(tmp_path, arrays), MODEL, image_size=96)
    torch.testing.assert_close(network.pos_embed, torch.full((1, 37, 64), 0.25))


def test_a_classifier_behind_pre_logits_is_left_out_and_said(tmp_path):
    arrays = google(vit())
    arrays |= {"pre_logits/kernel": np.eye(64, dtype=np.float32), "pre_logits/bias": np.zeros(64)}
    path = written(tmp_path, arrays)
    with pytest.warns(UserWarning, match="pre_logits before its classifier"):
        state = weight_files.read_npz(path)
    assert not [name for name in state if name.startswith(("head", "pre_logits"))]
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"does not fit timm/test_vit: missing: head\.bias"),
    ):
        loading.load(path, MODEL)


def test_an_npz_of_another_network_is_refused_with_what_it_holds(tmp_path):
    path = written(tmp_path, {"features": np.zeros((3, 4)), "labels": np.zeros(3)})
    with pytest.raises(ValueError) as caught:
        checkpoints.read(path)
    said = str(caught.value)
    assert "is not a Vision Transformer's .npz: it holds features, labels, and lacks cls" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conv_root/kernel", "is a ViT behind a ResNet"),
        ("params/Transformer/encoderblock/LayerNorm_0/scale", "is big_vision's"),
    ],
)
def test_relatives_of_a_vit_are_refused_by_name(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.read(written(tmp_path, {name: np.zeros(2)}))


def test_a_missing_part_is_named(tmp_path):
    arrays = google(vit())
    del arrays["Transformer/encoderblock_3/MlpBlock_3/Dense_1/bias"]
    with pytest.raises(
        ValueError, match="lacks Transformer/encoderblock_3/MlpBlock_3/Dense_1/bias"
    ):
        checkpoints.read(written(tmp_path, arrays))


def test_a_pickled_object_in_an_npz_is_not_run(tmp_path):
    path = written(tmp_path, {"cls": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match=r"not an .npz that can be read safely"):
        checkpoints.read(path)


def test_a_damaged_npz_is_refused(tmp_path):
    path = written(tmp_path, google(vit()))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"not an .npz that can be read safely"):
        checkpoints.read(path)


# ---- safetensors ---------------------------------------------------------------------------------


def test_safetensors_are_loaded_as_a_state_dict_is(tmp_path):
    reference = vit()
    path = tmp_path / "model.safetensors"
    save_file(reference.state_dict(), path)
    network, _, content = loading.load(path, MODEL)
    with torch.no_grad():
        assert torch.equal(network(images()), reference(images()))
    as_pth = loading.load(saved(tmp_path, reference.state_dict()), MODEL)[2]
    assert content["weights_sha256"] == as_pth["weights_sha256"]


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(vit().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"not a .safetensors file that can be read"):
        checkpoints.read(path)
