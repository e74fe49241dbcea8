"""Modules that are in memory: a copy of one takes the place of a checkpoint's network, or of what would be built."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from modeldoctor.checkpoint import Checkpoint, CheckpointMetadata, unwrapped
from modeldoctor.checkpoint.container import Container
from modeldoctor.checkpoint.inert import PACKED
from modeldoctor.errors import ArchitectureError, UsageError, shortened
from modeldoctor.zoo.libraries import MODULE, Plan

AS_IT_IS = "the network is the module as it is; --arch has no effect"
_EXPECTED = "an nn.Module that gives logits, or the path or name of a checkpoint"


def told_apart(network: object, checkpoint: str | Path | None) -> tuple[nn.Module | None, str | Path | None]:
    """A copy of the module without its wrappers, or None; and the file, or None.

    Args:
        network: a module, or a file's path or name.
        checkpoint: the file with a module's weights.

    Raises:
        UsageError: it is neither, or two files are given.
        ArchitectureError: the module cannot be copied, or cannot be taken apart.
    """
    if isinstance(network, nn.Module):
        return _copied(unwrapped(network)), checkpoint
    if not isinstance(network, str | Path):
        raise _no_network(network)
    if checkpoint is not None:
        raise UsageError(
            f"two files, {network} and {checkpoint}",
            where="load_model",
            expected="one file, or a module and the file with its weights",
            hint="pass the module first, or leave the second out",
        )
    return None, network


def _no_network(value: object) -> UsageError:
    if isinstance(value, type):
        what, hint = f"the class {value.__name__}", "pass what it gives when it is called"
    elif isinstance(value, dict):
        what, hint = "a dict", "build the network and load these tensors into it, or pass the file's path"
    else:
        what, hint = f"a value of the type {type(value).__name__}", "pass the network itself"
    return UsageError(f"{what}, which is no network", where="load_model", expected=_EXPECTED, hint=hint)


def _copied(module: nn.Module) -> nn.Module:
    """On the CPU; the user's own keeps its mode, device and type."""
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ArchitectureError(
            f"{name} is TorchScript, whose inner layers cannot be reached",
            where="load_model",
            expected="a module of plain PyTorch",
            hint="pass the module that was scripted or traced",
        )
    if any(isinstance(weight, UninitializedParameter) for weight in module.parameters()):
        raise ArchitectureError(
            f"{name} has lazy layers that have no weights yet",
            where="load_model",
            expected="a trained module",
            hint="run a batch through it and load its weights first",
        )
    try:
        return copy.deepcopy(module, dict(_computed(module))).cpu()
    except Exception as error:  # locks, open files, weights that are computed, on the meta device or not made yet
        raise ArchitectureError(
            f"{name} cannot be copied ({type(error).__name__}: {str(error).partition(chr(10))[0]})",
            where="load_model",
            expected="a module that copy.deepcopy copies",
            hint="build it anew, load its state_dict(), and pass that",
        ) from error


def _computed(module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Tensors that a network computed and keeps, which copy.deepcopy refuses: normalised or pruned weights, features.

    What keeps them computes them anew in each pass, from parameters that are copied.
    """
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield id(value), value.detach().clone()


def plan_of_module(module: nn.Module) -> Plan:
    """What to build: a copy of the module."""
    return Plan(library=MODULE, name=type(module).__name__, module=module)


def as_checkpoint(module: nn.Module) -> Checkpoint:
    """A module as if a file had held it."""
    state = module.state_dict()
    if packed := [name for name in state if name.endswith(PACKED)]:
        raise ArchitectureError(
            f"{type(module).__name__} is quantized ({shortened(packed)})",
            where="load_model",
            expected="a network of floating-point weights, through which gradients pass",
            hint="pass the network as it was before it was quantized",
        )
    tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    path = Path(type(module).__name__)
    return Checkpoint(
        path=path,
        container=Container.TORCH,
        weights_path=path,
        sha256=digest.hexdigest(),
        tensors=tensors,
        key=(),
        prefix="",
        metadata=CheckpointMetadata(),
        module=module,
    )
