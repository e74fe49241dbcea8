"""The order of images, and masks that move with their images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import open_data
from modeldoctor.treatment.batches import annotation_note, epoch_order, training_batches
from modeldoctor.treatment.subsets import Subset

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


def test_an_image_is_repeated_at_most_so_often_per_epoch() -> None:
    """100 images in 12 batches of 8: a quarter of each is 24 draws, of 4 images 6 each, unless they are fewer."""
    batches = order(most_repeats=4).reshape(-1, 8)
    assert batches.shape == (12, 8)
    as_any_other = set(INDICES.tolist())
    times = Counter(batches.ravel().tolist())
    assert all(
        4 <= times[index] <= 5 for index in ANNOTATED.tolist()
    )  # and once as any other, but for what is left over
    assert all(times[index] <= 1 for index in as_any_other - set(ANNOTATED.tolist()))
    assert {int(np.isin(batch[-2:], ANNOTATED).sum()) for batch in batches} == {1, 2}  # 16 draws in 12 batches
    for enough in (6, 100, None):
        assert order(most_repeats=enough).tolist() == order().tolist()


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
    config = TreatConfig(
        checkpoint="a.pt",
        data={"path": "b", "masks": "c"},
        space={"annotated_share": 0.5},
        training={"batch_size": 4, "augmentation": {"shift": 0.2, "flip": True}},
    )
    moved = 0
    for epoch in range(3):
        part = Subset(images=images, indices=np.arange(8))
        for batch in training_batches(part, np.arange(6), config, seed=0, epoch=epoch):
            white = batch.images[:, 0] > 0.5
            # In the places of the share alone, which are the last; 6 has a mask that is not to be used, 7 has none.
            assert batch.annotated.tolist() == [False, False, True, True]
            for mask, picture, annotated, key in zip(batch.masks, white, batch.annotated, batch.keys, strict=True):
                assert key < 6 or not annotated
                assert torch.equal(mask, picture) if annotated else not mask.any()
                moved += int(annotated)
    assert moved == 12


def made(squares: Path, **training: object) -> tuple[Subset, TreatConfig]:
    preprocessing = Preprocessing(input_size=(1, 32, 32), mean=(0.0,), std=(1.0,), interpolation="nearest")
    images = open_data(squares / "images", preprocessing=preprocessing, masks=squares / "masks")["all"]
    images.labels = np.arange(8) % 4
    still = {"batch_size": 8, "augmentation": {"shift": 0.0, "flip": False}}
    config = TreatConfig(
        checkpoint="a.pt", data={"path": "b", "masks": "c"}, space={"annotated_share": 0.25}, training=still | training
    )
    return Subset(images=images, indices=np.arange(8)), config


def test_the_note_says_how_many_are_annotated_and_how_often_they_come(squares: Path) -> None:
    """Of eight images, one is not annotated; an epoch is four batches of two, one of them drawn."""
    part, config = made(squares, batch_size=2)
    part.images.labels = np.zeros(8, dtype=np.int64)

    def note(**space: object) -> str:
        settings = config.space.model_copy(update={"annotated_share": 0.5, "annotated_per_class": 1, **space})
        return annotation_note(part, config.model_copy(update={"space": settings}))

    assert note() == (
        "annotated training images by class: a 7; in use: 1, at most 1 per class; repeats of each per epoch: 4"
    )
    assert note(most_repeats=3).endswith(
        "per epoch: 3, the most that space.most_repeats allows: they are 37.5% of each batch instead of 50%"
    )


def test_mixup_blends_the_images_without_annotation_and_leaves_the_others(squares: Path) -> None:
    part, config = made(squares, mixup=0.5)
    plain = {index: part.images[index].image for index in range(8)}  # type: ignore[union-attr]
    shares = set()
    for epoch in range(4):
        (batch,) = training_batches(part, np.array([0, 1]), config, seed=0, epoch=epoch)
        assert batch.annotated.any()
        for row, key in enumerate(batch.keys):
            share = float(batch.share[row])
            if batch.annotated[row]:
                assert share == 1
                assert torch.equal(batch.images[row], plain[key])
                continue
            shares.add(share)
            blends = [
                other for other in range(8)
                if torch.allclose(batch.images[row], share * plain[key] + (1 - share) * plain[other], atol=1e-6)
                and part.labels[other] == int(batch.other_labels[row])
            ]  # fmt: skip
            assert blends
    assert len(shares) == 4  # one a batch


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_labels_is_the_cross_entropy_of_their_distribution(squares: Path, smoothing: float) -> None:
    part, config = made(squares, mixup=0.5)
    (batch,) = training_batches(part, np.array([0, 1]), config, seed=0, epoch=0)
    logits = torch.randn(8, 4)
    own, other = (torch.nn.functional.one_hot(labels, 4).float() for labels in (batch.labels, batch.other_labels))
    wanted = (1 - smoothing) * (batch.share[:, None] * own + (1 - batch.share[:, None]) * other) + smoothing / 4
    expected = -(wanted * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(batch.loss(logits, smoothing), expected)


def test_workers_change_nothing(squares: Path) -> None:
    part, config = made(squares, augmentation={"shift": 0.1, "flip": True, "erase": 0.5})
    (one,) = training_batches(part, np.array([0, 1]), config, seed=0, epoch=0)
    (other,) = training_batches(part, np.array([0, 1]), config.model_copy(update={"workers": 2}), seed=0, epoch=0)
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.masks, other.masks)
    assert one.keys == other.keys
