"""An ONNX file as a network: features and logits by onnxruntime, in the place of a torch module.

    network, content = load("net.onnx", "features", None)
    network(images)         # (n, 3, S, S) -> logits (n, C); its `classifier` sees the features

The classifier is a linear layer with the weights that the graph shows. Where it shows none, they
are recovered from images later (extraction/onnx_heads.py), and where there are no logits, or they
are no linear layer's, a NoClassifier stands there: features without a head."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from networks import entries, onnx_graphs, onnx_sessions
from networks.classifiers import NoClassifier
from networks.onnx_sessions import Session

PREPROCESSING = "preprocessing"  # the key of our own files' metadata


class OnnxNetwork(nn.Module):
    """A session of onnxruntime with the manners of a network of torch."""

    own_classifier = None

    def __init__(
        self, graph: onnx_graphs.Graph, chosen: onnx_graphs.Chosen, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.path = graph.path
        self.chosen = chosen
        self.session = Session(graph, chosen, torch.get_num_threads())
        self.fixed_size = self.session.fixed_size
        self.own_preprocessing = stated(graph, self.fixed_size)
        features, logits = self.session.rehearse(self.fixed_size or image_size)
        self.averaged = features.ndim == 4 and features.shape[2:] != (1, 1)
        width = onnx_sessions.flat(features, self.path).shape[1]
        self.classifier: nn.Module = NoClassifier()
        if logits is not None:
            check_logits(logits, self.path)
            self.classifier = linear(width, logits.shape[1], chosen.head)

    @property
    def knows_head(self) -> bool:
        """False where there are logits, and the layer that makes them is still to be found."""
        return self.chosen.head is not None or isinstance(self.classifier, NoClassifier)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S) -> logits (n, C); the features go through the classifier on the way, where
        the extractor sees them. Without a classifier, the features are returned."""
        found, logits = self.session.compute(images.detach().cpu().numpy())
        features = torch.from_numpy(onnx_sessions.flat(found, self.path)).to(images.device)
        made = self.classifier(features)
        if logits is None or isinstance(self.classifier, NoClassifier):
            return made
        return torch.from_numpy(logits.astype(np.float32)).to(images.device)

    def both(self, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(n, 3, S, S) -> features (n, D) and logits (n, C) of a graph that has logits."""
        features, logits = self.session.compute(images.detach().cpu().numpy())
        assert logits is not None
        return onnx_sessions.flat(features, self.path), logits.astype(np.float32)


def check_logits(logits: np.ndarray, path: Path) -> None:
    """ValueError for logits that are not (n, C)."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"the logits of {path} have shape {logits.shape}; expected (n, C) of at least two"
            " classes; name another value with --logits-output"
        )


def linear(width: int, classes: int, head: onnx_graphs.Head | None) -> nn.Linear:
    """A linear layer with these weights, or with zeros until they are recovered."""
    layer = nn.Linear(width, classes)
    W, b = head or (np.zeros((classes, width), np.float32), np.zeros(classes, np.float32))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(W)))
        assert layer.bias is not None
        layer.bias.copy_(torch.from_numpy(np.array(b)))
    return layer.requires_grad_(False)


def stated(graph: onnx_graphs.Graph, size: int | None) -> dict[str, Any] | None:
    """What the file says of its images: all of it in one that we exported, else the size of its
    input, if that is fixed."""
    text = onnx_graphs.metadata(graph).get(PREPROCESSING)
    if text:
        try:
            own = json.loads(text)
        except ValueError:
            own = None
        if entries.is_preprocessing(own):
            return own
    return {"size": size} if size else None


def load(
    path: str,
    feature_output: str | None,
    logits_output: str | None,
    image_size: int | None = None,
) -> tuple[OnnxNetwork, dict[str, Any]]:
    """An ONNX file -> (network in eval mode, what networks.loading.load says of a checkpoint)."""
    onnx_sessions.runtime()
    graph = onnx_graphs.read(Path(path))
    chosen = onnx_graphs.choose(graph, feature_output, logits_output)
    network = OnnxNetwork(graph, chosen, image_size)
    classifier = network.classifier
    classes = None if isinstance(classifier, NoClassifier) else len(classifier.weight)  # type: ignore[arg-type]
    content: dict[str, Any] = {
        "model": Path(path).name.replace(":", "_"),
        "model_state_dict": {},
        "classes": classes,
        "weights_sha256": onnx_sessions.digest(onnx_graphs.sha256(graph), chosen),
        "model_file_sha256": None,
    }
    return network.eval(), content
