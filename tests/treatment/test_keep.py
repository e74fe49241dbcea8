"""Which images are kept near the original, and how much, by autograd on the plain network."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import Dense, randomised
from torch import Tensor

from modeldoctor.config.treat import TreatConfig
from modeldoctor.graph import select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.treatment.batches import OWN, SWAPPED, TrainingBatch
from modeldoctor.treatment.keep import Keep
from modeldoctor.treatment.penalty import Penalty


def evidence(network: Dense, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B,N), and Σ_k |∂y/∂m · m| of the labels (B,H,W)."""
    maps, *others = (part.detach() for part in network.prefix(images))
    maps.requires_grad_(True)
    logits = network.suffix(maps, *others)
    (slope,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps)
    return logits.detach(), (slope * maps).abs().sum(1).detach()


def batch_of(images: Tensor, labels: Tensor, masks: Tensor) -> TrainingBatch:
    number = len(images)
    annotated, version = torch.ones(number, dtype=torch.bool), torch.full((number,), OWN)
    annotated[0], version[1] = False, SWAPPED  # neither is kept
    return TrainingBatch(
        images=images, labels=labels, other_labels=labels, share=torch.ones(number), masks=masks, annotated=annotated,
        trust=1 - torch.arange(number) / 32, weight=torch.ones(number), version=version, origin=torch.arange(number),
        keys=tuple(range(number)), whole=number,
    )  # fmt: skip


def penalty_of(network: Dense, images: Tensor, weight: float, draws: int) -> tuple[Penalty, TrainableNetwork]:
    trainable = TrainableNetwork(network, images)
    (layer,) = select_layers(trainable.layers, Dense.layer)
    off, on = (SimpleNamespace(weight=number, attribution="gradient_x_activation") for number in (0.0, 1.0))
    settings: Any = SimpleNamespace(channel=off, space=on, noise_draws=draws, delta=0.1)
    keep = Keep(network, images, weight=weight, expand_px=0)
    return Penalty(
        config=settings, channel_layers=(), space_layers=(layer,), correlated={}, scales={layer.name: 1.0},
        expand_px=0, rows={}, keep=keep,
    ), trainable  # fmt: skip


@pytest.mark.parametrize("draws", [0, 3])
def test_right_images_with_their_evidence_on_the_object_stay_and_no_others(draws: int) -> None:
    torch.manual_seed(2)
    network = randomised(Dense()).double()
    images, weight = torch.randn(16, 3, 8, 8, dtype=torch.float64), 2.5
    before = deepcopy(network)
    labels = before(images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 4  # wrong
    masks = torch.zeros(16, 8, 8, dtype=torch.bool)
    masks[:, :, :2] = True  # in the first of three columns of cells, which see columns 0-2, 2-5 and 5-7
    masks[2::3] = ~masks[2::3]  # in all of them
    penalty, trainable = penalty_of(network, images, weight, draws)
    batch = batch_of(images, labels, masks)

    def kept_term() -> tuple[dict[tuple[str, str], Tensor], Tensor]:
        logits, cuts = trainable.training_pass(images, penalty.layers)
        terms = penalty.terms(logits, cuts, batch, seed=1)
        return terms, terms["keep", Dense.layer]

    terms, at_start = kept_term()
    assert float(at_start.detach()) == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    terms, found = kept_term()
    assert penalty.total(terms).item() == pytest.approx((terms["space", Dense.layer] + weight * found).item())
    assert penalty.relative(terms)[1] == pytest.approx(terms["space", Dense.layer].item())
    found.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    if draws:  # noise has no plain oracle here; at the start it was the same on both sides
        return
    old, old_evidence = evidence(before, images, labels)
    new, new_evidence = evidence(network, images, labels)
    background = torch.zeros(16, 3, 3, dtype=torch.bool)
    background[:, :, 1:] = True
    background[2::3] = False
    wanted, kept = 0.0, 0
    for b in range(2, 16):
        was, now = (one[b] / one[b].sum() for one in (old_evidence, new_evidence))
        if old[b].argmax() == labels[b] and float(was[background[b]].sum()) < 0.5:
            divergence = torch.nn.functional.kl_div(new[b].log_softmax(0), old[b].softmax(0), reduction="sum")
            wanted += (1 - b / 32) * float(divergence + (was - now).abs().sum() / 2)  # by the trust in its mask
            kept += 1
    assert 0 < kept < 10
    shares = (new_evidence * background).sum((1, 2)) / new_evidence.sum((1, 2))
    by_trust = sum((1 - b / 32) * float(shares[b]) for b in range(1, 16)) / 15
    assert terms["space", Dense.layer].item() == pytest.approx(by_trust, rel=1e-4)
    assert found.item() == pytest.approx(wanted / 14, rel=1e-4)


def test_of_a_batch_without_annotations_nothing_is_kept() -> None:
    network = randomised(Dense()).double()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    keep = Keep(network, images, weight=1.0, expand_px=0)
    batch = batch_of(images, torch.zeros(3, dtype=torch.int64), torch.zeros(3, 8, 8, dtype=torch.bool))
    batch = batch.part(slice(0, 2))
    found = keep.terms(torch.zeros(2, 4), {Dense.layer: torch.ones(2, 4, 4)}, batch, lambda *_: torch.empty(0))
    assert {name: float(value) for name, value in found.items()} == {Dense.layer: 0.0}


def test_without_the_space_constraint_there_is_no_map_to_keep() -> None:
    with pytest.raises(ValueError, match=r"space\.keep belongs to the space constraint"):
        TreatConfig(checkpoint="a.pt", data={"path": "b"}, space={"keep": 1.0})
