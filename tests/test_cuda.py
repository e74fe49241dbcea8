"""The same figures on a GPU as on the CPU; skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import Branched, Pooled, randomised
from torch import nn

from modeldoctor.graph import open_network, select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.correlation import Noise, correlate_samples
from modeldoctor.runtime.memory import BatchLimit

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
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_noise_on_cuda_does_not_depend_on_batching() -> None:
    like = torch.empty(3, 2, 4, 4, device="cuda")
    noise = Noise(seed=1, delta=0.5)
    whole = noise.draw("a", [10, 11, 12], range(5), like).view(5, 3, 2, 4, 4)
    alone = noise.draw("a", [12], range(2, 4), like[:1]).view(2, 1, 2, 4, 4)
    assert torch.equal(whole[2:4, [2]], alone)
    assert whole.abs().max() <= 0.5


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
        gradients.append([one.grad.cpu() for one in module.parameters() if one.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
