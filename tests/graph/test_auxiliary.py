"""Auxiliary heads in the training loss, against torchvision's own training mode."""

from __future__ import annotations

import pytest
import torch
from networks import randomised, small_googlenet, small_inception
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.errors import GraphError, ModelDoctorWarning
from modeldoctor.graph.auxiliary import auxiliary_outputs, auxiliary_weight
from modeldoctor.graph.trainable import TrainableNetwork

LABELS = torch.tensor([0, 2, 1])


def criterion(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, LABELS[: len(logits)])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    module = small_googlenet(4, aux_logits=True)
    for one in module.modules():
        if isinstance(one, nn.Dropout):
            one.p = 0.0  # the captured graph has none
        if isinstance(one, nn.BatchNorm2d):
            one.momentum = 0.0
    return randomised(module)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_that_of_torchvisions_training_mode(network: nn.Module, images: Tensor) -> None:
    network.train()
    wanted = network(images)
    network.eval()
    trainable = TrainableNetwork(network, images)
    logits, cuts = trainable.training_pass(images, ())
    assert not cuts
    torch.testing.assert_close(logits, wanted.logits)
    loss = F.cross_entropy(wanted.logits, LABELS)
    loss = loss + 0.3 * (F.cross_entropy(wanted.aux_logits1, LABELS) + F.cross_entropy(wanted.aux_logits2, LABELS))
    found = trainable.loss(logits, criterion)
    torch.testing.assert_close(found, loss)
    found.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
    assert not any(module._forward_hooks for module in network.modules())
    assert isinstance(network(images), Tensor)


def test_without_heads_there_is_nothing_to_add(images: Tensor) -> None:
    network = randomised(small_googlenet(4, aux_logits=False))
    assert auxiliary_weight(network) == 0
    with auxiliary_outputs(network):
        assert isinstance(network(images), Tensor)
    assert auxiliary_weight(nn.Linear(2, 2)) == 0


def test_hooks_are_gone_after_an_error(network: nn.Module) -> None:
    with pytest.raises(RuntimeError), auxiliary_outputs(network):
        network(torch.zeros(1, 5, 64, 64))
    assert not any(module._forward_hooks for module in network.modules())


def test_heads_that_do_not_work_at_a_size_are_left_out_with_a_warning() -> None:
    network = small_inception(4).eval()
    assert auxiliary_weight(network) == 0.4
    with pytest.warns(ModelDoctorWarning, match="auxiliary heads do not work at 96x96 px"):
        trainable = TrainableNetwork(network, torch.zeros(2, 3, 96, 96))
    logits, _ = trainable.training_pass(torch.randn(2, 3, 96, 96), ())
    torch.testing.assert_close(trainable.loss(logits, criterion), criterion(logits))


def test_a_network_that_cannot_be_captured_at_all_is_an_error() -> None:
    network = small_inception(4).eval()
    with pytest.raises(GraphError):
        TrainableNetwork(network, torch.zeros(2, 3, 16, 16))
