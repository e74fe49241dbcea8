"""Taking a network apart at its layers."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from modeldoctor.errors import GraphError, ModelDoctorWarning
from modeldoctor.graph.captured_once import capture_once
from modeldoctor.graph.cut import Cut, CutNetwork, LayeredNetwork
from modeldoctor.graph.hooks import HookedNetwork
from modeldoctor.graph.layers import Layer, select_layers
from modeldoctor.graph.logits import logits_of, refuse_unsteady
from modeldoctor.graph.rewrites.pooled import PooledHead
from modeldoctor.runtime.memory import is_of_memory

__all__ = [
    "Cut",
    "CutNetwork",
    "HookedNetwork",
    "Layer",
    "LayeredNetwork",
    "PooledHead",
    "logits_of",
    "open_network",
    "refuse_unsteady",
    "select_layers",
]


def open_network(
    network: nn.Module, example: Tensor, selection: str = "all", *, bfloat16: bool = False
) -> LayeredNetwork:
    """Cut a network at its layers; one that does not export, or not faithfully, is measured through hooks.

    Args:
        network: a classifier in eval mode; it is not changed.
        example: images (B,C,H,W), B >= 2, on the network's device and in its dtype.
        selection: the layers that will be cut at, as in `select_layers`; each of these cuts is checked here.
        bfloat16: run products in it once the cuts are checked; without effect, and said so, through hooks.

    Raises:
        UsageError: the selection names no layer.
        GraphError: not even a plain forward pass gives one row of logits per image.
    """
    hooked_because: str
    try:
        cut = CutNetwork(capture_once(network, example))
        with torch.no_grad():
            logits = logits_of(network, example)
        cut.verify(example, logits, select_layers(cut.layers, selection))
        cut.bfloat16 = bfloat16
        return cut
    except GraphError as error:
        hooked_because = error.found
    except RuntimeError as error:  # an operation that the graph has without what was around it, such as autocast
        if is_of_memory(error):
            raise
        hooked_because = str(error).strip().partition("\n")[0]
    warnings.warn(
        f"this network cannot be cut ({hooked_because}); each noise draw runs the whole of it: same numbers, "
        f"slower{', in float32' if bfloat16 else ''}",
        ModelDoctorWarning,
        stacklevel=2,
    )
    return HookedNetwork(network, example)
