"""Networks of tokens and of attention over maps: which layers they have, what a map is, and that the suffix is theirs.

The oracle is the network itself: a forward hook reads the block's own output, which is put in order by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import timm
import torch
from networks import randomised, small_mixer
from torch import Tensor, nn

from modeldoctor.graph import CutNetwork, HookedNetwork, select_layers
from modeldoctor.graph.capture import capture
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.constraints import channel_constraint, runner_up, space_constraint
from modeldoctor.runtime.memory import BatchLimit

Make = Callable[[], nn.Module]


def model(name: str, size: int, **options: Any) -> Make:
    return partial(timm.create_model, name, num_classes=4, img_size=size, **options)


def small_mobilevit() -> nn.Module:
    """Its first block, and the first of those with a transformer."""
    whole = timm.models.mobilevit.model_cfgs["mobilevit_xxs"]
    return timm.models.byobnet.ByobNet(replace(whole, blocks=whole.blocks[0:3:2]), num_classes=4)


# Network, pixels, the deepest layer, and the shape (B,K,H,W) of its maps.
FAMILIES: dict[str, tuple[Make, int, str, tuple[int, ...]]] = {
    "ViT": (model("vit_tiny_patch16_224", 64, depth=3), 64, "blocks.1", (2, 192, 4, 4)),
    "DeiT": (model("deit_tiny_distilled_patch16_224", 64, depth=3), 64, "blocks.1", (2, 192, 4, 4)),
    "Swin": (
        # A shifted window, too.
        model("swin_tiny_patch4_window7_224", 64, depths=(2, 1), num_heads=(2, 4), embed_dim=24), 64,
        "layers.1.blocks.0", (2, 48, 8, 8),
    ),
    "MaxViT": (
        model("maxvit_pico_rw_256", 64, depths=(1, 1), embed_dim=(32, 64), block_type=("M", "M")), 64,
        "stages.1.blocks.0", (2, 64, 8, 8),
    ),
    "CoAtNet": (
        model("coatnet_pico_rw_224", 64, depths=(1, 1), embed_dim=(32, 64), block_type=("C", "T")), 64,
        "stages.1.blocks.0", (2, 64, 8, 8),
    ),
    "ConvNeXt": (
        partial(timm.create_model, "convnext_atto", num_classes=4, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
        64, "stages.3.blocks.0", (2, 32, 2, 2),
    ),
    "MLP-Mixer": (partial(small_mixer, 4), 64, "blocks.2", (2, 512, 2, 2)),
    "EfficientViT": (
        # The third stage is the first with attention.
        partial(
            timm.create_model, "efficientvit_b0", num_classes=4, widths=(8, 16, 32, 64), depths=(1, 1, 1, 1),
            head_widths=(64, 80),
        ), 64, "head.in_conv.conv", (2, 64, 4, 4),
    ),
    "MobileViT": (small_mobilevit, 64, "final_conv.conv", (2, 320, 16, 16)),
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, str, tuple[int, ...]]:
    make, size, last, shape = FAMILIES[request.param]
    network = randomised(make())
    return network, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)), last, shape


def test_layers_are_maps_and_both_constraints_differentiate_twice(
    family: tuple[nn.Module, Tensor, str, tuple[int, ...]],
) -> None:
    network, images, last, shape = family
    raw: list[Tensor] = []
    handle = network.get_submodule(last).register_forward_hook(lambda module, args, output: raw.append(output))
    trainable = TrainableNetwork(network, images)
    raw.clear()
    with torch.no_grad():
        logits = network(images)
    handle.remove()
    (layer,) = select_layers(trainable.layers, "last")
    assert layer.name == last
    assert (layer.channels, layer.height, layer.width) == shape[1:]
    (cut,) = trainable._cut.cuts(images, [layer])
    torch.testing.assert_close(cut.maps, as_maps(raw[0], layer.channels, layer.height))
    torch.testing.assert_close(cut.head(cut.maps), logits, rtol=1e-3, atol=1e-4)
    check_constraints(network, trainable, images)


def as_maps(output: Tensor, kernels: int, height: int) -> Tensor:
    """By hand: drop what stands before the grid of tokens, and put the kernels first."""
    if output.ndim == 4:
        return output if output.shape[1] == kernels else output.movedim(-1, 1)
    tokens = output[:, output.shape[1] - height * height :]
    return torch.stack([tokens[:, row * height : (row + 1) * height].mT for row in range(height)], 2)


def check_constraints(network: nn.Module, trainable: TrainableNetwork, images: Tensor) -> None:
    labels = torch.tensor([0, 1])
    logits, (cut,) = trainable.training_pass(images, select_layers(trainable.layers, "last"))
    kind, classes = Attribution.GRADIENT_X_ACTIVATION, torch.stack([labels, runner_up(logits, labels)])
    own, second = attribute(cut, classes, None, {kind: 2}, BatchLimit(2))[kind]
    correlated = torch.zeros(2, cut.maps.shape[1], dtype=torch.bool)
    background = torch.ones(2, *cut.maps.shape[-2:])
    background[:, 0, 0] = 0
    for penalty in (
        channel_constraint(own, second, correlated),
        space_constraint(own, background, kind),
    ):
        assert penalty.shape == (2,)
        gradients = torch.autograd.grad(penalty.sum(), list(network.parameters()), allow_unused=True, retain_graph=True)
        moved = [one for one in gradients if one is not None]
        assert all(one.isfinite().all() for one in moved)
        assert sum(float(one.abs().sum()) for one in moved) > 0


# Widths as the networks' papers give them, at 64 px.
FURTHER = {
    "convit_tiny": ("blocks.10", (192, 4, 4)),  # the last block hands on the class token alone
    "pvt_v2_b0": ("stages.3.blocks.1", (256, 2, 2)),
    "gcvit_xxtiny": ("stages.3.blocks.1", (512, 2, 2)),
    "edgenext_xx_small": ("stages.3.blocks.1", (168, 2, 2)),
    "tiny_vit_5m_224": ("stages.3.blocks.1", (320, 2, 2)),
    "swinv2_cr_tiny_ns_224": ("stages.3.blocks.1", (768, 2, 2)),
    "mvitv2_tiny": ("stages.3.blocks.1", (768, 2, 2)),  # each block hands on tokens and the size of their grid
    "levit_128s": ("stages.2.blocks.3", (384, 1, 1)),
}


@pytest.mark.parametrize("name", FURTHER)
def test_blocks_of_further_families(name: str) -> None:
    sized = {"img_size": 64} if timm.get_pretrained_cfg_value(name, "fixed_input_size") else {}
    network = randomised(timm.create_model(name, num_classes=4, **sized))
    last = HookedNetwork(network, torch.randn(2, 3, 64, 64)).layers[-1]
    assert last.name == FURTHER[name][0]
    assert (last.channels, last.height, last.width) == FURTHER[name][1]


class Windows(nn.Module):
    """Its second convolution sees four windows of an image as four images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 5, 3, padding=1)
        self.fc = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv1(images)
        windows = maps.unflatten(2, (2, -1)).unflatten(4, (2, -1)).permute(0, 2, 4, 1, 3, 5)
        inside = self.inner(windows.flatten(0, 2)).unflatten(0, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5)
        return self.fc(torch.tanh(self.conv2(inside.flatten(4, 5).flatten(2, 3))).square().mean((2, 3)))


@pytest.mark.parametrize("open_as", [lambda network, images: CutNetwork(capture(network, images)), HookedNetwork])
def test_maps_of_windows_are_no_image_s_and_no_layer(open_as: Callable[..., Any]) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = Windows().eval()
    opened = open_as(network, images)
    names = [layer.name for layer in opened.layers]
    assert "inner" not in names
    assert names[:2] == ["conv1", "conv2"]
    for cut in opened.cuts(images, opened.layers[:2]):
        torch.testing.assert_close(cut.head(cut.maps.repeat(2, 1, 1, 1)), network(images).repeat(2, 1))
