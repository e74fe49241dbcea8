"""Diagnoses of the clinic's network, made once, and how two are compared."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Clinic
from torch import Tensor

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.diagnosis import diagnose
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.zoo import Classifier, load_model

LAYERS = ("layer2.0.conv2", "layer3.0.conv3")

ARRAYS = ("correlation", "variance", "signed", "activation", "contribution")

# 10 images of each class are right and confident: no warning that there are fewer.
PLAIN: dict[str, Any] = {
    "layers": ",".join(LAYERS), "noise_draws": 0, "samples_per_class": 10, "scan": "all", "device": "cpu",
    "batch_size": 16,
}  # fmt: skip

# Through hooks nothing is exported, which takes most of the time of so small a run.
QUICK = PLAIN | {"hooks": True}

NOISY = PLAIN | {"noise_draws": 2, "batch_size": 7}


@pytest.fixture(scope="session")
def network(clinic: Clinic) -> Classifier:
    return load_model(clinic.checkpoint)


@pytest.fixture(scope="session")
def noisy(clinic: Clinic, network: Classifier) -> Diagnosis:
    return diagnose(network, clinic.data, config=DiagnoseConfig(**NOISY), masks=clinic.masks)


def assert_equal_bits(one: Diagnosis, other: Diagnosis) -> None:
    for name in one.layers:
        for array in (*ARRAYS, "count"):
            assert getattr(one[name], array).tobytes() == getattr(other[name], array).tobytes(), (name, array)
        assert one[name].activation_std == other[name].activation_std
    assert one.samples.path.tolist() == other.samples.path.tolist()
    for array in ("label", "predicted", "confidence", "used_in_diagnosis", "stability"):
        assert getattr(one.samples, array).tobytes() == getattr(other.samples, array).tobytes(), array
    assert repr(one.misdiagnosed) == repr(other.misdiagnosed)  # NaN prints the same
    assert repr(one.limits) == repr(other.limits)
    for kind in ("shown", "pictures", "altered", "adversarial"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert (mine is None) == (theirs is None)
        for field in dataclasses.fields(mine) if mine is not None else ():
            assert np.array_equal(getattr(mine, field.name), getattr(theirs, field.name)), (kind, field.name)
    assert (one.wrong_count, one.broken, one.warnings) == (other.wrong_count, other.broken, other.warnings)


def assert_close(one: Diagnosis, other: Diagnosis) -> None:
    for name in one.layers:
        for array in ARRAYS:
            first, second = getattr(one[name], array), getattr(other[name], array)
            np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5 * np.abs(second).max(), err_msg=array)
        assert one[name].count.tolist() == other[name].count.tolist()
        assert one[name].activation_std == pytest.approx(other[name].activation_std, rel=1e-5)
    np.testing.assert_allclose(one.samples.confidence, other.samples.confidence, rtol=1e-4)
    np.testing.assert_array_equal(one.samples.used_in_diagnosis, other.samples.used_in_diagnosis)
    np.testing.assert_allclose(one.samples.stability, other.samples.stability, atol=0.01)
    for first, second in zip(one.misdiagnosed, other.misdiagnosed, strict=True):
        assert (first.sample, first.verdict, first.resembles) == (second.sample, second.verdict, second.resembles)
        assert first.background_share == pytest.approx(second.background_share, rel=1e-3, nan_ok=True)
        assert [kernel.channel for kernel in first.kernels] == [kernel.channel for kernel in second.kernels]


@pytest.fixture(scope="session")
def plain(clinic: Clinic, network: Classifier) -> Diagnosis:
    return diagnose(network, clinic.data, config=DiagnoseConfig(**PLAIN), masks=clinic.masks)


def answers(clinic: Clinic, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Label, prediction and confidence of each image of a split."""
    _, images, labels = clinic.images(split)
    with torch.no_grad():
        confidence, predicted = clinic.network()(images).softmax(1).max(1)
    return labels, predicted, confidence
