"""AlexNet and VGG-16 as they are used for 28-32 px: the convolutions of the papers, and one linear layer as the head.

Shapes: B images, C input channels, H x W pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

_VGG16: tuple[int | str, ...] = (
    64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512,
)  # fmt: skip


class _Plain(nn.Module):
    """Convolutions, the greatest value of each map, and a linear head."""

    def __init__(self, features: nn.Sequential, width: int, classes: int):
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(images)).flatten(1))  # type: ignore[no-any-return]


class AlexNetSmall(_Plain):
    """AlexNet (Krizhevsky et al., 2012) with a padded first convolution; (B,C,H,W) to (B,N) logits.

    Args:
        classes: N.
        channels: C.
    """

    def __init__(self, classes: int, channels: int):
        features = nn.Sequential(
            nn.Conv2d(channels, 64, 11, stride=4, padding=5), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        super().__init__(features, 256, classes)


class VGG16Small(_Plain):
    """VGG-16 (Simonyan and Zisserman, 2015) with BatchNorm; (B,C,H,W) to (B,N) logits.

    Args:
        classes: N.
        channels: C.
    """

    def __init__(self, classes: int, channels: int):
        super().__init__(nn.Sequential(*_convolutions(channels)), 512, classes)


def _convolutions(channels: int) -> Iterator[nn.Module]:
    for width in _VGG16:
        if isinstance(width, str):
            yield nn.MaxPool2d(2)
            continue
        yield nn.Conv2d(channels, width, 3, padding=1)
        yield nn.BatchNorm2d(width)
        yield nn.ReLU(inplace=True)
        channels = width
