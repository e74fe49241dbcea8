"""What a source of images holds, before a network's preprocessing is known."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data.paths import PathTable
from modeldoctor.data.pictures import PictureFiles, Pictures
from modeldoctor.errors import ModelDoctorWarning, classes_have, shortened


class Content(NamedTuple):
    """One split: the first four arguments of `ImageSet`."""

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    paths: Sequence[str]
    pictures: Pictures


class NumberedPaths(Sequence[str]):
    """Made-up paths (`train/00042`) for images that are not files."""

    def __init__(self, split: str, count: int):
        self.split, self._numbers = split, range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in self._numbers[index]]
        return f"{self.split}/{self._numbers[index]:05d}"


class Listing(NamedTuple):
    """Image files and the name of each file's class."""

    paths: list[str]
    classes: list[str]


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Sort class names as torchvision does (text order), but numbers by their value."""
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def file_contents(root: Path, listings: Mapping[str, Listing], class_names: tuple[str, ...]) -> dict[str, Content]:
    """Number the classes through; warn where a split lacks images of a class, or names look alike."""
    warn_of_alike(class_names, "classes")
    number = {name: label for label, name in enumerate(class_names)}
    contents = {}
    for split, listing in listings.items():
        labels = np.fromiter((number[name] for name in listing.classes), np.int64, len(listing.classes))
        paths = PathTable(listing.paths)
        contents[split] = Content(class_names, labels, paths, PictureFiles(root, paths))
        empty = [class_names[label] for label in np.flatnonzero(np.bincount(labels, minlength=len(number)) == 0)]
        if empty:
            warnings.warn(
                f"{split}: {classes_have(len(empty), len(number))} no images: {shortened(empty, 10)}",
                ModelDoctorWarning,
                stacklevel=2,
            )
    return contents


def warn_of_alike(names: Iterable[str], what: str) -> None:
    """Warn of names of classes, or of groups, that people would take for one."""
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(as_read(name), []).append(_shown(name))
    if alike := [" and ".join(names) for names in spelled.values() if len(names) > 1]:
        warnings.warn(
            f"{what} whose names look alike (but for case, blanks, hyphens, leading zeros or signs that are not seen)"
            f" are kept apart: {shortened(alike, 10)}",
            ModelDoctorWarning,
            stacklevel=3,
        )


def as_read(name: str) -> str:
    """A name as people read it: without case, blanks, hyphens, slashes, leading zeros and signs that are not seen."""
    seen = "".join(letter for letter in normalize("NFKC", name).casefold() if category(letter) != "Cf")
    return re.sub(r"[\s_/-]", "", re.sub(r"(?<!\d)0+(?=\d)", "", seen))


def _shown(name: str) -> str:
    """A name with escapes for what is not seen: "cat\\u200b"."""
    return "".join(letter.encode("unicode_escape").decode() if category(letter) == "Cf" else letter for letter in name)
