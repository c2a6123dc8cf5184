"""A network as an ONNX file whose outputs are `features` (n, D) and `logits` (n, C).

    export(network, classifier, 32, Path("net.onnx"), {"preprocessing": "..."})
    model = with_projection(onnx.load("net.onnx"), centre, matrix, offset, "projected")
    model = with_score(model, "projected", "score")

The last two append what a linear detector computes: a product of the centred features, and the
negative length of it. They take and return onnx.ModelProto."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import utils
from networks import classifiers, onnx_graphs
from networks.messages import shown

OPSET = 17  # LayerNormalization came with it; onnxruntime has it since 1.12
INPUT, FEATURES, LOGITS = "images", "features", "logits"


class WithFeatures(nn.Module):
    """The network, which returns what enters its classifier beside the logits."""

    def __init__(self, network: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.caught: list[torch.Tensor] = []
        self.hook = classifier.register_forward_pre_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.caught.append(inputs[0])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 3, S, S) -> features (n, D), logits (n, C)."""
        self.caught.clear()
        logits = self.network(images)
        return classifiers.vectors(self.caught[-1]), logits


def export(
    network: nn.Module, classifier: nn.Module, size: int, path: Path, facts: Mapping[str, str]
) -> None:
    """Write a network of images of `size` pixels, for any number of them at once, with texts beside
    the graph.

    ValueError where the network holds an operator that ONNX has not."""
    onnx = onnx_graphs.library()
    whole = WithFeatures(network, classifier).eval()
    device = next(network.parameters()).device
    images = torch.zeros(2, 3, size, size, device=device)
    many = {name: {0: "n"} for name in (INPUT, FEATURES, LOGITS)}
    try:
        with utils.replacing(path) as temporary:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of tracing: what comes out is compared
                torch.onnx.export(
                    whole,
                    (images,),
                    temporary,
                    input_names=[INPUT],
                    output_names=[FEATURES, LOGITS],
                    dynamic_axes=many,
                    opset_version=OPSET,
                    dynamo=False,
                )
            model = onnx.load(temporary)
            onnx.helper.set_model_props(model, dict(facts))
            onnx.checker.check_model(model)
            onnx.save(model, temporary)
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise ValueError(f"the network cannot be written as ONNX ({shown(str(error))})") from None
    finally:
        whole.hook.remove()


# ---- a linear detector behind the features -------------------------------------------------------


def with_projection(
    model: Any, centre: np.ndarray, matrix: np.ndarray, offset: np.ndarray, output: str
) -> Any:
    """The model with one more output (n, k): (features - centre) @ matrix + offset.

    centre (D,), matrix (D, k), offset (k,), as scores.common.Fitted has them."""
    onnx = onnx_graphs.library()
    given = {"centre": centre, "matrix": matrix, "offset": offset}
    names = {name: f"{output}.{name}" for name in given}
    constants = [
        onnx.numpy_helper.from_array(np.ascontiguousarray(values, np.float32), names[name])
        for name, values in given.items()
    ]
    node = onnx.helper.make_node
    nodes = [
        node("Sub", [FEATURES, names["centre"]], [f"{output}.centred"]),
        node("MatMul", [f"{output}.centred", names["matrix"]], [f"{output}.product"]),
        node("Add", [f"{output}.product", names["offset"]], [output]),
    ]
    return appended(model, nodes, constants, output, ["n", np.shape(matrix)[1]])


def with_score(model: Any, projected: str, output: str) -> Any:
    """The model with one more output (n,): the negative length of each row of a projection."""
    onnx = onnx_graphs.library()
    axes = onnx.numpy_helper.from_array(np.array([1], np.int64), f"{output}.axes")
    node = onnx.helper.make_node
    nodes = [
        node("Mul", [projected, projected], [f"{output}.squares"]),
        node("ReduceSum", [f"{output}.squares", axes.name], [f"{output}.sum"], keepdims=0),
        node("Sqrt", [f"{output}.sum"], [f"{output}.length"]),
        node("Neg", [f"{output}.length"], [output]),
    ]
    return appended(model, nodes, [axes], output, ["n"])


def appended(
    model: Any, nodes: list[Any], constants: list[Any], output: str, shape: list[str | int]
) -> Any:
    """A copy of the model with these operators behind it, and one more output of float32."""
    onnx = onnx_graphs.library()
    longer = onnx.ModelProto()
    longer.CopyFrom(model)
    longer.graph.initializer.extend(constants)
    longer.graph.node.extend(nodes)
    kind = onnx.TensorProto.FLOAT
    longer.graph.output.append(onnx.helper.make_tensor_value_info(output, kind, shape))
    onnx.checker.check_model(longer)
    return longer
