"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): steps of
convolutions are made orthogonal before they are taken.

    optimizer = Muon(groups, lr=0.6, momentum=0.85, weight_decay=1e-3, nesterov=True)

A convolution's weights (O, I, H, W) are a matrix of O rows, one per filter. Muon takes SGD's step
with momentum, U S V^T by its singular values, and moves by U V^T instead: by as much in directions
that the loss hardly feels as in those that it feels most. After the step the matrix is brought back
to the norm sqrt(O), so that a rate means the same share of the weights throughout the run; batch
norm behind a convolution makes that norm a matter of scale alone. Both are as in the author's speed
runs on CIFAR-10; for Muon in general he shrinks weights by a decay instead."""

from typing import Any

import torch
from torch import Tensor

# (a, b, c) of one Newton-Schulz step s -> a s + b s^3 + c s^5 of the singular values: chosen by the
# author so that five steps bring every s in (0, 1] that is not tiny into about [0.7, 1.2].
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPSILON = 1e-7


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(O, K) with singular values S -> U V^T (O, K), approximately: singular values in about
    [0.7, 1.2] for 1, except those below a hundredth of the matrix's norm.

    Newton-Schulz iteration, computed in `dtype` and returned in that of the input."""
    a, b, c = QUINTIC
    x = matrices.to(dtype)
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    x = x / (x.norm() + EPSILON)
    for _ in range(ITERATIONS):
        squares = x @ x.T
        weights = torch.addmm(squares, squares, squares, beta=b, alpha=c)
        x = torch.addmm(x, weights, x, beta=a)
    if is_tall:
        x = x.T
    return x.to(matrices.dtype)


class Muon(torch.optim.SGD):
    """SGD, but for groups with `orthogonal: True`, whose parameters (O, ...) move by Muon.

    Such a group's lr is the share of the weights' norm that a step may change; its momentum may be
    its own, and weight_decay does not apply, since the norm is kept. `dtype` is what the
    orthogonal steps are computed in. Raises ValueError for what torch.optim.SGD refuses."""

    def __init__(self, groups: Any, dtype: torch.dtype = torch.float32, **defaults: Any) -> None:
        super().__init__(groups, **defaults)
        self.dtype = dtype
        for group in self.param_groups:
            group.setdefault("orthogonal", False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step. The gradients of orthogonal groups are used up: SGD passes them by."""
        assert closure is None, "a closure would be called after the orthogonal step"
        for group in self.param_groups:
            if not group["orthogonal"]:
                continue
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, group)
                    parameter.grad = None
        return super().step()

    def move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Move one parameter (O, ...) by its orthogonal step, and restore its norm sqrt(O)."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer
        step = orthogonal(direction.flatten(1), self.dtype).view(parameter.shape)
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        parameter.sub_(step, alpha=group["lr"])
