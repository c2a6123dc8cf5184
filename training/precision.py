"""In which numbers a step computes: float32, or autocast to 16 bits.

    name = precision.choose(None, torch.device("cpu"))      # bf16 where the device gains by it
    with precision.autocast(name, device): ...
    scaler = precision.scaler(name, device)                 # of the loss; does nothing but for fp16

float16 has no numbers below 6e-8: the loss is multiplied before the backward pass, gradients are
divided by that factor before they are clipped, and a step whose gradients overflow is left out
while the factor is halved (Micikevicius et al. 2018)."""

from contextlib import AbstractContextManager

import torch

from training.parts import has_bfloat16

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = ("fp32", *HALVES)
WORDS = {"fp32": "", "bf16": " in bfloat16", "fp16": " in float16"}


def choose(asked: str | None, device: torch.device) -> str:
    """One of NAMES: the one that is asked for, or bf16 where the device multiplies it natively."""
    if asked:
        return asked
    return "bf16" if has_bfloat16(device) else "fp32"


def autocast(name: str, device: torch.device) -> AbstractContextManager[None]:
    """Context of a step's forward pass."""
    dtype = HALVES.get(name, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=name in HALVES)


def scaler(name: str, device: torch.device) -> torch.amp.GradScaler:
    """The factor of the loss; one that leaves everything as it is, but for fp16."""
    return torch.amp.GradScaler(device.type, enabled=name == "fp16")
