"""Auxiliary heads, which a network has in training alone: GoogLeNet's two, Inception-v3's one.

In eval mode, in which a network is captured, they are skipped. Here they are put behind the logits, so that the one
captured graph serves diagnosis, which cuts them off, and training, whose loss has them.

Shapes: B images, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from modeldoctor.graph.layers import type_name


class _Heads(NamedTuple):
    """Each head and the module whose output it reads, and the weight of their loss."""

    reads: Mapping[str, str]
    weight: float


# By a network's class. Weights: Szegedy et al., 2015, section 5; torchvision's own training of Inception-v3.
_HEADS = {
    "torchvision.models.googlenet.GoogLeNet": _Heads({"aux1": "inception4a", "aux2": "inception4d"}, 0.3),
    "torchvision.models.inception.Inception3": _Heads({"AuxLogits": "Mixed_6e"}, 0.4),
}


def auxiliary_weight(network: nn.Module) -> float:
    """The weight of each auxiliary head's loss; 0 for a network that has none."""
    heads = _HEADS.get(type_name(network))
    return heads.weight if heads and any(_has(network, head) for head in heads.reads) else 0.0


@contextmanager
def auxiliary_outputs(network: nn.Module) -> Iterator[None]:
    """While this lasts, a network in eval mode returns its logits followed by those of its auxiliary heads, if any."""
    heads = _HEADS.get(type_name(network))
    reads = {head: source for head, source in heads.reads.items() if _has(network, head)} if heads else {}
    seen: dict[str, Tensor] = {}

    def keep(source: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            seen[source] = output

        return hook

    def add(module: nn.Module, args: Any, logits: Tensor) -> tuple[Tensor, ...]:
        return (logits, *(network.get_submodule(head)(seen[source]) for head, source in reads.items()))

    handles = []
    try:
        for source in reads.values():
            handles.append(network.get_submodule(source).register_forward_hook(keep(source)))
        if reads:
            handles.append(network.register_forward_hook(add))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _has(network: nn.Module, head: str) -> bool:
    return getattr(network, head, None) is not None
