"""Eq. 5 and 6 against loops written from the formula, and their gradients against finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.spatial
import scipy.special
import timm
import torch
import torchvision
from networks import Branched, Dense, Pooled, randomised, small_densenet, small_googlenet, small_swin
from torch import Tensor, nn

from modeldoctor.graph import Cut, select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.constraints import background_cells, channel_constraint, keep_term, runner_up, space_constraint
from modeldoctor.runtime.memory import BatchLimit

LABELS = torch.tensor([0, 3, 1, 2])
BOTH = list(Attribution)


def setting(kind: type[nn.Module]) -> tuple[nn.Module, TrainableNetwork, Tensor]:
    torch.manual_seed(1)
    network = randomised(kind()).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the statistics are constants to the gradient, so they must be to the differences
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    return network, TrainableNetwork(network, images), images


def noise_like(maps: Tensor, draws: int) -> Tensor | None:
    generator = torch.Generator().manual_seed(0)
    shape = (draws * len(maps), *maps.shape[1:])
    return 0.3 * torch.randn(shape, generator=generator, dtype=maps.dtype) if draws else None


def losses(
    network: nn.Module,
    trainable: TrainableNetwork,
    images: Tensor,
    draws: int,
    attribution: Attribution,
    rows: int = 99,
):
    """Both constraints of each image, (B,) each, and what they were made of."""
    logits, (cut,) = trainable.training_pass(images, select_layers(trainable.layers, network.layer))
    second = runner_up(logits, LABELS[: len(images)])
    classes = torch.stack([LABELS[: len(images)], second])
    of_label, of_second = attributed(cut, classes, draws, attribution, rows)
    generator = torch.Generator().manual_seed(2)
    correlated = torch.rand(of_label.shape[:2], generator=generator) < 0.5
    background = (torch.rand(cut.maps[:, 0].shape, generator=generator) < 0.5).double()
    channel = channel_constraint(of_label, of_second, correlated)
    return channel, space_constraint(of_label, background, attribution), cut, second, correlated, background


def attributed(cut: Cut, classes: Tensor, draws: int, kind: Attribution, rows: int = 99) -> Tensor:
    """(S,B,K,H,W)."""
    return attribute(cut, classes, noise_like(cut.maps, draws), {kind: len(classes)}, BatchLimit(rows))[kind]


# Of three draws of four images: all at once, two and one, one at a time.
@pytest.mark.parametrize("rows", [99, 8, 1])
@pytest.mark.parametrize("kind", [Pooled, Dense, Branched])
@pytest.mark.parametrize("draws", [0, 3])
@pytest.mark.parametrize("attribution", BOTH)
def test_equals_a_loop_written_from_the_formula(
    kind: type[nn.Module], draws: int, attribution: Attribution, rows: int
) -> None:
    network, trainable, images = setting(kind)
    channel, space, cut, second, correlated, background = losses(network, trainable, images, draws, attribution, rows)
    noise = noise_like(cut.maps, draws)
    for b in range(len(images)):
        terms = []
        for n in (LABELS[b], second[b]):
            total = torch.zeros_like(cut.maps[b])
            for j in range(max(draws, 1)):
                maps = cut.maps.detach() + (noise.view(-1, *cut.maps.shape)[j] if noise is not None else 0)
                jacobian = torch.autograd.functional.jacobian(lambda m, n=n, b=b: cut.head(m)[b, n], maps)[b]
                product = maps[b] if attribution is Attribution.GRADIENT_X_ACTIVATION else 1
                total += (jacobian * product).abs() / max(draws, 1)
            terms.append(total.detach())
        kernels, (height, width) = range(terms[0].shape[0]), terms[0].shape[1:]
        wanted = sum(float(terms[0][k].sum()) for k in kernels if not correlated[b, k])
        wanted += sum(float(terms[1][k].sum()) for k in kernels)
        assert channel[b].item() == pytest.approx(wanted, rel=1e-9)
        outside = sum(
            float(background[b, h, w]) * float(terms[0][k, h, w])
            for k in kernels
            for h in range(height)
            for w in range(width)
        )
        if attribution is Attribution.GRADIENT_X_ACTIVATION:
            outside /= float(terms[0].sum())
        assert space[b].item() == pytest.approx(outside, rel=1e-9)


@pytest.mark.parametrize("kind", [Pooled, Dense, Branched])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("attribution", BOTH)
@pytest.mark.parametrize("rows", [99, 8, 4])
def test_gradients_in_the_weights_equal_finite_differences(
    kind: type[nn.Module], which: int, attribution: Attribution, rows: int
) -> None:
    network, trainable, images = setting(kind)

    def loss() -> Tensor:
        return losses(network, trainable, images, 3, attribution, rows)[which].mean()

    loss().backward()
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    generator = torch.Generator().manual_seed(4)
    directions = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in parameters]
    slope = sum(float((one.grad * way).sum()) for one, way in zip(parameters, directions, strict=True))

    def moved(step: float) -> float:
        with torch.no_grad():
            for one, way in zip(parameters, directions, strict=True):
                one.add_(way, alpha=step)
            value = loss()
            for one, way in zip(parameters, directions, strict=True):
                one.sub_(way, alpha=step)
        return float(value)

    step = 1e-6
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-4)
    assert abs(slope) > 1e-6


@pytest.mark.parametrize("kind", [Dense, Branched])
def test_each_image_has_its_own_value_whatever_the_batch(kind: type[nn.Module]) -> None:
    network, trainable, images = setting(kind)  # no BatchNorm: the pass itself does not mix images
    together = losses(network, trainable, images, 0, Attribution.GRADIENT)
    layer = select_layers(trainable.layers, network.layer)
    for b in range(len(images)):
        _, (cut,) = trainable.training_pass(images[b : b + 1], layer)
        classes = torch.stack([LABELS[b : b + 1], together[3][b : b + 1]])
        of_label, of_second = attributed(cut, classes, 0, Attribution.GRADIENT)
        alone = channel_constraint(of_label, of_second, together[4][b : b + 1])
        torch.testing.assert_close(alone[0], together[0][b])


def test_nothing_constrained_is_zero() -> None:
    network, trainable, images = setting(Dense)
    _, (cut,) = trainable.training_pass(images, select_layers(trainable.layers, network.layer))
    (values,) = attributed(cut, LABELS[None], 0, Attribution.GRADIENT)
    everything = torch.ones(values.shape[:2], dtype=torch.bool)
    assert (channel_constraint(values, torch.zeros_like(values), everything) == 0).all()
    assert (space_constraint(values, torch.zeros_like(values[:, 0]), Attribution.GRADIENT) == 0).all()
    nothing = torch.zeros_like(values)
    share = space_constraint(nothing, torch.ones_like(values[:, 0]), Attribution.GRADIENT_X_ACTIVATION)
    assert (share == 0).all()


def test_the_keep_term_is_its_formula() -> None:
    rng = np.random.default_rng(3)
    after, before = rng.normal(size=(2, 6, 5))
    evidence, evidence_before = rng.random((2, 6, 4, 3))
    evidence_before[0] = 0  # nothing to be moved from
    found = keep_term(*(torch.from_numpy(array) for array in (after, before, evidence, evidence_before)))
    for b in range(6):
        divergence = scipy.special.rel_entr(scipy.special.softmax(before[b]), scipy.special.softmax(after[b])).sum()
        was = evidence_before[b] / max(evidence_before[b].sum(), 1e-300)
        moved = scipy.spatial.distance.cityblock((evidence[b] / evidence[b].sum()).ravel(), was.ravel()) / 2
        assert float(found[b]) == pytest.approx(divergence + moved)
    same = keep_term(*(torch.from_numpy(array) for array in (after, after, evidence, 3 * evidence)))
    torch.testing.assert_close(same, torch.zeros(6, dtype=torch.float64))


def test_runner_up_is_the_best_other_class() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, -1.0, -2.0]])
    assert runner_up(logits, torch.tensor([0, 2, 1])).tolist() == [1, 0, 0]


def test_background_is_where_every_pixel_is_far_from_the_object() -> None:
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, 5, 5] = True
    assert background_cells(mask, 0, (4, 4))[0].tolist() == [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    # Grown by one pixel it covers rows and columns 4-6, and so touches four cells.
    assert background_cells(mask, 1, (4, 4))[0].tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert background_cells(mask, 12, (4, 4)).sum() == 0


def vision(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=4, **options)


MOVED = {
    "resnet": vision("resnet18"),
    "densenet": lambda: small_densenet(4),
    "googlenet": lambda: small_googlenet(4, aux_logits=False),
    "squeezenet": vision("squeezenet1_1"),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=4),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=4),
    "swin": lambda: small_swin(4),
}


@pytest.fixture(scope="module", params=MOVED)
def moved(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, TrainableNetwork]:
    """What is captured of a network once is for all attributions."""
    torch.manual_seed(0)
    network, images = randomised(MOVED[request.param]()), torch.randn(2, 3, 64, 64)
    return network, images, TrainableNetwork(network, images)


@pytest.mark.parametrize(("attribution", "rows"), [*zip(BOTH, (99, 99), strict=True), (BOTH[1], 2)])
def test_a_penalty_moves_weights(
    moved: tuple[nn.Module, Tensor, TrainableNetwork], attribution: Attribution, rows: int
) -> None:
    network, images, trainable = moved
    network.zero_grad()
    _, (cut,) = trainable.training_pass(images, select_layers(trainable.layers, "last"))
    (values,) = attributed(cut, torch.tensor([[0, 1]]), 2, attribution, rows)
    left = torch.zeros(cut.maps[:, 0].shape)
    left[:, :, : max(1, left.shape[-1] // 2)] = 1
    (
        space_constraint(values, left, attribution).mean()
        + channel_constraint(values, values, values.sum((2, 3)) < 0).mean()
    ).backward()
    found = [key for key, one in network.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0]
    # Behind a pooled linear head the plain gradient reaches the head's weights alone.
    assert len(found) > (0 if attribution is Attribution.GRADIENT else 10)
