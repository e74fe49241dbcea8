"""From a picture (and its object mask) to a network's input, with timm's evaluation geometry.

Shape letters: C channels, H and W the network's input height and width.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.errors import DataError

_MOST_RATIO = 16
"""Of a picture's sides; a longer one loses its ends before it is resized."""
MODES = {1: "L", 3: "RGB"}
"""The Pillow mode in which pictures are read, by a network's number of input channels."""


class Transform(Protocol):
    """Turns a picture and its mask into tensors that stay aligned."""

    def __call__(self, picture: Image.Image, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the image (C,H,W) float32 and the mask (H,W) bool; the mask given has the picture's own size."""


def picture_mode(preprocessing: Preprocessing) -> str:
    """Name the Pillow mode for a network's channel count.

    Raises:
        DataError: the network takes neither 1 nor 3 channels.
    """
    channels = preprocessing.input_size[0]
    if channels not in MODES:
        raise DataError(
            f"the network takes images of {channels} channels",
            where=f"input_size {preprocessing.input_size}",
            expected="1 (grey) or 3 (RGB) channels",
            hint="convert the network's first layer, or use the Python API with a data set of your own",
        )
    return MODES[channels]


def resized_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return (height, width) in pixels to which a picture is resized before the centre crop, as timm does it."""
    target_h, target_w = (math.floor(side / preprocessing.crop_pct) for side in preprocessing.input_size[1:])
    if preprocessing.resize_mode == "squash":
        return target_h, target_w
    if preprocessing.resize_mode == "pad":
        ratio = max(height / target_h, width / target_w)
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    if target_h == target_w:
        long_side = int(target_h * max(width, height) / min(width, height))
        return (target_h, long_side) if height <= width else (long_side, target_h)
    ratio = min(height / target_h, width / target_w)
    return round(height / ratio), round(width / ratio)


def make_transform(preprocessing: Preprocessing) -> Transform:
    """Make the evaluation transform: resize, centre crop, scale to [0, 1], normalise.

    The mask takes the same way with nearest-neighbour sampling; what the crop pads is background.

    Raises:
        DataError: the network takes neither 1 nor 3 channels.
    """
    picture_mode(preprocessing)

    def transform(picture: Image.Image, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        cropped, moved = fitted(in_mode(picture, preprocessing), mask, preprocessing)
        return normalised(cropped, preprocessing), moved

    return transform


def in_mode(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The picture with as many channels as the network takes; itself where it has them."""
    mode = picture_mode(preprocessing)
    return picture if picture.mode == mode else picture.convert(mode)


def fitted(
    picture: Image.Image, mask: Tensor | None, preprocessing: Preprocessing
) -> tuple[Image.Image, Tensor | None]:
    """Resize and centre-crop a picture and its mask (H,W) to the network's input size."""
    picture, mask = _without_ends(picture, mask, preprocessing)
    size, crop = list(resized_size(*picture.size, preprocessing)), list(preprocessing.input_size[1:])
    if size == crop == [picture.height, picture.width]:
        return picture, mask
    resized = F.resize(picture, size, InterpolationMode(preprocessing.interpolation), antialias=True)
    cropped = F.center_crop(_padded(resized, crop, preprocessing), crop)
    if mask is None:
        return cropped, None
    # Pillow samples cell centres; torchvision's nearest for tensors shifts masks by up to half a cell.
    outline = F.resize(F.to_pil_image(mask.to(torch.uint8)), size, InterpolationMode.NEAREST)
    return cropped, F.pil_to_tensor(F.center_crop(outline, crop))[0] > 0


def unfitted(mask: Tensor, size: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    """The mask (height, width) of a picture whose mask on the network's input is given; what `fitted` undoes.

    Args:
        mask: (H,W) bool, of the network's input or of any grid over it.
        size: (width, height) of the picture.
        preprocessing: how the picture becomes the network's input; what its crop drops is no object.
    """
    middle, margins = _middle(*size, preprocessing)
    resized, crop = resized_size(*middle, preprocessing), preprocessing.input_size[1:]
    shown = F.resize(mask[None].to(torch.uint8), list(crop), InterpolationMode.NEAREST)
    # Where the centre crop took it from; what is around a smaller picture, of which an odd pixel lies behind it, falls
    # away again.
    top, left = (
        round((side - wanted) / 2) if side >= wanted else -((wanted - side) // 2)
        for side, wanted in zip(resized, crop, strict=True)
    )
    canvas = F.crop(shown, -top, -left, *resized)
    whole = F.pad(F.resize(canvas, [middle[1], middle[0]], InterpolationMode.NEAREST), list(margins))
    outline: Tensor = whole[0] > 0
    return outline


def _padded(picture: Image.Image, size: list[int], preprocessing: Preprocessing) -> Image.Image:
    """A picture that is smaller than the crop (height, width), with the mean colour around it, as timm pads."""
    missing_y, missing_x = (max(0, wanted - side) for wanted, side in zip(size, picture.size[::-1], strict=True))
    if preprocessing.resize_mode != "pad" or not (missing_x or missing_y):
        return picture
    around = [missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2]
    padded: Image.Image = F.pad(picture, around, fill=[round(255 * value) for value in preprocessing.mean])
    return padded


def _without_ends(
    picture: Image.Image, mask: Tensor | None, preprocessing: Preprocessing
) -> tuple[Image.Image, Tensor | None]:
    """Cut off the ends of a picture so long that resizing it whole would take memory for pixels that the crop drops.

    What is left is many times what the crop keeps, so that the crop does not see the cut.
    """
    (width, height), (x, y) = _middle(*picture.size, preprocessing)
    if (width, height) == picture.size:
        return picture, mask
    return picture.crop((x, y, x + width, y + height)), None if mask is None else mask[y : y + height, x : x + width]


def _middle(width: int, height: int, preprocessing: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the part of a picture that is resized, and what is cut off at each (x, y) end before."""
    target = preprocessing.input_size[1:]
    if preprocessing.resize_mode != "shortest":  # which sees the ends, too
        return (width, height), (0, 0)
    longest = _MOST_RATIO * min(width, height) * max(target) // min(target)
    margin_x, margin_y = (max(0, side - longest) // 2 for side in (width, height))
    return (width - 2 * margin_x, height - 2 * margin_y), (margin_x, margin_y)


def normalised(picture: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """A picture as (C,H,W) float32, scaled to [0, 1] and normalised."""
    pixels = np.asarray(picture)
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    tables = _tables(preprocessing.mean, preprocessing.std)
    return torch.from_numpy(np.stack([table[values] for table, values in zip(tables, channels, strict=True)]))


@lru_cache(maxsize=16)
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """(C,256), what each value of a pixel becomes: looking it up takes half the time for small pictures."""
    values = torch.arange(256, dtype=torch.uint8).expand(len(mean), 1, -1)
    normal: Tensor = F.normalize(F.to_dtype(values, torch.float32, scale=True), list(mean), list(std))
    return np.asarray(normal[:, 0])
