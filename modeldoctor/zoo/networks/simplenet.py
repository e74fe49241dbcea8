"""SimpleNet-v1 (Hasanpour et al., "Lets keep it simple", 2016): thirteen plain convolutions, 5.48 million weights.

Shapes: B images, C input channels, H x W pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

# Width and kernel of each convolution of Table 1; "pool" halves the map.
_LAYERS: tuple[tuple[int, int] | str, ...] = (
    (64, 3), (128, 3), (128, 3), (128, 3), "pool",
    (128, 3), (128, 3), (256, 3), "pool",
    (256, 3), (256, 3), "pool",
    (512, 3), "pool",
    (2048, 1), (256, 1), "pool",
    (256, 3),
)  # fmt: skip


class SimpleNetV1(nn.Module):
    """(B,C,H,W) to (B,N) logits; from 28 pixels upwards, as the last maps are pooled over all positions.

    Args:
        classes: N.
        channels: C.
    """

    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.features = nn.Sequential(*_features(channels))
        self.classifier = nn.Linear(256, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,H,W) to logits (B,N)."""
        return self.classifier(torch.amax(self.features(images), (2, 3)))  # type: ignore[no-any-return]


def _features(channels: int) -> Iterator[nn.Module]:
    for layer in _LAYERS:
        if isinstance(layer, str):
            # Odd maps keep their last row and column, so that 28 pixels are enough.
            yield nn.MaxPool2d(2, ceil_mode=True)
            yield nn.Dropout(0.1)
            continue
        width, kernel = layer
        yield nn.Conv2d(channels, width, kernel, padding=kernel // 2)
        yield nn.BatchNorm2d(width, momentum=0.05)
        yield nn.ReLU(inplace=True)
        channels = width
