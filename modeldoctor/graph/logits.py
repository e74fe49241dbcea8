"""A network's logits, and whether an image's are its own: the same in any batch, and the same again.

Shapes: B images, C input channels, H x W positions, N classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modeldoctor.errors import ArchitectureError, GraphError, shortened
from modeldoctor.runtime.memory import is_of_memory

_TOLERANCE = 1e-2
"""Of the largest logit: far above what another batch size changes by rounding, TF32 included."""


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Images (B,C,H,W) to logits (B,N): the network's output, or the first of its outputs.

    Raises:
        GraphError: it is something else, or it cannot take these images.
    """
    try:
        output = network(images)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, RuntimeError) and is_of_memory(error):
            raise
        raise GraphError(
            f"the network's forward pass fails on images {tuple(images.shape)} ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]})",
            expected="a network that takes batches (B,C,H,W) of any size B",
        ) from error
    logits = next(iter(output), None) if isinstance(output, list | tuple) else output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise GraphError("the network's output is not one row of logits per image", expected="a tensor (B,N)")
    return logits


def refuse_unsteady(network: nn.Module, images: Tensor) -> None:
    """Refuse a network whose figures of one image would depend on the others in its batch, or on chance.

    BatchNorm without running statistics normalises by the batch in eval mode, too; dropout that ignores the mode makes
    every pass another one. No figure of such a network can be repeated with another batch size, or at all; and none of
    one whose logits are NaN means anything.

    Args:
        network: a classifier in eval mode.
        images: (B,C,H,W), B >= 2, which differ.

    Raises:
        ArchitectureError: the logits of an image change with its batch, or from pass to pass, or are not finite.
        GraphError: no logits.
    """
    with torch.no_grad():
        together, again = logits_of(network, images), logits_of(network, images)
        # Each beside itself: BatchNorm without statistics does not take one image.
        alone = torch.cat([logits_of(network, image.repeat(2, 1, 1, 1))[:1] for image in images])
    if not together.isfinite().all():
        raise ArchitectureError(
            "the network's logits are NaN or infinite",
            where=_not_finite(network) or "the network's forward pass, on images of noise",
            expected="finite logits",
            hint="look for NaN in its weights, and take a checkpoint from before training diverged",
        )
    if _differ(together, again):
        raise ArchitectureError(
            "the network gives other logits each time for the same images, though it is in eval mode",
            where="the network's forward pass",
            expected="a network that is the same from pass to pass in eval mode",
            hint="let dropout and noise follow the mode (self.training), so that eval() switches them off",
        )
    if _differ(together, alone):
        raise ArchitectureError(
            "the logits of an image depend on the other images of its batch",
            where=_without_statistics(network) or "the network's forward pass",
            expected="a network that treats every image alone in eval mode",
            hint="give BatchNorm running statistics (track_running_stats=True, momentum=None, one pass over the"
            " training images in train()) and save it again",
        )


def _differ(logits: Tensor, others: Tensor) -> bool:
    return bool((logits - others).abs().max() > _TOLERANCE * logits.abs().max())


def _not_finite(network: nn.Module) -> str | None:
    state = network.state_dict().items()
    found = [name for name, value in state if isinstance(value, Tensor) and not value.isfinite().all()]
    return f"{shortened(found)}, with values that are not finite" if found else None


def _without_statistics(network: nn.Module) -> str | None:
    found = [
        f"{name} ({type(module).__name__})"
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
    return f"{shortened(found, 2)}, without running statistics" if found else None
