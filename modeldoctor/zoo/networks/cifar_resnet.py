"""The CIFAR ResNets of He et al. ("Deep Residual Learning for Image Recognition", 2016, section 4.2): 20 to 110 layers.

Names of parameters are those of the widespread implementations: `layer1.0.conv1`, and `linear` or `fc` as the head.

Shapes: B images, C input channels, H x W pixels, N classes, K kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

_WIDTHS = (16, 32, 64)
_DEPTHS = (20, 32, 44, 56, 110)


class CifarResNet(nn.Module):
    """(B,C,H,W) to (B,N) logits: three groups of (depth - 2) / 6 blocks.

    Args:
        classes: N.
        channels: C.
        depth: weighted layers, 6n + 2.
        projection: 1x1 convolutions where a shortcut changes shape (option B); else it is subsampled and padded with
            zeros, without parameters (option A).
        head: what the last layer is called.
    """

    def __init__(self, classes: int, channels: int, *, depth: int, projection: bool, head: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        inside = _WIDTHS[0]
        for number, width in enumerate(_WIDTHS):
            strides = (1 if number == 0 else 2, *(1,) * ((depth - 2) // 6 - 1))
            blocks = [_Block(inside if i == 0 else width, width, s, projection) for i, s in enumerate(strides)]
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
            inside = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.add_module(head, nn.Linear(inside, classes))
        self._head = head

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,C,H,W) to logits (B,N)."""
        maps = self.relu(self.bn1(self.conv1(images)))
        for number in range(len(_WIDTHS)):
            maps = self.get_submodule(f"layer{number + 1}")(maps)
        return self.get_submodule(self._head)(self.pool(maps).flatten(1))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, inside: int, width: int, stride: int, projection: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != width:
            self.shortcut = (
                nn.Sequential(nn.Conv2d(inside, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
                if projection
                else _Padding(stride, width - inside)
            )

    def forward(self, maps: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(maps)))))
        return self.relu2(out + self.shortcut(maps))  # type: ignore[no-any-return]


class _Padding(nn.Module):
    """Every `stride`-th position, and zero maps on both sides of the kernels."""

    def __init__(self, stride: int, more: int):
        super().__init__()
        self.stride, self.before, self.after = stride, more // 2, more - more // 2

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


CIFAR_RESNETS: dict[str, Callable[[int, int], nn.Module]] = {
    f"resnet{depth}{'_b' * projection}{'_fc' * (head == 'fc')}": partial(
        CifarResNet, depth=depth, projection=projection, head=head
    )
    for depth in _DEPTHS
    for projection in (False, True)
    for head in ("linear", "fc")
}
"""`resnet20` (option A, head `linear`) to `resnet110_b_fc` (B, `fc`): constructors of (classes, channels)."""
