"""What diagnosis and treatment have in common: device, splits in the network's classes, modes and warnings kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from modeldoctor.data import ImageSet, StreamSet, match_classes
from modeldoctor.errors import ModelDoctorWarning, UsageError
from modeldoctor.zoo import Network

AnySet = ImageSet | StreamSet


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


def in_network_classes(network: Network, splits: Mapping[str, AnySet]) -> tuple[dict[str, AnySet], tuple[str, ...]]:
    """The splits with labels that count the network's outputs, and the outputs' names; warns of what looks wrong."""
    matched: dict[str, AnySet] = {}
    names: tuple[str, ...] = ()
    said: dict[str, None] = {}
    for split, images in splits.items():
        match = match_classes(images.class_names, network.class_names, network.num_classes)
        said |= dict.fromkeys((*match.notes, *match.warnings))
        matched[split], names = images.with_classes(match), names or match.names
        matched[split].split = split  # splits put together from several sources may bear the same name
    for text in said:
        warnings.warn(text, ModelDoctorWarning, stacklevel=3)
    return matched, names


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """While this lasts, the whole network is in eval mode."""
    training = [one for one in module.modules() if one.training]
    try:
        module.eval()
        yield
    finally:
        for one in training:
            one.training = True


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Note the texts of our warnings while they go where they always go."""
    said: list[str] = []
    show = warnings.showwarning

    def record(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, ModelDoctorWarning):
            said.append(str(message))
        show(message, category, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ModelDoctorWarning)
        warnings.showwarning = record
        yield said
