"""Masks that lie among the images of class folders, where they pass for images of their own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from modeldoctor.data.pictures import UnreadableError, decode
from modeldoctor.errors import ModelDoctorWarning, counted

_NAMED = re.compile(
    r"(.+?)[ _.-]+\(?(masks?|seg|segm|segmentation|gt|groundtruth|annotations?|alpha)\)?([ _.-]?\d+)?", re.IGNORECASE
)
"""An image's name, and what tools put behind it for its mask: `1_mask`, `benign (1)_mask_2`."""
_WORDS = ("mask", "seg", "gt", "truth", "annot", "alpha")
_OF_MASKS = ("1", "L", "P", "I;16")
_LOOKED_AT = 3


def warn_of_masks(root: Path, paths: Sequence[str]) -> None:
    """Warn of images that are called as the masks of others, or are grey PNG files beside others of their name.

    Args:
        root: the data's folder.
        paths: of the images, relative to it.
    """
    masks = [*_named(paths)] or [*_beside(root, paths)]
    if masks:
        warnings.warn(
            f"{counted(len(masks), 'file')} among the images of {root} {'is' if len(masks) == 1 else 'are'} likely"
            f" masks of others, first {masks[0]}, and counted as images. Move masks into a folder of their own that"
            f" mirrors this one, as {_mirrored(masks[0])}, and give it as --masks",
            ModelDoctorWarning,
            stacklevel=3,
        )


def _named(paths: Iterable[str]) -> Iterator[str]:
    whole = "\n".join(paths).lower()  # of a million paths in one go
    words = [word for word in _WORDS if word in whole]
    suspects = [path for path in paths if any(word in path.lower() for word in words)] if words else []
    known = set(map(_stem, paths)) if suspects else set()
    for path in suspects:
        folder, slash, name = _stem(path).rpartition("/")
        if (found := _NAMED.fullmatch(name)) and f"{folder}{slash}{found[1]}" in known:
            yield path


def _beside(root: Path, paths: Iterable[str]) -> Iterator[str]:
    """Grey PNG files beside pictures of the same name, if the first ones are."""
    pngs = [path for path in paths if path[-4:].lower() == ".png"]
    others = {_stem(path) for path in paths if path[-4:].lower() != ".png"} if pngs else set()
    twins = [path for path in pngs if _stem(path) in others] if others else []
    if all(_mode(root / path) in _OF_MASKS for path in islice(twins, _LOOKED_AT)):
        yield from twins


def _stem(path: str) -> str:
    """A path without its ending; there may be a million of them."""
    stem, _, ending = path.rpartition(".")
    return path if "/" in ending or not stem else stem


def _mode(file: Path) -> str:
    try:
        return decode(file, lambda picture: picture).mode
    except UnreadableError:
        return ""


def _mirrored(path: str) -> str:
    file = PurePosixPath(path)
    name = _NAMED.fullmatch(file.stem)
    return f"masks/{file.with_name(name[1] if name else file.stem)}.png"
