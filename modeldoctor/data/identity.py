"""Is this the data of the interrupted run? Digests of what can be known without reading an image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from modeldoctor.data.imageset import ImageSet
from modeldoctor.data.outputs import AnySet
from modeldoctor.data.pictures import PictureFiles

WHAT = {
    "names": "names of images, or how many there are",
    "labels": "labels",
    "files": "sizes or times of image files, or images of a data set by name",
    "masks": "masks",
    "tables": "the table of groups",
}
"""What each digest is of, in words."""


Stamps = list[tuple[bytes, bytes]]
"""For each image of a split: size and time of its file and of its mask."""


def identify_data(sets: Iterable[tuple[AnySet, Stamps]], tables: Iterable[Path | None] = ()) -> dict[str, str]:
    """A short digest of each of `WHAT`, over all splits.

    Args:
        sets: the splits, in order, with their stamps. Of a stream only its name is known, its
            files, and what its library says of its state.
        tables: further files that count.
    """
    digests = {name: hashlib.sha256() for name in WHAT}
    for images, stamps in sets:
        digests["names"].update(f"{images.split}\n".encode())
        if not isinstance(images, ImageSet):
            digests["files"].update(images.identity)
            for file in images.files:
                digests["files"].update(f"{file.name}\n".encode(errors="surrogateescape") + _stamp(file))
            continue
        for shared in _shared_files(images):
            digests["masks"].update(_stamp(shared))
        digests["files"].update(images.pictures.identity())
        digests["labels"].update(np.asarray(images.labels, dtype=np.int64).tobytes())
        for path in images.paths:
            digests["names"].update(f"{path}\n".encode(errors="surrogateescape"))
        for image, mask in stamps:
            digests["files"].update(image)
            digests["masks"].update(mask)
    for table in tables:
        digests["tables"].update(_stamp(table))
    return {name: digest.hexdigest()[:16] for name, digest in digests.items()}


def stamps_of(images: AnySet, indices: Sequence[int] | None = None) -> Stamps:
    """Stamps of these images of a split (all if None), in order; none where images are no files and have no masks."""
    if not isinstance(images, ImageSet):
        return []
    root = images.pictures.root if isinstance(images.pictures, PictureFiles) else None
    if root is None and images.masks is None:
        return []
    paths = images.paths if indices is None else [images.paths[index] for index in indices]
    return [
        (b"" if root is None else _stamp(root / path), b"" if images.masks is None else _stamp(images.masks.find(path)))
        for path in paths
    ]


def altered_since(images: AnySet, before: Stamps, indices: Sequence[int]) -> list[str]:
    """Which of these images' files were there, are there still, and differ now, or have another mask: their paths."""
    if not before or not isinstance(images, ImageSet):
        return []
    pairs = zip(indices, stamps_of(images, indices), strict=True)
    return [
        images.paths[index]
        for index, new in pairs
        if new != before[index] and not before[index][0].startswith(b"-") and not new[0].startswith(b"-")
    ]


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs, in words; empty if nothing does. What an older run did not note is not compared."""
    return ", ".join(WHAT[name] for name in WHAT if name in before and before[name] != now[name])


def _shared_files(images: ImageSet) -> list[Path]:
    """The files that hold the masks of many images, as COCO's do: what `find` names is a place in one of them."""
    places = {found.parent for path in images.paths if images.masks and (found := images.masks.find(path))}
    return sorted({file for place in places for file in (place, *place.parents) if file.is_file()})


def _stamp(path: Path | None) -> bytes:
    """Size and time of a file, or that it is not there."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        found = None
    return b"-" if found is None else f"{found.st_size} {found.st_mtime_ns}\n".encode()
