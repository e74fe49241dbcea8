"""Networks of one logit z, which is the sigmoid's: they become two classes with the logits (0, z).

softmax(0, z) = (1 - sigmoid(z), sigmoid(z)), so that every figure is that of the network as it is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from modeldoctor.errors import CheckpointError
from modeldoctor.zoo.libraries import CODE, Built

NOTE = (
    "the network has one logit z, which is taken for two classes with the logits (0, z): the second class is the one "
    "for which z > 0"
)


class TwoLogitLinear(nn.Linear):
    """A linear layer of one output, (B,D) → (B,2), under the names of the plain one."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (0, z)."""
        logit = super().forward(input)
        return torch.cat([torch.zeros_like(logit), logit], dim=-1)


class TwoLogitConv2d(nn.Conv2d):
    """A convolution of one output map, (B,D,H,W) → (B,2,H,W), under the names of the plain one."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (0, z)."""
        logit = super().forward(input)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def as_two_classes(built: Built, example: Tensor, path: Path) -> None:
    """Let the network's head give two logits.

    Args:
        built: its module is changed; its head has one output.
        example: images (B,C,H,W), for code of the user's own to show what it does with its logit.
        path: the checkpoint, for messages.

    Raises:
        CheckpointError: the head is not a linear layer, or its logit is not what the network returns.
    """
    old = built.module.get_submodule(built.head) if built.head else None
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = TwoLogitLinear(old.in_features, 1, bias=old.bias is not None)
    elif isinstance(old, nn.Conv2d) and old.kernel_size == old.stride == (1, 1):
        new = TwoLogitConv2d(old.in_channels, 1, 1, bias=old.bias is not None)
    else:
        raise _refusal("one logit, which no linear layer gives", path)
    new.load_state_dict(old.state_dict())
    assert built.head is not None
    built.module.set_submodule(built.head, new)
    if built.plan.library in (CODE, "module"):
        with torch.no_grad():
            logits = built.module.float().eval()(example)
        if logits.shape != (len(example), 2) or logits[:, 0].abs().max() > 0:
            raise _refusal("one logit, which the network changes before it returns it", path)


def _refusal(found: str, path: Path) -> CheckpointError:
    return CheckpointError(
        found,
        where=str(path),
        expected="a network that returns its logit z as its last linear layer gives it, before the sigmoid",
        hint="give a network that does, by your own code: --arch CODE.py:FUNCTION",
    )
