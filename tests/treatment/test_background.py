"""Each kernel's share of background against a loop over images, from the explicit derivative."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Dense, randomised
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import make_loader, open_data
from modeldoctor.graph import select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.treatment.background import background_shares
from modeldoctor.treatment.subsets import Subset


def test_equals_a_loop_over_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        for folder in ("images", "masks"):
            (tmp_path / folder / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(
                tmp_path / "images" / name / f"{number}.png"
            )
            mask = np.zeros((8, 8), np.uint8)
            mask[: 3 + number, 2:6] = 255
            Image.fromarray(mask).save(tmp_path / "masks" / name / f"{number}.png")
    preprocessing = Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    images = open_data(tmp_path / "images", preprocessing=preprocessing, masks=tmp_path / "masks")["all"]
    network = randomised(Dense())
    trainable = TrainableNetwork(network, torch.randn(2, 3, 8, 8))
    annotated = np.array([0, 1, 3, 4, 5, 10])  # none of the third class
    found = background_shares(
        trainable, select_layers(trainable.layers, "conv"), Subset(images=images, indices=np.arange(12)), annotated,
        classes=4, expand_px=0, batch_size=4, workers=0, device=torch.device("cpu"),
    )["conv"]  # fmt: skip

    (batch,) = make_loader(images, annotated, batch_size=12)
    outside, total = torch.zeros(4, 6), torch.zeros(4, 6)
    for image, label, mask in zip(batch.images, batch.labels, batch.masks or [], strict=True):
        assert mask is not None
        (maps,) = network.prefix(image[None])
        jacobian = torch.autograd.functional.jacobian(network.suffix, maps)[0, label]
        values = (jacobian * maps).abs()[0]
        for k in range(6):
            for h in range(3):
                for w in range(3):
                    # Adaptive pooling of 8 pixels into 3 cells: floor(8i/3) up to ceil(8(i+1)/3).
                    cell = mask[8 * h // 3 : -(-8 * (h + 1) // 3), 8 * w // 3 : -(-8 * (w + 1) // 3)]
                    outside[label, k] += values[k, h, w] * (not cell.any())
                    total[label, k] += values[k, h, w]
    wanted = (outside / total).detach().numpy()
    assert found.numpy() == pytest.approx(wanted, rel=1e-4, nan_ok=True)
    assert torch.isnan(found[2]).all()
    assert 0 < np.nanmin(wanted) < np.nanmax(wanted) < 1


def test_an_image_that_can_no_longer_be_read_counts_for_nothing(tmp_path: Path) -> None:
    """It is a batch of its own, which then holds none."""
    for folder in ("images/a", "masks/a"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(2):
            square = np.zeros((8, 8), dtype=np.uint8)
            square[2:6, 2 : 6 + number] = 255
            Image.fromarray(square).save(tmp_path / folder / f"{number}.png")
    preprocessing = Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    images = open_data(tmp_path / "images", preprocessing=preprocessing, masks=tmp_path / "masks")["all"]
    trainable = TrainableNetwork(randomised(Dense()), torch.randn(2, 3, 8, 8))
    layers, part = select_layers(trainable.layers, "conv"), Subset(images=images, indices=np.arange(2))

    def shares(annotated: list[int]) -> np.ndarray:
        found = background_shares(
            trainable, layers, part, np.array(annotated), classes=4, expand_px=0, batch_size=1, workers=0,
            device=torch.device("cpu"),
        )  # fmt: skip
        return found["conv"].numpy()

    alone = shares([1])
    (tmp_path / "images" / "a" / "0.png").unlink()
    np.testing.assert_array_equal(shares([0, 1]), alone)
    assert np.isfinite(alone[0]).any()
