"""Closed form of a head that acts on every position alone, is averaged over them and read linearly.

For y_n = Σ_k W[n,k] · 1/HW Σ_hw φ_k(m_k,hw) + b_n the derivative is ∂y_n/∂m_k,hw = W[n,k] / HW · φ_k'(m_k,hw): one
backward pass through φ serves every class, and noise enters through φ' alone.

Shapes: R copies of B images, K channels, H x W positions, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import getitem
from typing import NamedTuple

import torch
from torch import Tensor, fx

from modeldoctor.graph.capture import Captured, LayerNode, pools_all

aten = torch.ops.aten

# Element by element, or a scale and shift of each channel.
_POINTWISE = (
    aten.relu.default,
    aten.hardtanh.default,
    aten.silu.default,
    aten.gelu.default,
    aten.hardswish.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.clone.default,
    aten._native_batch_norm_legit_no_training.default,
    getitem,
)
_RESHAPE = (aten.reshape.default, aten.flatten.using_ints, aten.squeeze.dims, aten.clone.default, aten.alias.default)


class PooledHead(NamedTuple):
    """The closed form of one cut.

    Attributes:
        pointwise: φ, of maps of R copies (R*B,K,H,W) and of what else is live at the cut, to the same shape.
        weight: W, (N,K).
    """

    pointwise: Callable[[Tensor, Sequence[Tensor]], Tensor]
    weight: Tensor

    def factor(self, classes: Tensor, maps: Tensor) -> Tensor:
        """W[n,k] / HW of each image's class n, (...,B,K,1,1) for classes (...,B) and maps (R*B,K,H,W)."""
        return self.weight[classes][..., None, None] / (maps.shape[2] * maps.shape[3])


class PooledNodes(NamedTuple):
    """Where the closed form is in the graph: the node before the pooling, and the classifier's weight."""

    before: fx.Node
    weight: fx.Node


def find_pooled_head(layer_node: LayerNode, suffix: Sequence[fx.Node], captured: Captured) -> PooledNodes | None:
    """The closed form of what is behind a layer, or None where it has none.

    Args:
        layer_node: the layer.
        suffix: the nodes behind it, in execution order, the logits last.
        captured: the graph.
    """
    linear = captured.logits
    if (
        layer_node.view.form != "maps"
        or linear.target is not aten.linear.default
        or linear.args[1] not in captured.state
    ):
        return None
    node, weight = linear.args[:2]
    while isinstance(node, fx.Node) and node in suffix and node.target in _RESHAPE:
        node = node.args[0]
    if not isinstance(node, fx.Node) or node not in suffix or not pools_all(node) or node.target not in _AVERAGES:
        return None
    before = node.args[0]
    own, read = before.meta["val"].shape, captured.state[weight].shape[1]  # type: ignore[index,union-attr]
    inner = [other for other in suffix if other not in _from(node, suffix)]
    if before not in inner or own != layer_node.node.meta["val"].shape or read != own[1]:
        return None
    alike = all(node.target in _POINTWISE and _shape_of(node) in (own, None) for node in inner)
    return PooledNodes(before, weight) if alike else None  # type: ignore[arg-type]


_AVERAGES = (aten.adaptive_avg_pool2d.default, aten.mean.dim)


def _from(node: fx.Node, suffix: Sequence[fx.Node]) -> Sequence[fx.Node]:
    return suffix[suffix.index(node) :]


def _shape_of(node: fx.Node) -> torch.Size | None:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else None
