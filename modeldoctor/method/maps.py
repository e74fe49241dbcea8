"""Where in an image the evidence for a class lies, as maps of one layer; and the image itself, small.

Shapes: B images, C channels, h x w pixels, K kernels, H x W positions of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from modeldoctor.graph import Cut
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit

THUMBNAIL_EDGE = 160
"""Pixels: the longer edge of a thumbnail is at most this."""


class ImageMaps(NamedTuple):
    """Maps of each image for one class of it, each (B,H,W) on the CPU.

    Attributes:
        derivative: Σ_k |∂y/∂m_k|, averaged over noise draws.
        contribution: Σ_k |∂y/∂m_k · m_k|, averaged over noise draws.
        grad_cam: Grad-CAM, without noise.
    """

    derivative: Tensor
    contribution: Tensor
    grad_cam: Tensor


def image_maps(
    cut: Cut, classes: Tensor, keys: Sequence[int], *, noise: Noise, draws: int, rows: BatchLimit
) -> ImageMaps:
    """All maps of a batch at one layer; arguments as in `correlate_samples`."""
    found = correlate_samples(cut, classes, keys, noise=noise, draws=draws, rows=rows)
    return ImageMaps(found.derivative_map.cpu(), found.contribution_map.cpu(), grad_cam(cut, classes).cpu())


def grad_cam(cut: Cut, classes: Tensor) -> Tensor:
    """(B,H,W), ReLU(Σ_k mean_hw(∂y/∂m_k) · m_k) for each image's class (Selvaraju et al. 2017, Eq. 1 and 2).

    Args:
        cut: the layer, with a network behind it that does not mix images.
        classes: (B,).
    """
    maps = cut.maps.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(cut.head(maps).gather(1, classes[:, None]).sum(), maps)
    return F.relu((gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1))


def background_share(evidence: Tensor, mask: Tensor | None) -> float:
    """Share of a map (H,W) that lies outside the object; a cell counts by how much of it is background.

    Args:
        evidence: not negative.
        mask: (h,w) bool, True on the object; None gives NaN.
    """
    if mask is None:
        return float("nan")
    outside = F.adaptive_avg_pool2d((~mask)[None, None].to(evidence), (evidence.shape[0], evidence.shape[1]))[0, 0]
    total = float(evidence.sum())
    return float((evidence * outside).sum()) / total if total > 0 else float("nan")


def thumbnails(
    images: Tensor, mean: Sequence[float], std: Sequence[float], edge: int = THUMBNAIL_EDGE
) -> NDArray[np.uint8]:
    """(B,h,w,3) RGB of preprocessed images (B,C,h,w), no larger than an edge.

    Args:
        images: as the network takes them.
        mean, std: of their preprocessing, a value a channel.
        edge: pixels of the longer side, at most.
    """
    shape = (1, -1, 1, 1)
    pixels = images.cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    if (longest := max(pixels.shape[2:])) > edge:
        size = [max(1, round(side * edge / longest)) for side in pixels.shape[2:]]
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
    return np.asarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
