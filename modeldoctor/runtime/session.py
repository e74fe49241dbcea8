"""What diagnosis and treatment share while they run: a device, a network in eval mode, warnings noted."""

from __future__ import annotations

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
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """While this lasts, the whole network is in eval mode."""
    training = [submodule for submodule in module.modules() if submodule.training]
    try:
        module.eval()
        yield
    finally:
        for module in training:
            module.training = True


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
