"""Eq. 2-4 against explicit Jacobians in float64, and the streaming sums against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import Branched, Dense, Pooled, randomised
from torch import Tensor, nn

from modeldoctor.graph import Cut, CutNetwork, open_network, select_layers
from modeldoctor.method.correlation import (
    CorrelationState,
    SampleCorrelation,
    compute_state,
    correlate_samples,
    empty_state,
    merge_states,
    update_state,
)
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit

IMAGES, DELTA = 5, 0.7
NETWORKS = [Pooled, Dense, Branched]


def build(kind: type[nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    network = randomised(kind()).double()
    if isinstance(network, Branched):
        network.mix.weight.data[:, 2] = 0.0  # kernel 2 of the layer leads nowhere
    images = torch.randn(IMAGES, 3, 8, 8, dtype=torch.float64)
    return network, images, torch.tensor([0, 3, 1, 1, 2])


def cut_of(network: nn.Module, images: Tensor) -> Cut:
    cut = open_network(network, images, network.layer)
    assert isinstance(cut, CutNetwork)
    return next(cut.cuts(images, select_layers(cut.layers, network.layer)))


def jacobian_oracle(network: nn.Module, images: Tensor, labels: Tensor, noise: Noise | None, draws: int):
    """Eq. 4 from its formula: a full Jacobian for one image and one draw at a time."""
    correlation, signed, contribution, maps = [], [], [], []
    for b in range(len(images)):
        layer, *others = network.prefix(images[b : b + 1])
        total = torch.zeros_like(layer[0])
        terms = [torch.zeros_like(total) for _ in range(3)]
        for j in range(max(draws, 1)):
            sigma = noise.draw(network.layer, [b], range(j, j + 1), layer.detach()) if noise else 0
            noisy = (layer + sigma).detach()
            jacobian = torch.autograd.functional.jacobian(lambda m, o=others: network.suffix(m, *o)[0], noisy)
            row = jacobian[labels[b], 0]
            for term, value in zip(terms, (row.abs(), row, (row * noisy[0]).abs()), strict=True):
                term += value / max(draws, 1)
        correlation.append(terms[0].sum((1, 2)))
        signed.append(terms[1].sum((1, 2)))
        contribution.append(terms[2].sum((1, 2)))
        maps.append(terms[0].sum(0))
    return tuple(torch.stack(part).detach() for part in (correlation, signed, contribution, maps))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("draws", [0, 3])
def test_equals_an_explicit_jacobian_for_each_sample(kind: type[nn.Module], draws: int) -> None:
    network, images, labels = build(kind)
    noise = Noise(seed=5, delta=DELTA)
    found = correlate_samples(
        cut_of(network, images), labels, range(IMAGES), noise=noise, draws=draws, rows=BatchLimit(100)
    )
    wanted = jacobian_oracle(network, images, labels, noise if draws else None, draws)
    for one, other in zip(found[:4], wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert found.correlation.max() > 1e-3


def test_a_kernel_that_leads_nowhere_has_correlation_zero_and_others_do_not() -> None:
    network, images, labels = build(Branched)
    found = correlate_samples(
        cut_of(network, images), labels, range(IMAGES), noise=Noise(seed=5, delta=DELTA), draws=2, rows=BatchLimit(100)
    )
    assert (found.correlation[:, 2] == 0).all()
    assert (found.correlation[:, [0, 1, 3, 4]] > 0).all()


@pytest.mark.parametrize("rows", [5, 10, 7, 1000])
def test_the_chunk_size_changes_nothing(rows: int) -> None:
    network, images, labels = build(Pooled)
    noise = Noise(seed=5, delta=DELTA)
    wanted = jacobian_oracle(network, images, labels, noise, 4)
    found = correlate_samples(
        cut_of(network, images), labels, range(IMAGES), noise=noise, draws=4, rows=BatchLimit(rows)
    )
    torch.testing.assert_close(found.correlation, wanted[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_batch_size_changes_nothing(size: int) -> None:
    network, images, labels = build(Pooled)
    noise = Noise(seed=5, delta=DELTA)
    cut = open_network(network, images, network.layer)
    layers = select_layers(cut.layers, network.layer)
    parts = [
        correlate_samples(
            next(cut.cuts(images[part], layers)), labels[part], part.tolist(), noise=noise, draws=3, rows=BatchLimit(64)
        ).correlation
        for part in torch.arange(IMAGES).split(size)
    ]
    wanted = jacobian_oracle(network, images, labels, noise, 3)
    torch.testing.assert_close(torch.cat(parts), wanted[0], rtol=1e-10, atol=1e-12)


def batches(total: int, sizes: list[int]) -> list[slice]:
    ends = np.cumsum([*sizes, total - sum(sizes)])
    return [slice(int(end - size), int(end)) for end, size in zip(ends, [*sizes, total - sum(sizes)], strict=True)]


def samples(seed: int = 0, total: int = 60, channels: int = 6) -> tuple[Tensor, SampleCorrelation, Tensor]:
    rng = np.random.default_rng(seed)
    # A large mean and a small spread, where summing squares would lose every digit.
    tensors = [torch.from_numpy(1e6 + rng.normal(size=(total, channels))) for _ in range(4)]
    classes = torch.from_numpy(rng.integers(0, 3, total))  # class 3 of 4 never occurs
    maps = torch.zeros(total, 1, 1)
    return classes, SampleCorrelation(tensors[0], tensors[1], tensors[2], maps, maps), tensors[3]


def fold(parts: list[slice], classes: Tensor, whole: SampleCorrelation, activation: Tensor) -> CorrelationState:
    state = empty_state(4, activation.shape[1])
    for part in parts:
        state = update_state(state, classes[part], SampleCorrelation(*(one[part] for one in whole)), activation[part])
    return state


@pytest.mark.parametrize("sizes", [[], [1] * 59, [7, 20, 1, 30], [60]])
def test_any_split_into_batches_gives_numpys_mean_and_variance(sizes: list[int]) -> None:
    classes, whole, activation = samples()
    found = compute_state(fold(batches(60, sizes), classes, whole, activation))
    for n in range(3):
        rows = (classes == n).numpy()
        np.testing.assert_allclose(found.correlation[n], whole.correlation.numpy()[rows].mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.variance[n], whole.correlation.numpy()[rows].var(0, ddof=1), rtol=1e-6)
        np.testing.assert_allclose(found.signed[n], whole.signed.numpy()[rows].mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.contribution[n], whole.contribution.numpy()[rows].mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.activation[n], activation.numpy()[rows].mean(0), rtol=1e-12)
        assert found.counts[n] == rows.sum()


def test_partial_states_merge_in_any_order() -> None:
    classes, whole, activation = samples(1)
    parts = [fold([part], classes, whole, activation) for part in batches(60, [3, 25, 17])]
    forwards = merge_states(merge_states(parts[0], parts[1]), merge_states(parts[2], parts[3]))
    backwards = merge_states(parts[3], merge_states(parts[2], merge_states(parts[1], parts[0])))
    for n in range(3):
        wanted = whole.correlation.numpy()[(classes == n).numpy()]
        for state in (forwards, backwards):
            np.testing.assert_allclose(compute_state(state).correlation[n], wanted.mean(0), rtol=1e-12)
            np.testing.assert_allclose(compute_state(state).variance[n], wanted.var(0, ddof=1), rtol=1e-6)


def test_undefined_is_nan_with_a_count() -> None:
    classes, whole, activation = samples()
    classes[classes == 2] = 0
    classes[0] = 2  # a single sample
    found = compute_state(fold(batches(60, []), classes, whole, activation))
    assert found.counts.tolist()[2:] == [1, 0]
    assert all(part[3].isnan().all() for part in (found.correlation, found.variance, found.signed, found.activation))
    assert found.correlation[2].equal(whole.correlation[0])
    assert found.variance[2].isnan().all()
