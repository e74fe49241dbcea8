"""Masks in the wrong place keep their size."""

from __future__ import annotations

import torch

from modeldoctor.treatment.masks import random_masks


def test_random_masks_keep_their_size_and_lose_their_place() -> None:
    masks = torch.zeros(6, 16, 16, dtype=torch.bool)
    masks[:, 4:8, 4:10] = True
    moved = random_masks(masks, range(6), 0)
    assert moved.sum((1, 2)).tolist() == [24] * 6
    assert len({tuple(one.flatten().tolist()) for one in moved}) > 3
    assert torch.equal(moved[4:], random_masks(masks[4:], range(4, 6), 0))  # however images are dealt out
    assert not torch.equal(moved, random_masks(masks, range(6), 1))
    assert random_masks(masks[:0], (), 0).shape == (0, 16, 16)
