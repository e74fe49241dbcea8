"""Cutting a network at its layers: the prefix runs once, only the suffix runs for every noisy copy.

Shapes: B images, R copies of the batch, C input channels, K channels of a layer, H x W positions, N classes.
Rows of a batch of copies are copy-major: row r*B + b is copy r of image b.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, fx, nn

from modeldoctor.errors import GraphError
from modeldoctor.graph.capture import Captured, LayerNode, concrete, node_macs, suffix_nodes
from modeldoctor.graph.layers import Layer
from modeldoctor.graph.rewrites.frozen import Frozen, Operation, in_place
from modeldoctor.graph.rewrites.piecewise import without_second_derivatives
from modeldoctor.graph.rewrites.pooled import PooledHead, find_pooled_head

Execute = Callable[[Any, Any, Any], Any]
"""Does one operation: (function, positional arguments, named arguments) to its value."""


class Cut(NamedTuple):
    """One layer's feature maps for a batch, and the rest of the network.

    Attributes:
        layer: which layer.
        maps: (B,K,H,W); without a graph, except in a training pass.
        suffix: maps of R copies of the batch (R*B,K,H,W) and `live_values` to logits (R*B,N); differentiable in both.
        live_values: what else the suffix reads: weights, and values of the prefix for the batch.
        pooled: the suffix where it acts on every position alone, is averaged over them and read linearly; else None.
    """

    layer: Layer
    maps: Tensor
    suffix: Callable[[Tensor, Sequence[Tensor]], Tensor]
    live_values: Sequence[Tensor] = ()
    pooled: PooledHead | None = None

    def head(self, maps: Tensor) -> Tensor:
        """Maps of R copies of the batch (R*B,K,H,W) to logits (R*B,N)."""
        return self.suffix(maps, self.live_values)


class LayeredNetwork(Protocol):
    """A network that can be measured at its layers, whichever way it was taken apart."""

    layers: tuple[Layer, ...]

    def logits(self, images: Tensor) -> Tensor:
        """Images (B,C,H,W) to logits (B,N), without a graph."""
        ...

    def cuts(self, images: Tensor, layers: Sequence[Layer]) -> Iterator[Cut]:
        """One pass over the network that stops at each of the layers, in execution order."""
        ...


class CutNetwork:
    """A captured network, cut at any of its layers.

    One pass executes each node once. At a layer it hands out the maps and the suffix, as soon as every value that
    is live across the cut exists, so the memory is what the layer in hand needs and not the sum over layers.

    Args:
        captured: the graph; its weights are shared with the network and get no gradient.
        frozen: cheaper operations may stand for the network's own while its weights stay as they are; they are made
            anew when weights were written to.

    Attributes:
        layers: in execution order.
        bfloat16: run products in it, sums in float32; maps, noise, derivatives and their sums keep the images' type.

    Raises:
        GraphError: cutting it does not give the network's own logits (`verify`).
    """

    def __init__(self, captured: Captured, *, frozen: bool = True):
        self.captured = captured
        self.bfloat16 = False
        self._frozen = Frozen(captured) if frozen else None
        self._order = {node: index for index, node in enumerate(captured.graph.nodes)}
        self._suffixes: dict[str, _Suffix] = {}
        self._passes: dict[tuple[str, ...], Mapping[fx.Node, Operation]] = {}
        # Once per node: the layers' suffixes overlap, and a traced shape takes long to become a number.
        self._macs = {node: node_macs(node, captured.batch) for node in captured.graph.nodes}
        layer_nodes = self._reaching(captured.layer_nodes)
        self._layer_nodes = {layer_node.name: layer_node for layer_node in layer_nodes}
        self.layers = tuple(self._layer(layer_node) for layer_node in layer_nodes)

    def logits(self, images: Tensor) -> Tensor:
        """Images (B,C,H,W) to logits (B,N), without a graph."""
        values: dict[fx.Node, Any] = {}
        for _ in self._measuring_walk(images, (), values):
            pass
        logits: Tensor = values[self.captured.logits]
        return logits.to(images.dtype)

    def cuts(self, images: Tensor, layers: Sequence[Layer]) -> Iterator[Cut]:
        """One pass over the network that stops at each of the layers, in execution order."""
        return self._measuring_walk(images, layers, {})

    def _measuring_walk(self, images: Tensor, layers: Sequence[Layer], values: dict[fx.Node, Any]) -> Iterator[Cut]:
        if self._frozen and self._frozen.stale(self.captured):
            self._frozen = Frozen(self.captured)
            self._suffixes.clear()
            self._passes.clear()
        state = self._frozen.state if self._frozen else self.captured.state
        if self._frozen:
            images = images.contiguous(memory_format=torch.channels_last)

        def execute(function: Any, args: Any, kwargs: Any) -> Any:
            with torch.no_grad(), autocast(images, self.bfloat16):
                return function(*args, **kwargs)

        return self.walk(images, layers, values, state, execute)

    def walk(
        self,
        images: Tensor,
        layers: Sequence[Layer],
        values: dict[fx.Node, Any],
        state: Mapping[fx.Node, Tensor],
        execute: Execute,
    ) -> Iterator[Cut]:
        """One pass over the network in any mode.

        Args:
            images: (B,C,H,W).
            layers: where to stop.
            values: filled as the pass goes; at its end it holds the logits and those of auxiliary heads.
            state: parameters and buffers, for the pass and for the suffixes.
            execute: how one operation is done.
        """
        stops: dict[fx.Node, list[_Suffix]] = {}
        for layer in layers:
            suffix = self._suffix(layer.name)
            stops.setdefault(suffix.ready, []).append(suffix)
        by_name = {layer.name: layer for layer in layers}
        for suffix in self._run(images, stops, values, state, execute):
            output = values[suffix.layer_node.node]
            live_values = [values[node] for node in suffix.live_values]
            maps, batch = suffix.layer_node.view.to_maps(output).to(images.dtype), len(images)
            pooled = suffix.bind_pooled(live_values, batch)
            yield Cut(by_name[suffix.layer_node.name], maps, suffix.bind(batch, self.bfloat16), live_values, pooled)

    def state_behind(self, name: str) -> list[fx.Node]:
        """The weights and buffers that the suffix behind a layer reads."""
        return [node for node in self._suffix(name).live_values if node in self.captured.state]

    def verify(self, images: Tensor, expected: Tensor, layers: Sequence[Layer]) -> None:
        """Check that each layer's suffix gives the network's own logits for two copies of the batch.

        Args:
            images: (B,C,H,W), B >= 2.
            expected: the whole network's logits (B,N).
            layers: which cuts to check.

        Raises:
            GraphError: some layer cannot be cut faithfully, e.g. because a value live across it mixes the batch.
        """
        tolerance = 1e-3 * float(expected.abs().max()) + 1e-5
        for cut in self.cuts(images, layers):
            with torch.no_grad():
                logits = cut.head(cut.maps.repeat(2, 1, 1, 1))
            if not torch.allclose(logits, expected.repeat(2, 1), rtol=1e-3, atol=tolerance, equal_nan=True):
                raise GraphError(f"cutting at {cut.layer.name} changes the logits")

    def _run(
        self,
        images: Tensor,
        stops: dict[fx.Node, list[_Suffix]],
        values: dict[fx.Node, Any],
        state: Mapping[fx.Node, Tensor],
        execute: Execute,
    ) -> Iterator[_Suffix]:
        """Execute node after node into `values`, yield each suffix when it can run, and forget what is spent."""
        captured = self.captured
        spent, instead = self._last_uses(stops), self._operations(stops)
        values.update(state)
        values[captured.image] = images
        for node in captured.graph.nodes:
            if node.op == "call_function":
                function, args, kwargs = instead.get(node, (node.target, node.args, node.kwargs))
                values[node] = execute(function, *fx.node.map_arg((args, kwargs), values.__getitem__))
            yield from stops.get(node, ())
            for old in spent.get(node, ()):
                del values[old]

    def _last_uses(self, stops: dict[fx.Node, list[_Suffix]]) -> dict[fx.Node, list[fx.Node]]:
        last = {user_of: node for node in self.captured.graph.nodes for user_of in [node, *node.all_input_nodes]}
        for stop, suffixes in stops.items():
            for node in (kept for suffix in suffixes for kept in (suffix.layer_node.node, *suffix.live_values)):
                last[node] = max(last[node], stop, key=self._order.__getitem__)
        for kept in (self.captured.logits, *self.captured.auxiliary):
            last.pop(kept)
        spent: dict[fx.Node, list[fx.Node]] = {}
        for node, stop in last.items():
            if node.op == "call_function":
                spent.setdefault(stop, []).append(node)
        return spent

    def _operations(self, stops: dict[fx.Node, list[_Suffix]]) -> Mapping[fx.Node, Operation]:
        """What a pass does instead of the network's own operations; what suffixes start from stays as it is."""
        suffixes = [suffix for found in stops.values() for suffix in found]
        key = tuple(suffix.layer_node.name for suffix in suffixes)
        if key not in self._passes:
            kept = {node for suffix in suffixes for node in (suffix.layer_node.node, *suffix.live_values)}
            nodes = self.captured.graph.nodes
            self._passes[key] = self._frozen.operations(nodes, kept) if self._frozen else in_place(nodes, kept)
        return self._passes[key]

    def _suffix(self, name: str) -> _Suffix:
        if name not in self._suffixes:
            self._suffixes[name] = _Suffix(self.captured, self._layer_nodes[name], self._order, self._frozen)
        return self._suffixes[name]

    def _reaching(self, layer_nodes: Sequence[LayerNode]) -> list[LayerNode]:
        """Without the blocks behind the last whose maps reach the logits: a ViT's last hands on its class token."""
        end = len(layer_nodes)
        while end and not self._reaches(layer_nodes[end - 1]):
            end -= 1
        return list(layer_nodes[:end])

    def _reaches(self, layer_node: LayerNode) -> bool:
        """Whether a NaN in the maps shows in the logits."""
        captured, suffix = self.captured, _Suffix(self.captured, layer_node, self._order, None)
        image = captured.image.meta["val"]
        state = next(iter(captured.state.values()))
        images = torch.zeros(concrete(image.shape, captured.batch, 2), dtype=image.dtype, device=state.device)
        values: dict[fx.Node, Any] = {}
        for _ in self._run(images, {suffix.ready: [suffix]}, values, captured.state, _without_graph):
            output, live_values = values[layer_node.node], [values[node] for node in suffix.live_values]
            maps = layer_node.view.to_maps(output)
            with torch.no_grad():
                logits = suffix.bind(2, False)(torch.full_like(maps, torch.nan), live_values)
        return bool(logits.isnan().any())

    def _layer(self, layer_node: LayerNode) -> Layer:
        captured = self.captured
        shape = layer_node.view.to_maps(torch.empty(_shape(layer_node.node, captured, 1), device="meta")).shape
        after = suffix_nodes(captured.graph, layer_node.node, captured.logits)
        return Layer(
            name=layer_node.name,
            kind=layer_node.kind,
            channels=shape[1],
            height=shape[2],
            width=shape[3],
            depth=captured.depths[layer_node.node] / captured.depths[captured.logits],
            macs_after=sum(self._macs[node] for node in after),
        )


class _Suffix:
    """The part of a graph between a layer and the logits, as a function of the layer's output and what else it needs.

    `live_values` are the values from the prefix that it reads; of these, tensors with the batch in a dimension are
    tiled to the copies' batch and symbolic sizes are computed anew. Class tokens are no maps, so the output they are
    in is first among them.
    """

    def __init__(self, captured: Captured, layer_node: LayerNode, order: dict[fx.Node, int], frozen: Frozen | None):
        self.layer_node = layer_node
        self._captured = captured
        nodes = suffix_nodes(captured.graph, layer_node.node, captured.logits)
        inside = {layer_node.node, *nodes}
        needed = {parent: None for node in nodes for parent in node.all_input_nodes if parent not in inside}
        self._sizes = [node for node in needed if isinstance(node.meta.get("val"), torch.SymInt)]
        self._read = [node for node in needed if node not in self._sizes]
        self.live_values = [*([layer_node.node] if layer_node.view.prefix else []), *self._read]
        self._batch_axes = [_batch_axis(node, captured) for node in self.live_values]
        self.ready = max((layer_node.node, *self.live_values), key=order.__getitem__)
        operations = frozen.operations(nodes, ()) if frozen else without_second_derivatives(nodes)
        self._module = self._build(nodes, captured.logits, operations)
        self._pooled = find_pooled_head(layer_node, nodes, captured)
        if self._pooled:
            below = nodes[: nodes.index(self._pooled.before) + 1]
            self._pointwise = self._build(below, self._pooled.before, operations)

    def bind(self, batch: int, bfloat16: bool) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """The suffix as a function of noisy maps (R*B,K,H,W) and of what is live beside them (B images)."""

        def run(maps: Tensor, live_values: Sequence[Tensor]) -> Tensor:
            tiled = self._tiled(live_values, maps, batch)
            output = self.layer_node.view.from_maps(maps, tiled[0] if self.layer_node.view.prefix else maps)
            with autocast(maps, bfloat16):
                result = self._module(output, *tiled[len(tiled) - len(self._read) :], *self._concrete_sizes(maps))
            assert isinstance(result, Tensor)
            return result.to(maps.dtype)

        return run

    def bind_pooled(self, live_values: Sequence[Tensor], batch: int) -> PooledHead | None:
        """The suffix in its closed form, if it has one."""
        if self._pooled is None:
            return None

        def pointwise(maps: Tensor, live_values: Sequence[Tensor]) -> Tensor:
            values: Tensor = self._pointwise(maps, *self._tiled(live_values, maps, batch), *self._concrete_sizes(maps))
            return values

        return PooledHead(pointwise, live_values[self.live_values.index(self._pooled.weight)])

    def _concrete_sizes(self, maps: Tensor) -> tuple[int, ...]:
        return concrete((node.meta["val"] for node in self._sizes), self._captured.batch, len(maps))

    def _tiled(self, live_values: Sequence[Tensor], maps: Tensor, batch: int) -> list[Tensor]:
        return [
            _like(_tile(value, axis, len(maps) // batch), maps)
            for value, axis in zip(live_values, self._batch_axes, strict=True)
        ]

    def _build(self, nodes: Sequence[fx.Node], last: fx.Node, instead: Mapping[fx.Node, Operation]) -> fx.GraphModule:
        graph, constants = fx.Graph(), nn.Module()
        inputs = (self.layer_node.node, *self._read, *self._sizes)
        copies = {node: graph.placeholder(f"value_{index}") for index, node in enumerate(inputs)}

        def argument(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return fx.node.map_arg(value, copies.__getitem__)
            name = f"constant_{len(list(constants.buffers()))}"
            constants.register_buffer(name, value)
            return graph.get_attr(name)

        for node in nodes:
            if node in instead:
                function, args, kwargs = instead[node]
                copies[node] = graph.call_function(function, tuple(map(argument, args)), kwargs)
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[last])
        return fx.GraphModule(constants, graph)


def autocast(like: Tensor, bfloat16: bool) -> AbstractContextManager[None]:
    """Products in bfloat16 with float32 sums, on the device of a tensor, or nothing."""
    return torch.autocast(like.device.type, torch.bfloat16) if bfloat16 else nullcontext()


def _without_graph(function: Any, args: Any, kwargs: Any) -> Any:
    with torch.no_grad():
        return function(*args, **kwargs)


def _batch_axis(node: fx.Node, captured: Captured) -> int | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or node in captured.state:
        return None
    symbolic = [axis for axis, size in enumerate(value.shape) if not isinstance(size, int)]
    if len(symbolic) > 1:
        raise GraphError(f"{node.name} has the batch in {len(symbolic)} dimensions and is live across a cut")
    return symbolic[0] if symbolic else None


def _like(value: Tensor, maps: Tensor) -> Tensor:
    """What autocast left in a smaller type, in that of the maps."""
    smaller = value.is_floating_point() and value.element_size() < maps.element_size()
    return value.to(maps.dtype) if smaller and maps.dtype == torch.float32 else value


def _tile(value: Tensor, axis: int | None, copies: int) -> Tensor:
    if axis is None or copies == 1:
        return value
    return torch.cat([value] * copies, axis)  # keeps the memory format, as repeat does not


def _shape(node: fx.Node, captured: Captured, batch: int) -> tuple[int, ...]:
    return concrete(node.meta["val"].shape, captured.batch, batch)
