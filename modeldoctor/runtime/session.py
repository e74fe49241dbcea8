"""What diagnosis and treatment share while they run: a device, a network at work on it, warnings noted."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from modeldoctor.errors import ModelDoctorWarning, UsageError


def resolve_device(name: str, number: int = 0) -> torch.device:
    """`auto`, or a device's name.

    Args:
        name: `auto` is the GPU of this number, if there are GPUs.
        number: of this process on its machine.

    Raises:
        UsageError: there is no such device.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("neither a CPU nor a CUDA device")
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}",
            where="--device",
            expected="auto, cpu, cuda or cuda:N",
        ) from error
    return device


@contextmanager
def at_work(module: nn.Module, device: torch.device) -> Iterator[None]:
    """While this lasts, the whole network is on a device, in eval mode, and its arithmetic is repeatable."""
    training = [submodule for submodule in module.modules() if submodule.training]
    tensors = (*module.parameters(), *module.buffers())
    before = tensors[0].device if tensors else device
    try:
        with _repeatable(device):
            module.eval().to(device)
            yield
    finally:
        module.to(before)
        for submodule in training:
            submodule.training = True


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """While this lasts, a GPU's arithmetic is float32 throughout, and the same from one run to the next.

    PyTorch's own defaults on a GPU are neither: convolutions round their factors to ten bits (TF32), and several
    backward passes add in whatever order threads arrive. An operation that has no repeatable form is warned of by
    PyTorch and runs. Where cuBLAS has run before, the caller has to set `CUBLAS_WORKSPACE_CONFIG`: it is read once.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn: Any = torch.backends.cudnn
    deterministic: Any = torch.utils.deterministic
    filled, precision = deterministic.fill_uninitialized_memory, torch.get_float32_matmul_precision()
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        deterministic.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("highest")
        # PyTorch itself reads the flags of before 2.9, which it refuses to do where one of the newer ones was set.
        with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        deterministic.fill_uninitialized_memory = filled


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Note the texts of our warnings, whatever the filters, while they go where these send them, be it as errors."""
    said: list[str] = []
    filters, show = warnings.filters, warnings.showwarning

    def record(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *args: Any, **kwargs: Any
    ) -> None:
        if not issubclass(category, ModelDoctorWarning):
            show(message, category, filename, lineno, *args, **kwargs)
            return
        said.append(str(message))
        with warnings.catch_warnings():
            warnings.filters, warnings.showwarning = filters, show
            warnings.warn_explicit(message, category, filename, lineno)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ModelDoctorWarning)
        warnings.showwarning = record
        yield said
