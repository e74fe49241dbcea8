"""WideResNet-28-10 (Zagoruyko and Komodakis, "Wide Residual Networks", 2016): 36.5 million weights, for small images.

Shapes: B images, C input channels, H x W pixels, N classes.
"""

from __future__ import annotations

from torch import Tensor, nn

_WIDTHS, _BLOCKS, _WIDEN = (16, 32, 64), 4, 10


class WideResNet28x10(nn.Module):
    """(B,C,H,W) to (B,N) logits: three groups of four pre-activation blocks, ten times as wide as a ResNet's.

    Args:
        classes: N.
        channels: C.
    """

    def __init__(self, classes: int, channels: int):
        super().__init__()
        width = _WIDTHS[0]
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        groups = []
        for number, base in enumerate(_WIDTHS):
            strides = (1 if number == 0 else 2, *(1,) * (_BLOCKS - 1))
            blocks = [_Block(width if i == 0 else base * _WIDEN, base * _WIDEN, s) for i, s in enumerate(strides)]
            groups.append(nn.Sequential(*blocks))
            width = base * _WIDEN
        self.groups = nn.Sequential(*groups)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,H,W) to logits (B,N)."""
        maps = self.relu(self.bn(self.groups(self.conv1(images))))
        return self.fc(self.pool(maps).flatten(1))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """BN-ReLU-conv twice; where the shape changes, the shortcut is a convolution of the activated input."""

    def __init__(self, inside: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inside, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = stride != 1 or inside != width
        self.shortcut = nn.Conv2d(inside, width, 1, stride=stride, bias=False) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        active = self.relu1(self.bn1(maps))
        around = maps if self.shortcut is None else self.shortcut(active)
        return around + self.conv2(self.relu2(self.bn2(self.conv1(active))))  # type: ignore[no-any-return]
