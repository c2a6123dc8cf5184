"""Densely connected networks with bottlenecks and compression, DenseNet-BC (Huang, Liu, van der
Maaten and Weinberger 2017, "Densely Connected Convolutional Networks", CVPR), for images of CIFAR's
size.

    network = densenet.DenseNet(8, depth=100, growth=12)     # 768,476 parameters

    layer     depth 100, growth 12            side of a 32-pixel image
    conv1     3x3, 3 -> 24                    32
    block1    16 dense layers, 24 -> 216      32
    trans1    1x1, 216 -> 108, mean of 2x2    16
    block2    16 dense layers, 108 -> 300     16
    trans2    1x1, 300 -> 150, mean of 2x2    8
    block3    16 dense layers, 150 -> 342     8
    bn1       batch norm and ReLU, mean       (N, 342): the features
    fc        linear                          (N, C)

The depth counts layers with weights: 1 + 3 * 16 * 2 + 2 convolutions and fc make 100.
Parameters have the names of the common PyTorch port (andreasveit/densenet-pytorch, and those that
copied its layout, as the checkpoints of DICE), so that its state dicts load as they are."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resnet

BOTTLENECK = 4  # channels between a layer's two convolutions, in growth rates
COMPRESSION = 0.5  # share of the channels that a transition keeps
SMALLEST = 4  # pixels of an image's side: two transitions halve it


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution, each behind batch norm and ReLU: adds `growth` channels to those
    that it was given."""

    def __init__(self, channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = resnet.conv3x3(inner, growth)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.conv1(F.relu(self.bn1(x))))
        y = self.dropout(self.conv2(F.relu(self.bn2(y))))
        return torch.cat((x, y), dim=1)


class DenseBlock(nn.Module):
    """Dense layers, each of which sees what all before it have made."""

    def __init__(self, layers: int, channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        widths = [channels + growth * before for before in range(layers)]
        dense = [DenseLayer(width, growth, dropout) for width in widths]
        self.layer = nn.Sequential(*dense)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution to fewer channels, and the mean of each 2x2 positions."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.conv1(F.relu(self.bn1(x))))
        return F.avg_pool2d(x, 2)


class DenseNet(nn.Module):
    """Images (N, 3, H, W) from 4x4 pixels on, of any size -> logits (N, num_classes).

    `depth` is 6 n + 4 for n layers per block, `growth` the channels that a layer adds. `dropout` is
    the share that training drops behind each convolution but the first; the paper has 0.2, and only
    without augmentation."""

    def __init__(
        self, num_classes: int, depth: int = 100, growth: int = 12, dropout: float = 0.0
    ) -> None:
        super().__init__()
        assert depth % 6 == 4, depth
        layers = (depth - 4) // 6
        first = 2 * growth
        second = compressed(first + layers * growth)
        third = compressed(second + layers * growth)
        width = third + layers * growth
        self.conv1 = resnet.conv3x3(3, first)
        self.block1 = DenseBlock(layers, first, growth, dropout)
        self.trans1 = Transition(first + layers * growth, second, dropout)
        self.block2 = DenseBlock(layers, second, growth, dropout)
        self.trans2 = Transition(second + layers * growth, third, dropout)
        self.block3 = DenseBlock(layers, third, growth, dropout)
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)
        resnet.initialise(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"a DenseNet was given images of {x.shape[-2]} x {x.shape[-1]} pixels; expected at"
                f" least {SMALLEST} x {SMALLEST}"
            )
        x = self.trans1(self.block1(self.conv1(x)))
        x = self.trans2(self.block2(x))
        x = F.relu(self.bn1(self.block3(x)))
        return self.fc(x.mean((2, 3)))


def compressed(channels: int) -> int:
    """The channels behind a transition, rounded down."""
    return int(channels * COMPRESSION)
