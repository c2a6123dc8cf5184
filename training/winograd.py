"""3x3 convolutions by Winograd's algorithm, for training in float32 on a CPU.

    winograd.replace(network)      # its layers compute so in training, and as before in eval mode

A tile of m x m outputs, y = A^T ((G g G^T) * (B^T d B)) A, takes (m + 2)^2 products for each pair
of an input and an output channel where the definition takes 9 m^2: 36 for 144 with m = 4 (Winograd
1980; Lavin and Gray 2016, arXiv 1509.09308, section 4.1). All products of one place in the tiles
are a matrix product over the channels. The backward pass is the algorithm's own derivative, and
saves as much again.

Nothing is approximated, but sums are rounded in another order: in float32 the results differ from
those of torch's convolution by some millionths of their size, as those do from the true ones.
While a layer trains it keeps its transformed input, (m + 2)^2 / m^2 times as large as the input.
cuDNN does all this by itself on GPUs; oneDNN does not on CPUs with AVX2."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)  # where the polynomials are evaluated, and at infinity
KERNEL = 3
LARGEST_TILE = 4
FEWEST_CHANNELS = 64  # with fewer, the transforms cost about what the products save
TILES = 256  # of a block: its buffers fit a processor's cache, and its products are large enough


# ---- the algorithm -------------------------------------------------------------------------------


@cache
def transforms(tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """For tiles of `tile` x `tile` outputs, with n = tile + 2, the matrices of one dimension:
    A^T (tile, n), B^T (n, n) and G (n, 3), float32 (Toom and Cook's construction at POINTS)."""
    reach = tile + KERNEL - 1
    outputs = powers(reach, tile).T
    inputs = torch.linalg.inv(powers(reach, reach)).T
    weights = powers(reach, KERNEL)
    return outputs.float(), inputs.float(), weights.float()


def powers(rows: int, columns: int) -> Tensor:
    """(rows, columns), float64: each point's powers 0, 1, ...; the last row is that of infinity,
    the highest power alone."""
    points = torch.tensor(POINTS[: rows - 1], dtype=torch.float64)
    exponents = torch.arange(columns)
    at_infinity = F.one_hot(torch.tensor([columns - 1]), columns)
    return torch.cat((points[:, None] ** exponents, at_infinity))


def both_ways(matrix: Tensor, tiles: Tensor) -> Tensor:
    """M t M^T of each square tile t: matrix (p, q), tiles (q^2, anything) -> (p^2, ...)."""
    p, q = matrix.shape
    of_rows = matrix @ tiles.reshape(q, -1)
    of_columns = matrix @ of_rows.view(p, q, -1)
    return of_columns.view(p * p, -1)


@dataclass(frozen=True)
class Plan:
    """How images (N, C, height, width) are cut into tiles."""

    images: int
    height: int
    width: int

    @property
    def tile(self) -> int:
        """The side of a tile's outputs: the largest, or that of an image that is smaller."""
        return max(2, min(LARGEST_TILE, max(self.height, self.width)))

    @property
    def reach(self) -> int:
        """The side of a tile's inputs."""
        return self.tile + KERNEL - 1

    @property
    def down(self) -> int:
        """Tiles in a column."""
        return -(-self.height // self.tile)

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile)

    def blocks(self) -> Iterator[slice]:
        """Parts of the images with about TILES tiles each."""
        images = max(1, TILES // (self.down * self.across))
        for start in range(0, self.images, images):
            yield slice(start, min(start + images, self.images))

    def padded(self, maps: Tensor) -> Tensor:
        """Inputs (b, height, width, C) with the zeros that whole tiles reach into."""
        right = self.across * self.tile + 1 - self.width
        below = self.down * self.tile + 1 - self.height
        return F.pad(maps, (0, 0, 1, right, 1, below))

    def input_tiles(self, maps: Tensor) -> Tensor:
        """Inputs (b, height, width, C) -> (reach^2, tiles C); tiles overlap by two."""
        windows = self.padded(maps).unfold(1, self.reach, self.tile)
        windows = windows.unfold(2, self.reach, self.tile)  # (b, down, across, C, reach, reach)
        tiles = windows.permute(4, 5, 0, 1, 2, 3)
        return tiles.reshape(self.reach**2, -1)

    def add_input_tiles(self, tiles: Tensor, channels: int) -> Tensor:
        """The derivative of `input_tiles`: (reach^2, tiles C) -> (b, height, width, C)."""
        places = tiles.view(self.reach, self.reach, -1, self.down, self.across, channels)
        high = self.down * self.tile + KERNEL - 1
        wide = self.across * self.tile + KERNEL - 1
        total = tiles.new_zeros(places.shape[2], high, wide, channels)
        for row in range(self.reach):
            of_row = total[:, row : row + high - KERNEL + 1 : self.tile]
            for column in range(self.reach):
                target = of_row[:, :, column : column + wide - KERNEL + 1 : self.tile]
                target += places[row, column]
        return total[:, 1 : self.height + 1, 1 : self.width + 1]

    def output_tiles(self, maps: Tensor) -> Tensor:
        """Gradients of outputs (b, height, width, K) -> (tile^2, tiles K)."""
        right = self.across * self.tile - self.width
        below = self.down * self.tile - self.height
        whole = F.pad(maps, (0, 0, 0, right, 0, below))
        apart = whole.reshape(len(maps), self.down, self.tile, self.across, self.tile, -1)
        tiles = apart.permute(2, 4, 0, 1, 3, 5)
        return tiles.reshape(self.tile**2, -1)

    def from_output_tiles(self, tiles: Tensor, channels: int) -> Tensor:
        """(tile^2, tiles K) -> outputs (b, height, width, K), without what lies outside."""
        apart = tiles.view(self.tile, self.tile, -1, self.down, self.across, channels)
        together = apart.permute(2, 3, 0, 4, 1, 5)
        high = self.down * self.tile
        wide = self.across * self.tile
        maps = together.reshape(-1, high, wide, channels)
        return maps[:, : self.height, : self.width]


class Convolution(torch.autograd.Function):
    """conv2d(images, weights, padding=1) of images (N, C, H, W) and weights (K, C, 3, 3)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: Tensor) -> Tensor:
        plan = Plan(len(images), *images.shape[2:])
        A, B, G = transforms(plan.tile)
        count, channels = weights.shape[:2]
        filters = both_ways(G, weights.permute(2, 3, 1, 0))
        filters = filters.view(-1, channels, count)  # (reach^2, C, K)

        maps = images.permute(0, 2, 3, 1)
        outputs = maps.new_empty(*maps.shape[:3], count)
        transformed = []
        for rows in plan.blocks():
            inputs = both_ways(B, plan.input_tiles(maps[rows]))
            inputs = inputs.view(plan.reach**2, -1, channels)
            products = inputs @ filters
            tiles = both_ways(A, products)
            outputs[rows] = plan.from_output_tiles(tiles, count)
            transformed.append(inputs)
        ctx.plan = plan
        ctx.save_for_backward(filters, *transformed)
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        filters, *transformed = ctx.saved_tensors
        plan: Plan = ctx.plan
        A, B, G = transforms(plan.tile)
        places, channels, count = filters.shape
        maps = gradients[0].permute(0, 2, 3, 1)
        of_filters = torch.zeros_like(filters)
        of_images = None
        if ctx.needs_input_grad[0]:
            of_images = maps.new_empty(*maps.shape[:3], channels)
        for rows, inputs in zip(plan.blocks(), transformed, strict=True):
            products = both_ways(A.T, plan.output_tiles(maps[rows]))
            products = products.view(places, -1, count)
            of_filters.baddbmm_(inputs.transpose(1, 2), products)
            if of_images is not None:
                tiles = products @ filters.transpose(1, 2)
                tiles = both_ways(B.T, tiles)
                of_images[rows] = plan.add_input_tiles(tiles, channels)
        of_weights = both_ways(G.T, of_filters)
        of_weights = of_weights.view(KERNEL, KERNEL, channels, count).permute(3, 2, 0, 1)
        if of_images is not None:
            of_images = of_images.permute(0, 3, 1, 2)
        return of_images, of_weights


# ---- layers --------------------------------------------------------------------------------------


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution that computes by Winograd's algorithm while it trains; in eval mode it is
    torch's."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        outputs: Tensor = Convolution.apply(input, self.weight)
        if self.bias is not None:
            outputs = outputs + self.bias.view(-1, 1, 1)
        return outputs


def fits(layer: nn.Module) -> bool:
    """True for a convolution of torch's that this file computes, and computes faster."""
    return (
        isinstance(layer, nn.Conv2d)
        and not replaced(layer)
        and layer.kernel_size == (KERNEL, KERNEL)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding in ((1, 1), "same")
        and layer.padding_mode == "zeros"
        and layer.groups == 1
        and layer.in_channels >= FEWEST_CHANNELS
    )


def replaced(layer: nn.Module) -> bool:
    """True for a layer that `replace` has put there."""
    return isinstance(layer, WinogradConv2d)


def replace(network: nn.Module) -> int:
    """Put a WinogradConv2d in the place of each layer that fits -> how many there are.

    The new layers hold the same parameters under the same names: optimisers and state dicts notice
    nothing."""
    found = [(path, layer) for path, layer in network.named_modules() if fits(layer)]
    for path, layer in found:
        network.set_submodule(path, like(layer))
    return len(found)


def like(layer: nn.Module) -> WinogradConv2d:
    """A WinogradConv2d with the layer's own parameters."""
    assert isinstance(layer, nn.Conv2d)
    with torch.device("meta"):
        new = WinogradConv2d(layer.in_channels, layer.out_channels, KERNEL, padding=1, bias=False)
    new.weight = layer.weight
    new.bias = layer.bias
    return new.train(layer.training)
