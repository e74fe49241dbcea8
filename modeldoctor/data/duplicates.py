"""The same image file in two splits: a network that was trained on it is not examined by it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from modeldoctor.data.imageset import ImageSet
from modeldoctor.data.outputs import AnySet
from modeldoctor.data.pictures import PictureFiles

_MOST = 2000
"""Images of the examined split that are looked for, and as many files of the other that are read per one of them."""
_PER_IMAGE = 10


def find_duplicates(trained: AnySet, examined: AnySet, seed: int) -> tuple[list[int], int]:
    """Indices in the examined split of images whose file is also in the other one, and how many were looked for.

    Files are the same if their bytes are; only files of equal size are read. Of a large split a random part is looked
    for. Streams, arrays and one and the same split give nothing.
    """
    if trained is examined or not (isinstance(trained, ImageSet) and isinstance(examined, ImageSet)):
        return [], 0
    if not (isinstance(trained.pictures, PictureFiles) and isinstance(examined.pictures, PictureFiles)):
        return [], 0
    chosen = np.arange(len(examined))
    if len(chosen) > _MOST:
        chosen = np.sort(np.random.default_rng([seed, 4]).choice(chosen, _MOST, replace=False))
    wanted = {index: examined.pictures.root / examined.paths[index] for index in chosen.tolist()}
    sizes = {index: _size(path) for index, path in wanted.items()}
    by_size: dict[int, list[Path]] = {size: [] for size in sorted({*sizes.values()} - {-1})}
    for path in trained.paths:  # of which there may be many more than are of these sizes
        if (same := by_size.get(_size(trained.pictures.root / path))) is not None:
            same.append(trained.pictures.root / path)
    candidates = [path for paths in by_size.values() for path in paths]
    known = {_digest(path) for path in candidates[: _MOST * _PER_IMAGE]} - {""}
    return [
        index for index, path in wanted.items() if by_size.get(sizes[index]) and known and _digest(path) in known
    ], len(chosen)


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
