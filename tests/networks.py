"""Small networks written as prefix and suffix, so that a test can differentiate the suffix by itself."""

from __future__ import annotations

import torch
from timm.models import MlpMixer
from torch import Tensor, nn
from torchvision.models import DenseNet, GoogLeNet, Inception3, MobileNetV2, ShuffleNetV2, SwinTransformer


class Pooled(nn.Module):
    """BatchNorm, a residual whose identity is alive across the cut, and a pooled linear head."""

    layer = "conv2"

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 5, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 4)

    def prefix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        identity = torch.relu(self.norm1(self.conv1(x)))
        return self.conv2(identity), identity

    def suffix(self, maps: Tensor, identity: Tensor) -> Tensor:
        return self.fc((torch.relu(self.norm2(maps)) + identity).relu().square().mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.suffix(*self.prefix(x))


class Dense(nn.Module):
    """A head that sees every position: flatten and two linear layers with a smooth activation."""

    layer = "conv"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.fc1 = nn.Linear(6 * 3 * 3, 7)
        self.fc2 = nn.Linear(7, 4)

    def prefix(self, x: Tensor) -> tuple[Tensor]:
        return (self.conv(x),)

    def suffix(self, maps: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(maps.flatten(1))))

    def forward(self, x: Tensor) -> Tensor:
        return self.suffix(*self.prefix(x))


class Branched(nn.Module):
    """Two branches that meet; the second is executed after the layer and is alive across the cut."""

    layer = "left"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 5, 3, padding=1)
        self.right = nn.Conv2d(4, 3, 1)
        self.mix = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 4)

    def prefix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stem = torch.tanh(self.stem(x))
        return self.left(stem), self.right(stem)

    def suffix(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(torch.sigmoid(self.mix(torch.cat([torch.tanh(left), right], 1))).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.suffix(*self.prefix(x))


class DataDependent(nn.Module):
    """Cannot be exported: which way it goes depends on the values. Its activation works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu_(self.conv(x))
        if float(x.sum()) > 1e9:
            maps = maps * 2
        return self.fc(maps.square().mean((2, 3)))


def small_densenet(classes: int) -> nn.Module:
    """All that DenseNet-121 has, of fewer layers."""
    return DenseNet(growth_rate=8, block_config=(2, 3, 3, 2), num_init_features=16, num_classes=classes)


def small_swin(classes: int) -> nn.Module:
    """All that Swin-T has, of fewer layers and features; shifted windows, too."""
    return SwinTransformer(
        patch_size=[4, 4], embed_dim=24, depths=[1, 1, 2, 2], num_heads=[1, 2, 4, 8], window_size=[7, 7],
        num_classes=classes,
    )  # fmt: skip


def small_googlenet(classes: int, *, aux_logits: bool) -> nn.Module:
    """GoogLeNet without three of its nine blocks: those that have as many kernels as the one before them."""
    network = GoogLeNet(num_classes=classes, aux_logits=aux_logits, init_weights=False)
    network.inception4b = network.inception4c = network.inception5a = nn.Identity()  # type: ignore[assignment]
    return network


def small_inception(classes: int) -> nn.Module:
    """Inception-v3 with its auxiliary head and without five of its eleven blocks, as `small_googlenet`."""
    network = Inception3(num_classes=classes, aux_logits=True, init_weights=False)
    for name in ("Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_7c"):
        setattr(network, name, nn.Identity())
    return network


def small_mobilenet(classes: int) -> nn.Module:
    """MobileNet-v2's seven stages, of one block each but for two in the second, which has a residual then."""
    # Expansion, kernels, blocks and stride of each.
    rows = "1 16 1 1, 6 24 2 2, 6 32 1 2, 6 64 1 2, 6 96 1 1, 6 160 1 2, 6 320 1 1"
    stages = [[int(number) for number in row.split()] for row in rows.split(",")]
    return MobileNetV2(num_classes=classes, inverted_residual_setting=stages)


def small_shufflenet(classes: int) -> nn.Module:
    """ShuffleNet-v2 x0.5 with two blocks per stage, one that halves the maps and one that splits the kernels."""
    return ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 1024], num_classes=classes)


def small_mixer(classes: int) -> nn.Module:
    """Mixer-S/32 with three of its eight blocks, for 64 px."""
    return MlpMixer(num_classes=classes, img_size=64, patch_size=32, num_blocks=3, embed_dim=512)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, with weights and running statistics that are far from their initial, special values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if not tensor.is_floating_point() or "relative" in name or "index" in name or "k_bias" in name:
                continue
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 1:
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
            elif not tensor.any():
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return network.eval()
