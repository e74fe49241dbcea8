"""A network is captured once: a diagnosis, the training after it and its maps take apart the same one.

Tracing takes seconds, and what it gives does not depend on the weights' values. What is kept holds no weights, and goes
with the network.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from modeldoctor.graph.capture import Captured, capture

_KEPT: WeakKeyDictionary[nn.Module, tuple[Hashable, Captured]] = WeakKeyDictionary()
# Seen through `named_parameters`, `named_buffers` and `named_modules`.
_CONTENTS = ("_parameters", "_buffers", "_modules")


def capture_once(network: nn.Module, example: Tensor) -> Captured:
    """`capture`, or what it gave for this network before, with the weights that the network has now.

    A network that was changed is captured anew: other modules, attributes, hooks, shapes, device or dtype. Only a
    change inside an object that is none of PyTorch's or Python's own kinds is not seen.

    Args:
        network: any classifier in eval mode.
        example: images (B,C,H,W) with B >= 2, on the network's device and in its dtype.

    Raises:
        GraphError: as `capture`.
    """
    key = _fingerprint(network, example)
    known = _KEPT.get(network)
    if known is None or known[0] != key or network.training:
        captured = capture(network, example)
        _KEPT[network] = key, replace(captured, state=_constants(captured, network))
        return captured
    tensors, captured = _tensors(network), known[1]
    state = {
        node: captured.state[node] if node in captured.state else tensors[name].detach()
        for node, name in captured.names.items()
    }
    return replace(captured, state=state)


def _constants(captured: Captured, network: nn.Module) -> dict[Any, Tensor]:
    """What the graph reads that is no parameter or buffer."""
    tensors = _tensors(network)
    return {node: tensor for node, tensor in captured.state.items() if captured.names[node] not in tensors}


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    named = chain(
        network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    )  # fmt: skip
    return dict(named)


def _fingerprint(network: nn.Module, example: Tensor) -> Hashable:
    """Equal for two states of a network only if its capture is."""
    device = example.device
    modules = tuple(
        (name, id(module), type(module).forward, _mark({k: v for k, v in vars(module).items() if k not in _CONTENTS}))
        for name, module in network.named_modules(remove_duplicate=False)
    )
    named = _tensors(network)
    # A tensor with two names has one place in the graph.
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    tensors = tuple((name, first[id(tensor)], *_of_tensor(tensor)) for name, tensor in named.items())
    autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    return (example.shape[1:], example.dtype, device, autocast, modules, tensors)


def _of_tensor(tensor: Tensor) -> tuple[Hashable, ...]:
    return (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def _mark(value: object) -> Hashable:
    """Equal for equal settings; another object of a kind that is not known here is another setting."""
    if isinstance(value, Mapping):
        return tuple((key, _mark(entry)) for key, entry in value.items())
    if isinstance(value, list | tuple | set):
        return (type(value), *map(_mark, value))
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return (type(value), value)
    return (type(value), id(value))
