"""How many images go through the network at once, where --batch-size does not say.

    size, origin = batching.choose(None, preprocessing.size, "cpu", batching.memory_of(device))

Features depend on it in their last digits alone, so that the rule is fixed: it knows the pixels of
an image, the kind of device, and how much memory the device has, not how much is free."""

from typing import TYPE_CHECKING

import machine_memory

if TYPE_CHECKING:  # an ONNX network does without
    import torch

MOST = 500  # images
# Of a batch on a CPU: 500 images of 32 x 32, 10 of 224 x 224. What a layer makes of more no longer
# stays in the caches, and nothing is gained (docs/extraction.md has the rates).
PIXELS = 512_000
# That a network needs while it works on an image, with room: EfficientNet-B0 takes 350 on a CPU.
BYTES_PER_PIXEL = 1000
SHARE = 1 / 4  # of the device's memory


def choose(asked: int | None, side: int, kind: str, memory: int | None) -> tuple[int, str]:
    """(images of a batch, why) for images of side x side pixels; `asked` is --batch-size.

    kind    of device, "cpu" or "cuda"
    memory  bytes of the device, None where unknown
    """
    if asked is not None:
        return asked, "--batch-size"
    pixels = side * side
    bounds = {f"at most {MOST} images": MOST}
    if kind == "cpu":
        bounds[f"at most {PIXELS:,} pixels on a CPU"] = PIXELS // pixels
    if memory is not None:
        most = int(SHARE * memory) // (BYTES_PER_PIXEL * pixels)
        bounds[f"{BYTES_PER_PIXEL} bytes a pixel, at most a quarter of the device's memory"] = most
    origin = min(bounds, key=lambda reason: bounds[reason])
    return max(1, bounds[origin]), origin


def memory_of(device: "torch.device") -> int | None:
    """Bytes of memory that a device has; None where unknown."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory.total()
