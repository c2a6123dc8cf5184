"""extraction/batching.py: the rule for the images of a batch."""

import pytest
import torch

from extraction import batching

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30


@pytest.mark.parametrize(
    ("side", "device", "memory", "images"),
    [
        (16, CPU, 16 * GIB, 500),
        (32, CPU, 16 * GIB, 500),  # as features always were
        (64, CPU, 16 * GIB, 125),
        (224, CPU, 16 * GIB, 10),
        (384, CPU, None, 3),
        (4096, CPU, 16 * GIB, 1),
        (32, CPU, GIB, 262),
        (32, GPU, 8 * GIB, 500),
        (224, GPU, 8 * GIB, 42),
        (224, GPU, 80 * GIB, 427),
        (224, GPU, 200 * GIB, 500),
    ],
)
def test_the_rule(side, device, memory, images):
    assert batching.choose(None, side, device, memory)[0] == images


def test_a_flag_wins_and_the_reason_is_said():
    assert batching.choose(7, 224, CPU, GIB) == (7, "--batch-size")
    assert batching.choose(None, 32, GPU, None) == (500, "at most 500 images")
    assert batching.choose(None, 224, CPU, None)[1] == "at most 512,000 pixels on a CPU"
    assert "a quarter of the device's memory" in batching.choose(None, 224, CPU, 10**8)[1]
