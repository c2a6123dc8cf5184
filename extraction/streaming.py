"""Image files through a network, one batch after the other: for detect.py, whose stream of images
may be of any length.

    network = streaming.opened("results/net.pth", facts, model=None, device="cpu")
    found = network.features(["a.jpg", "b.png"])
    found.features, found.broken           # (n, D) of those that can be read; {path: why}

The features are those that run_networks.py makes, by the same reader, preprocessing and pass."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from artifacts import records
from data import Preprocessing
from extraction import batching
from extraction.extractor import Extractor
from extraction.plan import Job
from images.file_facts import Matched
from images.sets import Images, decoded
from networks import checkpoints, loading, onnx_graphs
from processes import World
from utils import SetName

STREAM = SetName("stream", "stream")


@dataclass(frozen=True, eq=False)
class Found:
    """What became of the images of a batch.

    paths     [n] of those that were read, in their order
    features  (n, D) float32
    broken    {path: why it cannot be read}
    """

    paths: list[str]
    features: np.ndarray
    broken: dict[str, str]


@dataclass(frozen=True, eq=False)
class Network:
    """A network that was opened, and the threads that decode for it."""

    extractor: Extractor
    pool: ThreadPoolExecutor

    @property
    def batch_size(self) -> int:
        return self.extractor.batch_size

    def features(self, paths: Sequence[str]) -> Found:
        """The features of image files; what cannot be read is among `broken`."""
        preprocessing = self.extractor.preprocessing
        images = self.pool.map(lambda path: decoded(path, preprocessing)[0], paths)
        read, arrays, broken = [], [], {}
        for path, image in zip(paths, images, strict=True):
            if isinstance(image, str):
                broken[path] = image
            else:
                read.append(path)
                arrays.append(image)
        if not arrays:
            return Found([], np.empty((0, 0), np.float32), broken)
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        images_read = Images(pixels, torch.full((len(read),), -1), [], "stream")
        job = Job("stream", "stream", lambda: images_read, STREAM)
        features = self.extractor.run(job).features
        assert features is not None, "there is an image"
        return Found(read, features, broken)


def opened(
    path: str,
    facts: Mapping[str, Any],
    model: str | None,
    device: str,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Network:
    """The network of a checkpoint, by what a detector says of it: `facts` as detection.keeping
    writes them. `model` names a network that is code, FILE.py:FUNCTION.

    ValueError for another network than the one that the detector was fitted to."""
    trained = network_of(path, facts, model)
    preprocessing = preprocessing_of(facts)
    world = World(0, 1, torch.device(device))
    memory = batching.memory_of(world.device)
    size, origin = batching.choose(batch_size, preprocessing.size, world.device, memory)
    extractor = Extractor(
        trained.network.to(world.device).to(memory_format=torch.channels_last),
        trained.classifier,
        preprocessing,
        world,
        size,
        facts.get("precision") == "bfloat16",
        batch_size_from=origin,
    )
    return Network(extractor, ThreadPoolExecutor(workers or os.cpu_count() or 1))


@dataclass(frozen=True, eq=False)
class Trained:
    """A network and its classifier."""

    network: torch.nn.Module
    classifier: torch.nn.Module


def network_of(path: str, facts: Mapping[str, Any], model: str | None) -> Trained:
    """The network of a checkpoint. By its weights, as they were read with the same name and size of
    images; a file of the same weights under another name is the same network."""
    if onnx_graphs.is_onnx(path):
        raise ValueError(
            f"{path} is an ONNX network, and images are run through networks of torch here; extract"
            f" its features with: python run_networks.py --checkpoint {path} --ood new=FOLDER, and"
            " give their file in place of the images"
        )
    content = checkpoints.read(path)
    named = model or (None if content.get("model") else library_name(facts))
    size = (facts.get("preprocessing") or {}).get("size")
    for image_size in (None, size):  # --image-size resizes position embeddings
        network, classifier, known = loading.load(path, named, content, image_size)
        mine = {"weights_sha256": known["weights_sha256"]}
        if records.same_network(mine, facts):
            return Trained(network, classifier)
    raise ValueError(
        f"{path} holds another network than the detector was fitted to, which is"
        f" {facts.get('checkpoint') or 'unnamed'} with SHA-256 {facts.get('checkpoint_sha256')};"
        " name its weights with --checkpoint, or fit a detector to this network with:"
        f" python run_networks.py --checkpoint {path}, then ood_methods.py"
    )


def library_name(facts: Mapping[str, Any]) -> str | None:
    """The name of the network as the detector has it, unless that is code: a file chooses none."""
    name = facts.get("model")
    return None if name is None or ":" in name else name


def preprocessing_of(facts: Mapping[str, Any]) -> Preprocessing:
    """How images were prepared for the features that the detector was fitted to."""
    values = facts.get("preprocessing")
    if not values:
        raise ValueError(
            "the detector does not say how images are prepared for its network: it was fitted to"
            " features without a sidecar; give features instead of images"
        )
    known = dict(values)
    if known.get("match"):
        known["match"] = Matched(**known["match"])
    for name in ("mean", "std"):
        known[name] = tuple(known[name])
    return Preprocessing(**known)
