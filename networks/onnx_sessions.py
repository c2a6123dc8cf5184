"""A graph that onnxruntime runs: images in, features and logits out, as NumPy's arrays.

    graph = onnx_graphs.read(Path("net.onnx"))
    session = Session(graph, onnx_graphs.choose(graph, None, None))
    features, logits = session.compute(images)      # float32 (n, 3, S, S), normalised

Nothing here imports torch, so that one photograph can be judged within a second."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from networks import onnx_graphs
from networks.messages import shown

# Types of the input, as onnxruntime names them.
FLOATS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
CHANNELS = 3
USUAL_SIZES = (32, 224)  # tried where neither the file nor the person says a size


def runtime() -> Any:
    """The package onnxruntime; ValueError, with the command that installs it, where it is
    missing.

    Since 1.29 it sends names and hashes of the files that it opens to its makers, on Linux too, and
    keeps a data base of them; who wants that sets ORT_DISABLE_TELEMETRY=0 before."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            f"ONNX files are run by the package onnxruntime; install it with: {onnx_graphs.INSTALL}"
        ) from None
    return onnxruntime


class Session:
    """A graph that onnxruntime runs on the CPU, or on a GPU where its package for that is there.

    fixed_size    pixels of a side, None where the graph takes any
    fixed_batch   images that the graph takes at once, None for any number
    """

    def __init__(
        self, graph: onnx_graphs.Graph, chosen: onnx_graphs.Chosen, threads: int | None = None
    ) -> None:
        """`threads` share an operation; None for as many as there are cores."""
        self.path = graph.path
        self.graph = graph
        self.chosen = chosen
        self.session = session_of(graph, chosen, threads)
        self.input = only_input(self.path, self.session)
        sides = self.input.shape
        whole = [size if isinstance(size, int) and size > 0 else None for size in sides]
        self.channels_last = whole[1] != CHANNELS and whole[3] == CHANNELS
        self.fixed_batch = whole[0]
        self.fixed_size = whole[1] if self.channels_last else whole[2]

    def rehearse(self, side: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """The outputs of one grey image, of `side` pixels where that is known, which tell their
        widths; ValueError where no usual size passes through."""
        failures = []
        for size in (side,) if side else USUAL_SIZES:
            try:
                return self.compute(np.zeros((1, CHANNELS, size, size), np.float32))
            except RuntimeError as error:
                failures.append(str(error))
        sizes = f"{side} x {side}" if side else " and ".join(map(str, USUAL_SIZES))
        raise ValueError(
            f"{self.path} fails on images of {sizes} pixels ({failures[0]}); say the size of its"
            " images with --image-size"
        )

    def compute(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Images (n, 3, S, S) -> the two outputs as the graph has them; None for logits that there
        are not. RuntimeError where the graph fails on them."""
        pixels = self.fed(images)
        parts = [self.run_once(part) for part in self.parts_of(pixels)]
        features, *logits = (
            np.concatenate(each)[: len(pixels)] for each in zip(*parts, strict=True)
        )
        return features, logits[0] if logits else None

    def fed(self, images: np.ndarray) -> np.ndarray:
        """Images (n, 3, S, S) in the type and order that the graph takes."""
        pixels = images.astype(FLOATS[self.input.type])
        if self.channels_last:
            pixels = pixels.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(pixels)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Images (n, 3, S, S) -> features (n, D)."""
        return flat(self.compute(images)[0], self.path)

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


def session_of(graph: onnx_graphs.Graph, chosen: onnx_graphs.Chosen, threads: int | None) -> Any:
    """The graph, ready to run, with the values that are read off it as outputs."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: onnxruntime chooses
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


def digest(of_file: str, chosen: onnx_graphs.Chosen) -> str:
    """What tells networks apart: the weights, and which values are read off them."""
    text = json.dumps([of_file, chosen.features, chosen.logits])
    return hashlib.sha256(text.encode()).hexdigest()
