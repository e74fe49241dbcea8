"""Activations made of straight pieces, for a suffix that is differentiated twice.

Their derivative is constant on each piece and the second one zero. PyTorch's own hand that zero back as a tensor, which
then goes through the whole forward pass and into the gradients of all its weights; these hand back nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from modeldoctor.graph.capture import hard_sigmoid
from modeldoctor.graph.rewrites.frozen import Operation

aten = torch.ops.aten


def without_second_derivatives(nodes: Iterable[fx.Node]) -> dict[fx.Node, Operation]:
    """What to do for those of the nodes that have a zero for their second derivative."""
    return {
        node: Operation(_INSTEAD[node.target], node.args, dict(node.kwargs))
        for node in nodes
        if node.target in _INSTEAD
    }


class _Piecewise(torch.autograd.Function):
    """An activation, and its derivative from what it puts out, which tells the piece."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Callable[..., Tensor], derivative: Callable[..., Tensor]) -> Tensor:
        value = activation(x)
        ctx.save_for_backward(value)
        ctx.set_materialize_grads(False)
        ctx.derivative = derivative
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        (value,) = ctx.saved_tensors
        return None if gradient is None else ctx.derivative(gradient, value.detach()), None, None


def _relu(x: Tensor) -> Tensor:
    return _of_pieces(x, aten.relu, lambda gradient, value: aten.threshold_backward(gradient, value, 0.0))


def _hard_tanh(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    return _of_pieces(
        x,
        lambda x: aten.hardtanh(x, low, high),
        lambda gradient, value: aten.hardtanh_backward(gradient, value, low, high),
    )


def _leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    if slope < 0:  # what it puts out does not tell the piece
        return torch.nn.functional.leaky_relu(x, slope)
    return _of_pieces(
        x,
        lambda x: aten.leaky_relu(x, slope),
        lambda gradient, value: aten.leaky_relu_backward(gradient, value, slope, True),
    )


def _hard_sigmoid(x: Tensor) -> Tensor:
    return _hard_tanh(x + 3, 0.0, 6.0) / 6


def _of_pieces(x: Tensor, activation: Callable[..., Tensor], derivative: Callable[..., Tensor]) -> Tensor:
    value: Tensor = _Piecewise.apply(x, activation, derivative)
    return value


_INSTEAD: dict[Any, Callable[..., Tensor]] = {
    aten.relu.default: _relu,
    aten.hardtanh.default: _hard_tanh,
    aten.leaky_relu.default: _leaky_relu,
    hard_sigmoid: _hard_sigmoid,
}
