"""`augment` against shifts and flips made by hand; training is repeatable and learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Clinic
from torch import Tensor, nn

from modeldoctor import load_model
from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import open_data
from modeldoctor.demo.training import augment, classifier_checkpoint, fit_classifier, load_all


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted(image: Tensor, down: int, right: int, mirrored: bool) -> Tensor:
    """Every pixel on its own: clamp to the edge; the mirror is applied last."""
    _, height, width = image.shape
    new = torch.empty_like(image)
    for y in range(height):
        for x in range(width):
            from_x = width - 1 - x if mirrored else x
            new[:, y, x] = image[:, min(max(y - down, 0), height - 1), min(max(from_x - right, 0), width - 1)]
    return new


def test_each_image_is_one_shift_of_itself_and_all_shifts_occur() -> None:
    images = torch.rand(200, 2, 5, 7, generator=generator(1))
    seen = set()
    for image, result in zip(images, augment(images, shift=1, flip=False, generator=generator()), strict=True):
        fits = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if torch.equal(result, shifted(image, y, x, False))]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 9


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(200, 1, 4, 6, generator=generator(1))
    flips = 0
    for image, result in zip(images, augment(images, shift=2, flip=True, generator=generator()), strict=True):
        fits = [
            mirrored
            for mirrored in (False, True)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if torch.equal(result, shifted(image, y, x, mirrored))
        ]
        assert len(fits) == 1
        flips += fits[0]
    assert 70 < flips < 130


def test_without_shift_and_flip_images_stay_as_they_are() -> None:
    images = torch.rand(3, 3, 4, 4)
    result = augment(images, shift=0, flip=False, generator=generator())
    assert torch.equal(result, images)
    assert result.is_contiguous()


def fit(seed: int, epochs: int = 4, **options: object) -> tuple[nn.Module, float, list[tuple[str, int, int]]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    labels = torch.arange(40) % 2
    images = torch.randn(40, 1, 8, 8, generator=generator(3)) * 0.3 + labels[:, None, None, None]
    told: list[tuple[str, int, int]] = []
    loss = fit_classifier(
        network, images, labels, epochs=epochs, batch_size=16, learning_rate=0.1, weight_decay=0.0, seed=seed,
        shift=1, flip=True, progress=lambda *what: told.append(what),
    )  # fmt: skip
    return network, loss, told


def test_training_is_the_same_under_a_seed() -> None:
    (one, loss, _), (again, same_loss, _), (other, _, _) = fit(5), fit(5), fit(6)
    weights = [torch.cat([tensor.flatten() for tensor in network.parameters()]) for network in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert loss == same_loss
    assert not torch.equal(weights[0], weights[2])


def test_training_reduces_the_loss_and_leaves_eval_mode() -> None:
    network, loss, told = fit(0, epochs=15)
    assert loss < 0.3 < 0.69 < fit(0, epochs=1)[1] + 0.05
    assert not network.training
    assert told[0] == ("train", 1, 30)
    assert told[-1] == ("train", 30, 30)


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    loss = fit_classifier(
        network, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]), epochs=2, batch_size=16, learning_rate=0.1,
        weight_decay=0.0, seed=0, shift=0, flip=False,
    )  # fmt: skip
    assert np.isfinite(loss)


def test_a_whole_split_is_loaded_as_it_was_drawn(clinic: Clinic) -> None:
    preprocessing = load_model(clinic.checkpoint).preprocessing
    images, labels = load_all(open_data(clinic.data, preprocessing=preprocessing)["val"])
    _, expected, expected_labels = clinic.images("val")
    torch.testing.assert_close(images, expected)
    assert torch.equal(labels, expected_labels)


def test_its_checkpoint_loads_without_options(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> None:
    network = clinic.network()
    preprocessing = Preprocessing(
        input_size=(3, 32, 32), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bilinear", crop_pct=0.9
    )
    content = classifier_checkpoint(
        network, arch="test_resnet", class_names=["a", "b", "c", "d"], preprocessing=preprocessing,
        recipe={"epochs": 1, "batch_size": 2, "learning_rate": 0.1, "weight_decay": 0.0, "seed": 0},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("trained") / "x.pt"
    torch.save(content, path)
    loaded = load_model(path)
    assert (loaded.arch, loaded.class_names, loaded.notes) == ("timm/test_resnet", ("a", "b", "c", "d"), ())
    assert loaded.preprocessing == preprocessing
    images = torch.randn(2, 3, 32, 32, generator=generator())
    with torch.no_grad():
        assert torch.equal(loaded.module(images), network(images))
