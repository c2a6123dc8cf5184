"""Weights in files that torch.save did not write: .safetensors, and Google's .npz of a Vision
Transformer.

    state = weight_files.read(Path("ViT-B_16.npz"))      # {timm's name: tensor}

Neither kind can hold code. The .npz are those of Dosovitskiy et al. 2021 and Steiner et al. 2022
(google-research/vision_transformer), whose arrays have the names of a Flax network; they come out
under the names of timm's VisionTransformer, so that one of timm's names builds the network."""

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from networks.messages import shown, some

State = dict[str, torch.Tensor]
Arrays = Mapping[str, np.ndarray]

# What stands before every name: nothing, or where in a training state the network lies.
PREFIXES = ("", "opt/target/", "params/")
# Without these a file is not a Vision Transformer's.
NEEDED = (
    "cls",
    "embedding/kernel",
    "Transformer/posembed_input/pos_embedding",
    "Transformer/encoder_norm/scale",
    "Transformer/encoderblock_0/LayerNorm_0/scale",
)
# A hybrid has convolutions before its patches, and big_vision keeps all blocks in one array.
OTHERS = {
    "conv_root/kernel": "a ViT behind a ResNet",
    "Transformer/encoderblock/LayerNorm_0/scale": "big_vision's, whose blocks share one array",
}
# Parts of a block under their names in timm.
NORMS = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_2"}
DENSE = {"mlp.fc1": "MlpBlock_3/Dense_0", "mlp.fc2": "MlpBlock_3/Dense_1"}
ATTENTION = "MultiHeadDotProductAttention_1"


def reader(path: Path) -> Callable[[Path], State] | None:
    """What reads a file of this ending; None for what torch.save writes."""
    return {".safetensors": read_safetensors, ".npz": read_npz}.get(path.suffix.lower())


# ---- safetensors ---------------------------------------------------------------------------------


def read_safetensors(path: Path) -> State:
    """The tensors of a .safetensors file by name; ValueError where it is damaged or none."""
    import safetensors
    from safetensors.torch import load_file

    with open(path, "rb"):
        pass  # if it may not be read, the system's own message says so
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a .safetensors file that can be read ({shown(error)}): it is damaged or"
            " cut short, or has another format; copy it again"
        ) from None


# ---- Google's ViTs -------------------------------------------------------------------------------


def read_npz(path: Path) -> State:
    """Google's .npz of a Vision Transformer -> {timm's name: tensor}; ValueError for another's."""
    with open(path, "rb"):
        pass
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
        # A pickled object is a ValueError; a single array has no `files`.
        raise ValueError(
            f"{path} is not an .npz that can be read safely ({shown(error)}); expected Google's of"
            " a Vision Transformer, such as ViT-B_16.npz"
        ) from None
    return from_google(arrays, path)


def from_google(arrays: Arrays, path: Path) -> State:
    """{Google's name: array} -> {timm's name: float32 tensor}.

    Kernels are (inputs, outputs), and of attention (D, heads, D / heads) or its reverse; patches
    are (P, P, 3, D). ValueError where a part of a ViT is missing."""
    prefix = prefix_of(arrays, path)
    own = {name.removeprefix(prefix): array for name, array in arrays.items()}
    blocks = count_blocks(own)
    found = {
        "cls_token": own["cls"],
        "pos_embed": own["Transformer/posembed_input/pos_embedding"],
        "patch_embed.proj.weight": own["embedding/kernel"].transpose(3, 2, 0, 1),
    }
    if "embedding/bias" in own:
        found["patch_embed.proj.bias"] = own["embedding/bias"]
    found |= norm(own, "norm", "Transformer/encoder_norm")
    try:
        for number in range(blocks):
            found |= block(own, number)
    except KeyError as error:
        raise ValueError(
            f"{path} lacks {shown(error.args[0])}: the file is cut short, or another network's"
        ) from None
    found |= head(own, path)
    return {
        name: torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
        for name, array in found.items()
    }


def prefix_of(arrays: Arrays, path: Path) -> str:
    """What stands before the names of a ViT's arrays; ValueError where there is no ViT."""
    for prefix in PREFIXES:
        if all(prefix + name in arrays for name in NEEDED):
            return prefix
    for prefix in PREFIXES:
        for name, what in OTHERS.items():
            if prefix + name in arrays:
                raise ValueError(
                    f"{path} is {what}; only plain Vision Transformers are read from .npz: give its"
                    " weights as .safetensors or .pth, as timm has them"
                )
    missing = [name for name in NEEDED if name not in arrays]
    raise ValueError(
        f"{path} is not a Vision Transformer's .npz: it holds"
        f" {some(sorted(arrays)) or 'nothing'}, and lacks {some(missing)}; features are read by"
        " ood_methods.py from CSV, and weights of other networks from .pth or .safetensors"
    )


def count_blocks(own: Arrays) -> int:
    """The number of encoder blocks, by the largest of their numbers."""
    numbers = [re.match(r"Transformer/encoderblock_(\d+)/", name) for name in own]
    return 1 + max(int(found.group(1)) for found in numbers if found)


def block(own: Arrays, number: int) -> dict[str, np.ndarray]:
    """One encoder block under timm's names; KeyError where a part is missing."""
    place, target = f"Transformer/encoderblock_{number}", f"blocks.{number}"
    found: dict[str, np.ndarray] = {}
    for name, theirs in NORMS.items():
        found |= norm(own, f"{target}.{name}", f"{place}/{theirs}")
    for name, theirs in DENSE.items():
        found |= dense(own, f"{target}.{name}", f"{place}/{theirs}")
    return found | attention(own, f"{target}.attn", f"{place}/{ATTENTION}")


def norm(own: Arrays, name: str, theirs: str) -> dict[str, np.ndarray]:
    """A layer norm's scale and shift."""
    return {f"{name}.weight": own[f"{theirs}/scale"], f"{name}.bias": own[f"{theirs}/bias"]}


def dense(own: Arrays, name: str, theirs: str) -> dict[str, np.ndarray]:
    """A linear layer: its kernel (inputs, outputs) is turned."""
    return {f"{name}.weight": own[f"{theirs}/kernel"].T, f"{name}.bias": own[f"{theirs}/bias"]}


def attention(own: Arrays, name: str, theirs: str) -> dict[str, np.ndarray]:
    """Queries, keys and values of all heads in one layer (3 D, D), and what joins the heads."""
    parts = [f"{theirs}/{part}" for part in ("query", "key", "value")]
    kernels = [own[f"{part}/kernel"] for part in parts]
    biases = [own[f"{part}/bias"] for part in parts]
    out = own[f"{theirs}/out/kernel"]  # (heads, D / heads, D)
    return {
        f"{name}.qkv.weight": np.concatenate([flat.reshape(len(flat), -1).T for flat in kernels]),
        f"{name}.qkv.bias": np.concatenate([bias.reshape(-1) for bias in biases]),
        f"{name}.proj.weight": out.reshape(-1, out.shape[-1]).T,
        f"{name}.proj.bias": own[f"{theirs}/out/bias"],
    }


def head(own: Arrays, path: Path) -> dict[str, np.ndarray]:
    """The classifier, where there is one that reads the features themselves."""
    if "head/kernel" not in own:
        return {}
    if "pre_logits/kernel" in own:
        warnings.warn(
            f"{path} has a layer pre_logits before its classifier, which timm's networks have not:"
            " its classifier is left out",
            stacklevel=2,
        )
        return {}
    return dense(own, "head", "head")
