"""What interventions make of a few wrong images, for people to look at; no torch, no network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WITHOUT_OBJECT, OTHER_BACKGROUND, OTHER_OBJECT = "object removed", "another background", "another object"
OWN_BACKGROUND = "a background of its class"
SMALLER, MIRRORED = SLIGHT = ("smaller and large again", "mirrored")
CHANGES = (
    WITHOUT_OBJECT, OTHER_BACKGROUND, "median filter", SMALLER, "shifted left", "shifted right", MIRRORED,
    "mirrored and shifted left", "mirrored and shifted right", OTHER_OBJECT, OWN_BACKGROUND,
)  # fmt: skip
"""What is done to an image; a file holds places in this tuple, those of older files included."""


@dataclass(frozen=True, kw_only=True)
class Altered:
    """Shown images as an intervention changed them, and what they are taken for then; A pictures, h x w pixels.

    Attributes:
        sample: (A,), rows in `Samples`.
        change: (A,), places in `CHANGES`.
        predicted: (A,), the class it is taken for.
        confidence: (A,), softmax of that class.
        picture: (A,h,w,3) uint8, what the network saw.
    """

    sample: NDArray[np.int32]
    change: NDArray[np.int32]
    predicted: NDArray[np.int32]
    confidence: NDArray[np.float32]
    picture: NDArray[np.uint8]
