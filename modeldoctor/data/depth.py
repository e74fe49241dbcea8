"""Pictures of more than 8 bits a value, brought to 8.

Pillow's own conversion cuts what is above 255 to white, and rounds floats to black.
Shape letters: H and W, a picture's height and width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BITS = (8, 10, 12, 14, 16)
"""What cameras and scanners have."""
_GREATEST = 281
"""TIFF's tag for the greatest value that its samples may have."""
_ROWS = 256
_DEEP_MODES = ("I", "F")


class DepthError(Exception):
    """A picture's values cannot be brought to 8 bits; the text says why."""


def is_deep(picture: Image.Image) -> bool:
    """Whether Pillow holds more than 8 bits a value."""
    return picture.mode in _DEEP_MODES or picture.mode.startswith("I;16")


def drops_bits(picture: Image.Image) -> bool:
    """Whether Pillow, on reading, will keep the upper 8 of 16 bits alone, as it does with colours; not yet loaded."""
    return any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ())) and not is_deep(picture)


def check_upper_bits(picture: Image.Image) -> None:
    """Refuse colours of 12 bits or fewer stored in 16, of which Pillow's upper 8 bits hold next to nothing.

    Raises:
        DepthError: the picture would be black.
    """
    brightest = int(np.max(picture.convert("RGB").getextrema()))
    if 0 < brightest < 16:
        raise DepthError(
            "its 16-bit colours use 12 bits or fewer and would be read as black: store them with 8 bits a channel"
        )


def eight_bits(picture: Image.Image) -> Image.Image:
    """Scale grey of 16 or 32 bits, or of floats, to L.

    Whole numbers are taken to have as many bits as a TIFF says, else the fewest of 8, 10, 12, 14 and 16 that hold the
    picture's greatest value; floats up to 1 to reach from 0 to 1. What no such range holds is scaled from its own least
    to its own greatest value.

    Raises:
        DepthError: values that are no finite numbers.
    """
    extremes = np.array([extreme for strip in _strips(picture) for extreme in (strip.min(), strip.max())])
    if not np.isfinite(extremes).all():
        raise DepthError("it holds values that are no finite numbers")
    least, greatest = float(extremes.min()), float(extremes.max())
    bits = _bits(picture, greatest)
    fractions = picture.mode == "F" and greatest <= 1
    return Image.fromarray(
        np.concatenate([_scaled(strip, least, greatest, bits, fractions=fractions) for strip in _strips(picture)])
    )


def _bits(picture: Image.Image, greatest: float) -> int | None:
    """How many bits a value has, 8 at least; None where no such number is known to hold the greatest."""
    said = getattr(picture, "tag_v2", {}).get(_GREATEST)
    stated = said[0] if isinstance(said, tuple) and said else said
    if isinstance(stated, int) and greatest <= stated < 2 ** _BITS[-1]:
        return max(stated.bit_length(), _BITS[0])
    return next((bits for bits in _BITS if greatest < 2**bits), None)


def _strips(picture: Image.Image) -> Iterator[NDArray[np.float64]]:
    """Some rows at a time, (h,W): of a large picture all would take eight bytes a pixel, and Pillow as many again."""
    width, height = picture.size
    for top in range(0, height, _ROWS):
        strip = picture.crop((0, top, width, min(top + _ROWS, height)))
        yield np.asarray(strip).astype(np.float64)


def _scaled(
    values: NDArray[np.float64], least: float, greatest: float, bits: int | None, *, fractions: bool
) -> NDArray[np.uint8]:
    """(H,W), 0 to 255."""
    if least < 0 or bits is None:
        values = (values - least) / (greatest - least or 1.0) * 255
    elif fractions:
        values = values * 255
    else:
        values = np.floor(values / 2 ** (bits - 8))
    return np.asarray(np.rint(values), dtype=np.uint8)


def scaling(picture: Image.Image) -> str:
    """How `eight_bits` scales a picture, as words."""
    values = np.asarray(picture).astype(np.float64)
    least, greatest = float(values.min()), float(values.max())
    bits = _bits(picture, greatest)
    if least < 0 or bits is None:
        return f"from its own least value {least:g} to its greatest {greatest:g}"
    if picture.mode == "F" and greatest <= 1:
        return "from 0 to 1"
    return f"as {bits} bits, from 0 to {2**bits - 1}"
