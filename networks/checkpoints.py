"""Checkpoint files: read without running code in every form that people have, checked, written.

    content = checkpoints.read("elsewhere.pth")  # a dict with `model_state_dict`, or ValueError
    digest = checkpoints.weights_sha256("resnet18", {"dropout": 0.0}, network.state_dict())

A file counts as one of this project's where it has every entry of SIGNATURE, or of PRETRAINED. Only
then are its entries `model`, `dataset`, `preprocessing`, `class_names`, `held_out` and `val_size`
believed, and one of a wrong shape is an error (entries.py). Other projects use the same words for
other things: in their files those entries are left out, and a warning says so. How a file is read
without running code stands in unpickling.py; .safetensors and .npz are read by weight_files.py."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import utils
from networks import entries, unpickling, weight_files
from networks.messages import shown

# Where the weights lie in a dict, the first that is there: ours, then those of other projects.
STATE_KEYS = ("model_state_dict", "state_dict", "net", "model_state", "model", "network", "weights")
# What networks/pretrained.py writes of a network that no run of ours has trained.
PRETRAINED = (
    "model_state_dict",
    "model",
    "pretrained",
    "preprocessing",
    "versions",
)
SIGNATURE = (
    "model_state_dict",
    "model",
    "dataset",
    "class_names",
    "preprocessing",
    "recipe",
    "versions",
)
OWN_KEYS = (
    "model",
    "model_args",
    "dataset",
    "preprocessing",
    "val_size",
    "held_out",
    "class_names",
    "leave_out",
)
# DistributedDataParallel and torch.compile put these before every name
WRAPPERS = (
    "module.",
    "_orig_mod.",
)
State = dict[str, torch.Tensor]


# ---- reading -------------------------------------------------------------------------------------


def read(path: str | Path) -> dict[str, Any]:
    """Any checkpoint, bare state dict, .safetensors or ViT's .npz -> dict with `model_state_dict`
    {name: tensor}.

    Accuracies in percent become fractions. Of a file that is not ours only plain values are kept
    beside the weights. Raises ValueError for a file that is missing, cannot be read safely, holds
    no weights, or has an entry that cannot be right."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}; train one with: python train.py")
    if path.suffix.lower() == ".onnx":
        raise ValueError(
            f"{path} is an ONNX graph, whose weights are not read here; extract its features with:"
            f" {utils.command('run_networks', [path])}"
        )
    read_weights = weight_files.reader(path) or unpickling.unpickled
    content = read_weights(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a state dict, or one under "
            f"{', '.join(STATE_KEYS)}"
        )
    key, state = find_state(content, path)
    entries.check_tensors(state, path)
    known = beside(content, key, state, path)
    for name in entries.ACCURACIES:
        if name in known:
            known[name] = entries.fraction(known[name])
    return {**known, "model_state_dict": unwrapped(state)}


def is_ours(content: Mapping[Any, Any]) -> bool:
    """True if this project wrote the file: others have some of these entries, but never all of
    them."""
    return any(all(key in content for key in whole) for whole in (SIGNATURE, PRETRAINED))


def find_state(content: Mapping[Any, Any], path: Path) -> tuple[Any, State]:
    """The weights among a file's entries -> (their key, or None for a bare state dict, {name:
    tensor})."""
    states = {key: value for key, value in content.items() if entries.is_state(value)}
    if not states:
        return None, bare_state(content, path)
    key = next((key for key in STATE_KEYS if key in states), None)
    if key is None and len(states) > 1:
        first = shown(next(iter(states)))
        raise ValueError(
            f"{path} holds several networks: {', '.join(map(shown, states))}; save the one that is "
            f'meant, such as: torch.save(torch.load("{path}")["{first}"], "weights.pth")'
        )
    if key is None:
        key = next(iter(states))
    if key is None:  # the key of a file that says {None: its weights}
        return None, bare_state(content, path)
    others = [shown(other) for other in states if other != key]
    if others and not is_ours(content):
        warnings.warn(
            f"{path}: the weights are those of {shown(key)}; {', '.join(others)} beside it is left "
            "out",
            stacklevel=3,
        )
    return key, states[key]


def bare_state(content: Mapping[Any, Any], path: Path) -> State:
    """The tensors of a state dict that may have a few plain entries among them."""
    state = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            state[name] = value
    if not any(value.ndim for value in state.values()):
        raise ValueError(
            f"{path} holds no parameters; expected a state dict, or one under "
            f"{', '.join(STATE_KEYS)}"
        )
    return state


def unwrapped(state: State) -> State:
    """{name: tensor} without the prefixes of wrappers; unchanged where two names would become
    one."""
    plain = {plain_name(name): value.detach() for name, value in state.items()}
    return plain if len(plain) == len(state) else dict(state)


def plain_name(name: str) -> str:
    """A parameter's name without the prefixes of wrappers."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def beside(content: dict[Any, Any], key: Any, state: State, path: Path) -> dict[str, Any]:
    """What is kept of a file beside its weights, which are `state` under `key` (None: bare)."""
    if is_ours(content):
        entries.check_own(content, path)
        return {name: value for name, value in content.items() if name != key}
    if key is None:
        content = {name: value for name, value in content.items() if name not in state}
    return plain_entries(content, path)


def plain_entries(content: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """What is kept of a foreign file beside its weights: texts and numbers under names that mean
    nothing here."""
    ignored = [name for name in OWN_KEYS if name in content and not entries.is_state(content[name])]
    if ignored:
        warnings.warn(
            f"{path} was not written by train.py: its own {', '.join(ignored)} is ignored; "
            "--model and --dataset say what it is",
            stacklevel=3,
        )
    kept = {}
    for name, value in content.items():
        if not isinstance(name, str) or name in OWN_KEYS:
            continue
        plain = entries.single(value)
        if isinstance(plain, (str, int, float, type(None))):
            kept[name] = plain
    # A recipe and an epoch of another project; as they are written on, they must be of our kind.
    kept.pop("mode", None)
    if not entries.is_count(kept.get("epoch")):
        kept.pop("epoch", None)
    return kept


# ---- writing and comparing -----------------------------------------------------------------------


def write(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all; OSError that names the file where the disk does not
    take it."""
    with utils.replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            # torch's word for a full disk, a quota, or a file system that went away
            free = shutil.disk_usage(Path(path).parent).free
            said = shown(str(error).partition("\n")[0])
            raise OSError(
                f"{path} could not be written ({free / 2**20:,.0f} MiB are free there): make room, "
                f"or choose another folder with --output-dir; torch says: {said}"
            ) from error


def weights_sha256(
    model: str, model_args: Mapping[str, Any] | None, state_dict: Mapping[str, torch.Tensor]
) -> str:
    """SHA-256 of a network's name, arguments and weights, and of nothing that a run adds.

    Two files of the same weights have the same digest, whatever else they hold and however they
    name their parameters."""
    file, colon, function = model.rpartition(":")
    name_alone = f"{Path(file).name}{colon}{function}"
    arguments = {name: value for name, value in (model_args or {}).items() if value}
    digest = hashlib.sha256(json.dumps([name_alone, arguments], sort_keys=True).encode())
    for name, value in sorted(state_dict.items()):
        value = value.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
