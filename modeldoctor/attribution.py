"""What Eq. 5 and 6 constrain: derivatives of logits at noisy maps, with a graph for the second backward.

Shapes: B images, S classes of each, J noise draws, K channels, H x W positions, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeldoctor.graph import Cut, PooledHead

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


class Derivatives(Protocol):
    """∂y_n/∂(m + σ_j) for S classes n of each image."""

    def attribution(self, kind: Attribution, classes: int | None = None) -> Tensor:
        """1/J Σ_j |∂y_n/∂(m + σ_j)|, or its product with the activation, (S,B,K,H,W).

        Args:
            kind: which of the two.
            classes: of the first so many classes; of all by default.
        """
        ...


def differentiate(cut: Cut, classes: Tensor, noise: Tensor | None) -> Derivatives:
    """Differentiate logits behind a cut at noisy maps; all classes share one forward pass.

    Args:
        cut: maps (B,K,H,W) and the suffix, both with their graph.
        classes: (S,B).
        noise: σ, (J*B,K,H,W), copy-major; None for J = 0.
    """
    if cut.pooled:
        return _OfPooled(cut.pooled, cut.maps, noise, cut.pooled.factor(classes, cut.maps))
    return _of_head(cut, classes, noise)


def attribute(cut: Cut, classes: Tensor, noise: Tensor | None, attribution: Attribution) -> Tensor:
    """One attribution of `differentiate`.

    Args:
        cut, noise: as there.
        classes: (B,) or (S,B).
        attribution: which of the two.

    Returns:
        (B,K,H,W), or (S,B,K,H,W).
    """
    found = differentiate(cut, classes.view(-1, len(cut.maps)), noise).attribution(attribution)
    return found if classes.ndim > 1 else found[0]


class _OfHead(NamedTuple):
    """Any suffix: all draws in one batch.

    Attributes:
        batch: B.
        maps: m + σ_j, (J*B,K,H,W).
        slopes: (J*B,K,H,W) for each class.
    """

    batch: int
    maps: Tensor
    slopes: Sequence[Tensor]

    def attribution(self, kind: Attribution, classes: int | None = None) -> Tensor:
        values = (kind.of(slope, self.maps).unflatten(0, (-1, self.batch)) for slope in self.slopes[:classes])
        return torch.stack([one.mean(0) for one in values])


def _of_head(cut: Cut, classes: Tensor, noise: Tensor | None) -> _OfHead:
    batch = len(cut.maps)
    # Fused attention has no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        maps = _noisy(cut.maps, None if noise is None else noise.unflatten(0, (-1, batch)))
        logits = cut.head(maps)
        picked = [logits.gather(1, one.repeat(len(maps) // batch)[:, None]).sum() for one in classes]
        slopes = [torch.autograd.grad(one, maps, create_graph=True)[0] for one in picked]
    return _OfHead(batch, maps, slopes)


class _OfPooled(NamedTuple):
    """The closed form: φ' serves every class, and a head's weight tells them apart.

    Attributes:
        head: φ and W.
        maps: m.
        noise: (J*B,K,H,W) or None.
        factors: W[n,k] / HW, (S,B,K,1,1).
    """

    head: PooledHead
    maps: Tensor
    noise: Tensor | None
    factors: Tensor

    def attribution(self, kind: Attribution, classes: int | None = None) -> Tensor:
        slopes: Tensor = _OverDraws.apply(self.head.of, kind, self.noise, self.maps, *self.head.alive)
        return slopes * self.factors[:classes].abs()


class _OverDraws(torch.autograd.Function):
    """1/J Σ_j |φ'(m + σ_j)|, or its product with m + σ_j; differentiable in m and in all that φ reads.

    The backward pass makes each draw's φ' anew, so that nothing of J copies is kept between the passes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        of: Callable[[Tensor, Sequence[Tensor]], Tensor],
        kind: Attribution,
        noise: Tensor | None,
        maps: Tensor,
        *alive: Tensor,
    ) -> Tensor:
        ctx.of, ctx.kind, ctx.with_noise = of, kind, noise is not None
        ctx.save_for_backward(maps, *alive, *([noise] if noise is not None else []))
        parts, copies = _chunks(noise, maps)
        total, inputs = torch.zeros_like(maps), [one.detach() for one in alive]
        for part in parts:
            total += _summed(of, kind, part, maps.detach(), inputs, graph=False)
        return total / copies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, noise = ctx.saved_tensors if ctx.with_noise else (*ctx.saved_tensors, None)
        wanted = ctx.needs_input_grad[3:]
        inputs = [one.detach().requires_grad_(needed) for one, needed in zip(inputs, wanted, strict=True)]
        maps, *alive = inputs
        parts, copies = _chunks(noise, maps)
        gradient = gradient / copies
        for part in parts:
            value = _summed(ctx.of, ctx.kind, part, maps, alive, graph=True)
            if value.requires_grad:
                value.backward(gradient)  # adds up in the inputs, which are leaves
        return None, None, None, *(one.grad for one in inputs)


def _chunks(noise: Tensor | None, maps: Tensor) -> tuple[Sequence[Tensor | None], int]:
    """Noise of some draws at a time, (R,B,K,H,W), and how many draws there are."""
    if noise is None:
        return [None], 1
    draws = noise.unflatten(0, (-1, len(maps)))
    return draws.split(max(1, _AT_ONCE[maps.device.type] // maps.numel())), len(draws)


def _summed(
    of: Callable[[Tensor, Sequence[Tensor]], Tensor],
    kind: Attribution,
    noise: Tensor | None,
    maps: Tensor,
    alive: Sequence[Tensor],
    *,
    graph: bool,
) -> Tensor:
    """Σ_j of some draws' attributions of φ, (B,K,H,W)."""
    with torch.enable_grad():
        noisy = _noisy(maps, noise)
        (slope,) = torch.autograd.grad(of(noisy, alive).sum(), noisy, create_graph=graph)
        return kind.of(slope, noisy).unflatten(0, (-1, len(maps))).sum(0)  # type: ignore[no-any-return]


def _noisy(maps: Tensor, noise: Tensor | None) -> Tensor:
    """m + σ_j, (R*B,K,H,W) from σ (R,B,K,H,W), as something to differentiate at."""
    noisy = maps.clone() if noise is None else (maps + noise).flatten(0, 1)
    return noisy if noisy.requires_grad else noisy.requires_grad_(True)
