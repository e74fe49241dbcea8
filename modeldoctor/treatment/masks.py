"""Masks of the right size in the wrong place: what the control arm `random-mask` constrains.

Shapes: B images, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_masks(masks: Tensor, seed: int) -> Tensor:
    """Every mask of a batch rolled by a random offset, so that its size and shape stay and its place means nothing.

    Args:
        masks: (B,H,W) bool.
        seed: all that the offsets depend on.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = masks.shape[-2:]
    rows = torch.randint(height, (len(masks),), generator=generator)
    columns = torch.randint(width, (len(masks),), generator=generator)
    moved = [mask.roll((int(row), int(column)), (0, 1)) for mask, row, column in zip(masks, rows, columns, strict=True)]
    return torch.stack(moved) if moved else masks
