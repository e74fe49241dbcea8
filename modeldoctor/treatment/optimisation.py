"""From gradients to new weights: timm's optimizers, schedules and average of weights, and the scaling of float16.

Shapes: B images, N classes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from modeldoctor.config.treat import TrainingConfig
from modeldoctor.errors import ConfigError

_LIKE_WEIGHTS = {"momentum_buffer", "exp_avg", "exp_avg_sq"}
"""What optimizers keep of each weight, in its shape; others' names may be of any."""
_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def _optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    name = training.optimizer or ""
    # timm's sgd is Nesterov's, which needs a momentum.
    name = "momentum" if name in ("sgd", "nesterov") and not training.momentum else name
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            network,
            opt=name,
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            momentum=training.momentum,
        )
    except (ValueError, AssertionError, ImportError) as error:
        raise ConfigError(
            f"timm cannot make the optimizer {name!r}: {error}",
            where="training.optimizer",
            expected="sgd, adamw, ...; timm.optim.list_optimizers() has all",
        ) from error
    return optimizer


class Optimisation:
    """All that changes weights, and all of its state.

    Args:
        network: on its device.
        training: resolved, so that nothing in it is None.
        updates_per_epoch: steps of the optimizer in one pass over the data.

    Raises:
        ConfigError: there is no such optimizer, or it does not take these settings.
    """

    def __init__(self, network: nn.Module, training: TrainingConfig, updates_per_epoch: int):
        self._network, self._training = network, training
        self._device = next(network.parameters()).device.type
        self._optimizer = _optimizer(network, training)
        self._schedule, _ = create_scheduler_v2(
            self._optimizer,
            sched=training.schedule,
            num_epochs=training.epochs,
            warmup_epochs=training.warmup_epochs,
            warmup_lr=0.0,
            min_lr=0.0,
            step_on_epochs=False,
            updates_per_epoch=updates_per_epoch,
        )
        self._average = ModelEmaV3(network, decay=training.ema) if training.ema else None
        self._scaler = torch.amp.GradScaler(self._device, enabled=training.amp == "float16")

    @property
    def judged(self) -> nn.Module:
        """The network that validation judges and the arm hands on: the average of the weights, if there is one."""
        return self._network if self._average is None else self._average.module

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def forward_type(self) -> AbstractContextManager[None]:
        """While this lasts, the network runs in the configured type."""
        name = self._training.amp
        return torch.autocast(self._device, _TYPES.get(name, torch.bfloat16), enabled=name != "none")

    def add_gradient(self, loss: Tensor, batches: int) -> None:
        """Add one batch's part of the step's gradient.

        Args:
            loss: mean over the batch.
            batches: how many batches this step is the mean of; the last step of an epoch may have fewer.
        """
        self._scaler.scale(loss / batches).backward()

    def update(self, number: int) -> None:
        """Take the step that the added gradients ask for.

        Args:
            number: how many have been taken before.
        """
        if self._schedule is not None:
            self._schedule.step_update(number)
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._network.parameters(), self._training.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        if self._average is not None:
            self._average.update(self._network)

    def state_dict(self) -> dict[str, Any]:
        """All that going on needs beside the network's weights; plain tensors and numbers."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self._average.module.state_dict() if self._average else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ValueError: it is of other weights; and whatever else comes of a state that is none.
        """
        self._optimizer.load_state_dict(state["optimizer"])
        for weight, kept in self._optimizer.state.items():
            for name in _LIKE_WEIGHTS & kept.keys():
                if kept[name] is not None and kept[name].shape != weight.shape:
                    raise ValueError(f"{name} of {tuple(kept[name].shape)} for a weight of {tuple(weight.shape)}")
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])
