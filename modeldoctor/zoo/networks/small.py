"""Library networks for 28-32 px: their first reductions undone, so that 4 x 4 positions or more remain at the end.

The usual change for CIFAR (He et al., 2016, section 4.2): a 3 x 3 first convolution without stride, no first pooling.
Networks whose first convolution is 3 x 3 anyway keep their tensors, and only lose the first two strides.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.inception import InceptionAux


@dataclass(frozen=True, kw_only=True)
class SmallVariant:
    """A library's network and what is changed in it; every entry is a module's path.

    Attributes:
        base: such as "timm/resnet34".
        stem: the convolution that becomes 3 x 3 without stride; None where it is left.
        unpooled: what is left out.
        unstrided: convolutions and poolings that no longer stride.
    """

    base: str
    stem: str | None = None
    unpooled: tuple[str, ...] = ()
    unstrided: tuple[str, ...] = ()


SMALL = {
    "resnet34_small": SmallVariant(base="timm/resnet34", stem="conv1", unpooled=("maxpool",)),
    "resnet50_small": SmallVariant(base="timm/resnet50", stem="conv1", unpooled=("maxpool",)),
    "senet34_small": SmallVariant(base="timm/legacy_seresnet34", stem="layer0.conv1", unpooled=("pool0",)),
    "resnext50_small": SmallVariant(base="timm/resnext50_32x4d", stem="conv1", unpooled=("maxpool",)),
    "densenet121_small": SmallVariant(
        base="torchvision/densenet121", stem="features.conv0", unpooled=("features.pool0",)
    ),
    "efficientnet_v2_s_small": SmallVariant(
        base="torchvision/efficientnet_v2_s", unstrided=("features.0.0", "features.2.0.block.0.0")
    ),
    "googlenet_small": SmallVariant(base="torchvision/googlenet", stem="conv1.conv", unpooled=("maxpool1",)),
    "xception_small": SmallVariant(
        base="timm/legacy_xception", unstrided=("conv1", "block1.skip", "block1.rep.5")
    ),
    "mobilenet_v2_small": SmallVariant(
        base="torchvision/mobilenet_v2", unstrided=("features.0.0", "features.2.conv.1.0")
    ),
    "inception_v3_small": SmallVariant(
        base="torchvision/inception_v3", unpooled=("maxpool1", "maxpool2"), unstrided=("Conv2d_1a_3x3.conv",)
    ),
    "shufflenet_v2_small": SmallVariant(
        base="torchvision/shufflenet_v2_x1_0", unpooled=("maxpool",), unstrided=("conv1.0",)
    ),
    "squeezenet_small": SmallVariant(base="torchvision/squeezenet1_0", stem="features.0"),
    "mnasnet_small": SmallVariant(base="torchvision/mnasnet1_0", unstrided=("layers.0", "layers.8.0.layers.3")),
}  # fmt: skip


def adapt(module: nn.Module, variant: SmallVariant) -> None:
    """Change a freshly built network in place."""
    if variant.stem:
        old = module.get_submodule(variant.stem)
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=old.bias is not None)
        module.set_submodule(variant.stem, new)
    for path in variant.unpooled:
        module.set_submodule(path, nn.Identity())
    for path in variant.unstrided:
        layer = module.get_submodule(path)
        assert isinstance(layer, nn.Conv2d | nn.MaxPool2d)
        layer.stride = (1, 1)
    for submodule in module.modules():
        if type(submodule) is InceptionAux:
            submodule.__class__ = _SmallInceptionAux


class _SmallInceptionAux(InceptionAux):  # type: ignore[misc]
    """Inception-v3's auxiliary head over maps too small for its pooling, brought to the 5 x 5 that it needs."""

    def forward(self, maps: Tensor) -> Tensor:
        features = self.conv1(self.conv0(F.adaptive_avg_pool2d(maps, 5)))
        return self.fc(features.mean((2, 3)))  # type: ignore[no-any-return]
