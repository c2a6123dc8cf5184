"""Residual networks (He et al. 2016), in the two forms that are common in this field.

ResNet_CIFAR
    3 stacks of 16, 32 and 64 channels. [2, 2, 2] blocks and 100 classes give 181,108 parameters.
ResNet_ImageNet
    4 stacks of 64 to 512 channels, with torchvision's parameter names. The stem is either a 3x3
    convolution without pooling ("cifar": resnet18 with 100 classes has 11,220,132 parameters) or a
    7x7 convolution with pooling ("imagenet").

Both map images (N, 3, H, W) of any size to logits (N, C), never softmax probabilities, through
global average pooling, dropout (off by default) and a linear layer `fc`. Dropout is the identity in
eval mode, so the input of `fc` is then the clean penultimate feature (N, D).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """1x1 convolution and batch norm: the shortcut of a block that changes the shape (He et al.
    2016, option B)."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


def changes_shape(channels_in: int, channels_out: int, stride: int) -> bool:
    return stride != 1 or channels_in != channels_out


def add_shortcut(y: Tensor, x: Tensor, downsample: nn.Module | None) -> Tensor:
    """relu(y + x), where x is first brought to the shape of y if the block changes the shape."""
    shortcut = x if downsample is None else downsample(x)
    return F.relu(y + shortcut)


class CIFARBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    The attribute names are those of checkpoints that were trained elsewhere with this layout.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first_conv = conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.second_conv = conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        # An empty Sequential is the identity and adds no name to the state dict.
        self.shortcut = nn.Sequential()
        if changes_shape(channels_in, channels_out, stride):
            self.shortcut = projection(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.first_conv(x)))
        y = self.bn2(self.second_conv(y))
        return add_shortcut(y, x, self.shortcut)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if changes_shape(channels_in, width, stride):
            self.downsample = projection(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return add_shortcut(y, x, self.downsample)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution (ResNet-50).

    The 3x3 convolution has the stride, as in torchvision ("ResNet v1.5").
    """

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if changes_shape(channels_in, channels_out, stride):
            self.downsample = projection(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return add_shortcut(y, x, self.downsample)


class ResNet_CIFAR(nn.Module):
    """The network of 3 stacks: D = 64 features."""

    def __init__(
        self, num_classes: int, blocks: Sequence[int] = (2, 2, 2), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.stack1 = self.stack(16, 16, blocks[0], stride=1)
        self.stack2 = self.stack(16, 32, blocks[1], stride=2)
        self.stack3 = self.stack(32, 64, blocks[2], stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(64, num_classes)
        initialise(self)

    @staticmethod
    def stack(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
        first = CIFARBlock(channels_in, channels_out, stride)
        others = [CIFARBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)]
        return nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stack3(self.stack2(self.stack1(x)))
        return self.fc(self.dropout(x.mean((2, 3))))


class ResNet_ImageNet(nn.Module):
    """The network of 4 stacks: D = 512 features with BasicBlock, 2048 with Bottleneck."""

    def __init__(
        self,
        num_classes: int,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem: str = "cifar",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        assert stem in ("cifar", "imagenet"), stem
        cifar = stem == "cifar"
        self.conv1 = conv3x3(3, 64) if cifar else nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = self.stack(block, 64, 64, blocks[0], stride=1)
        channels = 64 * block.expansion
        self.layer2 = self.stack(block, channels, 128, blocks[1], stride=2)
        self.layer3 = self.stack(block, channels * 2, 256, blocks[2], stride=2)
        self.layer4 = self.stack(block, channels * 4, 512, blocks[3], stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels * 8, num_classes)
        initialise(self)

    @staticmethod
    def stack(
        block: type[BasicBlock] | type[Bottleneck],
        channels_in: int,
        width: int,
        blocks: int,
        stride: int,
    ) -> nn.Sequential:
        first = block(channels_in, width, stride)
        others = [block(width * block.expansion, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.dropout(x.mean((2, 3))))


def initialise(network: nn.Module) -> None:
    """He-normal convolutions with the fan-out (He et al. 2015, eq. 14), as torchvision initialises
    its ResNets."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
