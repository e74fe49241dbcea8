"""Training pictures against translations, mirrors and crops made by hand; their masks go the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import Augmentation, make_transform

HEIGHT, WIDTH = 12, 20


def preprocessing(**changes: Any) -> Preprocessing:
    usual = {"input_size": (3, HEIGHT, WIDTH), "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "nearest"}
    return Preprocessing(**(usual | changes))


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def outline() -> Tensor:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[3:8, 2:9] = True
    return mask


def painted(mask: Tensor) -> Image.Image:
    """A picture that is white where its mask is."""
    return Image.fromarray((mask[..., None].expand(-1, -1, 3) * 255).numpy().astype(np.uint8))


def moved(image: Tensor, down: int, right: int) -> Tensor:
    rows = (torch.arange(HEIGHT) - down).clamp(0, HEIGHT - 1)
    columns = (torch.arange(WIDTH) - right).clamp(0, WIDTH - 1)
    return image[:, rows][:, :, columns]


def test_a_shift_is_one_of_the_translations_and_all_occur() -> None:
    augmentation, plain = Augmentation(preprocessing=preprocessing(), shift=0.1), make_transform(preprocessing())
    image, _ = plain(picture())
    seen = set()
    for seed in range(80):
        result, _ = augmentation(picture(), None, seed)
        # A tenth of 12 and of 20 pixels.
        fits = [(y, x) for y in (-1, 0, 1) for x in (-2, -1, 0, 1, 2) if torch.equal(result, moved(image, y, x))]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 15


def test_half_of_the_pictures_are_mirrored() -> None:
    augmentation, plain = Augmentation(preprocessing=preprocessing(), flip=True), make_transform(preprocessing())
    image, _ = plain(picture())
    mirrored = 0
    for seed in range(100):
        result, _ = augmentation(picture(), None, seed)
        assert torch.equal(result, image) != torch.equal(result, image.flip(2))
        mirrored += torch.equal(result, image.flip(2))
    assert 30 < mirrored < 70


@pytest.mark.parametrize(
    "options", [{"shift": 0.2}, {"flip": True}, {"shift": 0.3, "flip": True, "color_jitter": 0.3}], ids=str
)
def test_a_mask_stays_on_its_object(options: dict[str, Any]) -> None:
    augmentation = Augmentation(preprocessing=preprocessing(), **options)
    for seed in range(20):
        image, mask = augmentation(painted(outline()), outline(), seed)
        assert mask is not None
        assert mask.dtype == torch.bool
        assert torch.equal(image[0] > 0.3, mask)


def test_a_mask_stays_on_its_object_in_a_random_crop() -> None:
    augmentation = Augmentation(preprocessing=preprocessing(input_size=(3, 60, 100)), scale=0.3, flip=True)
    large = F.interpolate(outline()[None, None].float(), size=(120, 200))[0, 0] > 0
    areas = set()
    for seed in range(20):
        image, mask = augmentation(painted(large), large, seed)
        assert mask is not None
        # Picture and mask are sampled in different ways, which may differ by a pixel at the edges.
        grown, shrunk = (F.max_pool2d(sign * mask[None].float(), 3, 1, 1)[0] * sign > 0.5 for sign in (1, -1))
        assert (shrunk <= (image[0] > 0.5)).all()
        assert ((image[0] > 0.5) <= grown).all()
        areas.add(int(mask.sum()))
    assert len(areas) > 10


def test_without_options_it_is_the_evaluation_transform() -> None:
    settings = preprocessing(input_size=(3, 8, 8), interpolation="bicubic", crop_pct=0.9, mean=(0.5,) * 3)
    image, mask = Augmentation(preprocessing=settings)(picture(), outline(), 3)
    wanted, wanted_mask = make_transform(settings)(picture(), outline())
    assert torch.equal(image, wanted)
    assert mask is not None
    assert wanted_mask is not None
    assert torch.equal(mask, wanted_mask)


def test_colours_change_and_geometry_does_not() -> None:
    augmentation = Augmentation(preprocessing=preprocessing(), color_jitter=0.5)
    grey = Image.new("RGB", (WIDTH, HEIGHT), (100, 100, 100))
    values = set()
    for seed in range(20):
        image, _ = augmentation(grey, None, seed)
        assert (image == image[0, 0, 0]).all()
        values.add(round(float(image[0, 0, 0]), 4))
    assert len(values) > 10
    assert max(values) <= 1.5 * 1.5 * 100 / 255 + 0.01


def test_the_share_of_pictures_that_are_erased_lose_a_rectangle() -> None:
    augmentation = Augmentation(preprocessing=preprocessing(mean=(0.2,) * 3), erase=0.5)
    white = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
    erased = 0
    for seed in range(100):
        image, _ = augmentation(white, None, seed)
        gone = (image == 0).all(0)
        rows, columns = gone.any(1).sum(), gone.any(0).sum()
        assert int(gone.sum()) == int(rows * columns)
        erased += bool(gone.any())
    assert 30 < erased < 70


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    augmentation = Augmentation(preprocessing=preprocessing(), shift=0.2, flip=True, color_jitter=0.2, erase=0.5)
    torch.manual_seed(0)
    one, _ = augmentation(picture(), None, 5)
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    other, _ = augmentation(picture(), outline(), 5)
    assert torch.equal(one, other)
    torch.manual_seed(0)
    assert torch.equal(torch.random.get_rng_state(), state)
