"""Networks with the weights that timm or torchvision publish, saved as a checkpoint of ours.

    path = pretrained.save("timm/tf_efficientnet_lite0", "results", facts, command)

The checkpoint is what features name as their origin, and what --checkpoint takes from then on. It
holds the preprocessing that the library states and, where the head is one of ImageNet's, the
WordNet ids of its rows. Weights that cannot be downloaded end in one message: where a browser finds
them, and which command then takes the file."""

import http.client
import shlex
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import utils
from artifacts import records
from networks import checkpoints, classifiers, library_names, loading, wordnet
from networks.messages import shown

Command = Callable[[str], str]

SECONDS = 20  # that a server may take for its first answer
# What a library raises where its server, or the disk, does not do what it should.
FAILURES = (OSError, RuntimeError, ValueError, http.client.HTTPException, urllib.error.URLError)
HUB_FILE = "model.safetensors"  # of a repository of timm's


def path_of(name: str, folder: str | Path) -> Path:
    """Where the checkpoint of a pretrained network lies."""
    return Path(folder) / f"{library_names.short(name)}_pretrained.pth"


def save(name: str, folder: str | Path, provenance: Mapping[str, Any], command: Command) -> Path:
    """The checkpoint of a pretrained network, made where it is not there yet -> its path.

    `provenance` is records.provenance of the command that asks, and `command` makes of a file's
    name the one that takes that file instead. ValueError where there are no such weights, where
    they cannot be had, and where another file has the name."""
    path = path_of(name, folder)
    if path.is_file():
        refuse_other(path, name)
        return path
    network = with_weights(name, command)
    content = facts_of(network, name)
    state = network.state_dict()
    checkpoints.write(path, {**content, "model_state_dict": state, "versions": records.versions()})
    hashes = {
        "checkpoint_sha256": records.sha256(path),
        "weights_sha256": checkpoints.weights_sha256(name, content["model_args"], state),
    }
    utils.write_json(records.sidecar_path(path), {**provenance, **content, **hashes})
    return path


def refuse_other(path: Path, name: str) -> None:
    """ValueError unless a file holds the pretrained network of this name."""
    content = checkpoints.read(path)
    if content.get("model") == name and content.get("pretrained"):
        return
    aside = shlex.join(["mv", "-n", str(path), f"{path}.old"])
    raise ValueError(
        f"{path} is there already and is not the pretrained {name}; choose another folder with"
        f" --output-dir, or move it with: {aside}"
    )


def facts_of(network: Any, name: str) -> dict[str, Any]:
    """What a pretrained network's checkpoint says of it."""
    library, own = library_names.split(name)
    classes = classifiers.count_classes(classifiers.classifier(network, name))
    content = {
        "model": name,
        "model_args": {"dropout": 0.0},
        "pretrained": f"{library}'s weights of {own}: {source(name)}",
        "preprocessing": library_names.own_preprocessing(network, name),
    }
    ids = wordnet.ids(classes)
    return {**content, "class_names": ids} if ids else content


# ---- where the weights are from ------------------------------------------------------------------


def with_weights(name: str, command: Command) -> nn.Module:
    """The network with its library's weights, downloaded where they are not at hand; ValueError
    where they cannot be.

    The file is read as any other, without running code from it."""
    library_names.check(name)
    source(name)
    file = cached(name)
    if file is None:
        refuse_unreachable(name, command)
        try:
            file = downloaded(name)
        except FAILURES as error:
            raise ValueError(by_hand(name, str(error), command)) from error
    return loading.load(file, name)[0]


def downloaded(name: str) -> Path:
    """Download the weights to where their library looks for them."""
    address, place = source(name), cached_file(source(name))
    if repository := repository_of(name):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(*repository))
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(address, str(place))
    return place


def source(name: str) -> str:
    """The address of the weights; ValueError where the library has none, or no classifier."""
    library, own = library_names.split(name)
    if library == "torchvision":
        return library_names.torchvision_models().get_model_weights(own).DEFAULT.url
    config = library_names.timm_config(own)
    if not config.has_weights:
        raise ValueError(
            f"timm has no weights of {own}; leave --pretrained out and train it with train.py, or"
            " give a file with --checkpoint"
        )
    if config.num_classes == 0:
        raise ValueError(
            f"timm's weights of {own} are features without a classifier, and OOD scores need one;"
            " name other weights of it by their tag, such as timm/vit_base_patch16_224.augreg_in1k"
        )
    if repository := repository_of(name):
        from huggingface_hub import hf_hub_url

        return hf_hub_url(*repository)
    return config.url


def repository_of(name: str) -> tuple[str, str] | None:
    """Repository and file of the weights, where they lie on the hub that timm uses."""
    library, own = library_names.split(name)
    config = library_names.timm_config(own) if library == "timm" else None
    if config is None or not config.hf_hub_id:
        return None
    return config.hf_hub_id, config.hf_hub_filename or HUB_FILE


def cached(name: str) -> Path | None:
    """The file of the weights where it was downloaded before, by us or by the library."""
    if repository := repository_of(name):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(*repository)
        return Path(found) if isinstance(found, str) else None
    file = cached_file(source(name))
    return file if file.is_file() else None


def cached_file(address: str) -> Path:
    """Where torch keeps what it downloaded from an address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]


def refuse_unreachable(name: str, command: Command) -> None:
    """ValueError where no server answers. Asked first, since the libraries try for a minute."""
    request = urllib.request.Request(source(name), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return  # a server answered; what it says of the file itself is for the library to see
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(by_hand(name, str(reason), command)) from None


def by_hand(name: str, said: str, command: Command) -> str:
    """The message for weights that cannot be downloaded: where they are, and what takes them."""
    address = source(name)
    file = address.rpartition("/")[2]
    renamed = f"{library_names.short(name)}{Path(file).suffix}"
    place = ""
    if name.startswith("torchvision/"):
        place = f" (put into {cached_file(address).parent} as {file}, it is found as it is, too)"
    reason = shown(" ".join(said.split()))
    return (
        f"the weights of {name} cannot be downloaded ({reason}). Get the file {address} where that"
        f" can be reached, put it here as {renamed}, and run: {command(renamed)}{place}"
    )
