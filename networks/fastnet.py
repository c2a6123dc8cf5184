"""The speed network of Keller Jordan (2024), "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
arXiv 2404.00498: the variant that reached 96%, with 384 channels in its last two stages, and the
one that reached 94%, for machines without a GPU.

    network = fastnet.FastNet(100)       # 7,441,848 parameters, D = 384 features
    network = fastnet.small(100)         # 1,994,680 parameters, D = 256 features
    network.initialise(images)           # once, before the first step: normalised training images
    network.begin_epoch(epoch)           # of each epoch, counted from 0

    layer          kernel, channels          side of a 32-pixel image
    whiten         2x2, 3 -> 24, GELU        31    frozen; its bias learns for three epochs
    block1         three 3x3, 24 -> 128      15
    block2         three 3x3, 128 -> 384     7
    block3         three 3x3, 384 -> 384     3
    largest value of each channel, / 9       (N, 384): the features
    fc             linear, without a bias    (N, C)

The small one has 64, 256 and 256 channels and two convolutions per block, none of them residual: a
training step costs 0.68 GFLOP for an image of 32 pixels, where the large one costs 2.42.

What is the paper's: the layers, their order and their start; batch norm with a bias, without a
scale, and with a momentum of 0.6 (torch counts the other way: 0.4); the divisor 9. What is not:

- The paper's network for 96% has 128, 512 and 512 channels; its author went on to 128, 384 and 512
  in June 2024. Here the last stage has 384, as that of his network for 95% (128, 384, 384, two
  convolutions per block): still more features than CIFAR-100 has classes. `widths` takes his.
- He divides the logits by 9, and here the features are: the same logits and the same gradients, and
  logits = W h + b holds of the layer `fc` as it stands.
- Batch norm's epsilon is torch's 1e-5 for his 1e-12, which multiplies a channel that is constant
  over the training images by a million where another image moves it.
- Directions in which training patches do not vary at all (colour, where images are grey) get no
  filter of their own: at his epsilon they would multiply rounding errors by 45. Their places repeat
  the others. Left empty they would be constant channels, which batch norm multiplies by 300 in
  evaluation: digits ended at 12% where they now reach 99%.
- A map of a single position is not halved, so that images from 2x2 pixels on go through."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 2  # pixels of a whitened patch's side
CHANNELS = 3
DIRECTIONS = CHANNELS * PATCH * PATCH
WIDTHS = (128, 384, 384)
SMALL_WIDTHS = (64, 256, 256)
MOMENTUM = 0.4  # weight of the newest batch in the running statistics
DIVISOR = 9.0  # of the features, and so of the logits
EPSILON = 5e-4  # added to the patches' variances before their root is taken, as in the paper
RANK_CUTOFF = 1e-6  # share of the largest variance below which a direction counts as empty
BIAS_EPOCHS = 3  # epochs for which the bias of the whitening layer learns
IMAGES = 500  # per block of the patches' second moments: 46 MB at 32 pixels


# ---- whitening -----------------------------------------------------------------------------------


def whitening(images: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Filters that whiten the 2x2 patches of images (N, 3, H, W), normalised as the network sees
    them -> weights (24, 3, 2, 2), float32, on the images' device.

    The first 12 filters are the eigenvectors of the patches' second moments, largest variance
    first, each divided by sqrt(variance + epsilon); the other 12 are their negatives, of which the
    GELU behind them lets pass what it takes from the first. Moments are about zero, not about the
    mean, since the layer subtracts none. Directions without variance leave their places to the
    others, from the first on; where none has any, all filters are zero.
    Each eigenvector's largest entry is positive, so that every machine chooses the same sign.
    ValueError for images of another shape or smaller than a patch, and for values that are not
    finite (Jordan 2024, after Page 2019)."""
    check_images(images)
    moments = second_moments(images)
    variances, vectors = torch.linalg.eigh(moments.cpu())
    variances, vectors = variances.flip(0), vectors.flip(1)
    present = int((variances > RANK_CUTOFF * variances[0]).sum())
    if not present:
        return torch.zeros(2 * DIRECTIONS, CHANNELS, PATCH, PATCH, device=images.device)
    scales = (variances[:present] + epsilon).rsqrt()
    directions = (upright(vectors[:, :present]) * scales).T
    repeated = torch.arange(DIRECTIONS) % present
    filters = directions[repeated].reshape(DIRECTIONS, CHANNELS, PATCH, PATCH)
    return torch.cat((filters, -filters)).to(images.device, torch.float32)


def check_images(images: Tensor) -> None:
    """ValueError where these are not images that have patches."""
    shape = tuple(images.shape)
    fits = images.ndim == 4 and images.shape[1] == CHANNELS and len(images) > 0
    if not fits or min(shape[2:]) < PATCH:
        raise ValueError(
            f"the images to whiten have the shape {shape}; expected (N, {CHANNELS}, H, W) with at"
            f" least one image of {PATCH} x {PATCH} pixels"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"the images to whiten are {images.dtype}; expected floating-point numbers, normalised"
            " as the network sees them"
        )
    if not images.isfinite().all():
        raise ValueError("the images to whiten hold NaN or infinite values")


def second_moments(images: Tensor) -> Tensor:
    """The mean of p p^T over all 2x2 patches p of images (N, 3, H, W) -> (12, 12), float64.

    Entries of a patch come in the order of a filter's weights: channel, row, column."""
    total = torch.zeros(DIRECTIONS, DIRECTIONS, dtype=torch.float64, device=images.device)
    count = 0
    for block in images.split(IMAGES):
        rows = patches(block.double())
        total += rows.T @ rows
        count += len(rows)
    return total / count


def patches(images: Tensor) -> Tensor:
    """All 2x2 patches of images (N, 3, H, W), overlapping -> (N (H - 1) (W - 1), 12)."""
    windows = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (N, 3, H - 1, W - 1, 2, 2)
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, DIRECTIONS)


def upright(vectors: Tensor) -> Tensor:
    """Columns (D, K), each with the sign that makes its entry of largest magnitude positive."""
    largest = vectors.abs().argmax(0, keepdim=True)
    return vectors * vectors.gather(0, largest).sign()


# ---- layers --------------------------------------------------------------------------------------


class BiasNorm(nn.BatchNorm2d):
    """Batch norm with a bias and no scale: GELU's input has a variance of one before the bias.

    The scale is a buffer of ones, which no optimiser sees and no checkpoint holds."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=MOMENTUM)
        del self.weight
        self.register_buffer("weight", torch.ones(channels), persistent=False)


def partial_identity(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 3x3 convolution whose first `channels_in` outputs copy its inputs ("dirac"); the others
    start as torch starts them."""
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.detach()[:channels_in])
    return layer


def halved(maps: Tensor) -> Tensor:
    """The larger of each two rows and columns; a map of a single row or column stays as it is."""
    if min(maps.shape[-2:]) < 2:
        return maps
    return F.max_pool2d(maps, 2)


class SmallBlock(nn.Module):
    """Two convolutions: the first changes the width and halves the map. Nothing is residual."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = partial_identity(channels_in, channels_out)
        self.norm1 = BiasNorm(channels_out)
        self.conv2 = partial_identity(channels_out, channels_out)
        self.norm2 = BiasNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(halved(self.conv1(x))))
        return F.gelu(self.norm2(self.conv2(x)))


class Block(SmallBlock):
    """Three convolutions: the first changes the width and halves the map, the others are residual.

    The sum comes after the last activation, as in the paper; its author put it before in June
    2024."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out)
        self.conv3 = partial_identity(channels_out, channels_out)
        self.norm3 = BiasNorm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(halved(self.conv1(x))))
        y = F.gelu(self.norm2(self.conv2(x)))
        y = F.gelu(self.norm3(self.conv3(y)))
        return x + y


# ---- the network ---------------------------------------------------------------------------------


class FastNet(nn.Module):
    """Images (N, 3, H, W) from 2x2 pixels on, of any size -> logits (N, num_classes)."""

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, int, int] = WIDTHS,
        dropout: float = 0.0,
        block: type[SmallBlock] = Block,
    ) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(CHANNELS, 2 * DIRECTIONS, PATCH)
        self.block1 = block(2 * DIRECTIONS, widths[0])
        self.block2 = block(widths[0], widths[1])
        self.block3 = block(widths[1], widths[2])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[2], num_classes, bias=False)
        self.start_whitening()

    @torch.no_grad()
    def start_whitening(self) -> None:
        """Until `initialise` has seen images, each filter takes one pixel of one channel, or its
        negative: the network works, and whitens nothing."""
        pixels = torch.eye(DIRECTIONS).reshape(DIRECTIONS, CHANNELS, PATCH, PATCH)
        self.whiten.weight.copy_(torch.cat((pixels, -pixels)))
        self.whiten.weight.requires_grad_(False)
        assert self.whiten.bias is not None
        self.whiten.bias.zero_()

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Fit the whitening layer to training images (N, 3, H, W), normalised and not augmented.

        Called once before the first step, and before the weights are copied (for a moving average)
        or wrapped; the paper takes 5,000 images. The filters are weights like others, so that a
        checkpoint restores them without any image. ValueError as in `whitening`."""
        self.whiten.weight.copy_(whitening(images))

    def begin_epoch(self, epoch: int) -> None:
        """Let the whitening layer's bias learn in the first three epochs (`epoch` counts from 0),
        and freeze it afterwards, which spares the backward pass its largest map.

        Safe to call again, as by a resumed run. DistributedDataParallel expects a gradient of every
        parameter that had one when it wrapped the network: wrap it anew after the change."""
        assert self.whiten.bias is not None
        self.whiten.bias.requires_grad_(epoch < BIAS_EPOCHS)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < PATCH:
            raise ValueError(
                f"fastnet was given images of {x.shape[-2]} x {x.shape[-1]} pixels; expected at"
                f" least {PATCH} x {PATCH}"
            )
        x = F.gelu(self.whiten(x))
        x = self.block3(self.block2(self.block1(x)))
        features = x.amax((2, 3)) / DIVISOR
        return self.fc(self.dropout(features))


def small(num_classes: int, dropout: float = 0.0) -> FastNet:
    """The paper's network for 94%: two convolutions per block, 64, 256 and 256 channels."""
    return FastNet(num_classes, SMALL_WIDTHS, dropout, SmallBlock)
