"""The paper's networks by name, against the parameter counts that are known of them and against formulas by hand."""

from __future__ import annotations

import pytest
import torch
from networks import randomised
from torch import Tensor, nn

from modeldoctor.errors import ArchitectureError
from modeldoctor.zoo.paper import PAPER, build_paper, paper_arch

# Torchvision states these for 1000 classes; SENet-34 by Hu et al., 2018, section 4: 2/r of the squared widths of a
# ResNet-34's blocks, here with biases; Xception by Chollet, 2017, Table 3.
LARGE = {
    "AlexNet": 61_100_840,
    "VGG-16": 138_357_544,
    "ResNet-34": 21_797_672,
    "ResNet-50": 25_557_032,
    "SENet-34": 21_797_672
    + sum(n * (2 * c * c // 16 + c + c // 16) for n, c in ((3, 64), (4, 128), (6, 256), (3, 512))),
    "ResNeXt-50": 25_028_904,
    "DenseNet-121": 7_978_856,
    "EfficientNetV2-S": 21_458_488,
    "GoogLeNet": 13_004_888,
    "Xception": 22_855_952,
    "MobileNetV2": 3_504_872,
    "Inception-v3": 27_161_264,
    "ShuffleNetV2": 2_278_604,
    "SqueezeNet": 1_248_424,
    "MnasNet": 4_383_312,
}
# For 10 classes at 32 px, as the usual CIFAR versions state them.
SMALL = {
    "AlexNet": 2_472_266,
    "VGG-16": 14_728_266,
    "ResNet-34": 21_282_122,
    "ResNet-50": 23_520_842,
    "WideResNet-28-10": 36_479_194,
    "ShuffleNetV2": 1_263_854,
    # torchvision's has a BatchNorm of 64 channels behind its stem, which the CIFAR version has not.
    "DenseNet-121": 6_956_298 + 2 * 64,
}


def parameters(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def logits_of(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        output = module.eval()(images)
    assert isinstance(output, Tensor)
    return output


@pytest.mark.parametrize("name", LARGE)
def test_large_networks_have_the_known_number_of_parameters(name: str) -> None:
    assert parameters(build_paper(name, image_size=224, num_classes=1000).module) == LARGE[name]


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_have_the_known_number_of_parameters(name: str) -> None:
    assert parameters(build_paper(name, image_size=32, num_classes=10).module) == SMALL[name]


def test_simplenet_is_as_large_as_its_paper_says() -> None:
    assert round(parameters(build_paper("SimpleNet-v1", image_size=32, num_classes=10).module) / 1e6, 1) == 5.5
    module = build_paper("SimpleNet-v1", image_size=32, num_classes=10).module
    # The paper counts weights: 5.48 M, biases and BatchNorm apart.
    weights = sum(one.numel() for one in module.parameters() if one.ndim > 1)
    assert round(weights / 1e6, 2) == 5.48
    assert sum(isinstance(one, nn.Conv2d) for one in module.modules()) == 13


def test_wide_resnet_has_twenty_eight_layers() -> None:
    module = build_paper("WideResNet-28-10", image_size=32, num_classes=100).module
    assert parameters(module) == 36_536_884  # the authors' figure for CIFAR-100: 36.5 M
    on_path = [n for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
    assert len(on_path) == 26  # 28 as the authors count, who add the stem's and the last group's shortcut


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_small_images_of_one_and_three_channels(name: str, size: int, channels: int) -> None:
    built = build_paper(name, image_size=size, num_classes=4, channels=channels)
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    logits = logits_of(randomised(filled(built.module)), images)
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


def filled(module: nn.Module) -> nn.Module:
    """Weights of a fan-in's scale; what `build` leaves unset may be anything."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_(0, 1 / max(1, tensor[0].numel()) ** 0.5, generator=generator)
        for name, tensor in module.named_buffers():
            tensor.fill_(0 if name.endswith(("mean", "tracked")) else 1)
    return module


@pytest.mark.parametrize("name", ["SimpleNet-v1", "WideResNet-28-10", "SqueezeNet", "GoogLeNet"])
def test_middle_sizes(name: str) -> None:
    built = build_paper(name, image_size=96, num_classes=4)
    assert logits_of(filled(built.module), torch.zeros(1, 3, 96, 96)).shape == (1, 4)


def test_four_positions_are_left_of_a_small_image() -> None:
    for name in ("ResNet-34", "SENet-34", "DenseNet-121", "MobileNetV2", "ShuffleNetV2", "MnasNet", "EfficientNetV2-S"):
        built = build_paper(name, image_size=32, num_classes=4)
        maps: list[torch.Size] = []
        last = [m for m in built.module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)][-1]
        last.register_forward_hook(lambda module, args, output, maps=maps: maps.append(output.shape))  # type: ignore[misc]
        logits_of(filled(built.module), torch.zeros(1, 3, 32, 32))
        assert min(maps[0][2:]) >= 4, name


def test_a_name_that_the_paper_has_not() -> None:
    with pytest.raises(ArchitectureError, match="resnet34") as caught:
        paper_arch("resnet34", 32)
    assert caught.value.hint == "did you mean ResNet-34?"
