"""Image files through a network, one batch after the other: for detect.py, whose stream of images
may be of any length.

    network = streaming.opened("results/net.pth", facts, model=None, device="cpu")
    found = network.features(["a.jpg", "b.png"])
    found.features, found.broken           # (n, D) of those that can be read; {path: why}

The features are those that run_networks.py makes, by the same reader, preprocessing and pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from artifacts import records
from extraction import batching, pictures
from extraction.extractor import Extractor
from extraction.pictures import Found
from extraction.plan import Job
from images.sets import Images
from networks import checkpoints, loading, onnx_export
from processes import World
from utils import SetName

STREAM = SetName("stream", "stream")


@dataclass(frozen=True, eq=False)
class Network:
    """A network that was opened, and the threads that decode for it."""

    extractor: Extractor
    reader: pictures.Reader

    @property
    def batch_size(self) -> int:
        return self.extractor.batch_size

    def features(self, paths: Sequence[str]) -> Found:
        """The features of image files; what cannot be read is among `broken`."""
        read = self.reader.read(paths)
        if read.pixels is None:
            return Found.none(read.broken)
        pixels = torch.from_numpy(read.pixels).permute(0, 3, 1, 2).contiguous()
        images = Images(pixels, torch.full((len(pixels),), -1), [], "stream")
        job = Job("stream", "stream", lambda: images, STREAM)
        features = self.extractor.run(job).features
        assert features is not None, "there is an image"
        return Found(read.paths, features, read.broken)


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
    preprocessing = pictures.preprocessing_of(facts)
    world = World(0, 1, torch.device(device))
    memory = batching.memory_of(world.device)
    size, origin = batching.choose(batch_size, preprocessing.size, world.device.type, memory)
    extractor = Extractor(
        trained.network.to(world.device).to(memory_format=torch.channels_last),
        trained.classifier,
        preprocessing,
        world,
        size,
        facts.get("precision") == "bfloat16",
        batch_size_from=origin,
    )
    return Network(extractor, pictures.Reader(preprocessing, workers))


def export(path: str, facts: Mapping[str, Any], model: str | None, target: Path) -> None:
    """Write the same network as an ONNX file, which says from which checkpoint."""
    trained = network_of(path, facts, model)
    size = pictures.preprocessing_of(facts).size
    said = {"checkpoint_sha256": str(facts.get("checkpoint_sha256"))}
    onnx_export.export(trained.network, trained.classifier, size, target, said)


@dataclass(frozen=True, eq=False)
class Trained:
    """A network and its classifier."""

    network: torch.nn.Module
    classifier: torch.nn.Module


def network_of(path: str, facts: Mapping[str, Any], model: str | None) -> Trained:
    """The network of a checkpoint. By its weights, as they were read with the same name and size of
    images; a file of the same weights under another name is the same network."""
    content = checkpoints.read(path)
    named = model or (None if content.get("model") else library_name(facts))
    size = (facts.get("preprocessing") or {}).get("size")
    for image_size in (None, size):  # --image-size resizes position embeddings
        network, classifier, known = loading.load(path, named, content, image_size)
        mine = {"weights_sha256": known["weights_sha256"]}
        if records.same_network(mine, facts):
            return Trained(network, classifier)
    raise ValueError(pictures.of_another_network(path, facts))


def library_name(facts: Mapping[str, Any]) -> str | None:
    """The name of the network as the detector has it, unless that is code: a file chooses none."""
    name = facts.get("model")
    return None if name is None or ":" in name else name
