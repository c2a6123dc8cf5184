"""An ONNX file as a network: features and logits by onnxruntime, in the place of a torch module.

    network, content = load("net.onnx", "features", None)
    network(images)         # (n, 3, S, S) -> logits (n, C); its `classifier` sees the features

The classifier is a linear layer with the weights that the graph shows. Where it shows none, they
are recovered from images later (extraction/onnx_heads.py), and where there are no logits, or they
are no linear layer's, a NoClassifier stands there: features without a head."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from networks import entries, onnx_graphs
from networks.classifiers import NoClassifier
from networks.messages import shown

# Types of the input, as onnxruntime names them.
FLOATS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
PREPROCESSING = "preprocessing"  # the key of our own files' metadata
CHANNELS = 3
USUAL_SIZES = (32, 224)  # tried where neither the file nor the person says a size


def runtime() -> Any:
    """The package onnxruntime; ValueError, with the command that installs it, where it is
    missing."""
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            f"ONNX files are run by the package onnxruntime; install it with: {onnx_graphs.INSTALL}"
        ) from None
    return onnxruntime


class OnnxNetwork(nn.Module):
    """A graph that onnxruntime runs on the CPU, or on a GPU where its package for that is there.

    fixed_size    pixels of a side, None where the graph takes any
    fixed_batch   images that the graph takes at once, None for any number
    """

    own_classifier = None

    def __init__(
        self,
        path: Path,
        chosen: onnx_graphs.Chosen,
        graph: onnx_graphs.Graph,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.chosen = chosen
        self.session = session_of(graph, chosen)
        self.input = only_input(path, self.session)
        sides = self.input.shape
        whole = [size if isinstance(size, int) and size > 0 else None for size in sides]
        self.channels_last = whole[1] != CHANNELS and whole[3] == CHANNELS
        self.fixed_batch = whole[0]
        self.fixed_size = whole[1] if self.channels_last else whole[2]
        self.own_preprocessing = stated(graph, self.fixed_size)
        features, logits = self.rehearse(self.fixed_size or image_size)
        self.averaged = features.ndim == 4 and features.shape[2:] != (1, 1)
        width = flat(features, path).shape[1]
        self.classifier: nn.Module = NoClassifier()
        if logits is not None:
            check_logits(logits, path)
            self.classifier = linear(width, logits.shape[1], chosen.head)

    @property
    def knows_head(self) -> bool:
        """False where there are logits, and the layer that makes them is still to be found."""
        return self.chosen.head is not None or isinstance(self.classifier, NoClassifier)

    def rehearse(self, side: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """The outputs of one grey image, of `side` pixels where that is known, which tell their
        widths; ValueError where no usual size passes through."""
        failures = []
        for size in (side,) if side else USUAL_SIZES:
            try:
                return self.compute(torch.zeros(1, CHANNELS, size, size))
            except RuntimeError as error:
                failures.append(str(error))
        sizes = f"{side} x {side}" if side else " and ".join(map(str, USUAL_SIZES))
        raise ValueError(
            f"{self.path} fails on images of {sizes} pixels ({failures[0]}); say the size of its"
            " images with --image-size"
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S) -> logits (n, C); the features go through the classifier on the way, where
        the extractor sees them. Without a classifier, the features are returned."""
        found, logits = self.compute(images)
        features = torch.from_numpy(flat(found, self.path)).to(images.device)
        made = self.classifier(features)
        if logits is None or isinstance(self.classifier, NoClassifier):
            return made
        return torch.from_numpy(logits.astype(np.float32)).to(images.device)

    def both(self, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(n, 3, S, S) -> features (n, D) and logits (n, C) of a graph that has logits."""
        features, logits = self.compute(images)
        assert logits is not None
        return flat(features, self.path), logits.astype(np.float32)

    def compute(self, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """The two outputs as the graph has them; None for logits that there are not."""
        pixels = images.detach().cpu().numpy().astype(FLOATS[self.input.type])
        if self.channels_last:
            pixels = pixels.transpose(0, 2, 3, 1)
        pixels = np.ascontiguousarray(pixels)
        parts = [self.run_once(part) for part in self.parts_of(pixels)]
        features, *logits = (
            np.concatenate(each)[: len(pixels)] for each in zip(*parts, strict=True)
        )
        return features, logits[0] if logits else None

    def parts_of(self, pixels: np.ndarray) -> list[np.ndarray]:
        """The images in parts of the number that the graph takes; the last is filled up with its
        last image."""
        if self.fixed_batch is None:
            return [pixels]
        size = self.fixed_batch
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        lacking = size - len(parts[-1])
        if lacking:
            filling = np.repeat(parts[-1][-1:], lacking, axis=0)
            parts[-1] = np.concatenate([parts[-1], filling])
        return parts

    def run_once(self, pixels: np.ndarray) -> list[np.ndarray]:
        """One call of onnxruntime; its error, as one that the extractor explains."""
        names = [self.chosen.features, *([self.chosen.logits] if self.chosen.logits else [])]
        try:
            return self.session.run(names, {self.input.name: pixels})
        except Exception as error:  # onnxruntime has several of its own
            raise RuntimeError(shown(str(error))) from None


def session_of(graph: onnx_graphs.Graph, chosen: onnx_graphs.Chosen) -> Any:
    """The graph, ready to run, with the values that are read off it as outputs."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    providers = onnxruntime.get_available_providers()
    wanted = [each for each in ("CUDAExecutionProvider",) if each in providers]
    hidden = [name for name in (chosen.features, chosen.logits) if name not in graph.outputs]
    content: Any = str(graph.path)
    try:
        if named := [name for name in hidden if name]:
            content = with_outputs(graph, named)
        return onnxruntime.InferenceSession(
            content, options, providers=[*wanted, "CPUExecutionProvider"]
        )
    except Exception as error:
        raise ValueError(
            f"{graph.path} cannot be run by onnxruntime ({shown(str(error))}); export it again, or"
            " install a newer onnxruntime"
        ) from None


def with_outputs(graph: onnx_graphs.Graph, names: list[str]) -> bytes:
    """The graph with values from within it as outputs too."""
    onnx = onnx_graphs.library()
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return model.SerializeToString()


def only_input(path: Path, session: Any) -> Any:
    """The input of images; ValueError for a graph with another one."""
    given = session.get_inputs()
    words = ", ".join(f"{each.name} {each.type} {each.shape}" for each in given)
    if len(given) != 1 or len(given[0].shape) != 4 or given[0].type not in FLOATS:
        raise ValueError(
            f"{path} has the inputs {words}; expected one of floats (n, 3, S, S), images that are"
            " normalised before"
        )
    return given[0]


def flat(features: np.ndarray, path: Path) -> np.ndarray:
    """Features (n, D), (n, D, 1, 1), or (n, D, H, W) averaged over positions -> (n, D) float32."""
    if features.ndim == 4:
        features = features.astype(np.float32).mean((2, 3))
    if features.ndim != 2:
        raise ValueError(
            f"the features of {path} have shape {features.shape}; expected (n, D), or (n, D, H, W);"
            " name another value with --feature-output"
        )
    return np.ascontiguousarray(features, np.float32)


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
    runtime()
    graph = onnx_graphs.read(Path(path))
    chosen = onnx_graphs.choose(graph, feature_output, logits_output)
    network = OnnxNetwork(Path(path), chosen, graph, image_size)
    classifier = network.classifier
    classes = None if isinstance(classifier, NoClassifier) else len(classifier.weight)  # type: ignore[arg-type]
    content: dict[str, Any] = {
        "model": Path(path).name.replace(":", "_"),
        "model_state_dict": {},
        "classes": classes,
        "weights_sha256": digest(onnx_graphs.sha256(graph), chosen),
        "model_file_sha256": None,
    }
    return network.eval(), content


def digest(of_file: str, chosen: onnx_graphs.Chosen) -> str:
    """What tells networks apart: the weights, and which values are read off them."""
    text = json.dumps([of_file, chosen.features, chosen.logits])
    return hashlib.sha256(text.encode()).hexdigest()
