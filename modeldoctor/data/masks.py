"""Object masks: which pixels of an image show the object.

A mask format is a class with the three members of `Masks`. Shape letters: H and W, an image's height and width.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modeldoctor.data.pictures import UnreadableError, decode
from modeldoctor.data.splits import split_named
from modeldoctor.errors import MaskError


class Masks(Protocol):
    """Where an image set's masks come from."""

    def find(self, relative_path: str) -> Path | None:
        """Return the annotation file of an image, by the image's path relative to its root, or None."""

    def read(self, path: Path, size: tuple[int, int]) -> Tensor:
        """Return the mask (H,W) bool, True on the object, for an image of size (width, height) in pixels.

        Raises:
            MaskError: unreadable, or of another size.
        """


class MaskTree:
    """PNG masks in a tree that mirrors the images': `train/cat/x.jpg` has `train/cat/x.png`, or `cat/x.png`.

    Any value but 0 is the object. The second form holds where the mask tree has no folders named after splits.

    Args:
        root: the folder of the masks.

    Raises:
        MaskError: there is no such folder.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise MaskError(
                "there is no mask folder",
                where=str(root),
                expected="a folder that mirrors the image folder, with .png files in place of the images",
                hint="correct the path of the masks",
            )
        self.root = root
        names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
        self._split_folders = {split: name for name in names if (split := split_named(name))}

    @property
    def has_splits(self) -> bool:
        """Whether the tree has a level of split folders."""
        return bool(self._split_folders)

    def find(self, relative_path: str) -> Path | None:
        """See `Masks.find`."""
        image = PurePosixPath(relative_path)
        if image.is_absolute() or ".." in image.parts:
            return None
        split = split_named(image.parts[0]) if len(image.parts) > 1 else None
        if split:
            image = PurePosixPath(
                self._split_folders.get(split, image.parts[0] if self.has_splits else ""), *image.parts[1:]
            )
        mask = self.root / image.with_suffix(".png")
        return mask if mask.is_file() else None

    def read(self, path: Path, size: tuple[int, int]) -> Tensor:
        """See `Masks.read`."""
        try:
            picture = decode(path, _object_values)
        except UnreadableError as error:
            raise MaskError(
                f"the mask cannot be read: {error}",
                where=str(path),
                expected="a PNG with 0 on the background and any other value on the object",
                hint="make the mask again, or remove it",
            ) from error
        if picture.size != size:
            raise MaskError(
                f"the mask is {picture.width}×{picture.height} pixels, its image {size[0]}×{size[1]}",
                where=str(path),
                expected="mask and image of the same size",
                hint="export the mask at the image's own size, or remove it",
            )
        return torch.from_numpy(np.asarray(picture) != 0)


class MaskCounts(NamedTuple):
    """How a set's masks fit its images."""

    matched: int
    """Images with a valid mask."""
    unmatched: int
    """Images without a mask."""
    invalid: tuple[str, ...]
    """What is wrong, one text for each mask that cannot be used."""


def _object_values(picture: Image.Image) -> Image.Image:
    # Palette indices and 16-bit numbers are kept as they are; an opaque alpha channel is no object.
    if picture.mode in ("1", "L", "P", "I", "F") or picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) != 0).astype(np.uint8))
    return Image.fromarray((np.asarray(picture.convert("RGB")) != 0).any(axis=-1).astype(np.uint8))
