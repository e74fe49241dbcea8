"""Maps against captum's Grad-CAM and plain autograd; the share of background against counting pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from conftest import Clinic
from torch import Tensor, nn

from modeldoctor.graph import HookedNetwork
from modeldoctor.method.maps import background_share, image_maps, thumbnails
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit

LAYER = "layer3.0.conv3"


@pytest.fixture(scope="module")
def case(clinic: Clinic) -> tuple[nn.Module, Tensor, Tensor]:
    network, (_, images, labels) = clinic.network(), clinic.images("val")
    return network, images[::8], labels[::8]


def test_grad_cam_is_captum_s_and_maps_are_autograd_s(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, classes = case
    hooked = HookedNetwork(network, images)
    (layer,) = [one for one in hooked.layers if one.name == LAYER]
    (cut,) = hooked.cuts(images, [layer])
    found = image_maps(cut, classes, range(5), noise=Noise(seed=0, delta=0.1), draws=0, rows=BatchLimit(8))
    cam = LayerGradCam(network, network.get_submodule(LAYER)).attribute(images, classes, relu_attributions=True)
    torch.testing.assert_close(found.grad_cam, cam[:, 0].detach(), rtol=1e-4, atol=1e-6)
    assert found.grad_cam.max() > 0
    for i in range(5):
        kept: list[Tensor] = []
        handle = network.get_submodule(LAYER).register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
        logit = network(images[i : i + 1])[0, classes[i]]
        handle.remove()
        (gradient,) = torch.autograd.grad(logit, kept[0])
        torch.testing.assert_close(found.derivative[i], gradient[0].abs().sum(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.contribution[i], (gradient * kept[0])[0].abs().sum(0), rtol=1e-4, atol=1e-6)


def test_the_share_of_background_counts_cells_by_how_much_of_them_is_background() -> None:
    evidence = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2, :2] = True  # the first cell is all object
    mask[2, 2] = True  # a quarter of the last
    assert background_share(evidence, mask) == pytest.approx((2 + 3 + 4 * 0.75) / 10)
    assert math.isnan(background_share(evidence, None))
    assert math.isnan(background_share(torch.zeros(2, 2), mask))


def test_a_thumbnail_has_the_picture_s_own_colours() -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 6), generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    images = (pixels / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    np.testing.assert_array_equal(thumbnails(images, mean, std), pixels.permute(0, 2, 3, 1).numpy())
    grey = thumbnails(images[:, :1], mean[:1], std[:1])
    assert grey.shape == (2, 8, 6, 3)
    assert (grey[..., 0] == grey[..., 2]).all()


def test_large_pictures_become_small_ones_of_the_same_shape() -> None:
    assert thumbnails(torch.zeros(1, 3, 640, 320), (0.5,) * 3, (1.0,) * 3).shape == (1, 160, 80, 3)
