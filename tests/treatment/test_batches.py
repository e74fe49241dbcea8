"""The order of images, and masks that move with their images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeldoctor.config import Preprocessing, TrainingConfig
from modeldoctor.data import open_data
from modeldoctor.treatment.batches import epoch_order, training_batches

INDICES = np.arange(100, 200)
ANNOTATED = np.array([100, 110, 120, 130])


def order(**changes: object) -> np.ndarray:
    usual = {"batch_size": 8, "share": 0.25, "seed": 0, "epoch": 0}
    return epoch_order(INDICES, ANNOTATED, **(usual | changes))


def test_every_batch_holds_its_share_of_annotated_images() -> None:
    batches = order().reshape(-1, 8)
    assert len(batches) == 12
    assert np.isin(batches[:, -2:], ANNOTATED).all()
    drawn = Counter(batches[:, -2:].ravel().tolist())
    assert set(drawn) == set(ANNOTATED.tolist())
    assert max(drawn.values()) - min(drawn.values()) <= 1
    free = Counter(batches[:, :-2].ravel().tolist())
    assert max(free.values()) == 1
    assert set(free) <= set(INDICES.tolist())


def test_without_a_share_every_image_comes_once() -> None:
    whole = order(share=0.0, batch_size=10)
    assert sorted(whole.tolist()) == INDICES.tolist()
    assert sorted(epoch_order(INDICES, ANNOTATED[:0], batch_size=10, share=0.5, seed=0, epoch=0)) == INDICES.tolist()


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert order().tolist() == order().tolist()
    assert order().tolist() != order(epoch=1).tolist()
    assert order().tolist() != order(seed=1).tolist()


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Black pictures with a white square, which is also their mask; one without a mask."""
    rng = np.random.default_rng(0)
    for number in range(8):
        picture = np.zeros((32, 32), dtype=np.uint8)
        row, column = rng.integers(4, 20, 2)
        picture[row : row + 8, column : column + 8] = 255
        for folder in ("images/a", "masks/a"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            if folder == "images/a" or number < 7:
                Image.fromarray(picture).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def test_masks_move_with_their_images(squares: Path) -> None:
    preprocessing = Preprocessing(input_size=(1, 32, 32), mean=(0.0,), std=(1.0,), interpolation="nearest")
    images = open_data(squares / "images", preprocessing=preprocessing, masks=squares / "masks")["all"]
    config = TrainingConfig(batch_size=4, shift=0.2, flip=True)
    moved = 0
    for epoch in range(3):
        for batch in training_batches(
            images, np.arange(8), np.arange(6), config, share=0.5, seed=0, epoch=epoch, workers=0
        ):
            white = batch.images[:, 0] > 0.5
            for mask, picture, annotated, key in zip(batch.masks, white, batch.annotated, batch.keys, strict=True):
                assert bool(annotated) == (key < 6)  # 6 has a mask that is not to be used, 7 has none
                assert torch.equal(mask, picture) if annotated else not mask.any()
                moved += int(annotated)
    assert moved >= 12
