"""Dropping what nothing reads: behind the last attention of a ViT the class token alone goes on to the head.

Only operations that treat each token by itself are narrowed to the tokens that are read, and attention to their
queries; the values that are left are the network's own.

Shapes: B images, T tokens, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from modeldoctor.graph.rewrites.editing import call, erase_unread, infer

aten = torch.ops.aten

_ALIKE = (
    aten.relu.default,
    aten.gelu.default,
    aten.silu.default,
    aten.tanh.default,
    aten.sigmoid.default,
    aten.clone.default,
    aten.alias.default,
)
_BROADCAST = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
_ATTENTION = aten.scaled_dot_product_attention.default


class Tokens(NamedTuple):
    """Part of a value along one of its dimensions: `start` to `stop`."""

    axis: int
    start: int
    stop: int

    def joined(self, other: Tokens) -> Tokens | None:
        """The smallest part that holds both; None where they lie along different dimensions."""
        if self.axis != other.axis:
            return None
        return Tokens(self.axis, min(self.start, other.start), max(self.stop, other.stop))


def drop_unread_tokens(graph: fx.Graph, whole: Mapping[fx.Node, int]) -> set[fx.Node]:
    """Narrow every node of which the logits need a few tokens alone, in place.

    Args:
        graph: a functional ATen graph, with `meta["val"]`.
        whole: nodes that keep all tokens, unless those that are read are among their first so many.

    Returns:
        The narrowed nodes.
    """
    _keep_tokens_apart(graph)
    found: dict[fx.Node, Tokens] = {}
    for node in reversed(graph.nodes):
        rows = _read(node, found)
        if rows is not None and rows.stop <= whole.get(node, rows.stop) and _arguments(node, rows) is not None:
            found[node] = rows
    needs = {node: _arguments(node, rows) or {} for node, rows in found.items()}
    picks = {user: _picked(user) for node in found for user in node.users if user not in found}
    for node in list(graph.nodes):
        if node in found:
            _narrow(graph, node, needs[node], found)
        elif (picked := picks.get(node)) is not None:
            _shift(node, picked, found)
    return set(found)


def _keep_tokens_apart(graph: fx.Graph) -> None:
    """Where images and tokens are folded into one dimension for a linear operation alone, do not fold them."""
    for node in graph.find_nodes(op="call_function", target=aten.reshape.default):
        linear = node.args[0]
        folded = linear.args[0] if linear.target is aten.linear.default and len(linear.users) == 1 else None
        if folded is None or folded.target is not aten.reshape.default or len(folded.users) > 1:
            continue
        features, *others = (part.meta["val"].shape[-1] for part in (folded, linear, node))
        if others[0] != others[1]:
            continue
        with graph.inserting_before(node):
            sizes = [*node.args[1][:-1], features]
            apart = call(graph, aten.reshape.default, folded.args[0], sizes)
        node.target, node.args = linear.target, (apart, *linear.args[1:])
        erase_unread(graph, linear)


def _read(node: fx.Node, found: Mapping[fx.Node, Tokens]) -> Tokens | None:
    """What its users read of a node, where that is at most half; None for all of it."""
    wanted: Tokens | None = None
    for rows in (read for user in node.users for read in _reads(user, node, found)):
        wanted = rows if wanted is None or rows is None else wanted.joined(rows)
        if wanted is None:
            return None
    if wanted is None or 2 * (wanted.stop - wanted.start) > node.meta["val"].shape[wanted.axis]:
        return None
    return wanted


def _reads(user: fx.Node, node: fx.Node, found: Mapping[fx.Node, Tokens]) -> Iterable[Tokens | None]:
    """What a user reads of a node, once for each argument; None for all of it."""
    if user not in found:
        return [_picked(user)]
    read = _arguments(user, found[user]) or {}
    places = [index for index, argument in enumerate(user.args) if argument is node]
    return [read.get(index) for index in places] or [None]  # in a list or by name


def _picked(node: fx.Node) -> Tokens | None:
    """The tokens that a node picks of (B,T,D), where these are known."""
    if node.target not in (aten.select.int, aten.slice.Tensor) or _rank(node.args[0]) != 3:
        return None
    dimension, *numbers = node.args[1:]
    size = node.args[0].meta["val"].shape[1]  # type: ignore[union-attr]
    known = all(isinstance(number, int) for number in (size, *numbers))
    if dimension != 1 or not known or len(numbers) > 2:  # with a step
        return None
    if node.target is aten.select.int:
        start = numbers[0] % size
        return Tokens(1, start, start + 1)
    start, stop, _ = slice(*numbers).indices(size) if len(numbers) == 2 else slice(numbers[0], None).indices(size)
    return Tokens(1, start, stop) if start < stop else None


def _arguments(node: fx.Node, rows: Tokens) -> dict[int, Tokens] | None:
    """By position, what a node reads of its arguments to give these rows of its own value; what is not named it reads
    whole. None where it can only give all of it."""
    rank, (axis, start, stop) = _rank(node), rows
    if any(isinstance(value, fx.Node) for value in node.kwargs.values()) or rank is None:
        return None
    if node.target in _ALIKE or (node.target is aten.slice.Tensor and _takes_all(node)):
        return {0: rows}
    if node.target is aten.linear.default:
        return {0: rows} if axis < rank - 1 else None
    if node.target is aten.layer_norm.default:
        return {0: rows} if axis < rank - len(node.args[1]) else None  # type: ignore[arg-type]
    if node.target in _BROADCAST:
        return _aligned(node, rows, node.args)
    if node.target is aten.transpose.int:
        swapped: list[int] = [arg % rank for arg in node.args[1:]]  # type: ignore[operator,misc]
        return {0: Tokens(swapped[1 - swapped.index(axis)] if axis in swapped else axis, start, stop)}
    if node.target is aten.permute.default:
        return {0: Tokens(node.args[1][axis] % rank, start, stop)}  # type: ignore[index,operator,arg-type]
    if node.target is aten.reshape.default:
        before, after = node.args[0].meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
        return {0: rows} if tuple(before[: axis + 1]) == tuple(after[: axis + 1]) else None
    if node.target is _ATTENTION and axis == rank - 2 and not any(node.args[4:]):  # dropout, causal
        return {0: rows, **_aligned(node, rows, node.args[:4], begin=3)}
    return None


def _aligned(node: fx.Node, rows: Tokens, arguments: tuple[Any, ...], begin: int = 0) -> dict[int, Tokens]:
    """The rows of arguments that are broadcast to a node's shape; those with one row there are read whole."""
    size, rank = node.meta["val"].shape[rows.axis], node.meta["val"].ndim
    found = {}
    for index, argument in enumerate(arguments[begin:], begin):
        if isinstance(argument, fx.Node) and isinstance(value := argument.meta["val"], Tensor):
            axis = rows.axis - (rank - value.ndim)
            if axis >= 0 and value.shape[axis] == size:
                found[index] = rows._replace(axis=axis)
    return found


def _takes_all(node: fx.Node) -> bool:
    return bool(node.args[0].meta["val"].shape == node.meta["val"].shape)  # type: ignore[union-attr]


def _rank(value: Any) -> int | None:
    value = value.meta.get("val") if isinstance(value, fx.Node) else None
    return value.ndim if isinstance(value, Tensor) else None


def _narrow(graph: fx.Graph, node: fx.Node, needs: Mapping[int, Tokens], found: Mapping[fx.Node, Tokens]) -> None:
    """Let a node read what it needs of its arguments, and no more."""
    args, rows = list(node.args), found[node]
    for index, wanted in needs.items():
        source = args[index]
        assert isinstance(source, fx.Node)
        start = found[source].start if source in found else 0
        if wanted != found.get(source):
            with graph.inserting_before(node):
                bounds = (wanted.axis, wanted.start - start, wanted.stop - start)
                args[index] = call(graph, aten.slice.Tensor, source, *bounds)
    if node.target is aten.reshape.default:
        sizes: list[Any] = list(args[1])  # type: ignore[arg-type]
        sizes[rows.axis] = rows.stop - rows.start
        args[1] = sizes
    node.args = tuple(args)
    infer(node)


def _shift(node: fx.Node, picked: Tokens, found: Mapping[fx.Node, Tokens]) -> None:
    """A node that picks tokens counts them from the first that there is."""
    start = picked.start - found[node.args[0]].start  # type: ignore[index]
    single = node.target is aten.select.int
    node.args = (node.args[0], picked.axis, start, *(() if single else (start + picked.stop - picked.start,)))
