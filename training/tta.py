"""Test-time augmentation: the mean of a network's logits over several views of each image.

    logits = VIEWS["flip"](network, inputs)      # (N, 3, S, S) -> (N, C)

It makes a number of its own, `test_acc_tta`, beside the accuracy of the images as they are; it
selects no epoch, and no feature is taken by it. A new way is a function and a row of VIEWS."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Logits = Callable[[Tensor], Tensor]  # images (N, 3, S, S) -> (N, C)


def plain(network: Logits, inputs: Tensor) -> Tensor:
    """The images as they are."""
    return network(inputs)


def mirrored(network: Logits, inputs: Tensor) -> Tensor:
    """The mean over the image and its mirror image."""
    return (network(inputs) + network(inputs.flip(-1))) / 2


def shifted(network: Logits, inputs: Tensor) -> Tensor:
    """Half from the image and its mirror image, half from both moved by one pixel up and left, and
    down and right; what comes in at the edges is reflected
    (Jordan 2024, "multi-crop evaluation")."""
    size = inputs.shape[-1]
    padded = F.pad(inputs, (1, 1, 1, 1), "reflect")
    down_right = padded[:, :, :size, :size]
    up_left = padded[:, :, 2:, 2:]
    moved = mirrored(network, down_right) + mirrored(network, up_left)
    return mirrored(network, inputs) / 2 + moved / 4


VIEWS: dict[str, Callable[[Logits, Tensor], Tensor]] = {"flip": mirrored, "flip+shift": shifted}
