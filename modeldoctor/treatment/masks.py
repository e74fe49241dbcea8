"""Masks of the right size in the wrong place: what the control arm `random-mask` constrains.

Shapes: B images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def random_masks(masks: Tensor, keys: Sequence[int], seed: int) -> Tensor:
    """Every mask of a batch rolled by a random offset, so that its size and shape stay and its place means nothing.

    Args:
        masks: (B,H,W) bool.
        keys: for each image, with the seed, all that its offset depends on.
        seed: of the offsets.
    """
    height, width = masks.shape[-2:]
    moved = [
        mask.roll(np.random.default_rng([seed, key]).integers((height, width)).tolist(), (0, 1))
        for mask, key in zip(masks, keys, strict=True)
    ]
    return torch.stack(moved) if moved else masks
