"""Layer selection, and reading outputs as maps."""

from __future__ import annotations

import pytest
import torch

from modeldoctor.errors import UsageError
from modeldoctor.graph.layers import Layer, MapsView, match_module, select_layers, view_of


def layer(name: str, size: int, depth: float, kind: str = "conv") -> Layer:
    return Layer(name=name, kind=kind, channels=8, height=size, width=size, depth=depth, macs_after=1)


# As in a ResNet: the shortcut of the last stage is executed after the branch that it bridges.
LAYERS = [
    layer("stem", 16, 0.1),
    layer("stage1.conv1", 8, 0.3),
    layer("stage1.conv2", 8, 0.5),
    layer("stage2.conv1", 4, 0.7),
    layer("stage2.conv2", 4, 0.9),
    layer("stage2.shortcut", 4, 0.7),
]


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("last", ["stage2.conv2"]),
        ("last:1", ["stage2.conv2"]),
        ("last:3", ["stage2.conv1", "stage2.conv2", "stage2.shortcut"]),
        ("last:99", [one.name for one in LAYERS]),
        ("stages", ["stem", "stage1.conv2", "stage2.conv2"]),
        ("all", [one.name for one in LAYERS]),
        ("stem", ["stem"]),
        ("stage2.*,stem", ["stem", "stage2.conv1", "stage2.conv2", "stage2.shortcut"]),
        ("*.conv1, *.conv2", ["stage1.conv1", "stage1.conv2", "stage2.conv1", "stage2.conv2"]),
    ],
)
def test_selection(selection: str, names: list[str]) -> None:
    assert [one.name for one in select_layers(LAYERS, selection)] == names


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("features", ["features"]),
        ("last", ["stage2.conv2"]),
        ("all", [one.name for one in LAYERS]),
        ("stages", ["stem", "stage1.conv2", "stage2.conv2"]),
        ("last,features", ["stage2.conv2", "features"]),
        ("features,last:2,stem", ["stem", "stage2.conv2", "stage2.shortcut", "features"]),
        ("*", [*(one.name for one in LAYERS), "features"]),
    ],
)
def test_the_maps_that_the_head_pools_are_selected_by_their_name_alone(selection: str, names: list[str]) -> None:
    layers = [*LAYERS, layer("features", 4, 0.9, kind="features")]
    assert [one.name for one in select_layers(layers, selection)] == names


def test_a_network_without_pooled_maps_has_its_last_layer_for_them() -> None:
    assert [one.name for one in select_layers(LAYERS, "features")] == ["stage2.conv2"]


def test_stages_of_a_network_with_one_map_size_are_evenly_spread() -> None:
    blocks = [layer(f"blocks.{number}", 14, number / 12) for number in range(12)]
    names = [one.name for one in select_layers(blocks, "stages")]
    assert names == ["blocks.3", "blocks.6", "blocks.8", "blocks.11"]
    assert [one.name for one in select_layers(blocks[:2], "stages")] == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize("selection", ["stage3.conv1", "last:0", "", "stem,nothing.*", ","])
def test_what_selects_nothing_is_refused(selection: str) -> None:
    with pytest.raises(UsageError) as caught:
        select_layers(LAYERS, selection)
    assert caught.value.exit_code == 2


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(UsageError, match=r"stage1\.conv1"):
        select_layers(LAYERS, "stage1.cnov1")


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (MapsView("maps"), (2, 6, 3, 4)),
        (MapsView("channels_last"), (2, 3, 4, 6)),
        (MapsView("tokens", prefix=5, height=3, width=4), (2, 17, 6)),
    ],
)
def test_maps_go_back_to_where_they_came_from(view: MapsView, shape: tuple[int, ...]) -> None:
    output = torch.randn(shape)
    maps = view.to_maps(output)
    assert maps.shape == (2, 6, 3, 4)
    assert torch.equal(view.from_maps(maps, output), output)


def test_a_token_is_found_at_its_position() -> None:
    output = torch.zeros(1, 2 + 12, 6)
    output[0, 2 + 1 * 4 + 3, 5] = 1.0  # row 1, column 3
    maps = MapsView("tokens", prefix=2, height=3, width=4).to_maps(output)
    assert maps.nonzero().tolist() == [[0, 5, 1, 3]]


@pytest.mark.parametrize(
    ("shape", "grid", "wanted"),
    [
        ((2, 197, 8), None, (1, 14, 14)),
        ((2, 201, 8), None, (5, 14, 14)),
        ((2, 196, 8), None, (0, 14, 14)),
        ((2, 1 + 6 * 10, 8), (6, 10), (1, 6, 10)),
        ((2, 49, 8), (14, 14), (0, 7, 7)),
    ],
)
def test_prefix_tokens_are_counted(
    shape: tuple[int, ...], grid: tuple[int, int] | None, wanted: tuple[int, ...]
) -> None:
    view = view_of(match_module("timm.models.vision_transformer.Block"), shape, grid)
    assert view is not None
    assert view[1:] == wanted


@pytest.mark.parametrize(
    ("type_name", "kind"),
    [
        ("timm.models.vision_transformer.Block", "token-block"),
        ("timm.models.swin_transformer.SwinTransformerBlock", "swin-block"),
        ("torchvision.models.swin_transformer.SwinTransformerBlockV2", "swin-block"),
        ("torchvision.models.densenet._DenseBlock", "concat-block"),
        ("torchvision.models.inception.InceptionE", "concat-block"),
        ("timm.models.maxxvit.MaxxVitBlock", "attention-block"),
        ("timm.models.maxxvit.TransformerBlock2d", "attention-block"),
        ("torchvision.models.maxvit.MaxVitLayer", "attention-block"),
        ("timm.models.convnext.ConvNeXtBlock", "convnext-block"),
        ("torchvision.models.convnext.CNBlock", "convnext-block"),
        ("torch.nn.modules.conv.Conv2d", None),
        ("torchvision.models.resnet.BasicBlock", None),
    ],
)
def test_the_layer_table(type_name: str, kind: str | None) -> None:
    row = match_module(type_name)
    assert (row.kind if row else None) == kind


def test_a_network_without_layers_is_refused() -> None:
    for selection in ("last", "all", "stages", "features", "a*"):
        with pytest.raises(UsageError, match="no layer that can be measured"):
            select_layers((), selection)
