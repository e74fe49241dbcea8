"""Heat maps and overlaid maps as data URIs, small enough for one page.

Shapes: R x C cells, h x w pixels, H x W map cells.
"""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeldoctor.results.diagnosis import Bools, Floats

_LEVELS = 32
_UNKNOWN = (128, 128, 128)
# Dark to bright with evenly rising lightness, legible on a light and on a dark page.
_ANCHORS = np.array(
    [(10, 10, 30), (58, 15, 110), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 251, 200)], dtype=np.float64
)
_EDGE = 160
"""Pixels: thumbnails are shown no larger."""


def colours(values: Floats) -> NDArray[np.uint8]:
    """(..., 3) RGB of values in [0, 1]."""
    at = np.linspace(0, 1, len(_ANCHORS))
    return np.stack([np.interp(values, at, channel) for channel in _ANCHORS.T], axis=-1).round().astype(np.uint8)


def heat_map(values: Floats) -> str:
    """A PNG of values (R,C) in [0, 1], a pixel a cell; NaN is grey."""
    levels = np.where(np.isnan(values), _LEVELS, np.clip(np.nan_to_num(values), 0, 1) * (_LEVELS - 1)).round()
    image = Image.fromarray(levels.astype(np.uint8), mode="P")
    image.putpalette([*colours(np.linspace(0, 1, _LEVELS)).ravel().tolist(), *_UNKNOWN])
    return _data_uri(image, "PNG", optimize=True)


def shrink(values: Floats, rows: int, columns: int) -> Floats:
    """Means of blocks, so that no more than rows x columns are left; NaN where a whole block is."""
    for axis, most in enumerate((rows, columns)):
        if values.shape[axis] > most:
            starts = np.linspace(0, values.shape[axis], most + 1).astype(int)[:-1]
            known = np.add.reduceat(~np.isnan(values), starts, axis=axis, dtype=np.float64)
            sums = np.add.reduceat(np.nan_to_num(values), starts, axis=axis)
            values = np.where(known > 0, sums / np.maximum(known, 1), np.nan)
    return values


def thumbnail(pixels: NDArray[np.uint8], outline: Bools | None = None) -> str:
    """A picture (h,w,3) as it is; the object's outline, if there is one, in white.

    Args:
        pixels: RGB.
        outline: (h,w), True on the object.
    """
    image = pixels
    if outline is not None and outline.any():
        inner = outline.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                inner &= np.roll(outline, step, axis=axis)
        image = pixels.copy()
        image[outline & ~inner] = 255
    return _data_uri(_sized(Image.fromarray(image)), "JPEG", quality=85)


def small_picture(pixels: NDArray[np.uint8]) -> str:
    """A picture (h,w,3) as it is, in few bytes: a page may have a thousand."""
    return _data_uri(Image.fromarray(pixels), "JPEG", quality=75)


def overlay(pixels: NDArray[np.uint8], evidence: Floats) -> str:
    """A map (H,W), scaled to its own maximum, over its picture (h,w,3) in grey."""
    grey = _sized(Image.fromarray(pixels).convert("L").convert("RGB"))
    top = float(np.nanmax(evidence, initial=0.0))
    share = np.clip(np.nan_to_num(evidence) / top if top > 0 else np.zeros_like(evidence), 0, 1)
    smooth = Image.fromarray(share.astype(np.float32)).resize(grey.size, Image.Resampling.BILINEAR)
    strength = np.asarray(smooth)[:, :, None]
    opacity = 0.25 + 0.6 * strength
    mixed = (1 - opacity) * np.asarray(grey) + opacity * colours(strength[:, :, 0])
    return _data_uri(Image.fromarray(mixed.round().astype(np.uint8)), "JPEG", quality=82)


def _sized(image: Image.Image) -> Image.Image:
    """With a longer edge of at most `_EDGE`; small pictures are enlarged by whole steps, so that cells stay sharp."""
    longest = max(image.size)
    if longest > _EDGE:
        image.thumbnail((_EDGE, _EDGE))
        return image
    times = max(1, 112 // longest)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _data_uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
