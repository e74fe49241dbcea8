"""The training pass of a cut network is the network's own in training mode: logits, running statistics, gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from networks import Branched, Pooled, randomised, small_densenet
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.graph import select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.runtime.memory import BatchLimit


class Scaled(nn.Module):
    """A residual stream beyond the range of float16 that a convolution, which is within it, is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 300.0))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images) * self.scale
        return self.fc((self.conv(x / 300) + x).mean((2, 3)) / 1000)


NETWORKS = {
    "pooled": Pooled,
    "branched": Branched,
    "resnet": lambda: torchvision.models.resnet18(num_classes=4),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_network_in_training_mode(name: str) -> None:
    torch.manual_seed(0)
    network = randomised(NETWORKS[name]()).double()
    eager = copy.deepcopy(network).train()
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 3, 2])
    trainable = TrainableNetwork(network, images)
    assert not any(module.training for module in network.modules())
    logits, cuts = trainable.training_pass(images, select_layers(trainable.layers, "last"))
    wanted = eager(images)
    torch.testing.assert_close(logits, wanted)
    F.cross_entropy(logits, labels).backward()
    F.cross_entropy(wanted, labels).backward()
    for (key, one), other in zip(network.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=key)
    for (key, one), other in zip(network.named_buffers(), eager.buffers(), strict=True):
        if one.is_floating_point():
            torch.testing.assert_close(one, other, msg=key)
    assert cuts[0].maps.requires_grad


def test_under_autocast_a_sum_keeps_the_larger_type() -> None:
    torch.manual_seed(0)
    network, images = Scaled(), 300 * torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.float16):
        logits, _ = TrainableNetwork(network, images).training_pass(images, ())
        wanted = network(images)
    assert wanted.isfinite().all()
    assert torch.equal(logits, wanted)


def test_the_suffix_uses_running_statistics_so_that_images_never_mix() -> None:
    torch.manual_seed(0)
    network, images = randomised(Pooled()).double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    trainable = TrainableNetwork(network, images)
    _, (cut,) = trainable.training_pass(images, select_layers(trainable.layers, "conv2"))
    maps = cut.maps.detach().requires_grad_(True)
    (mixed,) = torch.autograd.grad(cut.head(maps)[0].sum(), maps)
    assert mixed[0].abs().sum() > 0
    assert mixed[1:].abs().sum() == 0
    identity = torch.relu(
        F.batch_norm(network.conv1(images), None, None, network.norm1.weight, network.norm1.bias, True)
    )
    # The maps and what is live beside them come from the training pass, the head's BatchNorm from the statistics.
    torch.testing.assert_close(cut.head(maps), network.suffix(maps, identity))


def test_modes_are_given_back_when_capturing_fails() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no")

    network = Broken().train()
    with pytest.raises(Exception, match="cannot capture"):
        TrainableNetwork(network, torch.randn(2, 3, 4, 4))
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("name", ["pooled", "branched", "resnet", "densenet", "vit"])
def test_under_autocast_what_is_differentiated_twice_is_in_float32(name: str) -> None:
    made = {
        "densenet": lambda: small_densenet(4),
        "vit": lambda: timm.create_model("test_vit", num_classes=4, img_size=32, patch_size=8),
        **NETWORKS,
    }[name]
    torch.manual_seed(0)
    network, images = randomised(made()), torch.randn(4, 3, 32, 32)
    trainable = TrainableNetwork(network, images)
    layers = select_layers(trainable.layers, "last")
    state = copy.deepcopy(network.state_dict())
    _, (plain,) = trainable.training_pass(images, layers)
    network.load_state_dict(state)
    with torch.autocast("cpu", torch.bfloat16):
        logits, (cut,) = trainable.training_pass(images, layers)
    assert cut.maps.dtype == torch.float32
    labels, kind = torch.tensor([0, 1, 2, 3]), Attribution.GRADIENT_X_ACTIVATION
    one, other = (attribute(each, labels[None], None, {kind: 1}, BatchLimit(4))[kind] for each in (plain, cut))
    assert other.dtype == torch.float32
    assert (one - other).norm() < 0.3 * one.norm()  # bfloat16 has 8 bits, and there are up to 121 layers of it
    (F.cross_entropy(logits.float(), labels) + other.mean()).backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in network.parameters())


class Gated(nn.Module):
    """A gate by hard sigmoid, of which PyTorch has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.gate = nn.Conv2d(5, 5, 1)
        self.fc = nn.Linear(5, 4)

    def suffix(self, maps: Tensor, sigmoid: Callable[[Tensor], Tensor]) -> Tensor:
        return self.fc(torch.tanh(maps * sigmoid(self.gate(maps))).mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.suffix(self.conv(images), F.hardsigmoid)


def test_a_hard_sigmoid_is_differentiated_twice() -> None:
    torch.manual_seed(0)
    network, images = Gated().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    trainable = TrainableNetwork(network, images)
    logits, (cut,) = trainable.training_pass(images, [layer for layer in trainable.layers if layer.name == "conv"])
    torch.testing.assert_close(logits, network(images))

    def second(head: Callable[[Tensor], Tensor]) -> Tensor:
        maps = network.conv(images).detach().requires_grad_(True)
        (first,) = torch.autograd.grad(head(maps)[:, 1].sum(), maps, create_graph=True)
        (wanted,) = torch.autograd.grad(first.square().sum(), network.gate.weight)
        return wanted

    # The oracle: the same gate by clamping, which autograd differentiates as often as one likes.
    by_hand = second(lambda maps: network.suffix(maps, lambda x: (x / 6 + 0.5).clamp(0, 1)))
    assert float(by_hand.abs().max()) > 0
    torch.testing.assert_close(second(cut.head), by_hand)
