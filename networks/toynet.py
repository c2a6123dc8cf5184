"""Two convolutions and three linear layers: the network of PyTorch's tutorial on CIFAR-10, after
LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998). It learns in seconds what a test needs.

    network = toynet.ToyNet(10)     # 62,006 parameters, D = 84 features, for images of 16x16 on

Parameters have the tutorial's names. Behind the second convolution the map of a 32-pixel image has
5x5 positions; one of another size is averaged or repeated to that."""

from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 16  # pixels of an image's side: one position is left behind the second pooling
SIDE = 5  # of the map that enters the linear layers


class ToyNet(nn.Module):
    """Images (N, 3, H, W) from 16x16 pixels on -> logits (N, num_classes)."""

    def __init__(self, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * SIDE * SIDE, 120)
        self.fc2 = nn.Linear(120, 84)
        self.dropout = nn.Dropout(dropout)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"toynet was given images of {x.shape[-2]} x {x.shape[-1]} pixels; expected at"
                f" least {SMALLEST} x {SMALLEST}"
            )
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.adaptive_avg_pool2d(x, SIDE).flatten(1)
        features = F.relu(self.fc2(F.relu(self.fc1(x))))
        return self.fc3(self.dropout(features))
