"""What a layer is, by network kind, as one table; and how a selection such as `last:3` picks from them.

Shapes: B images, K channels, H x W positions, P prefix tokens (class and register tokens).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modeldoctor.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One place where a network can be measured and cut.

    Attributes:
        name: the module's path in the network; `#2` is appended for a module's second call.
        kind: the row of `MODULE_LAYERS` it came from, `conv`, or `features`.
        channels, height, width: K, H, W of its output seen as feature maps.
        depth: weighted operations on the longest path up to it, as a share of those up to the logits; a shortcut's
            convolution is shallower than the branch that it bridges, whichever is executed last.
        macs_after: multiply-accumulates for one image between this layer and the logits.
    """

    name: str
    kind: str
    channels: int
    height: int
    width: int
    depth: float
    macs_after: int


class MapsView(NamedTuple):
    """How a layer's raw output is read as feature maps (B,K,H,W), and written back."""

    form: str
    prefix: int = 0
    height: int = 0
    width: int = 0

    def to_maps(self, output: Tensor) -> Tensor:
        """The feature maps (B,K,H,W) in a raw output."""
        if self.form == "tokens":
            maps = output[:, self.prefix :].transpose(1, 2)
            return maps.reshape(*maps.shape[:2], self.height, self.width)
        return output.permute(0, 3, 1, 2) if self.form == "channels_last" else output

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:
        """A raw output with its maps replaced; class and register tokens, if any, come from `output` (same batch)."""
        if self.form == "tokens" and not self.prefix:
            return maps.flatten(2).transpose(1, 2)
        if self.form == "tokens":
            return torch.cat([output[:, : self.prefix], maps.flatten(2).transpose(1, 2)], dim=1)
        return maps.permute(0, 2, 3, 1) if self.form == "channels_last" else maps


class ModuleLayer(NamedTuple):
    """A row of the layer table: modules of these types are layers, their output read in this form."""

    kind: str
    form: str
    types: tuple[str, ...]


FEATURES = "features"
"""Name and kind of the maps that the head pools. Behind the last convolution come normalisation and activation, and in
a residual network a shortcut that carries evidence past it; these maps hold all of it."""
_STAGES = 4

# Every 2-D convolution is a layer of its own (kind "conv"); these modules are layers as a whole. First match wins.
MODULE_LAYERS: tuple[ModuleLayer, ...] = (
    # Swin works on (B,H,W,K).
    ModuleLayer("swin-block", "channels_last", ("*.swin_transformer.SwinTransformerBlock*",)),
    ModuleLayer("swin-block", "channels_last", ("*.SwinTransformerV2Block", "*.SwinTransformerV2CrBlock")),
    # Plain token blocks: (B, P + H*W, K).
    ModuleLayer("token-block", "tokens", ("timm.models.vision_transformer*.*Block", "timm.models.deit.*Block")),
    ModuleLayer("token-block", "tokens", ("torchvision.models.vision_transformer.EncoderBlock",)),
    ModuleLayer("token-block", "tokens", ("timm.models.eva.*Block", "timm.models.beit.*Block")),
    ModuleLayer("token-block", "tokens", ("timm.models.mlp_mixer.*Block", "timm.models.cait.LayerScaleBlock")),
    ModuleLayer("token-block", "tokens", ("timm.models.xcit.XCABlock", "timm.models.convit.Block")),
    ModuleLayer(
        "token-block", "tokens", ("timm.models.pvt_v2.Block", "timm.models.twins.Block", "timm.models.tnt.Block")
    ),
    ModuleLayer("attention-block", "tokens", ("timm.models.levit.LevitBlock", "timm.models.mvitv2.MultiScaleBlock")),
    ModuleLayer("attention-block", "channels_last", ("*.hieradet_sam2.MultiScaleBlock",)),
    ModuleLayer("attention-block", "maps", ("timm.models.nest.NestLevel",)),
    ModuleLayer("attention-block", "channels_last", ("*.gcvit.GlobalContextVitBlock", "*.sequencer.Sequencer2dBlock")),
    ModuleLayer("attention-block", "channels_last", ("*.volo.Transformer", "*.volo.Outlooker", "*.TinyVitBlock")),
    ModuleLayer("attention-block", "maps", ("*.davit.SpatialBlock", "*.davit.ChannelBlock")),
    ModuleLayer("attention-block", "maps", ("*.focalnet.FocalNetBlock", "*.edgenext.SplitTransposeBlock")),
    # Attention and linear layers that hand on maps: MaxViT, CoAtNet, ConvNeXt, whose last convolution is well before.
    ModuleLayer("attention-block", "maps", ("*.maxxvit.*MaxxVitBlock", "*.maxxvit.TransformerBlock2d")),
    ModuleLayer("attention-block", "maps", ("torchvision.models.maxvit.MaxVitLayer",)),
    ModuleLayer("convnext-block", "maps", ("*.convnext.ConvNeXtBlock", "*.convnext.CNBlock")),
    # Concatenating blocks: their last convolution alone would be one narrow branch.
    ModuleLayer("concat-block", "maps", ("*.densenet.*DenseBlock", "*.squeezenet.Fire", "*.googlenet.Inception")),
    ModuleLayer("concat-block", "maps", ("*.inception.Inception[A-E]", "*.inception_v[34].Inception[A-E]")),
)


def type_name(module: nn.Module) -> str:
    """A module's class with its path, such as `torch.nn.modules.conv.Conv2d`."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def match_module(type_name: str) -> ModuleLayer | None:
    """The row of the layer table for a module's qualified type name, or None."""
    return next((row for row in MODULE_LAYERS if any(fnmatchcase(type_name, glob) for glob in row.types)), None)


def patch_grid(network: nn.Module) -> tuple[int, int] | None:
    """The patch grid (H, W) that a network of tokens states, if it does."""
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    return (int(grid[0]), int(grid[1])) if isinstance(grid, tuple | list) and len(grid) == 2 else None


def view_of(row: ModuleLayer | None, shape: Sequence[int], grid: tuple[int, int] | None = None) -> MapsView | None:
    """How an output of this shape (with its batch) is read as maps; None where it cannot be.

    Args:
        row: the table row, None for a convolution.
        shape: the raw output's shape.
        grid: the patch grid (H, W), if the network states one; else the largest square of tokens is taken.
    """
    form = row.form if row else "maps"
    if form != "tokens":
        return MapsView(form) if len(shape) == 4 else None
    if len(shape) != 3:
        return None
    side = isqrt(shape[1])
    height, width = grid if grid and 0 <= shape[1] - grid[0] * grid[1] <= 32 else (side, side)
    return MapsView(form, shape[1] - height * width, height, width)


def select_layers(layers: Sequence[Layer], selection: str) -> tuple[Layer, ...]:
    """The layers that a selection names, in execution order.

    Args:
        layers: all layers of a network.
        selection: one or more of these, separated by commas: `last`, `last:3` (the deepest), `stages` (the deepest
            layer of each map size; four evenly spread ones where all maps have one size), `all`, `features` (the
            maps that the head pools, which no other keyword selects; a token network's last block), names, globs.

    Raises:
        UsageError: nothing matches; the nearest names are in the hint.
    """
    if not layers:
        raise UsageError(
            "the network has no layer that can be measured",
            where="--layers",
            expected="a 2-D convolution over the image, or a block that is known to hand on maps or tokens",
        )
    parts = [part.strip() for part in selection.split(",") if part.strip()]
    chosen = {layer.name for part in parts or [""] for layer in _named(layers, part)}
    return tuple(layer for layer in layers if layer.name in chosen)


def _named(layers: Sequence[Layer], part: str) -> Iterable[Layer]:
    ordinary = [layer for layer in layers if layer.kind != FEATURES] or list(layers)
    by_depth = sorted(ordinary, key=lambda layer: layer.depth)
    if counted := re.fullmatch(r"last(?::(\d+))?", part):
        number = int(counted[1] or 1)
        if number < 1:
            raise UsageError("no layer asked for", where=f"--layers {part}", expected="last:1 or more")
        return by_depth[-number:]
    if part == "all":
        return ordinary
    if part == "stages":
        deepest = {(layer.height, layer.width): layer for layer in by_depth}
        return deepest.values() if len(deepest) > 1 else _spread(ordinary)
    if part == FEATURES:
        return [layer for layer in layers if layer.kind == FEATURES] or by_depth[-1:]
    return _by_name(layers, part)


def _spread(layers: Sequence[Layer]) -> list[Layer]:
    """Evenly spread layers, the deepest among them."""
    last = len(layers) - 1
    return [layers[round(last * part / _STAGES)] for part in range(1, _STAGES + 1)]


def _by_name(layers: Sequence[Layer], pattern: str) -> list[Layer]:
    names = [layer.name for layer in layers]
    hits = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
    if not hits:
        near = get_close_matches(pattern, names, n=3, cutoff=0.3)
        raise UsageError(
            f"no layer is called {pattern!r}",
            where="--layers",
            expected="last, last:N, stages, all, features, or a layer's name or glob",
            hint=(f"nearest: {', '.join(near)}; " if near else "") + "--list-layers prints them all",
        )
    return [layer for layer in layers if layer.name in hits]
