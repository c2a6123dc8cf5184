"""A network as an ONNX file whose outputs are `features` (n, D) and `logits` (n, C).

export(network, classifier, 32, Path("net.onnx"), {"preprocessing": "..."})"""

import warnings
from collections.abc import Mapping
from pathlib import Path

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
