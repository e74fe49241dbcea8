"""Gradient checkpointing, off while a network is measured.

A checkpointed part runs a second time during the backward pass. By then the hooks that put noisy maps in place are
gone: the second run sees other values, and its gradients are those of another pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils import checkpoint


class _Directly:
    """In the place of `CheckpointFunction`: the function itself."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _no_frame(*_args: Any, **_kwargs: Any) -> Iterator[None]:
    """In the place of what wraps a checkpointed function's run: nothing before it, nothing after it."""
    yield


@contextmanager
def without_checkpointing() -> Iterator[None]:
    """While this lasts, `torch.utils.checkpoint` runs functions as they are, whoever imported it and by what name."""
    # PyTorch has no switch for it, and its generator has had several names; `runs_again` sees it if one is missed.
    frames = [name for name in vars(checkpoint) if name.startswith("_checkpoint_without_reentrant_generator")]
    with ExitStack() as replaced:
        replaced.enter_context(patch.object(checkpoint, "CheckpointFunction", _Directly))
        for name in frames:
            replaced.enter_context(patch.object(checkpoint, name, _no_frame))
        yield


def runs_again(logits: Tensor, network: nn.Module) -> bool:
    """Whether a part of the network runs a second time in the backward pass from these logits (B,N)."""
    if not logits.requires_grad:
        return False
    inside, calls = set(network.modules()), 0

    def count(module: nn.Module, _args: object, _output: object) -> None:
        nonlocal calls
        calls += module in inside

    handle = register_module_forward_hook(count)
    try:
        with torch.enable_grad():
            logits.sum().backward()
    finally:
        handle.remove()
    return calls > 0
