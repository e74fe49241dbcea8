"""Attention of few queries without keys and values: q·(W x) = (Wᵀq)·x, and Σ a (W x) = W (Σ a x).

Where the class token alone is read, the keys and values of all tokens are most of what is left of the last block. Each
is a projection of the token that is read once a head; with the projection on the side of the queries it is made once a
query instead.

Shapes: B images, T tokens, D features, O projected features, H heads, Q queries, E features of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from modeldoctor.graph.rewrites.editing import call, erase_unread

aten = torch.ops.aten

_ATTENTION = aten.scaled_dot_product_attention.default
# Operations that move numbers about and change none.
_MOVES = (
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.select.int,
    aten.slice.Tensor,
    aten.unbind.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.clone.default,
    aten.alias.default,
    getitem,
)
_EXAMPLE = 2  # images, when it is followed where numbers move to


class Projected(NamedTuple):
    """Queries, keys or values as they are projected from tokens: every head's features side by side.

    Attributes:
        linear: the projection, to (B,T,O) or (T,B,O).
        token_axis: 1 or 0.
        start: of the tokens.
        rows: of the projection's weight, H*E from here on.
    """

    linear: fx.Node
    token_axis: int
    start: int
    rows: int

    def of_all(self, value: fx.Node) -> bool:
        """Whether (B,H,T,E) are of all tokens that were projected."""
        return bool(value.meta["val"].shape[2] == self.linear.meta["val"].shape[self.token_axis])


def attend(
    query: Tensor,
    tokens: Tensor,
    key_weight: Tensor,
    key_bias: Tensor | None,
    value_weight: Tensor,
    value_bias: Tensor | None,
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Scaled dot-product attention to keys and values that are projections of tokens.

    Args:
        query: (B,H,Q,E).
        tokens: (B,T,D).
        key_weight: (H,E,D).
        key_bias: (H,1,E); it moves all scores of a query alike, so only its gradient, a zero, is of use.
        value_weight: (H,F,D).
        value_bias: (H,1,F).
        mask: broadcast to (B,H,Q,T) and added.
        scale: of the products.

    Returns:
        (B,H,Q,F).
    """
    query = query * scale
    asked = torch.einsum("bhqe,hed->bhqd", query, key_weight)
    scores = (asked.flatten(1, 2) @ tokens.mT).unflatten(1, asked.shape[1:3])
    scores = scores if key_bias is None else scores + (query * key_bias).sum(-1, keepdim=True)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    mixed = (weights.flatten(1, 2) @ tokens).unflatten(1, asked.shape[1:3])
    found = torch.einsum("bhqd,hfd->bhqf", mixed, value_weight)
    return found if value_bias is None else found + value_bias


def attend_macs(query: tuple[int, ...], tokens: tuple[int, ...], value_weight: tuple[int, ...]) -> int:
    """Multiply-accumulates of `attend` from the shapes of its arguments."""
    features, each = tokens[-1], prod(query[:3])
    return each * features * (query[-1] + 2 * tokens[-2] + value_weight[1])


def attend_from_tokens(graph: fx.Graph, size: Callable[[Any], int], kept: Iterable[fx.Node]) -> None:
    """Put `attend` where there are fewer queries than it pays to make keys and values for, in place.

    Args:
        graph: a functional ATen graph, with `meta["val"]`.
        size: a traced size as a number, for two images.
        kept: nodes that stay, whether they are read or not.
    """
    kept = set(kept)
    for node in graph.find_nodes(op="call_function", target=_ATTENTION):
        *_, queries, features = node.args[0].meta["val"].shape
        if _is_plain(node) and 2 * queries <= features:
            _rewrite(graph, node, size, kept)


def _is_plain(node: fx.Node) -> bool:
    """Whether it is softmax(scale · q kᵀ + mask) v for as many heads of each."""
    values = [argument.meta["val"] for argument in _nodes(node.args)]
    return (
        not any(node.args[4:])  # dropout, causal
        and set(node.kwargs) <= {"scale"}
        and all(value.ndim == 4 for value in values)
        and len({value.shape[1] for value in values[:3]}) == 1
        and all(value.is_floating_point() for value in values[3:])
    )


def _rewrite(graph: fx.Graph, node: fx.Node, size: Callable[[Any], int], kept: set[fx.Node]) -> None:
    query, key, value, *masks = _nodes(node.args)
    asking, keys, values = (_projected(projection, size) for projection in (query, key, value))
    if keys is None or values is None or not (keys.of_all(key) and values.of_all(value)):
        return
    tokens = _nodes(keys.linear.args)[0]
    if values.linear.args[0] is not tokens or values.token_axis != keys.token_axis:
        return
    scale = node.kwargs.get("scale") or query.meta["val"].shape[-1] ** -0.5
    with graph.inserting_before(node):
        if asking is not None:
            query = _project(graph, asking, query)
        if keys.token_axis == 0:
            tokens = call(graph, aten.transpose.int, tokens, 0, 1)
        parameters = (*_by_head(graph, keys, key), *_by_head(graph, values, value))
        instead = call(graph, attend, query, tokens, *parameters, masks[0] if masks else None, scale)
    node.replace_all_uses_with(instead)
    erase_unread(graph, node, kept)


def _projected(node: fx.Node, size: Callable[[Any], int]) -> Projected | None:
    """Where (B,H,T,E) comes from, if it is a projection that was moved about alone."""
    moves, source = [], node
    while source.target in _MOVES:
        moves.append(source)
        source = source.args[0]  # type: ignore[assignment]
    if source.target is not aten.linear.default or source.meta["val"].ndim != 3:
        return None
    shape = [size(length) for length in source.meta["val"].shape]
    found: Any = torch.arange(prod(shape)).view(shape)
    for move in reversed(moves):
        args, kwargs = fx.node.map_arg((move.args[1:], move.kwargs), lambda argument: size(argument.meta["val"]))
        found = move.target(found, *args, **kwargs)  # type: ignore[operator]
    _, heads, tokens, features = found.shape
    rows = int(found[0, 0, 0, 0]) % shape[2]
    for axis, (image_step, token_step) in ((1, (shape[1], 1)), (0, (1, shape[1]))):
        start = int(found[0, 0, 0, 0]) // shape[2] // token_step
        along = [torch.arange(number) for number in (_EXAMPLE, heads, tokens, features)]
        image, head, token, feature = torch.meshgrid(*along, indexing="ij")
        position = image * image_step + (token + start) * token_step
        if torch.equal(found, position * shape[2] + rows + head * features + feature):
            return Projected(source, axis, start, rows)
    return None


def _project(graph: fx.Graph, asking: Projected, query: fx.Node) -> fx.Node:
    """The queries alone, (B,H,Q,E)."""
    _, heads, number, features = query.meta["val"].shape
    tokens = asking.linear.args[0]
    tokens = call(graph, aten.slice.Tensor, tokens, asking.token_axis, asking.start, asking.start + number)
    found = call(graph, aten.linear.default, tokens, *_own_rows(graph, asking, heads * features))
    if asking.token_axis == 0:
        found = call(graph, aten.transpose.int, found, 0, 1)
    return call(graph, aten.transpose.int, call(graph, aten.unflatten.int, found, 2, [heads, features]), 1, 2)


def _by_head(graph: fx.Graph, of: Projected, value: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """Of a projection's weight (O,D) the part (H,E,D), of its bias (O,), if there is one, the part (H,1,E)."""
    _, heads, _, features = value.meta["val"].shape
    own = _own_rows(graph, of, heads * features)
    weight, *bias = (call(graph, aten.unflatten.int, node, 0, [heads, features]) for node in own)
    return weight, call(graph, aten.unsqueeze.default, bias[0], 1) if bias else None


def _own_rows(graph: fx.Graph, of: Projected, number: int) -> list[fx.Node]:
    """Its rows of the projection's weight and bias."""
    stop = of.rows + number
    return [call(graph, aten.slice.Tensor, node, 0, of.rows, stop) for node in _nodes(of.linear.args)[1:]]


def _nodes(arguments: Iterable[Any]) -> list[fx.Node]:
    return [argument for argument in arguments if isinstance(argument, fx.Node)]
