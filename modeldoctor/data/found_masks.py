"""Masks that no person made, beside those that people made; and what is read to find them.

Shapes: B images, C channels, H x W pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.frames import STORED
from modeldoctor.data.imageset import ImageSet
from modeldoctor.data.loader import make_loader
from modeldoctor.data.masks import Masks
from modeldoctor.data.transforms import unfitted

_FOLDER = "propagated"


class PropagatedMasks:
    """Given annotations, and found masks for other images.

    Args:
        given: what people annotated; for images that are not in `found`.
        found: by an image's path relative to the data's root a square of bool over the network's input, as packed bits.
        preprocessing: how pictures become the network's input.
    """

    def __init__(self, given: Masks, found: Mapping[str, bytes], preprocessing: Preprocessing):
        self._given, self._found, self._preprocessing = given, found, preprocessing

    def find(self, relative_path: str) -> Path | None:
        """See `Masks.find`."""
        if relative_path in self._found:
            return Path(_FOLDER, relative_path)
        return self._given.find(relative_path)

    def read(self, path: Path, size: tuple[int, int], orientation: int = STORED) -> Tensor:
        """See `Masks.read`."""
        parts = PurePosixPath(path).parts
        packed = self._found.get(str(PurePosixPath(*parts[1:]))) if parts[0] == _FOLDER else None
        if packed is None:
            return self._given.read(path, size, orientation)
        bits = np.unpackbits(np.frombuffer(packed, np.uint8)).astype(np.bool_)
        edge = isqrt(len(bits))
        return unfitted(torch.from_numpy(bits).view(edge, edge), size, self._preprocessing)

    def warn(self, text: str) -> None:
        """See `Masks.warn`."""
        self._given.warn(text)


def packed(mask: Tensor) -> bytes:
    """A found mask (2G,2G) bool as `PropagatedMasks` takes it; its cells are a multiple of eight."""
    return np.packbits(mask.numpy()).tobytes()


def annotated_batches(
    images: ImageSet, indices: NDArray[np.int64], *, batch_size: int, workers: int | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Indices (B,), images (B,C,H,W) and masks (B,H,W) of annotated images that can be read."""
    for batch in make_loader(images, indices, batch_size=batch_size, workers=workers, device=device):
        if len(batch.labels):
            yield batch.indices, batch.images, torch.stack([mask for mask in batch.masks or () if mask is not None])


def plain_batches(
    images: ImageSet, indices: NDArray[np.int64], *, batch_size: int, workers: int | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices (B,) and images (B,C,H,W) of images that can be read, without a look at any mask."""
    for batch in make_loader(images.masked_at(()), indices, batch_size=batch_size, workers=workers, device=device):
        if len(batch.labels):
            yield batch.indices, batch.images
