"""Sample and class correlation, Eq. 2-4 of *Model Doctor*, on the feature maps of one layer at a time.

Shapes: B images, R noisy copies, J noise draws, K channels, H x W positions, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modeldoctor.errors import GraphError
from modeldoctor.graph import Cut
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit


class SampleCorrelation(NamedTuple):
    """One layer's derivatives of a logit, for each image, averaged over draws.

    Attributes:
        correlation: (B,K), a_k = 1/J Σ_j Σ_hw |∂y/∂(m_k + σ_j)| (Eq. 4).
        signed: (B,K), the same without the absolute value.
        contribution: (B,K), 1/J Σ_j Σ_hw |∂y/∂(m_k + σ_j) · (m_k + σ_j)|.
        derivative_map: (B,H,W), 1/J Σ_j Σ_k |∂y/∂(m_k + σ_j)|.
        contribution_map: (B,H,W), 1/J Σ_j Σ_k |∂y/∂(m_k + σ_j) · (m_k + σ_j)|.
    """

    correlation: Tensor
    signed: Tensor
    contribution: Tensor
    derivative_map: Tensor
    contribution_map: Tensor


def correlate_samples(
    cut: Cut, classes: Tensor, keys: Sequence[int], *, noise: Noise, draws: int, rows: BatchLimit
) -> SampleCorrelation:
    """Eq. 3 (no draws) or Eq. 4 for each image of a batch at one layer.

    Args:
        cut: a layer's maps (B,K,H,W) and the network behind it, which must not mix images (eval mode).
        classes: (B,), the class n of y_n for each image.
        keys: for each image what its noise depends on.
        noise: σ for this layer.
        draws: J; 0 leaves the noise out.
        rows: how many copies R*B may run at once; fewer changes the figures by rounding alone.

    Returns:
        Sums over H x W (correlation, signed, contribution) and over K (maps), in the dtype of the maps.

    Raises:
        MemoryLimitError: there is not enough memory for one copy of the batch.
    """

    def sums_over(chunk: Sequence[int]) -> list[Tensor]:
        span = range(chunk[0], chunk[-1] + 1)
        maps = noise.draw(cut.layer.name, keys, span, cut.maps) if draws else cut.maps.clone()
        if draws:
            maps.unflatten(0, (len(chunk), -1)).add_(cut.maps)
        return _derivative_sums(cut, maps, classes, len(chunk))

    total: list[Tensor] | None = None
    for sums in rows.each(range(max(draws, 1)), len(keys), sums_over):
        total = sums if total is None else [old.add_(new) for old, new in zip(total, sums, strict=True)]
    assert total is not None
    return SampleCorrelation(*(value / max(draws, 1) for value in total))


def _derivative_sums(cut: Cut, maps: Tensor, classes: Tensor, copies: int) -> list[Tensor]:
    maps.requires_grad_(True)
    with torch.enable_grad():
        if cut.pooled:
            picked = cut.pooled.pointwise(maps, cut.live_values).sum()
        else:
            picked = cut.head(maps).gather(1, classes.repeat(copies)[:, None]).sum()
        if not picked.requires_grad:
            raise GraphError(
                f"no gradient reaches the layer {cut.layer.name} from the logits",
                where="the network's forward pass",
                expected="logits that depend on the layer's maps by operations that can be differentiated",
                hint="take detach(), no_grad() and numpy out of forward, or choose later layers with --layers",
            )
        (gradient,) = torch.autograd.grad(picked, maps)
    if cut.pooled:
        gradient.unflatten(0, (copies, -1)).mul_(cut.pooled.factor(classes, maps))
    absolute, contribution = gradient.abs(), (gradient * maps.detach()).abs_()

    def over_copies(values: Tensor) -> Tensor:
        return values.unflatten(0, (copies, -1)).sum(0)  # type: ignore[no-any-return]

    return [
        over_copies(absolute.sum((2, 3))),
        over_copies(gradient.sum((2, 3))),
        over_copies(contribution.sum((2, 3))),
        over_copies(absolute.sum(1)),
        over_copies(contribution.sum(1)),
    ]


class CorrelationState(NamedTuple):
    """Running sums of one layer in float64; merging parts in any order gives the same numbers.

    Attributes:
        counts: (N,) samples of each class.
        mean: (N,K) mean of the correlation.
        squares: (N,K) sum of squared deviations from that mean.
        signed, activation, contribution: (N,K) sums.
    """

    counts: Tensor
    mean: Tensor
    squares: Tensor
    signed: Tensor
    activation: Tensor
    contribution: Tensor


def empty_state(classes: int, channels: int) -> CorrelationState:
    """No samples yet."""
    shape = (classes, channels)
    return CorrelationState(
        torch.zeros(classes, dtype=torch.int64), *(torch.zeros(shape, dtype=torch.float64) for _ in range(5))
    )


def update_state(
    state: CorrelationState, classes: Tensor, samples: SampleCorrelation, activation: Tensor
) -> CorrelationState:
    """Add a batch.

    Args:
        state: what has been added so far.
        classes: (B,) the class n of each image.
        samples: the batch's figures.
        activation: (B,K) mean of each map.
    """
    classes = classes.cpu()
    number, channels = state.mean.shape
    count = torch.bincount(classes, minlength=number)

    def sums(values: Tensor) -> Tensor:
        total = torch.zeros(number, channels, dtype=torch.float64)
        return total.index_add_(0, classes, values.detach().cpu().double())

    correlation = samples.correlation.detach().cpu().double()
    mean = sums(correlation) / count.clamp(min=1)[:, None]
    squares = sums((correlation - mean[classes]) ** 2)
    batch = CorrelationState(count, mean, squares, sums(samples.signed), sums(activation), sums(samples.contribution))
    return merge_states(state, batch)


def merge_states(first: CorrelationState, other: CorrelationState) -> CorrelationState:
    """The state of both parts together (Chan, Golub & LeVeque's update of mean and squared deviations)."""
    count = first.counts + other.counts
    share = (other.counts / count.clamp(min=1))[:, None].double()
    gap = other.mean - first.mean
    return CorrelationState(
        count,
        first.mean + gap * share,
        first.squares + other.squares + gap**2 * share * first.counts[:, None],
        first.signed + other.signed,
        first.activation + other.activation,
        first.contribution + other.contribution,
    )


class ClassCorrelation(NamedTuple):
    """One layer's class correlation A[n,k] and what goes with it; NaN where a class has no samples.

    Attributes:
        correlation: (N,K) mean of a_n,k over the class's samples.
        variance: (N,K) over samples, unbiased; NaN for fewer than two.
        counts: (N,) samples.
        signed, activation, contribution: (N,K) means.
    """

    correlation: Tensor
    variance: Tensor
    counts: Tensor
    signed: Tensor
    activation: Tensor
    contribution: Tensor


def compute_state(state: CorrelationState) -> ClassCorrelation:
    """Means and variances of what has been added; undefined figures are NaN."""
    count = state.counts[:, None].double()
    present = torch.where(count > 0, count, torch.nan)
    return ClassCorrelation(
        correlation=torch.where(count > 0, state.mean, torch.nan),
        variance=state.squares / torch.where(count > 1, count - 1, torch.nan),
        counts=state.counts,
        signed=state.signed / present,
        activation=state.activation / present,
        contribution=state.contribution / present,
    )
