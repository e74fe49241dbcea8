"""Pictures of wrong images that a diagnosis keeps for people: a few with maps, and small ones of every class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A few wrong images with maps of where the evidence lies; P images, h x w pixels, H x W cells.

    Attributes:
        layer: where the maps were taken.
        sample: (P,), rows in `Samples`.
        thumbnail: (P,h,w,3) uint8, what the network saw, in its own colours.
        derivative: (P,H,W), Σ_k |∂y_p/∂m_k| of the predicted class p, averaged over noise draws.
        contribution: (P,H,W), the same of |∂y_p/∂m_k · m_k|.
        grad_cam: (P,H,W), Grad-CAM of p (Selvaraju et al. 2017), without noise.
    """

    layer: str
    sample: Ints
    thumbnail: NDArray[np.uint8]
    derivative: Floats
    contribution: Floats
    grad_cam: Floats


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Wrong images of every class; P images, h x w pixels.

    Attributes:
        sample: (P,), rows in `Samples`.
        thumbnail: (P,h,w,3) uint8, what the network saw, in its own colours.
    """

    sample: Ints
    thumbnail: NDArray[np.uint8]
