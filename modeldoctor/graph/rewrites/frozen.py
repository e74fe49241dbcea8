"""Cheaper operations for a network whose weights stay as they are: folded BatchNorm, channels_last, work in place.

Exact in real arithmetic; in float32 the figures differ from the plain network's in the last digits.

Shapes: B images, K channels, C input channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from modeldoctor.graph.capture import CONV2D, Captured

aten = torch.ops.aten

_NORM = aten._native_batch_norm_legit_no_training.default
_FRESH = (*CONV2D, aten.add.Tensor, _NORM)
# Activations whose derivative is known from what they put out.
_IN_PLACE = {aten.relu.default: aten.relu_.default, aten.hardtanh.default: aten.hardtanh_.default}


class Operation(NamedTuple):
    """What is done for a node: a function and its arguments, in which nodes stand for their values."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Frozen:
    """A captured network's state in channels_last, and what to do instead of its operations.

    Args:
        captured: its weights are read now; when they change, this is stale.
    """

    def __init__(self, captured: Captured):
        self._state = captured.state
        self._versions = _versions(captured)
        self._folded: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        weights = {node.args[1] for node in captured.graph.nodes if node.target in CONV2D}
        self.state = {
            node: tensor.contiguous(memory_format=torch.channels_last)
            if node in weights and tensor.ndim == 4
            else tensor
            for node, tensor in captured.state.items()
        }

    def stale(self, captured: Captured) -> bool:
        """Whether the weights have changed since they were read."""
        return self._versions != _versions(captured)

    def operations(self, nodes: Iterable[fx.Node], kept: Collection[fx.Node]) -> dict[fx.Node, Operation]:
        """The nodes that are done otherwise, when these are executed in this order.

        Args:
            nodes: in execution order.
            kept: of these, the ones whose values are wanted as the network has them.
        """
        nodes = list(nodes)
        inside, changed = set(nodes) - set(kept), in_place(nodes, kept)
        for node in nodes:
            if node.target is _NORM and all(name is None or name in self._state for name in node.args[1:5]):
                self._normalise(node, inside, changed)
        return changed

    def _normalise(self, node: fx.Node, inside: set[fx.Node], changed: dict[fx.Node, Operation]) -> None:
        """Fold BatchNorm into the convolution before it; where there is none, make it one scale and shift."""
        source, *names, _, eps = node.args
        scale, shift = self._affine(names, eps)
        assert isinstance(source, fx.Node)
        like = self._state[names[2]]  # type: ignore[index]
        convolved = source.target in CONV2D and all(arg is None or arg in self.state for arg in source.args[1:3])
        if not convolved or source not in inside or len(source.users) > 1:
            shape = (-1, *[1] * (source.meta["val"].ndim - 2))
            constants = (scale.to(like).view(shape), shift.to(like).view(shape))
            changed[node] = Operation(_scale_and_shift, (source, *constants), {})
            return
        if node not in self._folded:
            weight, bias = (None if name is None else self.state[name] for name in (*source.args[1:3], None)[:2])  # type: ignore[index]
            assert weight is not None
            folded = (weight.double() * scale[:, None, None, None]).to(weight)
            self._folded[node] = folded, (shift + (0.0 if bias is None else bias * scale)).to(weight.dtype)
        args = (source.args[0], *self._folded[node], *source.args[3:])
        changed[source] = Operation(source.target, args, dict(source.kwargs))
        changed[node] = Operation(_only, (source,), {})

    def _affine(self, names: list[Any], eps: Any) -> tuple[Tensor, Tensor]:
        """BatchNorm as scale and shift, (K,) float64 each."""
        weight, bias, mean, variance = (None if name is None else self._state[name].double() for name in names)
        assert mean is not None
        assert variance is not None
        scale = (variance + eps).rsqrt() * (1.0 if weight is None else weight)
        return scale, (0.0 if bias is None else bias) - mean * scale


def _versions(captured: Captured) -> list[int]:
    """How often each tensor of the state was written to, which views of it share."""
    return [0 if tensor.is_inference() else tensor._version for tensor in captured.state.values()]


def in_place(nodes: Iterable[fx.Node], kept: Collection[fx.Node]) -> dict[fx.Node, Operation]:
    """The nodes whose result can take an argument's place: memory that is asked for anew costs more than the work.

    Args:
        nodes: in execution order; in training mode, too.
        kept: of these, the ones whose values are wanted as the network has them.
    """
    changed = dict[fx.Node, Operation]()
    fresh: set[fx.Node] = set()  # own storage, and no derivative needs the value
    for node in nodes:
        if (operation := _in_place(node, fresh)) is not None:
            changed[node] = operation
        of_fresh = node.target is getitem and node.args[0] in fresh
        if node not in kept and (node.target in _FRESH or of_fresh):
            fresh.add(node)
    return changed


def _in_place(node: fx.Node, fresh: set[fx.Node]) -> Operation | None:
    """The same in the storage of an argument that nothing else reads, if there is one."""

    def spent(argument: Any) -> bool:
        same = isinstance(argument, fx.Node) and argument.meta["val"].shape == node.meta["val"].shape
        return same and argument in fresh and len(argument.users) == 1

    if node.target in _IN_PLACE and spent(node.args[0]):
        return Operation(_IN_PLACE[node.target], node.args, dict(node.kwargs))
    if node.target is aten.add.Tensor and not node.kwargs and isinstance(node.args[1], fx.Node):
        one, other = node.args
        for target, term in ((one, other), (other, one)):
            if spent(target) and target is not term:
                return Operation(_add, (target, term), {})
    return None


def _add(target: Tensor, term: Tensor) -> Tensor:
    """In the target's place, unless the sum is of a larger type: under autocast types are known only now."""
    return target.add_(term) if torch.result_type(target, term) == target.dtype else target + term


def _scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor]:
    return (torch.addcmul(shift, x, scale),)


def _only(x: Tensor) -> tuple[Tensor]:
    return (x,)
