"""Two frames of one picture: as its file stores it, and upright, as viewers show it by EXIF's orientation.

Networks see the stored frame, people annotate in the upright one. Shape letters: H and W, a picture's height and width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STORED = 1
"""The orientation of a picture that needs no turning."""
_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(picture: Image.Image) -> int:
    """EXIF's orientation (1 to 8) of an opened picture; 1 where Pillow itself turns the pixels, as it does for TIFF."""
    found = STORED if picture.format == "TIFF" else picture.getexif().get(_TAG, STORED)
    return found if found in _UPRIGHT else STORED


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of the upright picture, from those of the stored one."""
    return (size[1], size[0]) if orientation in _SIDEWAYS else size


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """Turn a stored picture as viewers show it."""
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def stored(mask: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    """Turn a mask of the upright picture into the stored frame: (H,W) bool, or (W,H) for a sideways one."""
    turned = {
        2: mask[:, ::-1],
        3: mask[::-1, ::-1],
        4: mask[::-1],
        5: mask.T,
        6: np.rot90(mask),
        7: mask[::-1, ::-1].T,
        8: np.rot90(mask, -1),
    }
    return np.ascontiguousarray(turned.get(orientation, mask))
