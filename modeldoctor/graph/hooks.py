"""The fallback for networks that do not export: forward hooks, the whole network run for every noisy copy.

Shapes: B images, R copies, C input channels, K channels of a layer, H x W positions, N classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modeldoctor.errors import GraphError
from modeldoctor.graph.cut import Cut
from modeldoctor.graph.layers import Layer, MapsView, ModuleLayer, match_module, patch_grid, type_name, view_of
from modeldoctor.graph.logits import logits_of
from modeldoctor.graph.recomputation import runs_again, without_checkpointing


class _Call(NamedTuple):
    """One call of a module that is a layer: the module, which of its calls, and its output's view."""

    module: nn.Module
    number: int
    view: MapsView


class HookedNetwork:
    """The same interface and numbers as `CutNetwork`, at the cost of a whole pass for each noise draw.

    Args:
        network: a classifier in eval mode. Hooks are on it only while a call runs, whatever happens in it. Gradient
            checkpointing is off while it is measured.
        example: images (B,C,H,W) to find the layers with.

    Raises:
        GraphError: no row of logits per image, or a part runs again in the backward pass by other means than
            `torch.utils.checkpoint`.
    """

    def __init__(self, network: nn.Module, example: Tensor):
        self._network = network
        self._calls: dict[str, _Call] = {}
        self.layers = self._find_layers(example[:2])
        self._refuse_recomputation(example[:2])

    def logits(self, images: Tensor) -> Tensor:
        """Images (B,C,H,W) to logits (B,N), without a graph."""
        with torch.no_grad():
            return self._forward(images)

    def cuts(self, images: Tensor, layers: Sequence[Layer]) -> Iterator[Cut]:
        """One plain pass for each layer to get its maps, then one for each batch of copies."""
        for layer in layers:
            call = self._calls[layer.name]
            yield Cut(layer, call.view.to_maps(self._record(call, images)), self._suffix(call, images))

    def _suffix(self, call: _Call, images: Tensor) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        def suffix(maps: Tensor, live_values: Sequence[Tensor]) -> Tensor:
            copies = len(maps) // len(images)
            with _frozen(self._network), _on_output(call, lambda output: call.view.from_maps(maps, output)):
                return self._forward(images.repeat(copies, 1, 1, 1))

        return suffix

    def _record(self, call: _Call, images: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def keep(output: Tensor) -> Tensor:
            kept.append(output.clone())  # an in-place activation may follow
            return output

        with _on_output(call, keep):
            self.logits(images)
        return kept[0]

    def _refuse_recomputation(self, example: Tensor) -> None:
        """Once, behind the first layer, where most of the network is."""
        for layer in self.layers[:1]:
            (cut,) = self.cuts(example, [layer])
            with torch.enable_grad():
                logits = cut.suffix(cut.maps.detach().requires_grad_(), cut.live_values)
            if runs_again(logits, self._network):
                raise GraphError(
                    "a part of the network runs a second time during the backward pass, where it can't be measured",
                    expected="a forward pass that keeps its activations",
                    hint="switch the network's own gradient checkpointing off",
                )

    def _forward(self, images: Tensor) -> Tensor:
        with without_checkpointing():
            return logits_of(self._network, images)

    def _find_layers(self, example: Tensor) -> tuple[Layer, ...]:
        found = self._executed(example)
        linear = max((i for i, (name, _, _) in enumerate(found) if name not in self._calls), default=-1)
        layers = []
        for index, (name, kind, lost) in enumerate(found):
            # A convolution that nothing weighted follows is the classifier.
            head = kind == "conv" and index == len(found) - 1 > linear
            if name in self._calls and not head and self._reaches(name, lost, example):
                layers.append((name, kind, lost.shape))
        return tuple(
            Layer(
                name=name,
                kind=kind,
                channels=shape[1],
                height=shape[2],
                width=shape[3],
                depth=(index + 1) / len(layers),
                macs_after=0,
            )
            for index, (name, kind, shape) in enumerate(layers)
        )

    def _executed(self, example: Tensor) -> list[tuple[str, str, Tensor]]:
        """Name, kind and output, its values lost, of every weighted module and layer, in execution order; fills
        `_calls`."""
        grid, numbers, handles = patch_grid(self._network), Counter[str](), []
        found: list[tuple[str, str, Tensor]] = []

        def lost(maps: Tensor) -> Tensor:
            return maps.new_full((), torch.nan).expand(maps.shape)  # takes no memory

        def note(path: str, row: ModuleLayer | None) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[object, ...], output: object) -> None:
                output = _tensor_of(output)
                if output is None:
                    return
                numbers[path] += 1
                name = path if numbers[path] == 1 else f"{path}#{numbers[path]}"
                # Windows and patches may be folded into the first dimension: such maps are not one image's.
                of_images = output.shape[:1] == example.shape[:1] and not _is_pooled(module, args)
                view = view_of(row, output.shape, grid) if of_images else None
                if view is not None:
                    self._calls[name] = _Call(module, numbers[path], view)
                    found.append((name, row.kind if row else "conv", lost(view.to_maps(output))))
                else:
                    found.append((name, "linear", lost(output)))

            return hook

        try:
            for path, module in self._network.named_modules():
                row = match_module(type_name(module))
                if row or isinstance(module, nn.Conv2d | nn.Linear):
                    handles.append(module.register_forward_hook(note(path, row)))
            self.logits(example)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _reaches(self, name: str, lost: Tensor, example: Tensor) -> bool:
        """Whether maps (B,K,H,W) of NaN leave any in the logits."""
        with torch.no_grad():
            return bool(self._suffix(self._calls[name], example)(lost.contiguous(), ()).isnan().any())


@contextmanager
def _on_output(call: _Call, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this lasts, the output of one call of a module goes through `change`."""
    number = 0

    def hook(module: nn.Module, args: object, output: Any) -> Any:
        nonlocal number
        number += 1
        if number != call.number:
            return None
        # The clone keeps an in-place activation behind the layer from overwriting the caller's maps.
        if isinstance(output, Tensor):
            return change(output).clone()
        first, *others = output
        return change(first).clone(), *others

    handle = call.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """While this lasts, no parameter asks for a gradient."""
    asking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _tensor_of(output: object) -> Tensor | None:
    """A module's output, or the first of a tuple: blocks that hand on tokens beside the size of their grid."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None


def _is_pooled(module: nn.Module, args: tuple[object, ...]) -> bool:
    """Whether positions are gone in a module's input: a linear layer, a gate, a convolution behind the pooling."""
    source = args[0] if args else None
    return isinstance(module, nn.Linear) or (isinstance(source, Tensor) and source.shape[-2:] == (1, 1))
