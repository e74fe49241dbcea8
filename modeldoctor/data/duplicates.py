"""The same image in two splits: a network that was trained on it is not examined by it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data.imageset import ImageSet
from modeldoctor.data.outputs import AnySet
from modeldoctor.data.pictures import PictureArray, PictureFiles

_MOST = 2000
"""Images of the examined split that are looked for, and as many files of the other that are read per one of them."""
_PER_IMAGE = 10


def find_duplicates(trained: AnySet, examined: AnySet, seed: int) -> tuple[list[int], int]:
    """Indices in the examined split of images that are also in the other one, and how many were looked for.

    Images are the same if the bytes of their files, or their pixels in an array, are. Of a large split a random part is
    looked for. Streams, splits of different kinds, and one and the same split give nothing.
    """
    if trained is examined or not (isinstance(trained, ImageSet) and isinstance(examined, ImageSet)):
        return [], 0
    chosen = np.arange(len(examined))
    if len(chosen) > _MOST:
        chosen = np.sort(np.random.default_rng([seed, 4]).choice(chosen, _MOST, replace=False))
    if isinstance(trained.pictures, PictureFiles) and isinstance(examined.pictures, PictureFiles):
        roots = trained.pictures.root, examined.pictures.root
        return _same_files(
            [roots[0] / path for path in trained.paths],
            {index: roots[1] / examined.paths[index] for index in chosen.tolist()},
        ), len(chosen)
    if isinstance(trained.pictures, PictureArray) and isinstance(examined.pictures, PictureArray):
        known = {_digest_of(picture) for picture in trained.pictures.pixels}
        pixels = examined.pictures.pixels
        return [index for index in chosen.tolist() if _digest_of(pixels[index]) in known], len(chosen)
    return [], 0


def _digest_of(picture: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(picture).data, usedforsecurity=False).digest()


def _same_files(trained: Sequence[Path], wanted: Mapping[int, Path]) -> list[int]:
    """Those that are wanted and among the trained ones; only files of equal size are read."""
    sizes = {index: _size(path) for index, path in wanted.items()}
    by_size: dict[int, list[Path]] = {size: [] for size in sorted({*sizes.values()} - {-1})}
    for path in trained:  # of which there may be many more than are of these sizes
        if (same := by_size.get(_size(path))) is not None:
            same.append(path)
    candidates = [path for paths in by_size.values() for path in paths]
    known = {_digest(path) for path in candidates[: _MOST * _PER_IMAGE]} - {""}
    return [index for index, path in wanted.items() if by_size.get(sizes[index]) and known and _digest(path) in known]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
