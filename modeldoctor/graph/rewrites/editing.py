"""Changing a captured graph, with the shape of every value in `meta["val"]`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx
from torch._dispatch.python import enable_python_dispatcher


def call(graph: fx.Graph, function: Any, *args: Any) -> fx.Node:
    """A new node where the graph inserts, with the shape of its value."""
    node = graph.call_function(function, args)
    infer(node)
    return node


def infer(node: fx.Node) -> None:
    """The shape of a node's value, from those of its arguments."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    # Without Python's dispatcher, as export itself has it, composite operations ask for the batch as a number.
    with enable_python_dispatcher(), node.all_input_nodes[0].meta["val"].fake_mode:
        node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]


def erase_unread(graph: fx.Graph, node: fx.Node, kept: Collection[fx.Node] = ()) -> None:
    """Take out a node that nothing reads, and what it alone read; those that are kept stay."""
    if node.users or node in kept or node.op != "call_function":
        return
    read = node.all_input_nodes
    graph.erase_node(node)
    for images in read:
        erase_unread(graph, images, kept)
