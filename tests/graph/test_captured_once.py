"""A network that was captured is not captured again, unless it is another one by then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from networks import Pooled, randomised
from torch import Tensor, nn

from modeldoctor.graph import CutNetwork, open_network
from modeldoctor.graph.capture import Captured, capture
from modeldoctor.graph.captured_once import _KEPT, capture_once
from modeldoctor.graph.trainable import TrainableNetwork

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Pieces(nn.Module):
    """What a network may be made of: a tied weight, a buffer that is not stored, a tensor and settings beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 1)
        self.conv3 = nn.Conv2d(5, 5, 1)
        self.conv3.weight = self.conv2.weight
        self.norm, self.fc = nn.BatchNorm2d(5), nn.Linear(5, 4)
        self.register_buffer("scale", torch.tensor(1.5), persistent=False)
        self.loose, self.slope, self.shape = torch.full((4,), 0.25), 0.1, [4]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv3(self.conv2(self.conv1(images)))) * self.scale
        return self.fc(nn.functional.leaky_relu(maps, self.slope).mean((2, 3))).unflatten(1, self.shape) + self.loose


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Each network that is exported."""
    exported, export = [], torch.export.export

    def noting(network: nn.Module, *arguments: object, **options: object) -> object:
        exported.append(network)
        return export(network, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.export, "export", noting)
    return exported


def assert_own_logits(network: nn.Module) -> None:
    with torch.no_grad():
        expected = network(IMAGES)
    assert expected.std() > 0
    for frozen in (True, False):
        cut = CutNetwork(capture_once(network, IMAGES), frozen=frozen)
        torch.testing.assert_close(cut.logits(IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_it_is_exported_once_for_measuring_training_and_measuring_again(exports: list[nn.Module]) -> None:
    network = randomised(Pooled())
    open_network(network, IMAGES)
    TrainableNetwork(network.train(), IMAGES.repeat(3, 1, 1, 1))
    open_network(network.eval(), IMAGES)
    assert exports == [network]


def test_new_weights_are_the_ones_that_it_has(exports: list[nn.Module]) -> None:
    network = randomised(Pieces())
    assert_own_logits(network)
    with torch.no_grad():
        for number, tensor in enumerate([*network.parameters(), *network.buffers()]):
            tensor.copy_(tensor * (1.25 + 0.25 * number))
    assert_own_logits(network)
    for parameter in network.parameters():  # as a move to another device and back does
        parameter.data = parameter.data * 1.5
    network.fc.load_state_dict({name: tensor * 0.5 for name, tensor in network.fc.state_dict().items()}, assign=True)
    network.scale = torch.tensor(0.5)
    assert_own_logits(network)
    assert len(exports) == 1


def _hook(module: nn.Module, _: object, output: Tensor) -> Tensor:
    return output + 1


CHANGES: dict[str, Callable[[Pieces], object]] = {
    "a module": lambda network: setattr(network, "norm", nn.Identity()),
    "a number": lambda network: setattr(network, "slope", 0.7),
    "a loose tensor": lambda network: setattr(network, "loose", torch.ones(4)),
    "a list": lambda network: network.shape.append(1) or setattr(network, "loose", torch.ones(4, 1)),
    "a number inside": lambda network: setattr(network.conv1, "padding", (0, 0)),
    "a hook": lambda network: network.conv1.register_forward_hook(_hook),
    "the forward": lambda network: setattr(network.conv1, "forward", lambda images: images[:, [0, 1, 2, 1, 0]]),
    "the type": lambda network: network.double(),
    "a tied weight": lambda network: setattr(network.conv3, "weight", nn.Parameter(network.conv3.weight * 2)),
    "a shape": lambda network: setattr(network, "fc", nn.Linear(5, 4, bias=False)),
}


@pytest.fixture(scope="module")
def captured() -> Captured:
    return capture(randomised(Pieces()), IMAGES)


@pytest.fixture
def captures(captured: Captured, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Each network that is captured; what it gives is always the same, since exporting takes most of the time."""
    networks: list[nn.Module] = []
    monkeypatch.setattr(
        "modeldoctor.graph.captured_once.capture", lambda network, _: networks.append(network) or captured
    )
    return networks


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_is_captured_anew(captures: list[nn.Module], change: str) -> None:
    network = randomised(Pieces())
    for _ in range(2):
        capture_once(network, IMAGES)
    assert len(captures) == 1
    CHANGES[change](network)
    for _ in range(2):
        capture_once(network, IMAGES.double() if change == "the type" else IMAGES)
    assert len(captures) == 2


def test_a_change_that_shows_in_the_logits_is_in_the_new_capture() -> None:
    network = randomised(Pieces())
    assert_own_logits(network)
    network.slope, network.loose = 0.7, torch.ones(4)
    network.conv3.weight = nn.Parameter(network.conv3.weight * 2)
    assert_own_logits(network)


def test_other_images_or_another_network_are_captured_anew(captures: list[nn.Module]) -> None:
    one, other = randomised(Pieces()), randomised(Pieces())
    for network, images in ((one, IMAGES), (one, IMAGES[:, :, 1:]), (other, IMAGES)):
        capture_once(network, images)
    assert captures == [one, one, other]


def test_what_is_kept_holds_no_network_and_no_weights() -> None:
    network = randomised(Pieces())
    capture_once(network, IMAGES)
    gone = [weakref.ref(network), *map(weakref.ref, network.parameters())]
    kept = _KEPT[network][1].state.values()
    assert [tensor.tolist() for tensor in kept] == [[0.25] * 4]  # a constant of the graph alone
    del network
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)
