"""The seventeen networks of the paper's Table 1 by name, at the paper's image sizes."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

from modeldoctor.errors import ArchitectureError
from modeldoctor.zoo.libraries import Built, build, plan_of

# Up to this edge, MNIST's and CIFAR's, the stems for small images are taken.
SMALL_UP_TO = 64


class _Row(NamedTuple):
    small: str
    large: str


PAPER = {
    "AlexNet": _Row("modeldoctor/alexnet_small", "torchvision/alexnet"),
    "VGG-16": _Row("modeldoctor/vgg16_small", "torchvision/vgg16"),
    "ResNet-34": _Row("modeldoctor/resnet34_small", "timm/resnet34"),
    "ResNet-50": _Row("modeldoctor/resnet50_small", "timm/resnet50"),
    "SENet-34": _Row("modeldoctor/senet34_small", "timm/legacy_seresnet34"),
    "WideResNet-28-10": _Row("modeldoctor/wide_resnet28_10", "modeldoctor/wide_resnet28_10"),
    "ResNeXt-50": _Row("modeldoctor/resnext50_small", "timm/resnext50_32x4d"),
    "DenseNet-121": _Row("modeldoctor/densenet121_small", "torchvision/densenet121"),
    "SimpleNet-v1": _Row("modeldoctor/simplenet_v1", "modeldoctor/simplenet_v1"),
    "EfficientNetV2-S": _Row("modeldoctor/efficientnet_v2_s_small", "torchvision/efficientnet_v2_s"),
    "GoogLeNet": _Row("modeldoctor/googlenet_small", "torchvision/googlenet"),
    "Xception": _Row("modeldoctor/xception_small", "timm/legacy_xception"),
    "MobileNetV2": _Row("modeldoctor/mobilenet_v2_small", "torchvision/mobilenet_v2"),
    "Inception-v3": _Row("modeldoctor/inception_v3_small", "torchvision/inception_v3"),
    "ShuffleNetV2": _Row("modeldoctor/shufflenet_v2_small", "torchvision/shufflenet_v2_x1_0"),
    "SqueezeNet": _Row("modeldoctor/squeezenet_small", "torchvision/squeezenet1_0"),
    "MnasNet": _Row("modeldoctor/mnasnet_small", "torchvision/mnasnet1_0"),
}
"""By the paper's name: the architecture for small and for large images."""


def paper_arch(name: str, image_size: int) -> str:
    """The architecture that stands for a network of the paper at an image size, such as "timm/resnet34".

    Raises:
        ArchitectureError: the paper has no network of that name.
    """
    row = PAPER.get(name)
    if row is None:
        near = get_close_matches(name, PAPER, n=1, cutoff=0.3)
        raise ArchitectureError(
            f"the paper has no network called {name!r}",
            expected=f"one of {', '.join(PAPER)}",
            hint=f"did you mean {near[0]}?" if near else None,
        )
    return row.small if image_size <= SMALL_UP_TO else row.large


def build_paper(name: str, *, image_size: int, num_classes: int, channels: int = 3) -> Built:
    """Build a network of the paper, auxiliary heads included, with its weights left unset.

    Args:
        name: as in `PAPER`.
        image_size: pixels of an edge, from 28.
        num_classes: N.
        channels: of the images.

    Raises:
        ArchitectureError: the paper has no network of that name.
    """
    plan = plan_of(paper_arch(name, image_size))
    return build(replace(plan, num_classes=num_classes, channels=channels, auxiliary=True))
