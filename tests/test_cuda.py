"""The same figures on a GPU as on the CPU; skipped where there is none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Clinic
from diagnosed import LAYERS, NOISY, PLAIN, assert_close, assert_equal_bits
from networks import Branched, Pooled, randomised
from torch import nn

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TreatConfig
from modeldoctor.diagnosis import diagnose
from modeldoctor.graph import open_network, select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.trial import Trial
from modeldoctor.runtime.memory import BatchLimit
from modeldoctor.treatment import treat
from modeldoctor.zoo import Classifier, load_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("kind", [Pooled, Branched])
def test_eq_3_on_cuda_equals_the_cpu(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network, images, labels = randomised(kind()).double(), torch.randn(4, 3, 8, 8).double(), torch.tensor([0, 3, 1, 2])
    results = []
    for device in ("cpu", "cuda"):
        module, pictures = copy.deepcopy(network).to(device), images.to(device)
        opened = open_network(module, pictures, kind.layer)
        (cut,) = opened.cuts(pictures, select_layers(opened.layers, kind.layer))
        noise = Noise(seed=0, delta=1.0)
        found = correlate_samples(cut, labels.to(device), range(4), noise=noise, draws=0, rows=BatchLimit(64))
        results.append([part.cpu() for part in found])
    for on_cpu, on_cuda in zip(*results, strict=True):
        torch.testing.assert_close(on_cpu, on_cuda)


def test_noise_on_cuda_is_the_cpus_and_does_not_depend_on_batching() -> None:
    like = torch.empty(3, 2, 4, 4, device="cuda")
    noise = Noise(seed=1, delta=0.5)
    whole = noise.draw("a", [10, 11, 12], range(5), like).view(5, 3, 2, 4, 4)
    alone = noise.draw("a", [12], range(2, 4), like[:1]).view(2, 1, 2, 4, 4)
    assert torch.equal(whole[2:4, [2]], alone)
    assert torch.equal(whole.cpu(), noise.draw("a", [10, 11, 12], range(5), like.cpu()).view(5, 3, 2, 4, 4))


def test_a_constraints_gradient_on_cuda_equals_the_cpu() -> None:
    torch.manual_seed(0)
    network, images = randomised(Pooled()).double(), torch.randn(4, 3, 8, 8).double()
    gradients = []
    for device in ("cpu", "cuda"):
        module, pictures = copy.deepcopy(network).to(device), images.to(device)
        trainable = TrainableNetwork(module, pictures)
        _, (cut,) = trainable.training_pass(pictures, select_layers(trainable.layers, "conv2"))
        classes, kind = torch.zeros(1, 4, dtype=torch.int64, device=device), Attribution.GRADIENT_X_ACTIVATION
        attribute(cut, classes, None, {kind: 1}, BatchLimit(4))[kind].sum().backward()
        gradients.append([weight.grad.cpu() for weight in module.parameters() if weight.grad is not None])
    for on_cpu, on_cuda in zip(*gradients, strict=True):
        torch.testing.assert_close(on_cpu, on_cuda)


@pytest.fixture(scope="module")
def ours(clinic: Clinic) -> Classifier:
    """A network of this file's own: what is planted in it disturbs nobody."""
    return load_model(clinic.checkpoint)


def diagnosed(clinic: Clinic, ours: Classifier, **values: Any) -> Diagnosis:
    config = DiagnoseConfig(**values | {"device": "cuda"})
    return diagnose(ours, clinic.data, config=config, masks=clinic.masks)


def test_a_diagnosis_on_cuda_equals_the_cpu(clinic: Clinic, ours: Classifier, plain: Diagnosis) -> None:
    assert_close(diagnosed(clinic, ours, **PLAIN), plain)
    assert next(ours.module.parameters()).device.type == "cpu"  # where it was before


def test_a_diagnosis_on_cuda_does_not_depend_on_batches(clinic: Clinic, ours: Classifier) -> None:
    found = [diagnosed(clinic, ours, **NOISY | {"batch_size": size}) for size in (5, 16)]
    assert_close(*found)


def test_a_diagnosis_on_cuda_is_the_same_again(clinic: Clinic, ours: Classifier) -> None:
    assert_equal_bits(*(diagnosed(clinic, ours, **NOISY) for _ in range(2)))


def trial_on_cuda(clinic: Clinic, ours: Classifier, diagnosis: Diagnosis, output: Path) -> Trial:
    config = TreatConfig.model_validate(
        {
            "checkpoint": clinic.checkpoint,
            "data": {"path": str(clinic.data), "masks": clinic.masks},
            "output": output,
            "seeds": (0,),
            "noise_draws": 2,
            "device": "cuda",
            "channel": {"weight": 0.1, "layers": LAYERS[1]},
            "space": {"weight": 1.0, "annotated_per_class": 4, "layers": LAYERS[1]},
            "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01},
        }
    )
    return treat(config, ours, diagnosis)


@pytest.mark.filterwarnings("ignore:.*accuracy of the original network")
def test_a_trial_on_cuda_is_the_same_again(clinic: Clinic, ours: Classifier, plain: Diagnosis, tmp_path: Path) -> None:
    first, again = (trial_on_cuda(clinic, ours, plain, tmp_path / name) for name in ("first", "again"))
    assert [arm.metrics for arm in first.arms] == [arm.metrics for arm in again.arms]
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("first", "again")]
    assert [line.split(",")[:6] for line in histories[0].splitlines()] == [
        line.split(",")[:6] for line in histories[1].splitlines()
    ]
