"""Wide residual networks (Zagoruyko and Komodakis 2016, "Wide Residual Networks", BMVC), for images
of CIFAR's size.

    network = wide_resnet.WideResNet(8, 28, widening=10, dropout=0.3)     # 36,477,912 parameters

    layer     depth 28, widening 10          side of a 32-pixel image
    conv1     3x3, 3 -> 16                   32
    block1    4 blocks, 16 -> 160            32
    block2    4 blocks, 160 -> 320           16
    block3    4 blocks, 320 -> 640           8
    bn1       batch norm and ReLU, mean      (N, 640): the features
    fc        linear                         (N, C)

The depth counts convolutions, the three of the shortcuts among them: 28 is 1 + 24 + 3.
Parameters have the names of the common PyTorch port (xternalz/WideResNet-pytorch, and those that
copied its layout, as Outlier Exposure's), so that its state dicts load as they are."""

from torch import Tensor, nn
from torch.nn import functional as F

import resnet


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU, with dropout between them, and a
    shortcut (figure 1d of the paper).

    A block that changes the width takes its shortcut behind the first ReLU, by a 1x1 convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = resnet.conv3x3(channels_in, channels_out, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = resnet.conv3x3(channels_out, channels_out)
        self.convShortcut = None  # the port's name
        if channels_in != channels_out:
            self.convShortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        y = F.relu(self.bn2(self.conv1(active)))
        y = self.conv2(self.dropout(y))
        return shortcut + y


class WideStack(nn.Module):
    """Blocks of one width; the first has the stride."""

    def __init__(
        self, blocks: int, channels_in: int, channels_out: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        first = WideBlock(channels_in, channels_out, stride, dropout)
        others = [WideBlock(channels_out, channels_out, 1, dropout) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """Images (N, 3, H, W) of any size -> logits (N, num_classes); D = 64 * widening features.

    `depth` is 6 n + 4 for n blocks per stack. `dropout` is the share of each block's inner maps
    that training drops; the paper has 0.3 on CIFAR."""

    def __init__(
        self, num_classes: int, depth: int = 28, widening: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        assert depth % 6 == 4, depth
        blocks = (depth - 4) // 6
        widths = (16 * widening, 32 * widening, 64 * widening)
        self.conv1 = resnet.conv3x3(3, 16)
        self.block1 = WideStack(blocks, 16, widths[0], 1, dropout)
        self.block2 = WideStack(blocks, widths[0], widths[1], 2, dropout)
        self.block3 = WideStack(blocks, widths[1], widths[2], 2, dropout)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        resnet.initialise(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = F.relu(self.bn1(x))
        return self.fc(x.mean((2, 3)))
