"""Is this the data of the interrupted run? Digests of what can be known without reading an image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from modeldoctor.data.imageset import ImageSet
from modeldoctor.data.outputs import AnySet
from modeldoctor.data.pictures import PictureFiles

WHAT = {
    "names": "names of images, or how many there are",
    "labels": "labels",
    "files": "sizes or times of image files",
    "masks": "masks",
    "tables": "the table of groups",
}
"""What each digest is of, in words."""


def identify_data(sets: Iterable[AnySet], tables: Iterable[Path | None] = ()) -> dict[str, str]:
    """A short digest of each of `WHAT`, over all splits.

    Args:
        sets: the splits, in order. Of a stream nothing is known but its name.
        tables: further files that count.
    """
    digests = {name: hashlib.sha256() for name in WHAT}
    for images in sets:
        digests["names"].update(f"{images.split}\n".encode())
        if not isinstance(images, ImageSet):
            continue
        digests["labels"].update(np.asarray(images.labels, dtype=np.int64).tobytes())
        root = images.pictures.root if isinstance(images.pictures, PictureFiles) else None
        for path in images.paths:
            digests["names"].update(f"{path}\n".encode(errors="surrogateescape"))
            if root is not None:
                digests["files"].update(_stamp(root / path))
            if images.masks is not None:
                digests["masks"].update(_stamp(images.masks.find(path)))
    for table in tables:
        digests["tables"].update(_stamp(table))
    return {name: digest.hexdigest()[:16] for name, digest in digests.items()}


def stamps_of(images: AnySet) -> list[bytes]:
    """Sizes and times of a split's image files and masks, in order; none where images are no files."""
    if not isinstance(images, ImageSet) or not isinstance(images.pictures, PictureFiles):
        return []
    root, masks = images.pictures.root, images.masks
    return [_stamp(root / path) + (b"" if masks is None else _stamp(masks.find(path))) for path in images.paths]


def altered_since(images: AnySet, before: list[bytes]) -> list[str]:
    """Paths of the images that were there, are there still, and whose file or mask is another now."""
    if not before or not isinstance(images, ImageSet):
        return []
    pairs = zip(images.paths, before, stamps_of(images), strict=True)
    return [path for path, old, new in pairs if new != old and not (old.startswith(b"-") or new.startswith(b"-"))]


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, in words; empty if nothing does. What an older run did not note is not compared."""
    return ", ".join(WHAT[name] for name in WHAT if name in before and before[name] != now[name])


def _stamp(path: Path | None) -> bytes:
    """Size and time of a file, or that it is not there."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        found = None
    return b"-" if found is None else f"{found.st_size} {found.st_mtime_ns}\n".encode()
