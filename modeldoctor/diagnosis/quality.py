"""How an image looks, whatever it shows: five figures that damage changes.

Shapes: B images, C channels, h x w pixels, Q figures, R reference images.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d

from modeldoctor.config.diagnose import Preprocessing

_TAILS = ((0, -1), (0, 1), (1, -1), (2, -1), (3, 1), (4, 1))
"""For each of `verdicts.DAMAGES`, which figure it is of, and in which direction."""
_LEAST_REFERENCES = 120
"""Beyond all of fewer references an image lies in one of the six by chance in more than 5% of cases: 6 / (R + 1)."""
_GRID = 8  # pixels, the block of a JPEG
_LEAST = 1e-4  # of what is 0 in a flat image, before its logarithm
# The second derivative both ways cancels whatever is locally straight, edges too, and leaves noise (Immerkaer 1996).
_NOISE = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])


def image_quality(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Brightness, contrast, log sharpness, log noise, log blockiness, (B,5), of the grey image as the network sees it.

    Args:
        images: (B,C,h,w), preprocessed.
        preprocessing: how they were, so that figures are those of pixels in [0, 1].

    Sharpness is the standard deviation of the Laplacian, noise Immerkaer's estimate from the median, blockiness how
    much larger the steps at every eighth pixel are than the others.
    """
    mean, std = (torch.tensor(part).to(images)[:, None, None] for part in (preprocessing.mean, preprocessing.std))
    grey = (images * std + mean).float().mean(1)
    if min(grey.shape[1:]) < 3:
        return torch.full((len(grey), 5), math.nan, device=images.device)
    laplacian = (
        4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    )
    rough = _medians(conv2d(grey[:, None], _NOISE.to(grey)[None, None]).abs().flatten(1))
    return torch.stack(
        [
            grey.flatten(1).mean(1),
            _deviations(grey),
            (_deviations(laplacian) + _LEAST).log(),
            (rough * math.sqrt(math.pi / 2) / 6 + _LEAST).log(),
            _blockiness(grey) + _blockiness(grey.transpose(1, 2)),
        ],
        dim=1,
    )


def _deviations(values: Tensor) -> Tensor:
    """(B,) standard deviations of (B,H,W); `std` takes four times as long on a CPU."""
    return (values - values.mean((1, 2), keepdim=True)).square().mean((1, 2)).sqrt()


def _medians(values: Tensor) -> Tensor:
    """(B,) of (B,P), the lower of two; CUDA has no repeatable operation for it, and sorting takes 50 times as long."""
    middle = (values.shape[1] - 1) // 2
    return torch.from_numpy(np.partition(values.cpu().numpy(), middle, axis=1)[:, middle]).to(values.device)


def _blockiness(grey: Tensor) -> Tensor:
    """Log ratio of the steps over the grid's columns to all other steps, (B,); 0 without a whole block."""
    steps = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean(1)
    at_grid = torch.arange(steps.shape[1], device=grey.device) % _GRID == _GRID - 1
    if not at_grid.any():
        return torch.zeros(len(grey), device=grey.device)
    return ((steps[:, at_grid].mean(1) + _LEAST) / (steps[:, ~at_grid].mean(1) + _LEAST)).log()


def damage_of(quality: NDArray[np.float32], references: NDArray[np.float32]) -> tuple[list[float], list[int]]:
    """How far each image lies outside of what references look like, and in which of `verdicts.DAMAGES`.

    Args:
        quality: (B,5).
        references: (R,5).

    Returns:
        1 less the share of references that are at least as extreme in the figure and direction that is most so; and
        that figure and direction. NaN and 0 with fewer references than tell the extreme from the usual.
    """
    if len(references) < _LEAST_REFERENCES:
        return [math.nan] * len(quality), [0] * len(quality)
    tails = np.stack(
        [
            np.where(
                np.isnan(quality[:, figure]),
                1.0,
                np.mean(sign * references[None, :, figure] >= sign * quality[:, None, figure], axis=1),
            )
            for figure, sign in _TAILS
        ],
        axis=1,
    )
    return (1 - tails.min(axis=1)).tolist(), tails.argmin(axis=1).tolist()
