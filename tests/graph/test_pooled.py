"""The closed form behind a pooled linear head against the general path, in float64; and bfloat16 against float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import timm
import torch
import torchvision
from networks import Branched, Dense, randomised, small_densenet
from torch import Tensor, nn

from modeldoctor.graph import Cut, CutNetwork, open_network, select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method import attribution
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit

POOLED: dict[str, Callable[[], nn.Module]] = {
    "a residual behind it": lambda: timm.create_model("test_resnet", num_classes=5),
    "a whole block": lambda: small_densenet(5),
    "an activation that is not piecewise linear": lambda: timm.create_model("test_efficientnet", num_classes=5),
}
GENERAL: dict[str, Callable[[], nn.Module]] = {
    "flattened": Dense,
    "another convolution": Branched,
    # As VGG has, of fewer kernels.
    "several linear layers": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(8 * 7 * 7, 16),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(16, 5),
    ),
    "tokens": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5),
}
LABELS = torch.tensor([0, 3, 1])


def setting(build: Callable[[], nn.Module], size: int = 64) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return randomised(build()).double(), torch.randn(3, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize("name", POOLED)
def test_the_closed_form_gives_the_correlations_of_the_general_path(name: str) -> None:
    network, images = setting(POOLED[name])
    opened = open_network(network, images[:2], "last")
    (cut,) = opened.cuts(images, select_layers(opened.layers, "last"))
    assert cut.pooled is not None
    noise = Noise(seed=0, delta=0.5 * float(cut.maps.std()))
    closed, general = (
        correlate_samples(one, LABELS, range(3), noise=noise, draws=3, rows=BatchLimit(6))
        for one in (cut, cut._replace(pooled=None))
    )
    for found, wanted in zip(closed, general, strict=True):
        torch.testing.assert_close(found, wanted)
        assert wanted.abs().max() > 0


@pytest.fixture(scope="module")
def trainable_of() -> Callable[[str], tuple[nn.Module, Tensor, TrainableNetwork]]:
    """A network, its images and what was captured of it, once for all tests; its weights are the tests' own."""

    @cache
    def made(name: str) -> tuple[nn.Module, Tensor, TrainableNetwork]:
        network, images = setting(POOLED[name])
        return network, images, TrainableNetwork(network, images)

    return made


@pytest.mark.parametrize(("name", "at_once"), [*((name, 2**22) for name in POOLED), ("a residual behind it", 1)])
@pytest.mark.parametrize("kind", list(Attribution))
def test_the_closed_form_gives_the_constraints_and_their_gradients(
    name: str, kind: Attribution, at_once: int, trainable_of: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attribution._AT_ONCE, "cpu", at_once)
    network, images, trainable = trainable_of(name)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    results = []
    for closed in (True, False):
        network.load_state_dict(state)
        network.zero_grad()
        _, (cut,) = trainable.training_pass(images, select_layers(trainable.layers, "last"))
        one: Cut = cut if closed else cut._replace(pooled=None)
        noise = Noise(seed=0, delta=0.5).draw("a", range(3), range(2), cut.maps)
        classes = torch.stack([LABELS, (LABELS + 1) % 5])
        values = attribute(one, classes, noise, {kind: 2}, BatchLimit(6))[kind]
        (values * torch.linspace(0, 1, values.shape[-1])).sum().backward()
        results.append([values.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 1
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("name", GENERAL)
def test_other_heads_have_no_closed_form(name: str) -> None:
    network, images = setting(GENERAL[name], 8 if GENERAL[name] in (Dense, Branched) else 64)
    opened = open_network(network, images[:2], "last")
    (cut,) = opened.cuts(images, select_layers(opened.layers, getattr(network, "layer", "last")))
    assert cut.pooled is None


def test_bfloat16_is_close_to_float32_and_its_sums_are_float32() -> None:
    torch.manual_seed(0)
    network, images = randomised(torchvision.models.resnet18(num_classes=5)), torch.randn(3, 3, 64, 64)
    figures = []
    for bfloat16 in (False, True):
        opened = open_network(network, images[:2], "layer2.1.conv1", bfloat16=bfloat16)
        assert isinstance(opened, CutNetwork)
        (cut,) = opened.cuts(images, select_layers(opened.layers, "layer2.1.conv1"))
        found = correlate_samples(cut, LABELS, range(3), noise=Noise(seed=0, delta=0.1), draws=2, rows=BatchLimit(6))
        assert {part.dtype for part in found} == {torch.float32}
        assert opened.logits(images).dtype == torch.float32
        figures.append(found.correlation)
    wanted, found = figures
    assert not torch.equal(found, wanted)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05
