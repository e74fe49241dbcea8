"""Networks that neither timm nor torchvision has: of the paper, for small images, and CIFAR's ResNets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from modeldoctor.zoo.networks.cifar_resnet import CIFAR_RESNETS
from modeldoctor.zoo.networks.simplenet import SimpleNetV1
from modeldoctor.zoo.networks.small import SMALL, SmallVariant, adapt
from modeldoctor.zoo.networks.vgg import AlexNetSmall, VGG16Small
from modeldoctor.zoo.networks.wide_resnet import WideResNet28x10

__all__ = ["OWN", "SMALL", "SmallVariant", "adapt"]

OWN: Mapping[str, Callable[[int, int], nn.Module]] = {
    "simplenet_v1": SimpleNetV1,
    "wide_resnet28_10": WideResNet28x10,
    "alexnet_small": AlexNetSmall,
    "vgg16_small": VGG16Small,
    **CIFAR_RESNETS,
}
"""Constructors by name, of (classes, input channels)."""
