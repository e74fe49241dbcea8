"""A network as a functional graph of ATen operations: `torch.export` with a dynamic batch, read for our needs.

Shapes: B images, C input channels, K channels of a layer, H x W positions, N classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.nn import functional

from modeldoctor.errors import GraphError
from modeldoctor.graph.functional import make_functional
from modeldoctor.graph.layers import FEATURES, MapsView, match_module, patch_grid, view_of
from modeldoctor.graph.recomputation import without_checkpointing
from modeldoctor.graph.rewrites.attention import attend, attend_from_tokens, attend_macs
from modeldoctor.graph.rewrites.tokens import drop_unread_tokens

aten = torch.ops.aten

CONV2D = (aten.conv2d.default, aten.conv2d.padding)
_POOL_TO_ONE = (aten.adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default)
_RESHAPE = (aten.flatten.using_ints, aten.view.default, aten.reshape.default)
_REDUCE = (aten.mean.dim, aten.amax.default)
_WEIGHTED = (*CONV2D, aten.linear.default, aten.addmm.default, aten.mm.default, aten.matmul.default)
# On a GPU tracing a BatchNorm notes that cuDNN takes no more images; export refuses a range beyond such a note.
_CUDNN_BATCH = 65535


class LayerNode(NamedTuple):
    """A node of the graph whose value is a layer's output."""

    name: str
    kind: str
    node: fx.Node
    view: MapsView


@dataclass(frozen=True, kw_only=True)
class Captured:
    """An exported network and where its layers are in the graph.

    Attributes:
        graph: functional ATen graph; its placeholders are the state tensors and one input (B,C,H,W).
        state: a tensor for every state placeholder, sharing storage with the network's parameters.
        names: what the network calls it.
        image: the placeholder of the images.
        logits: the node of the output (B,N).
        auxiliary: further outputs (B,N), of auxiliary heads.
        batch: the symbol that stands for B in the shapes of `node.meta["val"]`.
        layer_nodes: where layers are, in execution order.
        depths: for every node the most weighted operations on a path from the images to it.
    """

    graph: fx.Graph
    state: dict[fx.Node, Tensor]
    names: dict[fx.Node, str]
    image: fx.Node
    logits: fx.Node
    auxiliary: tuple[fx.Node, ...]
    batch: Any
    layer_nodes: list[LayerNode]
    depths: dict[fx.Node, int]


def capture(network: nn.Module, example: Tensor) -> Captured:
    """Export a network in eval mode with a dynamic batch and find its layers.

    Args:
        network: any classifier; neither its mode nor its parameters are changed.
        example: images (B,C,H,W) with B >= 2, on the network's device and in its dtype.

    Raises:
        GraphError: the network cannot be exported, or its output is not one row of logits per image.
    """
    if network.training:
        raise GraphError("the network is in training mode", expected="network.eval() before it is captured")
    try:
        with torch.no_grad(), without_checkpointing():
            exported = torch.export.export(
                network, (example,), dynamic_shapes=({0: torch.export.Dim("batch", max=_CUDNN_BATCH)},), strict=False
            )
            # Under autocast the casts are in the graph of the second trace alone.
            if torch.is_autocast_enabled(example.device.type) or not make_functional(exported.graph):
                exported = exported.run_decompositions({})
    except Exception as error:  # torch.export raises nearly everything
        raise GraphError(f"torch.export cannot capture it: {_first_line(error)}") from error
    graph, image = exported.graph, _image(exported)
    state, names = _state(exported)
    batch = image.meta["val"].shape[0]
    if isinstance(batch, int):
        raise GraphError("the captured graph is specialised to one batch size")
    for node in graph.nodes:
        # A noisy map may have other strides than the traced one; reshape is view where view is possible.
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        elif node.target is aten.clone.default and not node.kwargs:
            # Some versions of PyTorch trace a dropout that does nothing as a copy.
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten.hardsigmoid.default:
            node.target = hard_sigmoid
        elif node.target is aten.copy.default:
            node.target = overwrite
    logits, *auxiliary = _logits(graph)
    symbol = batch.node.expr
    layer_nodes = _layer_nodes(graph, image, logits, network)
    narrowed = drop_unread_tokens(graph, {layer_node.node: layer_node.view.prefix for layer_node in layer_nodes})
    attend_from_tokens(
        graph, lambda value: concrete([value], symbol, 2)[0], {layer_node.node for layer_node in layer_nodes}
    )
    return Captured(
        graph=graph,
        state=state,
        names=names,
        image=image,
        logits=logits,
        auxiliary=tuple(auxiliary),
        batch=symbol,
        layer_nodes=[layer_node for layer_node in layer_nodes if layer_node.node not in narrowed],
        depths=_depths(graph),
    )


def suffix_nodes(graph: fx.Graph, start: fx.Node, logits: fx.Node) -> list[fx.Node]:
    """Every node between a layer's node (left out) and the logits, in execution order."""
    below = _descendants([start]) & _ancestors(logits)
    return [node for node in graph.nodes if node in below and node is not start]


def concrete(shape: Iterable[int | torch.SymInt], symbol: Any, batch: int) -> tuple[int, ...]:
    """A traced shape with the batch symbol replaced by a number."""
    return tuple(
        int(size.node.expr.subs({symbol: batch})) if isinstance(size, torch.SymInt) else size for size in shape
    )


def node_macs(node: fx.Node, symbol: Any) -> int:
    """Multiply-accumulates of one node for one image; only products count, as in the usual MAC figures."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return 0

    def size(index: int) -> tuple[int, ...]:
        argument = node.args[index]
        assert isinstance(argument, fx.Node)
        return concrete(argument.meta["val"].shape, symbol, 1)

    outputs = prod(concrete(node.meta["val"].shape, symbol, 1))
    if node.target in CONV2D:
        return outputs * prod(size(1)[1:])
    if node.target is aten.linear.default:
        return outputs * size(1)[1]
    if node.target in (aten.matmul.default, aten.bmm.default, aten.mm.default):
        return outputs * size(0)[-1]
    if node.target is aten.scaled_dot_product_attention.default:
        query, key = size(0), size(1)
        return prod(query) * key[-2] + outputs * key[-2]
    if node.target is attend:
        return attend_macs(size(0), size(1), size(4))
    return 0


def hard_sigmoid(x: Tensor) -> Tensor:
    """PyTorch's own has no second derivative."""
    return functional.relu6(x + 3) / 6


def overwrite(value: Tensor, source: Tensor) -> Tensor:
    """What `value.copy_(source)` leaves; PyTorch's own for graphs has no derivative."""
    return source.to(value.dtype).expand_as(value)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _state(exported: torch.export.ExportedProgram) -> tuple[dict[fx.Node, Tensor], dict[fx.Node, str]]:
    tensors = {**exported.constants, **exported.state_dict}
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    state, names = {}, {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            continue
        tensor = tensors.get(spec.target or "")
        if not isinstance(tensor, Tensor):
            raise GraphError(f"the captured graph needs {spec.target!r}, which is not a tensor")
        state[nodes[spec.arg.name]] = tensor.detach()
        names[nodes[spec.arg.name]] = str(spec.target)
    return state, names


def _image(exported: torch.export.ExportedProgram) -> fx.Node:
    names = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT}
    image: fx.Node = next(node for node in exported.graph.find_nodes(op="placeholder") if node.name in names)
    return image


def _logits(graph: fx.Graph) -> list[fx.Node]:
    """Every output of two dimensions: networks with auxiliary outputs put the main one first."""
    outputs = graph.output_node().all_input_nodes
    found = [node for node in outputs if isinstance(node.meta.get("val"), Tensor) and node.meta["val"].ndim == 2]
    if found:
        return found
    raise GraphError("the network's output is not one row of logits per image", expected="a tensor (B,N)")


def _descendants(starts: Iterable[fx.Node]) -> set[fx.Node]:
    seen, stack = set(starts), list(starts)
    while stack:
        fresh = [user for user in stack.pop().users if user not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return seen


def _ancestors(start: fx.Node) -> set[fx.Node]:
    seen, stack = {start}, [start]
    while stack:
        fresh = [parent for parent in stack.pop().all_input_nodes if parent not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return seen


def _layer_nodes(graph: fx.Graph, image: fx.Node, logits: fx.Node, network: nn.Module) -> list[LayerNode]:
    positioned = _descendants_with_positions(image)
    reaching = _ancestors(logits)
    whole = _module_outputs(graph)
    layer_nodes, calls = [], Counter[str]()
    for node in graph.nodes:
        if node not in positioned or node not in reaching or not _is_of_images(node, image):
            continue
        for path, type_name in _layer_names(node, whole):
            row = match_module(type_name)
            view = view_of(row, node.meta["val"].shape, patch_grid(network))
            if view is None or (row is None and _is_head(node)):
                continue
            calls[path] += 1
            name = path if calls[path] == 1 else f"{path}#{calls[path]}"
            layer_nodes.append(LayerNode(name, row.kind if row else "conv", node, view))
    features = _features(graph, image, logits, positioned & reaching)
    return [*layer_nodes, *([] if features is None else [LayerNode(FEATURES, FEATURES, features, MapsView("maps"))])]


def _is_of_images(node: fx.Node, image: fx.Node) -> bool:
    """Whether a tensor has one row per image: windows and patches may be folded into its first dimension."""
    value, batch = node.meta.get("val"), image.meta["val"].shape[0]
    if not isinstance(value, Tensor) or not value.ndim:
        return False
    rows: Any = value.shape[0]
    return isinstance(rows, torch.SymInt) and bool(rows.node.expr == batch.node.expr)


def _features(graph: fx.Graph, image: fx.Node, logits: fx.Node, maps: set[fx.Node]) -> fx.Node | None:
    """The maps (B,K,H,W) that are pooled or flattened for the head and that everything goes through, if there are."""
    from_image = _descendants([image])
    node: fx.Node
    for node in reversed(graph.nodes):
        if node not in maps or not any(pools_all(user) or _flattens(user) for user in node.users):
            continue
        behind = suffix_nodes(graph, node, logits)
        beside = {parent for node in behind for parent in node.all_input_nodes} - {node, *behind}
        if not any(parent in from_image and isinstance(parent.meta.get("val"), Tensor) for parent in beside):
            return node
    return None


def _flattens(node: fx.Node) -> bool:
    """Whether maps become one row of numbers an image."""
    value, source = node.meta.get("val"), node.args[0] if node.args else None
    return (
        node.target in _RESHAPE
        and isinstance(value, Tensor)
        and isinstance(source, fx.Node)
        and value.ndim == 2
        and source.meta["val"].ndim == 4
    )


def _layer_names(node: fx.Node, whole: dict[fx.Node, list[tuple[str, str]]]) -> list[tuple[str, str]]:
    names = list(whole.get(node, ()))
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if node.target in CONV2D and stack:
        names.insert(0, (stack[-1][0], "conv"))
    return names


def _module_outputs(graph: fx.Graph) -> dict[fx.Node, list[tuple[str, str]]]:
    """For each node that is the output of a module of the layer table: that module's path and type, inner first."""
    last: dict[tuple[str, str], fx.Node] = {}
    for node in graph.nodes:
        for path, type_name in (node.meta.get("nn_module_stack") or {}).values():
            if match_module(type_name) and node.op == "call_function":
                last[path, type_name] = node
    outputs: dict[fx.Node, list[tuple[str, str]]] = {}
    for (path, type_name), node in last.items():
        outputs.setdefault(node, []).insert(0, (path, type_name))
    return outputs


def _depths(graph: fx.Graph) -> dict[fx.Node, int]:
    depths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        before = max((depths[parent] for parent in node.all_input_nodes), default=0)
        depths[node] = before + (node.target in _WEIGHTED)
    return depths


def _descendants_with_positions(image: fx.Node) -> set[fx.Node]:
    """What the image reaches without passing a pooling over all positions: gates and pooled heads are left out."""
    seen, stack = {image}, [image]
    while stack:
        fresh = [user for user in stack.pop().users if user not in seen and not pools_all(user)]
        seen.update(fresh)
        stack.extend(fresh)
    return seen


def pools_all(node: fx.Node) -> bool:
    """Whether a node averages or maximises over all positions."""
    if node.target in _POOL_TO_ONE:
        return list(node.args[1]) == [1, 1]  # type: ignore[arg-type]
    if node.target in _REDUCE and len(node.args) > 1:
        source, axes = node.args[0], node.args[1]
        assert isinstance(source, fx.Node)
        rank = source.meta["val"].ndim
        return rank == 4 and {axis % rank for axis in axes} >= {2, 3}  # type: ignore[union-attr]
    return False


def _is_head(node: fx.Node) -> bool:
    """A convolution with no weighted operation after it is the classifier itself (SqueezeNet), not a layer."""
    return not any(later.target in _WEIGHTED for later in _descendants([node]) - {node})
