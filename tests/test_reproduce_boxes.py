"""Fine-tuning by boxes, on pictures whose cause is known: a weak object on a background that misleads."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "reproduce"))

import boxes

SETTINGS = {"seed": 0, "epochs": 3, "batch_size": 16, "learning_rate": 0.05}


def pictures(size: int, seed: int, share: float) -> boxes.Pictures:
    """One channel of 2 x 2: the left column is the object (weak), the right one the background (strong)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    places = np.where(rng.random(size) < share, labels, 1 - labels)
    left, right = 0.5 * (2 * labels - 1), 2.0 * (2 * places - 1)
    images = np.stack([left, right, left, right], 1).reshape(size, 1, 2, 2) + rng.normal(0, 0.1, (size, 1, 2, 2))
    masks = np.zeros((size, 2, 2), dtype=bool)
    masks[:, :, 0] = True
    return boxes.Pictures(
        images=torch.from_numpy(images).float(), labels=torch.from_numpy(labels),
        groups=torch.from_numpy(2 * labels + places), masks=torch.from_numpy(masks), annotated=np.arange(0, size, 10),
    )  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture(scope="module")
def biased() -> boxes.Pictures:
    return pictures(400, 0, 1.0)


@pytest.mark.parametrize(
    ("method", "helps"), [("continued", False), ("background swapping", True), ("right reasons", True)]
)
def test_what_a_network_looks_at_is_mended_by_boxes(biased: boxes.Pictures, method: str, helps: bool) -> None:
    trained = boxes.fine_tune(method, network(), biased, pictures(200, 1, 0.5), **SETTINGS)
    reached = boxes.worst_group(trained, pictures(400, 2, 0.5))
    weight = trained[1].weight[1] - trained[1].weight[0]  # type: ignore[index]
    on_object, on_background = weight.view(2, 2).abs().sum(0).tolist()
    assert (reached > 0.9) == helps
    assert (4 * on_background < on_object) == helps  # the background's values are four times the object's


def test_input_gradients_are_those_of_finite_differences(biased: boxes.Pictures) -> None:
    net = network().double()
    images, labels, masks = biased.images[:3].double(), biased.labels[:3], biased.masks[:3]
    annotated = torch.tensor([True, False, True])
    expected, small = 0.0, 1e-6
    for row in (0, 2):
        for pixel in (1, 3):  # the background's
            moved = [images.clone(), images.clone()]
            for image, sign in zip(moved, (1, -1), strict=True):
                image[row].view(-1)[pixel] += sign * small
            up, down = (net(image)[row].log_softmax(0).sum() for image in moved)
            expected += ((up - down).item() / (2 * small)) ** 2 / 2
    plain = boxes.plain(net, images, labels, masks, annotated).item()
    loss = boxes.RightReasons()(net, images, labels, masks, annotated)
    assert loss.item() == pytest.approx(2 * plain, rel=1e-6)  # both parts weigh alike
    net.zero_grad()
    loss.backward()
    got = net[1].weight.grad.clone()
    # The same gradient from the penalty that finite differences give, which by hand is that of `expected`.
    net.zero_grad()
    inner = images.clone().requires_grad_()
    logs = net(inner).log_softmax(1)
    (gradient,) = torch.autograd.grad(logs[annotated].sum(), inner, create_graph=True)
    penalty = (gradient[annotated] ** 2).flatten(1)[:, [1, 3]].sum() / 2
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    (nn.functional.cross_entropy(net(images), labels) + penalty * plain / penalty.item()).backward()
    torch.testing.assert_close(got, net[1].weight.grad)


def test_annotated_objects_stand_on_others(biased: boxes.Pictures) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.clone())
            return torch.zeros(len(images), 2)

    images, annotated = biased.images[:4], torch.tensor([True, False, False, False])
    boxes.swapped(Spy(), images, biased.labels[:4], biased.masks[:4], annotated)
    assert torch.equal(seen[0][1:], images[1:])
    assert torch.equal(seen[0][0, :, :, 0], images[0, :, :, 0])
    assert torch.equal(seen[0][0, :, :, 1], images[3, :, :, 1])


def test_every_batch_has_its_share_of_annotated_images(biased: boxes.Pictures) -> None:
    found = boxes.batches(biased, 16, seed=1, epoch=2)
    assert len(found) == 400 // 12
    free = torch.cat([rows[4:] for rows, _ in found])
    assert len(free.unique()) == len(free)
    for rows, annotated in found:
        assert annotated.tolist() == [True] * 4 + [False] * 12
        assert set(rows[:4].tolist()) <= set(biased.annotated.tolist())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(found, boxes.batches(biased, 16, seed=1, epoch=2), strict=True))
