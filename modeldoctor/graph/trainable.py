"""A cut network that trains: one forward pass in training mode gives the logits and, on the way, the maps to constrain.

The suffix behind a cut uses BatchNorm's running statistics, so that copies of different images never mix; the pass
itself uses the batch's. A second prefix in eval mode would give other maps than those that are trained.

Shapes: B images, C input channels, K channels of a layer, H x W positions, N classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from modeldoctor.errors import GraphError, ModelDoctorWarning
from modeldoctor.graph.auxiliary import auxiliary_outputs, auxiliary_weight
from modeldoctor.graph.capture import Captured
from modeldoctor.graph.captured_once import capture_once
from modeldoctor.graph.cut import Cut, CutNetwork, Execute
from modeldoctor.graph.layers import FEATURES, Layer
from modeldoctor.runtime.distributed import Team

aten = torch.ops.aten


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Tensor]:
    return (F.batch_norm(x, mean, variance, weight, bias, True, momentum, eps),)


def _shared_batch_norm(
    team: Team,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor]:
    """By the statistics of the images of all processes, as one process would have them; differentiable in all."""
    axes, shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
    number = float(team.all_reduce(torch.tensor(x.numel() / x.shape[1], dtype=torch.float64)))
    batch_mean = team.differentiable_all_reduce(x.sum(axes)) / number
    centred = x - batch_mean.view(shape)
    batch_variance = team.differentiable_all_reduce(centred.square().sum(axes)) / number
    with torch.no_grad():
        mean.lerp_(batch_mean.to(mean), momentum)
        variance.lerp_((batch_variance * number / max(number - 1, 1)).to(variance), momentum)
    scale = (batch_variance + eps).rsqrt() if weight is None else (batch_variance + eps).rsqrt() * weight
    normalised = centred * scale.view(shape)
    return (normalised if bias is None else normalised + bias.view(shape),)


def _in_training(team: Team) -> Execute:
    """What an operation of the eval-mode graph is in training mode."""
    norm: Callable[..., Any] = _batch_norm if team.world_size == 1 else partial(_shared_batch_norm, team)
    instead = {aten._native_batch_norm_legit_no_training.default: norm}

    def execute(function: Any, args: Any, kwargs: Any) -> Any:
        return instead.get(function, function)(*args, **kwargs)

    return execute


def _as_evaluated(function: Any, args: Any, kwargs: Any) -> Any:
    return function(*args, **kwargs)


class TrainableNetwork:
    """A network to fine-tune under constraints on its layers.

    BatchNorm normalises by the batch and updates its running statistics, as in `network.train()`; dropout and
    stochastic depth, which the eval-mode graph does not have, are off.

    Args:
        network: its parameters are the ones that get gradients; captured in eval mode and left in its own.
        example: images (B,C,H,W), B >= 2, on the network's device.
        team: processes that each pass a share of every batch; BatchNorm takes the statistics of the whole.

    Raises:
        GraphError: the network cannot be captured.
    """

    def __init__(self, network: nn.Module, example: Tensor, team: Team | None = None):
        training = [module for module in network.modules() if module.training]
        try:
            self._cut = CutNetwork(_with_heads(network.eval(), example), frozen=False)
        finally:
            for module in training:
                module.training = True
        self._execute = _in_training(team or Team())
        captured, live = self._cut.captured, dict([*network.named_parameters(), *network.named_buffers()])
        self._state = {node: live.get(captured.names[node], tensor) for node, tensor in captured.state.items()}
        self.layers = self._cut.layers
        self._weight = auxiliary_weight(network) if captured.auxiliary else 0.0
        self._auxiliary: list[Tensor] = []

    @property
    def has_batch_norm(self) -> bool:
        """Whether a training pass can take another normalisation than the running statistics'."""
        norm = aten._native_batch_norm_legit_no_training.default
        return any(node.target is norm for node in self._cut.captured.graph.nodes)

    def eval_cuts(self, images: Tensor, layers: Sequence[Layer]) -> Iterator[Cut]:
        """One pass in eval mode that stops at each of the layers; not differentiable in the weights."""
        return self._cut.cuts(images, layers)

    def head_parameters(self) -> list[nn.Parameter]:
        """What lies behind the maps that the head pools; behind an earlier layer where that is nothing (SqueezeNet)."""
        pooled = [layer for layer in self.layers if layer.name == FEATURES]
        for layer in (*pooled, *reversed(self.layers)):
            read = self._cut.state_behind(layer.name)
            if found := [tensor for node in read if isinstance(tensor := self._state[node], nn.Parameter)]:
                return found
        return []

    def training_pass(
        self, images: Tensor, layers: Sequence[Layer], *, statistics: bool = True
    ) -> tuple[Tensor, list[Cut]]:
        """One forward pass in training mode, differentiable in the network's parameters.

        Args:
            images: (B,C,H,W), this process's share of the batch.
            layers: where to cut.
            statistics: BatchNorm takes the batch's; False leaves the running ones in use and as they are.

        Returns:
            Logits (B,N), and for each layer its maps and the suffix, both with their graph.
        """
        values: dict[fx.Node, Any] = {}
        execute = self._execute if statistics else _as_evaluated
        cuts = list(self._cut.walk(images, layers, values, self._state, execute))
        self._auxiliary = [values[node] for node in self._cut.captured.auxiliary]
        # Under autocast, too, what is differentiated twice is in float32: suffixes follow their maps' type.
        cuts = [cut._replace(maps=cut.maps.float() if cut.maps.element_size() < 4 else cut.maps) for cut in cuts]
        return values[self._cut.captured.logits], cuts

    def loss(self, logits: Tensor, criterion: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of the last training pass, that of its auxiliary heads (GoogLeNet, Inception-v3) included.

        Args:
            logits: (B,N) of that pass.
            criterion: logits (B,N) to a scalar.
        """
        loss = criterion(logits)
        if self._weight:
            loss = loss + self._weight * torch.stack([criterion(logits) for logits in self._auxiliary]).sum()
        return loss


def _with_heads(network: nn.Module, example: Tensor) -> Captured:
    """Captured with its auxiliary heads; without them where they do not work at this image size."""
    if not auxiliary_weight(network):
        return capture_once(network, example)
    try:
        with auxiliary_outputs(network):
            return capture_once(network, example)
    except GraphError as error:
        captured = capture_once(network, example)
        size = "x".join(map(str, example.shape[-2:]))
        warnings.warn(
            f"the auxiliary heads do not work at {size} px and are not trained ({error.found})",
            ModelDoctorWarning,
            stacklevel=3,
        )
        return captured
