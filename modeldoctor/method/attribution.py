"""What Eq. 5 and 6 constrain: derivatives of logits at noisy maps, with a graph for the second backward.

Shapes: B images, S classes of each, J noise draws, R of them at once, K channels, H x W positions, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeldoctor.graph import Cut
from modeldoctor.runtime.memory import BatchLimit

# Values at once in the closed form: a CPU's allocator hands larger blocks back to the system each time, and getting
# them again takes longer than the work on them.
_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}


class Attribution(StrEnum):
    """What is constrained: the derivative itself, or its product with the activation.

    Behind BatchNorm-ReLU-pooling-linear |∂y/∂m| gives the activations no gradient; |∂y/∂m · m| does.
    """

    GRADIENT = "gradient"
    GRADIENT_X_ACTIVATION = "gradient_x_activation"

    def of(self, derivative: Tensor, maps: Tensor) -> Tensor:
        """Its absolute value, from a derivative and the maps that it was taken at."""
        return (derivative if self is Attribution.GRADIENT else derivative * maps).abs()


def attribute(
    cut: Cut, classes: Tensor, noise: Tensor | None, wanted: Mapping[Attribution, int], rows: BatchLimit
) -> dict[Attribution, Tensor]:
    """1/J Σ_j |∂y_n/∂(m + σ_j)|, or its product with the activation, for S classes n of each image.

    All kinds and classes share one forward pass. Differentiable in the maps and in all that the suffix reads, once.
    Where all copies run at once their graph is kept; else nothing of them is, and the backward pass makes them anew,
    so that memory does not grow with J.

    Args:
        cut: maps (B,K,H,W) and the suffix, both with their graph.
        classes: (S,B).
        noise: σ, (J*B,K,H,W), copy-major; None for J = 0.
        wanted: for each kind, of how many classes, the first ones.
        rows: how many copies R*B run at once behind the layer, where there is no closed form.

    Returns:
        (S,B,K,H,W) of each kind.

    Raises:
        MemoryLimitError: there is not enough memory for one copy of the batch.
    """
    if not cut.pooled:
        work = _Work(_of_suffix(cut, classes[: max(wanted.values())]), tuple(wanted.items()), rows)
        return dict(zip(wanted, _means(work, noise, cut), strict=True))
    # φ' serves every class; the head's weight tells them apart.
    at_once = BatchLimit(max(1, _AT_ONCE[cut.maps.device.type] // cut.maps[0].numel()), rows.place)
    work = _Work(_of_pointwise(cut), tuple((kind, 1) for kind in wanted), at_once)
    factors = cut.pooled.factor(classes, cut.maps).abs()
    found = zip(wanted.items(), _means(work, noise, cut), strict=True)
    return {kind: slope * factors[:number] for (kind, number), slope in found}


def _means(work: _Work, noise: Tensor | None, cut: Cut) -> Sequence[Tensor]:
    """1/J Σ_j of each kind, (S,B,K,H,W)."""
    copies = _copies(noise, cut.maps)

    def part(draws: Sequence[int]) -> list[Tensor]:
        return work.over(draws, noise, cut.maps, cut.live_values, again=True)

    whole = work.rows.whole(range(copies), len(cut.maps), part)
    if whole is not None:
        return [value / copies for value in whole]
    found: tuple[Tensor, ...] = _OverDraws.apply(work, noise, cut.maps, *cut.live_values)
    return found


Slopes = Callable[[Tensor, Sequence[Tensor], bool], Sequence[Tensor]]
"""Derivatives in noisy maps (R*B,K,H,W), from these, from what is live, and whether they are differentiated again."""


def _of_suffix(cut: Cut, classes: Tensor) -> Slopes:
    """∂y_n/∂m of each class."""

    def slopes(noisy: Tensor, live_values: Sequence[Tensor], again: bool) -> list[Tensor]:
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH) if again else nullcontext():
            logits = cut.suffix(noisy, live_values)
            picked = [
                logits.gather(1, wanted_class.repeat(len(noisy) // len(wanted_class))[:, None]).sum()
                for wanted_class in classes
            ]
            return [
                torch.autograd.grad(value, noisy, create_graph=again, retain_graph=again or value is not picked[-1])[0]
                for value in picked
            ]

    return slopes


def _of_pointwise(cut: Cut) -> Slopes:
    """φ'."""

    def slopes(noisy: Tensor, live_values: Sequence[Tensor], again: bool) -> Sequence[Tensor]:
        assert cut.pooled is not None
        return torch.autograd.grad(cut.pooled.pointwise(noisy, live_values).sum(), noisy, create_graph=again)

    return slopes


class _Work(NamedTuple):
    """What is done at a cut.

    Attributes:
        slopes: the derivatives.
        wanted: kinds, and of how many classes.
        rows: copies at once.
    """

    slopes: Slopes
    wanted: Sequence[tuple[Attribution, int]]
    rows: BatchLimit

    def over(
        self, draws: Sequence[int], noise: Tensor | None, maps: Tensor, live_values: Sequence[Tensor], again: bool
    ) -> list[Tensor]:
        """Σ_j of some draws, (S,B,K,H,W) of each kind."""
        with torch.enable_grad():
            if noise is None:
                noisy = maps.clone()
            else:
                noisy = (maps + noise.unflatten(0, (-1, len(maps)))[draws[0] : draws[-1] + 1]).flatten(0, 1)
            noisy = noisy if noisy.requires_grad else noisy.requires_grad_(True)
            slopes = self.slopes(noisy, live_values, again)
            return [
                torch.stack([kind.of(slope, noisy).unflatten(0, (-1, len(maps))).sum(0) for slope in slopes[:number]])
                for kind, number in self.wanted
            ]


class _OverDraws(torch.autograd.Function):
    """The means over draws, chunk by chunk; the backward pass does each chunk again."""

    @staticmethod
    def forward(ctx: Any, work: _Work, noise: Tensor | None, maps: Tensor, *live_values: Tensor) -> tuple[Tensor, ...]:
        ctx.work, ctx.with_noise = work, noise is not None
        ctx.save_for_backward(maps, *live_values, *([noise] if noise is not None else []))
        inputs = maps.detach(), [value.detach() for value in live_values]

        def part(draws: Sequence[int]) -> list[Tensor]:
            return [sums.detach() for sums in work.over(draws, noise, *inputs, again=False)]

        return tuple(sums / _copies(noise, maps) for sums in _added(work.rows, noise, maps, part))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, noise = ctx.saved_tensors if ctx.with_noise else (*ctx.saved_tensors, None)
        wanted = ctx.needs_input_grad[2:]
        maps, *live_values = (
            value.detach().requires_grad_(needed) for value, needed in zip(inputs, wanted, strict=True)
        )
        asking = [value for value in (maps, *live_values) if value.requires_grad]
        gradients = tuple(gradient / _copies(noise, maps) for gradient in gradients)

        def part(draws: Sequence[int]) -> Sequence[Tensor | None]:
            values = ctx.work.over(draws, noise, maps, live_values, again=True)
            made = [pair for pair in zip(values, gradients, strict=True) if pair[0].requires_grad]
            if not made:
                return [None] * len(asking)
            outputs, weights = zip(*made, strict=True)
            return torch.autograd.grad(outputs, asking, weights, allow_unused=True)

        found = iter(_added(ctx.work.rows, noise, maps, part))
        return None, None, *(next(found) if needed else None for needed in wanted)


def _copies(noise: Tensor | None, maps: Tensor) -> int:
    return 1 if noise is None else len(noise) // len(maps)


def _added(
    rows: BatchLimit, noise: Tensor | None, maps: Tensor, part: Callable[[Sequence[int]], Sequence[Any]]
) -> Sequence[Any]:
    """The sums of what each part of the draws gives; None for what none of them gives."""
    total: Sequence[Any] = ()
    for values in rows.each(range(_copies(noise, maps)), len(maps), part):
        total = [_sum(*pair) for pair in zip(total, values, strict=True)] if total else values
    return total


def _sum(first: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Not in place: autograd may hand out one tensor for two inputs."""
    return other if first is None else first if other is None else first + other
