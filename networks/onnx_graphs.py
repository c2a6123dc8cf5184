"""What an ONNX file holds: its inputs and outputs, which of its values are features and logits, and
the last layer between the two.

    graph = read(Path("net.onnx"))
    chosen = choose(graph, None, None)
    chosen.features, chosen.logits, chosen.head     # names, and (W, b) or None

A graph is data: it names operators of onnxruntime and holds no code of its own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from networks.messages import shown, some

INSTALL = "pip install -r requirements-onnx.txt"
USUAL = ("features", "feature", "feat", "feats", "embedding", "embeddings")  # names of outputs
# Operators that hand on the numbers of their first input, in another shape at most.
HANDS_ON = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Cast")
Head = tuple[np.ndarray, np.ndarray]  # W (C, D), b (C,)


def is_onnx(path: str | Path) -> bool:
    """True for a file that is run by onnxruntime, by its ending."""
    return Path(path).suffix.lower() == ".onnx"


def library() -> Any:
    """The package onnx; ValueError, with the command that installs it, where it is missing."""
    try:
        import onnx
    except ImportError:
        raise ValueError(f"ONNX files need the package onnx; install it with: {INSTALL}") from None
    return onnx


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph, with the values that lead from one operator to the next by name."""

    path: Path
    model: Any  # onnx.ModelProto
    producers: dict[str, Any]  # {value: the operator that makes it}
    constants: dict[str, Any]  # {value: onnx.TensorProto}

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.model.graph.output]

    @property
    def words(self) -> str:
        """ "features (n, 512), logits (n, 10)"."""
        return some([f"{value.name} {shape_of(value)}" for value in self.model.graph.output], 12)

    def source(self, name: str) -> str:
        """The value that a value is handed on from, by operators that change its shape at most."""
        while name in self.producers and self.producers[name].op_type in HANDS_ON:
            name = self.producers[name].input[0]
        return name

    def constant(self, name: str) -> np.ndarray | None:
        """The numbers of a value that never changes; None of another."""
        found = self.constants.get(self.source(name))
        return None if found is None else library().numpy_helper.to_array(found)

    def transposed(self, name: str) -> np.ndarray | None:
        """The same of the transpose of a constant matrix."""
        node = self.producers.get(name)
        if node is None or node.op_type != "Transpose":
            return self.constant(name)
        values = self.constant(node.input[0])
        return None if values is None or values.ndim != 2 else values.T


def read(path: Path) -> Graph:
    """Read a graph; ValueError for a file that is missing, or none."""
    onnx = library()
    if not path.is_file():
        raise ValueError(f"there is no network {path}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's own, or the system's of weights beside the file
        raise ValueError(
            f"{path} is not an ONNX file that can be read ({shown(str(error).strip())}); where its"
            " weights lie in files beside it, these must be there too"
        ) from None
    if not model.graph.output:
        raise ValueError(f"{path} is not an ONNX file: it holds no graph with outputs")
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
    return Graph(path, model, producers, constants)


def shape_of(value: Any) -> str:
    """ "(n, 3, 224, 224)" of an input or output; ? for what the file does not say."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return "(?)"
    sizes = [
        size.dim_param or (str(size.dim_value) if size.dim_value else "?") for size in sides(value)
    ]
    return f"({', '.join(sizes)})"


def sides(value: Any) -> Sequence[Any]:
    """The axes of an input or output."""
    return value.type.tensor_type.shape.dim


def rank_of(graph: Graph, name: str) -> int | None:
    """How many axes an output has; None where the file does not say."""
    for value in graph.model.graph.output:
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(sides(value))
    return None


def sha256(graph: Graph) -> str:
    """SHA-256 of the file and of the files of weights beside it that it names."""
    digest = hashlib.sha256(graph.path.read_bytes())
    model = library().load(graph.path, load_external_data=False)
    names = set()
    for tensor in model.graph.initializer:
        names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    for name in sorted(names):
        digest.update((graph.path.parent / name).read_bytes())
    return digest.hexdigest()


def metadata(graph: Graph) -> dict[str, str]:
    """The texts that the file has beside its graph."""
    return {entry.key: entry.value for entry in graph.model.metadata_props}


# ---- which values are features and logits --------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chosen:
    """The values that are read off a graph, by name."""

    features: str
    logits: str | None
    head: Head | None  # the layer that makes the logits of the features, where the graph shows it
    said: list[str]


def choose(graph: Graph, features: str | None, logits: str | None) -> Chosen:
    """Features and logits, by the flags or where they are obvious.

    Features are obvious where an output has a usual name, where a graph has two outputs and one
    linear layer between them, or where its only output is made by a linear layer, whose input they
    are. ValueError that lists the outputs otherwise, and for a name that is no value."""
    for flag, name in (("--feature-output", features), ("--logits-output", logits)):
        if name is not None and name not in graph.outputs and name not in graph.producers:
            raise ValueError(
                f"{flag} {shown(name)}: {graph.path} has no output of that name; it has"
                f" {graph.words}, and any value within the graph may be named"
            )
    said = []
    if features is None:
        features, why = obvious(graph, logits)
        said.append(f"features: {shown(features)}, {why}")
    if logits is None:
        logits = other_output(graph, features)
        said.append(f"logits: {shown(logits)}" if logits else "logits: none of its outputs")
    head = linear_between(graph, features, logits) if logits else None
    return Chosen(features, logits, head, said)


def obvious(graph: Graph, logits: str | None) -> tuple[str, str]:
    """The features of a graph where they are obvious -> (name, why)."""
    usual = [name for name in graph.outputs if name.lower() in USUAL]
    if len(usual) == 1:
        return usual[0], "the output of that name"
    pairs = [
        (features, made)
        for features in graph.outputs
        for made in graph.outputs
        if features != made and linear_between(graph, features, made) is not None
    ]
    if len(pairs) == 1:
        return pairs[0][0], f"the output that a linear layer makes {shown(pairs[0][1])} of"
    last = logits or (graph.outputs[0] if len(graph.outputs) == 1 else None)
    if last is not None and (node := last_layer(graph, last)) is not None:
        return node.input[0], f"what enters the last linear layer, which makes {shown(last)}"
    raise ValueError(
        f"which output of {graph.path} holds features is not obvious; it has {graph.words}; name it"
        " with --feature-output NAME, an output or any value within the graph"
    )


def other_output(graph: Graph, features: str) -> str | None:
    """The logits: the output that a linear layer makes of the features, or the only other one of
    two axes."""
    others = [name for name in graph.outputs if name != features]
    made = [name for name in others if linear_between(graph, features, name) is not None]
    flat = [name for name in others if rank_of(graph, name) in (2, None)]
    usual = [name for name in flat if name.lower() == "logits"]
    for candidates in (made, usual, flat):
        if len(candidates) == 1:
            return candidates[0]
    if len(flat) > 1:
        raise ValueError(
            f"which output of {graph.path} holds logits is not clear; it has {graph.words}; name it"
            " with --logits-output NAME"
        )
    return None


# ---- the last layer ------------------------------------------------------------------------------


def last_layer(graph: Graph, logits: str) -> Any | None:
    """The Gemm or MatMul that makes these logits; None where another operator does."""
    node = graph.producers.get(graph.source(logits))
    if node is not None and node.op_type == "Add":
        inner = [graph.producers.get(name) for name in node.input]
        products = [found for found in inner if found is not None and found.op_type == "MatMul"]
        node = products[0] if len(products) == 1 else None
    return node if node is not None and node.op_type in ("Gemm", "MatMul") else None


def linear_between(graph: Graph, features: str, logits: str) -> Head | None:
    """W (C, D) and b (C,) of the layer that makes the logits of the features; None where the graph
    does not show one."""
    node = last_layer(graph, logits)
    if node is None or graph.source(node.input[0]) != graph.source(features):
        return None
    if node.op_type == "Gemm":
        return of_gemm(graph, node)
    weight = graph.transposed(node.input[1])
    if weight is None or weight.ndim != 2:
        return None
    W = weight.T.astype(np.float32)
    added = graph.producers.get(graph.source(logits))
    if added is None or added.op_type != "Add":
        return W, np.zeros(len(W), np.float32)
    biases = [graph.constant(name) for name in added.input if name != node.output[0]]
    if len(biases) != 1 or biases[0] is None or biases[0].size not in (1, len(W)):
        return None
    return W, np.broadcast_to(biases[0].reshape(-1), len(W)).astype(np.float32)


def of_gemm(graph: Graph, node: Any) -> Head | None:
    """alpha A' B' + beta C -> W and b."""
    values = {each.name: library().helper.get_attribute_value(each) for each in node.attribute}
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim != 2 or values.get("transA"):
        return None
    W = weight if values.get("transB") else weight.T
    W = (values.get("alpha", 1.0) * W.astype(np.float64)).astype(np.float32)
    if len(node.input) < 3 or not node.input[2]:
        return W, np.zeros(len(W), np.float32)
    bias = graph.constant(node.input[2])
    if bias is None or bias.size not in (1, len(W)):
        return None
    b = values.get("beta", 1.0) * bias.astype(np.float64).reshape(-1)
    return W, np.broadcast_to(b, len(W)).astype(np.float32)
