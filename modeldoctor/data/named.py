"""Data sets that torchvision knows by name, read from local files."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from modeldoctor.data.content import Content, NumberedPaths
from modeldoctor.data.folders import open_folder
from modeldoctor.data.pictures import PictureArray
from modeldoctor.data.tables import open_mini_imagenet
from modeldoctor.errors import DataError, UsageError

_DIGITS = tuple(map(str, range(10)))
_STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


class _LabelledSTL10(datasets.STL10):  # type: ignore[misc]
    # torchvision demands the 2.7 GB of unlabelled images even for the labelled splits.
    train_list = datasets.STL10.train_list[:2]


class _ArraySet(NamedTuple):
    """A torchvision set that holds all its images in one array."""

    open: Callable[[Path, str, bool], Any]
    files: Callable[[], list[tuple[str, str | None]]]
    """Each file's path under the root, and its MD5 where torchvision checks it."""
    class_names: tuple[str, ...] = _DIGITS
    """Where the set does not tell them."""


def _idx_set(kind: Any) -> _ArraySet:
    def files() -> list[tuple[str, str | None]]:
        return [(f"{kind.__name__}/raw/{archive.removesuffix('.gz')}", None) for archive, _ in kind.resources]

    return _ArraySet(_with_train_flag(kind), files)


def _cifar_set(kind: Any) -> _ArraySet:
    def files() -> list[tuple[str, str | None]]:
        listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        return [(f"{kind.base_folder}/{name}", md5) for name, md5 in listed]

    return _ArraySet(_with_train_flag(kind), files)


def _with_train_flag(kind: Any) -> Callable[[Path, str, bool], Any]:
    return lambda root, split, download: kind(root, train=split == "train", download=download)


def _svhn_files() -> list[tuple[str, str | None]]:
    return [tuple(datasets.SVHN.split_list[split][1:]) for split in ("train", "test")]


def _stl10_files() -> list[tuple[str, str | None]]:
    listed = [*_LabelledSTL10.train_list, *_LabelledSTL10.test_list]
    return [(f"{_LabelledSTL10.base_folder}/{name}", md5) for name, md5 in listed]


_ARRAY_SETS = {
    "MNIST": _idx_set(datasets.MNIST),
    "FashionMNIST": _idx_set(datasets.FashionMNIST),
    "CIFAR10": _cifar_set(datasets.CIFAR10),
    "CIFAR100": _cifar_set(datasets.CIFAR100),
    "SVHN": _ArraySet(lambda root, split, download: datasets.SVHN(root, split, download=download), _svhn_files),
    "STL10": _ArraySet(
        lambda root, split, download: _LabelledSTL10(root, split, download=download), _stl10_files, _STL10_CLASSES
    ),
}
_FILE_SETS: dict[str, Callable[[Path], dict[str, Content]]] = {
    "mini-imagenet": lambda root: open_mini_imagenet(root) or open_folder(root),
    "ImageFolder": open_folder,
}
NAMES = (*_ARRAY_SETS, *_FILE_SETS)


def open_named(name: str, root: Path | None, *, download: bool) -> dict[str, Content]:
    """Open a torchvision data set by name (`NAMES`, in any case); torchvision's splits are train and test.

    Raises:
        UsageError: the name is unknown, or no root is given.
        DataError: files are missing or damaged.
    """
    known = {_plain(each): each for each in NAMES}
    if _plain(name) not in known:
        close = get_close_matches(_plain(name), known, n=1)
        raise UsageError(
            f"an unknown data set, {name!r}",
            where=f"torchvision:{name}",
            expected=f"one of {', '.join(NAMES)}",
            hint=f"did you mean torchvision:{known[close[0]]}?" if close else "or the path of an image folder",
        )
    name = known[_plain(name)]
    if root is None:
        raise UsageError(
            "no folder to look for the data set in",
            where=f"torchvision:{name}",
            expected="the folder that holds its files",
            hint="give it as the data's root (--root)",
        )
    if name in _FILE_SETS:
        return _FILE_SETS[name](root)
    return {split: _read(name, root, split, download) for split in ("train", "test")}


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _read(name: str, root: Path, split: str, download: bool) -> Content:
    kind = _ARRAY_SETS[name]
    if not download:
        _check_files(name, root, kind.files())
    # A damaged file makes the readers raise whatever its bytes lead to: ValueError, AssertionError, struct.error ...
    try:
        data = kind.open(root, split, download)
        pixels = np.asarray(data.data)
        labels = np.asarray(data.targets if hasattr(data, "targets") else data.labels, dtype=np.int64)
        class_names = tuple(getattr(data, "classes", kind.class_names))
        if len(labels) != len(pixels) or not set(labels.tolist()) <= set(range(len(class_names))):
            raise ValueError(f"{len(pixels)} images and {len(labels)} labels {labels.min()}..{labels.max()}")
    except Exception as error:
        raise DataError(
            f"{name}'s {split} split cannot be {'downloaded or ' if download else ''}read: {error}",
            where=str(root),
            expected="the original files: " + ", ".join(path for path, _ in kind.files()),
            hint="check the network, or put the files there" if download else "delete its files and pass --download",
        ) from error
    if pixels.ndim == 4 and pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    return Content(class_names, labels, NumberedPaths(split, len(labels)), PictureArray(pixels))


def _check_files(name: str, root: Path, files: list[tuple[str, str | None]]) -> None:
    missing = [path for path, _ in files if not (root / path).is_file()]
    packed = [path for path in missing if (root / f"{path}.gz").is_file()]
    damaged = [path for path, md5 in files if path not in missing and not check_integrity(root / path, md5)]
    if not missing and not damaged:
        return
    found = [f"missing: {', '.join(missing)}"] if missing else []
    found += [f"damaged (its MD5 differs from the original's): {', '.join(damaged)}"] if damaged else []
    hint = "put the original files there, or pass --download to fetch them into that folder"
    if packed:
        hint = f"the packed files are there: unpack them (gunzip -k {packed[0]}.gz ...), or pass --download"
    raise DataError("; ".join(found), where=str(root), expected=f"the files of {name}", hint=hint)
