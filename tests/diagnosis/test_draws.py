"""How many noise draws a layer needs, against variances made on purpose and against many draws of a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import Clinic

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.diagnosis import diagnose
from modeldoctor.diagnosis.draws import fewest_draws
from modeldoctor.zoo import load_model


def planted(between_draws: float, between_images: float, images: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (J,B,K) with these variances around a mean of each class."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % 4
    of_image = 10.0 * labels[:, None] + rng.normal(0, math.sqrt(between_images), (images, 5))
    values = of_image + rng.normal(0, math.sqrt(between_draws), (3, images, 5))
    return torch.from_numpy(values), torch.from_numpy(labels)


@pytest.mark.parametrize(("between_draws", "between_images"), [(0.05, 1.0), (1.0, 1.0), (3.0, 2.0)])
def test_draws_widen_the_standard_error_by_no_more_than_asked_for(between_draws: float, between_images: float) -> None:
    found = fewest_draws(*planted(between_draws, between_images), 0.05)
    assert found.variance_between_draws == pytest.approx(5 * between_draws, rel=0.05)
    assert found.variance_between_images == pytest.approx(5 * between_images, rel=0.05)

    def widening(draws: int) -> float:
        return math.sqrt((between_images + between_draws / draws) / between_images)

    assert widening(found.draws) < 1.052
    assert found.draws == 1 or widening(found.draws - 1) > 1.048


def test_noise_without_effect_and_images_that_are_all_alike() -> None:
    same = torch.ones(3, 8, 2, dtype=torch.float64)
    assert fewest_draws(same, torch.zeros(8, dtype=torch.int64), 0.05).draws == 1
    noisy = same + torch.tensor([-1.0, 0.0, 1.0])[:, None, None]
    assert fewest_draws(noisy, torch.zeros(8, dtype=torch.int64), 0.05).draws == 100


def test_a_class_with_one_image_says_nothing_about_images() -> None:
    values = torch.zeros(3, 2, 1, dtype=torch.float64)
    values[:, 0] = torch.tensor([1.0, 2.0, 3.0])[:, None]
    assert fewest_draws(values, torch.tensor([0, 1]), 0.05).draws == 100


def test_the_chosen_draws_are_used_stored_and_near_those_of_many(clinic: Clinic) -> None:
    network = load_model(clinic.checkpoint)
    layers = "layer2.0.conv2,layer4.0.conv2"
    common = {"layers": layers, "samples_per_class": 10, "device": "cpu", "max_explained": 0, "shown": 0}
    auto = diagnose(network, clinic.data, config=DiagnoseConfig(**common))
    many = diagnose(network, clinic.data, config=DiagnoseConfig(**common, noise_draws=50))
    for name in layers.split(","):
        assert auto[name].draws >= 1
        assert auto[name].variance_between_images > 0
        assert many[name].draws == 50
        assert math.isnan(many[name].variance_between_images)
        varied = many[name].standard_error > 0  # a dead kernel has no derivative at all
        assert varied.any()
        error = many[name].standard_error[varied]
        far = np.abs(auto[name].correlation - many[name].correlation)[varied] / error
        assert float(np.median(far)) < 0.5
        assert float(np.median(auto[name].standard_error[varied] / error)) < 1.1
