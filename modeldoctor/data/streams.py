"""Data sets that timm reads: WebDataset shards and TFDS as streams, Hugging Face data sets by index or as streams."""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_dataset

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.classes import ClassMatch
from modeldoctor.data.content import Content, NumberedPaths
from modeldoctor.data.depth import DepthError, eight_bits, is_deep, scaling
from modeldoctor.data.imageset import Broken, Sample
from modeldoctor.data.pictures import PictureStreams
from modeldoctor.data.splits import SPLIT_ORDER, WHOLE, split_named
from modeldoctor.data.transforms import make_transform, picture_mode
from modeldoctor.errors import DataError, ModelDoctorWarning, UsageError, counted

PACKAGES = {"hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow_datasets", "wds": "webdataset"}
"""The package that each of timm's prefixes needs."""


class StreamSet:
    """The images of one split, in the order of a stream; labels are known only while reading.

    Args:
        split: the split's name.
        open_stream: opens timm's iterable data set of (picture, label).
        preprocessing: the network's input.
        offline: keep the reader from the network.
        files: that it is read from; by default those that its reader names, if it does.

    Raises:
        DataError: the network takes neither 1 nor 3 channels.
    """

    labels: NDArray[np.int64] | None = None
    masks: None = None

    def __init__(
        self,
        split: str,
        open_stream: Callable[[], Any],
        preprocessing: Preprocessing,
        *,
        offline: bool,
        files: Sequence[Path] = (),
    ):
        self.split, self.preprocessing, self._offline, self.files = split, preprocessing, offline, tuple(files)
        self._transform = make_transform(preprocessing)
        with _timm_log([]), _offline(offline):
            self._dataset = open_stream()
        self.files = self.files or tuple(_files_of(self._dataset.reader))
        self.identity = _state_of(self._dataset.reader)
        for name, value in (("dist_rank", 0), ("dist_num_replicas", 1)):
            # timm would give every process other shards, and the same index other images.
            setattr(self._dataset.reader, name, value)
        names = getattr(self._dataset.reader, "class_to_idx", None) or {}
        self.class_names: tuple[str, ...] = tuple(sorted(names, key=names.__getitem__))
        self._mapping: NDArray[np.int64] | None = None
        self._said_scaling = False
        self._first = 0

    def __len__(self) -> int:
        return self._length

    @property
    def paths(self) -> Sequence[str]:
        """Made-up paths; a stream has no file names, and may not know its length before it was read."""
        return NumberedPaths(self.split, sys.maxsize)

    def iterate(self, indices: Sequence[int] | NDArray[np.int64] | None = None) -> Iterator[Sample | Broken]:
        """Read through the stream and yield the samples at the ascending `indices` (all by default).

        Pictures that cannot be decoded are left out and take no index; a warning counts them.

        Raises:
            UsageError: the indices do not ascend.
            DataError: the stream ends before the last index.
        """
        wanted = None if indices is None else np.asarray(indices, dtype=np.int64)
        if wanted is not None and (len(wanted) == 0 or wanted[0] < 0 or (np.diff(wanted) <= 0).any()):
            if len(wanted) == 0:
                return
            raise UsageError(
                "indices of a stream that are not ascending",
                where=f"split {self.split}",
                expected="every index once, in ascending order",
                hint="sort them; a stream can only be read forwards",
            )
        yield from self._read(None if wanted is None else wanted.tolist())

    def beginning_at(self, index: int) -> Self:
        """Return the same stream of which, where nothing else is chosen, the samples from this index on are read."""
        rest = copy.copy(self)
        rest._first = index
        return rest

    def with_classes(self, match: ClassMatch) -> Self:
        """Return the same stream with labels that count the network's outputs."""
        relabelled = copy.copy(self)
        relabelled.class_names, relabelled._mapping = match.names, match.mapping
        return relabelled

    def _read(self, wanted: list[int] | None) -> Iterator[Sample | Broken]:
        pending = iter(wanted or ())
        following = next(pending, None)
        for index, (picture, target) in enumerate(self._pictures()):
            if index < self._first if wanted is None else index != following:
                continue
            yield self._sample(picture, self._label(int(target), index), index)
            following = next(pending, None)
            if wanted is not None and following is None:
                return
        if following is not None:
            raise DataError(
                f"the stream ends before image {following}",
                where=f"split {self.split}",
                expected="as many images as at the last reading",
                hint="check that the shards have not changed",
            )

    def _sample(self, picture: Image.Image, label: int, index: int) -> Sample | Broken:
        try:
            if is_deep(picture):
                self._say_scaling(picture)
                picture = eight_bits(picture)
            return Sample(self._transform(picture)[0], label, index, None)
        except Exception as error:  # whatever this one image does to it
            return Broken(index, str(error) if isinstance(error, DepthError) else f"{type(error).__name__}: {error}")

    def _say_scaling(self, picture: Image.Image) -> None:
        if not self._said_scaling:
            self._said_scaling = True
            warnings.warn(
                f"{self.split}: images have more than 8 bits a value and are scaled to 8, each by its own range: the "
                f"first {scaling(picture)}. If your training scaled them otherwise, store them as it did, with 8 bits",
                ModelDoctorWarning,
                stacklevel=2,
            )

    def _label(self, target: int, index: int) -> int:
        if self._mapping is None:
            return target
        if not 0 <= target < len(self._mapping):
            raise DataError(
                f"the label {target} of image {index}",
                where=f"split {self.split}",
                expected=f"0 to {len(self._mapping) - 1}, a number for each class",
                hint="take images without a class out of the data, or correct their labels",
            )
        return int(self._mapping[target])

    def _pictures(self) -> Iterator[tuple[Any, Any]]:
        messages: list[str] = []
        pictures = iter(self._dataset)
        while True:
            # Not around the yield: two streams read in turn would restore each other's settings.
            with _timm_log(messages), _offline(self._offline):
                item = next(pictures, None)
            if item is None:
                break
            yield item
        if messages:
            warnings.warn(
                f"{self.split}: {counted(len(messages), 'sample')} could not be read; the first: {messages[0]}",
                ModelDoctorWarning,
                stacklevel=2,
            )

    @cached_property
    def _length(self) -> int:
        return len(self._dataset) or sum(1 for _ in self._pictures())


def open_streams(name: str, root: Path | None, *, preprocessing: Preprocessing, download: bool) -> dict[str, StreamSet]:
    """Open a set of timm's iterable kinds (wds/, hfids/, tfds/), split by split.

    Raises:
        DataError: a package or the data are missing.
        UsageError: wds/ without a root.
    """
    prefix = _require(name)
    # Pillow's own conversion, which timm would make, cuts what is above 8 bits to white; TFDS decodes to this mode.
    mode = picture_mode(preprocessing) if prefix == "tfds" else ""
    options = {"download": download} if prefix != "wds" else {}

    def opener(split: str) -> Callable[[], Any]:
        return lambda: create_dataset(
            name, root=str(root) if root else None, split=split, input_img_mode=mode, **options
        )

    splits = _shard_splits(name, root) if prefix == "wds" else {split: split for split in _TIMM_SPLITS}

    files = sorted(root.glob("*.tar")) if prefix == "wds" and root else ()

    def stream(split: str, key: str) -> StreamSet:
        return StreamSet(split, opener(key), preprocessing, offline=not download, files=files)

    return cast(dict[str, StreamSet], _each_split(name, splits, stream, optional=prefix != "wds"))


def open_indexed(name: str, root: Path | None, *, download: bool) -> dict[str, Content]:
    """Open a Hugging Face data set (hfds/...) by index, split by split.

    Raises:
        DataError: the package `datasets`, or the data are missing.
    """
    _require(name)
    splits = {split: split for split in _TIMM_SPLITS}
    options = {"root": str(root) if root else None}

    def content(split: str, key: str) -> Content:
        with _offline(not download):
            reader = create_dataset(name, split=key, **options).reader
        names = reader.class_to_idx
        labels = np.fromiter(map(int, reader.iter_targets()), np.int64, len(reader))
        if len(labels) and labels.min() < 0:
            raise _UnlabelledError(split, int((labels < 0).sum()), len(labels))
        ordered = tuple(sorted(names, key=names.__getitem__)) or tuple(map(str, range(int(labels.max()) + 1)))
        return Content(
            ordered, labels, NumberedPaths(split, len(labels)), PictureStreams(_Encoded(reader), _state_of(reader))
        )

    return cast(dict[str, Content], _each_split(name, splits, content, optional=True))


def _state_of(reader: Any) -> bytes:
    """What tells the data behind timm's reader from others: what Hugging Face calls its fingerprint, and its files."""
    holders = (getattr(reader, "dataset", None), getattr(reader, "builder", None))
    said = [getattr(holder, name, None) for holder in holders for name in ("_fingerprint", "hash")]
    held = getattr(holders[0], "cache_files", None)
    files = [str(entry["filename"]) for entry in held] if isinstance(held, list) else []
    for file in files:
        with suppress(OSError):
            found = Path(file).stat()
            said.append(f"{file} {found.st_size} {found.st_mtime_ns}")
    return "\n".join(text for text in said if isinstance(text, str)).encode(errors="surrogateescape")


def _files_of(reader: Any) -> list[Path]:
    """The files of what a builder of TFDS or Hugging Face has prepared; none where it reads from elsewhere."""
    builder = getattr(reader, "builder", None)
    folder = getattr(builder, "data_dir", None) or getattr(builder, "cache_dir", None)
    if not isinstance(folder, str | Path):
        return []
    return sorted(file for file in Path(folder).rglob("*") if file.suffix != ".lock" and file.is_file())


class _UnlabelledError(Exception):
    """A split's images have no classes: the hub marks those that are kept back for a competition with -1."""

    def __init__(self, split: str, unlabelled: int, images: int):
        super().__init__(f"{split}: {unlabelled} of {counted(images, 'image')} have no label (-1)")


class _Encoded:
    """Opens the encoded bytes of one picture of a timm reader."""

    def __init__(self, reader: Any):
        self.reader = reader

    def __call__(self, index: int) -> BinaryIO:
        return cast(BinaryIO, self.reader[index][0])


_TIMM_SPLITS = ("train", "validation", "val", "test")
_HUB_SETTINGS = (("huggingface_hub", "constants"), ("datasets", "config"))


def _require(name: str) -> str:
    prefix = name.partition("/")[0].lower()
    if find_spec(PACKAGES[prefix]) is None:
        raise DataError(
            f"the Python package {PACKAGES[prefix]} is not installed",
            where=name,
            expected=f"{PACKAGES[prefix]}, which reads {prefix}/ data sets",
            hint=f"pip install {PACKAGES[prefix].replace('_', '-')}",
        )
    return prefix


def _each_split(
    name: str, splits: dict[str, str], open_split: Callable[[str, str], Any], *, optional: bool
) -> dict[str, Any]:
    """Open each split; where their names are a guess (`optional`), one that opens is enough."""
    opened: dict[str, Any] = {}
    errors: list[Exception] = []
    unreadable: dict[str, Exception] = {}
    for split, key in splits.items():
        # Each reader's libraries have exceptions of their own.
        try:
            opened[split_named(split) or split] = open_split(split_named(split) or split, key)
        except _UnlabelledError as error:
            errors.append(error)
            warnings.warn(f"{error}: the split is left out", ModelDoctorWarning, stacklevel=3)
        except Exception as error:
            errors.append(error)
            if not isinstance(error, KeyError) and "split" not in str(error).lower():  # there is none of this name
                unreadable[split] = error
    for split, unread in unreadable.items() if opened and optional else ():
        warnings.warn(
            f"the split {split} cannot be read and is left out: {unread or type(unread).__name__}",
            ModelDoctorWarning,
            stacklevel=3,
        )
    if errors and not (optional and opened):
        raise DataError(
            f"the data set cannot be read: {errors[0]}",
            where=name,
            expected=f"splits called {', '.join(splits)}",
            hint="check its name and root; --download lets it be fetched",
        ) from errors[0]
    return opened


def _shard_splits(name: str, root: Path | None) -> dict[str, str]:
    """Return split -> what timm calls it: by `_info.json`, else by the shards' file names (train-0000.tar)."""
    if root is None or not root.is_dir():
        raise UsageError(
            "no folder to look for the shards in" if root is None else f"there is no folder {root}",
            where=name,
            expected="the folder that holds the .tar files",
            hint="give it as the data's root (--root)",
        )
    info = next((file for file in (root / "_info.json", root / "info.json") if file.is_file()), None)
    if info is not None:
        try:
            return {split: split for split in json.loads(info.read_text(encoding="utf-8"))["splits"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the shards' description cannot be read: {error!r}",
                where=str(info),
                expected='JSON with an entry "splits", as timm writes it',
                hint="correct or remove it",
            ) from error
    shards: dict[str, list[str]] = {}
    for file in sorted(root.glob("*.tar")):
        words = (split_named(word) for word in re.split(r"[^A-Za-z]+", file.stem))
        shards.setdefault(next(filter(None, words), WHOLE), []).append(file.name)
    if not shards:
        raise DataError(
            "no shards", where=str(root), expected="*.tar files, such as train-0000.tar", hint="correct the root"
        )
    order = (*SPLIT_ORDER, WHOLE)
    return {split: "::".join(shards[split]) for split in order if split in shards}


@contextmanager
def _timm_log(messages: list[str]) -> Iterator[None]:
    """Collect what timm would log about samples that it skips."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("timm.data.readers")
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


@contextmanager
def _offline(active: bool) -> Iterator[None]:
    """Keep the Hugging Face libraries from the network: they would download unasked."""
    modules = _hub_settings()
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = active or module.HF_HUB_OFFLINE
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


@cache
def _hub_settings() -> list[Any]:
    names = [f"{package}.{module}" for package, module in _HUB_SETTINGS if find_spec(package)]
    return [module for module in map(import_module, names) if hasattr(module, "HF_HUB_OFFLINE")]
