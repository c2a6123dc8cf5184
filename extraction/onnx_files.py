"""ONNX files in the extraction: opened in the place of a checkpoint, and their head recovered from
images where the graph does not show it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

import head_from_logits
from artifacts import records, store
from extraction.options import Options
from extraction.work import Trained, Work
from images.sets import Set
from networks import onnx_graphs, onnx_networks
from networks.classifiers import NoClassifier

# Images per feature that the head is recovered from, and the fewest.
PER_FEATURE = 4
FEWEST = 1000
UNABLE = {
    "odin_epsilon": "moves images along the network's gradient, which onnxruntime does not give",
    "layers": "hooks the modules of a torch network, and an ONNX file has none",
    "amp": "is of torch networks; export the network in the precision that is wanted",
    "model": "names a torch network, and an ONNX file is one itself",
}


def check_flags(path: str, options: Options) -> None:
    """ValueError for a flag that does not go with an ONNX file, or with another one."""
    if not onnx_graphs.is_onnx(path):
        for name in ("feature_output", "logits_output"):
            if getattr(options, name):
                raise ValueError(
                    f"--{name.replace('_', '-')} names an output of an ONNX file, and {path} is"
                    " none; leave it out"
                )
        return
    for name, why in UNABLE.items():
        if getattr(options, name):
            raise ValueError(f"{path}: --{name.replace('_', '-')} {why}; leave it out")


def opened(path: str, options: Options) -> Trained:
    """The network of an ONNX file, and what the extraction needs to know of it."""
    network, content = onnx_networks.load(
        path, options.feature_output, options.logits_output, options.image_size
    )
    return Trained(path, network, network.classifier, content)


def check_size(trained: Trained, size: int) -> None:
    """ValueError where the graph takes images of another size than they are made to be."""
    network = trained.network
    if not isinstance(network, onnx_networks.OnnxNetwork):
        return
    if network.fixed_size not in (None, size):
        raise ValueError(
            f"{trained.path} takes images of {network.fixed_size} pixels alone, and --image-size"
            f" says {size}; leave that out, or export the network with that size"
        )


def say(trained: Trained) -> list[str]:
    """What was read off the graph, in lines."""
    network = trained.network
    if not isinstance(network, onnx_networks.OnnxNetwork):
        return []
    lines = list(network.chosen.said)
    if network.averaged:
        lines.append("features are averaged over their positions")
    if network.chosen.head is not None:
        lines.append("head: the linear layer of the graph that makes the logits of the features")
    if network.session.fixed_batch:
        lines.append(f"the graph takes {network.session.fixed_batch} images at once")
    return lines


# ---- the head ------------------------------------------------------------------------------------


def complete(work: Work) -> str:
    """Give the network the head that its graph does not show -> what to say of it.

    It is that of an earlier extraction, or recovered from training images by least squares; where
    the logits are no affine function of the features there is none."""
    network = work.trained.network
    if not isinstance(network, onnx_networks.OnnxNetwork) or network.knows_head:
        return ""
    if not work.options.force and is_kept(work):
        found = store.read_head(work.head)
        set_head(network, found.W, found.b)
        return "head: as it was recovered before"
    layer = network.classifier
    assert isinstance(layer, torch.nn.Linear)
    count = max(FEWEST, PER_FEATURE * (layer.in_features + 1))
    pairs = list(outputs(work, network, count))
    try:
        solved = head_from_logits.solve(lambda: pairs)
    except ValueError as error:
        drop_head(work, network)
        return f"no head: {error}"
    set_head(network, solved.W, solved.b)
    return f"head: {solved.words}"


def is_kept(work: Work) -> bool:
    """True where head.csv is of this very network, and has all of its rows."""
    sidecar = records.read_sidecar(work.head)
    rows = sidecar.get("rows") == work.trained.classes
    return work.head.exists() and rows and records.same_network(sidecar, work.shelf.origin)


def outputs(
    work: Work, network: onnx_networks.OnnxNetwork, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and logits of the first training images, in batches."""
    job = work.training
    images: Set = job.images
    for pixels in images.take(torch.arange(min(count, len(images)))).batches(
        work.extractor.batch_size
    ):
        yield network.both(work.extractor.prepared(job, pixels))


def set_head(network: onnx_networks.OnnxNetwork, W: np.ndarray, b: np.ndarray) -> None:
    """Let the classifier have these weights."""
    layer = network.classifier
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(W)))
        layer.bias.copy_(torch.from_numpy(np.array(b)))


def drop_head(work: Work, network: onnx_networks.OnnxNetwork) -> None:
    """Let the network be one of features alone."""
    network.classifier = NoClassifier()
    work.trained = replace(
        work.trained,
        classifier=network.classifier,
        content={**work.checkpoint, "classes": None},
    )
    work.extractor = replace(work.extractor, classifier=network.classifier)
