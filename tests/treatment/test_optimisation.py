"""Updates against the rules of SGD, cosine schedule, clipping and moving average, written by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from modeldoctor.config.treat import TrainingConfig
from modeldoctor.treatment.optimisation import Optimisation

RATE = 0.1


def config(**changes: object) -> TrainingConfig:
    usual = {
        "epochs": 2, "optimizer": "sgd", "learning_rate": RATE, "weight_decay": 0.0, "momentum": 0.0, "clip_norm": 1e9,
        "schedule": "none",
    }  # fmt: skip
    return TrainingConfig(**(usual | changes))


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def gradient(weight: Tensor, images: Tensor) -> Tensor:
    """Of the mean square of the outputs without bias."""
    return 2 * (images @ weight.T).T @ images / (2 * len(images))


def loss(module: nn.Linear, images: Tensor) -> Tensor:
    return (images @ module.weight.T).square().mean()


def test_two_halves_make_the_step_of_the_whole() -> None:
    module, images = network(), torch.randn(8, 3)
    wanted = module.weight.detach() - RATE * gradient(module.weight.detach(), images)
    optimisation = Optimisation(module, config(accumulate=2), 4)
    for half in images.split(4):
        optimisation.add_gradient(loss(module, half), 2)
    optimisation.update(0)
    torch.testing.assert_close(module.weight.detach(), wanted)


@pytest.mark.parametrize("warmup", [0, 1])
def test_the_learning_rate_follows_half_a_cosine(warmup: int) -> None:
    module, images = network(), torch.randn(8, 3)
    optimisation = Optimisation(module, config(schedule="cosine", warmup_epochs=warmup), 4)
    for number in range(8):
        before = module.weight.detach().clone()
        optimisation.add_gradient(loss(module, images), 1)
        optimisation.update(number)
        rate = RATE / 2 * (1 + math.cos(math.pi * number / 8)) if number >= 4 * warmup else RATE * number / 4
        assert optimisation.learning_rate == pytest.approx(rate)
        torch.testing.assert_close(module.weight.detach(), before - rate * gradient(before, images))


def test_a_long_gradient_is_clipped_to_its_norm() -> None:
    module, images = network(), 10 * torch.randn(8, 3)
    before = module.weight.detach().clone()
    optimisation = Optimisation(module, config(clip_norm=0.5), 4)
    optimisation.add_gradient(loss(module, images), 1)
    optimisation.update(0)
    long = gradient(before, images)
    torch.testing.assert_close(module.weight.detach(), before - RATE * 0.5 * long / long.norm(), rtol=1e-4, atol=1e-5)


def test_the_average_of_the_weights_is_judged() -> None:
    module, images = network(), torch.randn(8, 3)
    optimisation = Optimisation(module, config(ema=0.75), 4)
    average = module.weight.detach().clone()
    for number in range(3):
        optimisation.add_gradient(loss(module, images), 1)
        optimisation.update(number)
        average = 0.75 * average + 0.25 * module.weight.detach()
    torch.testing.assert_close(dict(optimisation.judged.named_parameters())["weight"].detach(), average)
    assert Optimisation(module, config(), 4).judged is module


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_going_on_from_a_state_gives_the_same_weights(optimizer: str) -> None:
    changes = {"optimizer": optimizer, "momentum": 0.9, "ema": 0.5, "schedule": "cosine"}
    module, images = network(), torch.randn(8, 3)
    optimisation = Optimisation(module, config(**changes), 4)
    states = []
    for number in range(6):
        states.append((copy.deepcopy(module.state_dict()), copy.deepcopy(optimisation.state_dict())))
        optimisation.add_gradient(loss(module, images), 1)
        optimisation.update(number)
    again = network()
    again.load_state_dict(states[3][0])
    resumed = Optimisation(again, config(**changes), 4)
    resumed.load_state_dict(states[3][1])
    for number in range(3, 6):
        resumed.add_gradient(loss(again, images), 1)
        resumed.update(number)
    assert torch.equal(again.weight, module.weight)
    for one, other in zip(resumed.judged.parameters(), optimisation.judged.parameters(), strict=True):
        assert torch.equal(one, other)
