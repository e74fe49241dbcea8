"""An exported convolutional network without operations that write into their input, in a fraction of the tracing time.

`ExportedProgram.run_decompositions` traces the network twice more, symbolic shapes and all. What it does to the
operations of most convolutional networks is known: here they are exchanged one by one. A graph that has any other
operation is left to PyTorch.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

# What writes into its first argument, and what gives the same as a new tensor.
_WRITING = {
    aten.relu_.default: aten.relu.default,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.hardswish_.default: aten.hardswish.default,
    aten.silu_.default: aten.silu.default,
    aten.add_.Tensor: aten.add.Tensor,
}
# What gives a new tensor, and stays as it is.
_NEW = frozenset((
    *_WRITING.values(), aten.conv2d.default, aten.conv2d.padding, aten.linear.default, aten.cat.default,
    aten.mul.Tensor, aten.sigmoid.default, aten.hardsigmoid.default, aten.max_pool2d.default,
    aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim,
))  # fmt: skip
_BATCH_NORM, _FLATTEN, _DROPOUT = aten.batch_norm.default, aten.flatten.using_ints, aten.dropout.default
# What may give its input's own memory.
_SHARING = (_FLATTEN, _DROPOUT)


def make_functional(graph: fx.Graph) -> bool:
    """Exchange what writes into its input, BatchNorm and dropout for what `run_decompositions({})` has there.

    Args:
        graph: of `torch.export.export`, of a network in eval mode; changed only where all of it can be.

    Returns:
        Whether it is functional now.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    if not all(node.op in ("placeholder", "output") or _is_known(node, order) for node in graph.nodes):
        return False
    for node in list(graph.nodes):
        if node.target in _WRITING:
            written = node.args[0]
            written.replace_all_uses_with(node, lambda user, now=node: order[user] > order[now])
            node.target = _WRITING[node.target]
        elif node.target is _BATCH_NORM:
            _exchange_norm(graph, node, order)
        elif node.target is _DROPOUT:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return True


def _is_known(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    if node.op != "call_function":
        return False
    if node.target is _BATCH_NORM:
        return len(node.args) == 9 and not node.kwargs and node.args[1:3].count(None) == 0 and node.args[5] is False
    if node.target is _DROPOUT:
        return not node.kwargs and node.args[2] is False
    if node.target in _WRITING:
        return _may_be_written(node, order)
    return node.target in _NEW or node.target is _FLATTEN


def _may_be_written(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether nothing but the tensor itself has the memory that is written, and its type and shape stay."""
    written = node.args[0]
    if not isinstance(written, fx.Node) or written.target not in (*_NEW, *_WRITING, _BATCH_NORM):
        return False
    # Its own memory, and that of the tensors that were written into before and are the same.
    earlier: Any = written
    while earlier.target in _WRITING:
        earlier = earlier.args[0]
        if any(user.target in _SHARING for user in earlier.users):
            return False
    if any(user.target in _SHARING and order[user] < order[node] for user in written.users):
        return False
    others = [value for value in map(_value, node.all_input_nodes) if isinstance(value, Tensor)]
    return all(value.dtype == others[0].dtype for value in others)


def _value(node: fx.Node) -> Any:
    return node.meta.get("val")


def _exchange_norm(graph: fx.Graph, node: fx.Node, order: dict[fx.Node, int]) -> None:
    with graph.inserting_before(node):
        source, weight, bias, mean, variance, _, momentum, eps, _ = node.args
        whole = graph.call_function(
            aten._native_batch_norm_legit_no_training.default, (source, weight, bias, mean, variance, momentum, eps)
        )
        first = graph.call_function(operator.getitem, (whole, 0))
    whole.meta.update(node.meta, val=(_value(node),))
    first.meta.update(node.meta)
    order[whole] = order[first] = order[node]
    node.replace_all_uses_with(first)
    graph.erase_node(node)
