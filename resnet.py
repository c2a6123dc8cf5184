"""Residual networks (He et al. 2016), in the two forms that this field trains.

ResNet_CIFAR      3 stacks of 16, 32 and 64 channels; [2, 2, 2] blocks and 100 classes make 181,108
parameters. ResNet_ImageNet   4 stacks of 64 to 512 channels under torchvision's parameter names,
behind a 3x3 stem without pooling
                  ("cifar": resnet18 with 100 classes has 11,220,132 parameters) or the 7x7 stem
                      with it ("imagenet").

Both map images (N, 3, H, W) of any size to logits (N, C), never softmax probabilities, through
global average pooling, dropout (off unless asked for) and a linear layer `fc`. Dropout is the
identity in eval mode, so that what enters `fc` there is the clean penultimate feature (N, D)."""

from torch import nn
from torch.nn import functional as F


def conv3x3(channels_in, channels_out, stride=1):
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def projection(channels_in, channels_out, stride):
    """1x1 convolution and batch norm: the shortcut where the shape changes (He et al. 2016, option
    B)."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
    )


def changes_shape(channels_in, channels_out, stride):
    return stride != 1 or channels_in != channels_out


class CIFARBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. The names are those of checkpoints trained elsewhere
    with this layout."""

    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.first_conv, self.bn1 = (
            conv3x3(channels_in, channels_out, stride),
            nn.BatchNorm2d(channels_out),
        )
        self.second_conv, self.bn2 = (
            conv3x3(channels_out, channels_out),
            nn.BatchNorm2d(channels_out),
        )
        # An empty Sequential is the identity and adds no name to the state dict.
        changes = changes_shape(channels_in, channels_out, stride)
        self.shortcut = (
            projection(channels_in, channels_out, stride) if changes else nn.Sequential()
        )

    def forward(self, x):
        y = F.relu(self.bn1(self.first_conv(x)))
        return F.relu(self.bn2(self.second_conv(y)) + self.shortcut(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, channels_in, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels_in, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.downsample = (
            projection(channels_in, width, stride)
            if changes_shape(channels_in, width, stride)
            else None
        )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(
            self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))
        )


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (ResNet-50); the stride stands on the 3x3 convolution, as in torchvision
    ("ResNet v1.5")."""

    expansion = 4

    def __init__(self, channels_in, width, stride):
        super().__init__()
        channels_out = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = (
            nn.Conv2d(width, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        changes = changes_shape(channels_in, channels_out, stride)
        self.downsample = projection(channels_in, channels_out, stride) if changes else None

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(
            self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x))
        )


class ResNet_CIFAR(nn.Module):
    """The 3-stack network: D = 64 features."""

    def __init__(self, num_classes, blocks=(2, 2, 2), dropout=0.0):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, 16), nn.BatchNorm2d(16)
        self.stack1 = self.stack(16, 16, blocks[0], stride=1)
        self.stack2 = self.stack(16, 32, blocks[1], stride=2)
        self.stack3 = self.stack(32, 64, blocks[2], stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(64, num_classes)
        initialise(self)

    @staticmethod
    def stack(channels_in, channels_out, blocks, stride):
        first = CIFARBlock(channels_in, channels_out, stride)
        return nn.Sequential(
            first, *(CIFARBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
        )

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stack3(self.stack2(self.stack1(x)))
        return self.fc(self.dropout(x.mean((2, 3))))


class ResNet_ImageNet(nn.Module):
    """The 4-stack network: D = 512 features with BasicBlock, 2048 with Bottleneck."""

    def __init__(
        self, num_classes, block=BasicBlock, blocks=(2, 2, 2, 2), stem="cifar", dropout=0.0
    ):
        super().__init__()
        assert stem in ("cifar", "imagenet"), stem
        cifar = stem == "cifar"
        self.conv1 = conv3x3(3, 64) if cifar else nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        for number, (width, count) in enumerate(
            zip((64, 128, 256, 512), blocks, strict=True), start=1
        ):
            layers = []
            for index in range(count):
                layers.append(block(channels, width, stride=2 if index == 0 and number > 1 else 1))
                channels = width * block.expansion
            setattr(self, f"layer{number}", nn.Sequential(*layers))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.dropout(x.mean((2, 3))))


def initialise(network):
    """He-normal convolutions over the fan-out (He et al. 2015, eq. 14), as torchvision starts its
    ResNets."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
