"""COCO's instance annotations: one JSON file for many images."""

from __future__ import annotations

import json
import mmap
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from modeldoctor.data.annotations import load_json
from modeldoctor.data.canvas import AnnotationError, Canvas, decode_runs, numbers
from modeldoctor.data.foreign_paths import plain, tails
from modeldoctor.data.paths import PathTable
from modeldoctor.data.splits import SPLIT_ORDER, split_named
from modeldoctor.errors import ModelDoctorWarning, counted

_MOST = 1 << 30
"""Bytes of a file; that of COCO's training images is half of it."""
_LISTS = (re.compile(rb'"images"\s*:\s*\['), re.compile(rb'"annotations"\s*:\s*\['))
"""Other files have these words, too, such as what a treatment writes."""
EXPECTED = "COCO's instances: polygons, run lengths or boxes of an image of this size"


def is_coco(path: Path) -> bool:
    """Whether this is a JSON file, or a folder with COCO's directly in it."""
    if path.is_file():
        return path.suffix.lower() == ".json"
    return any(map(_mentions_images, _json_files(path)))


class CocoIndex:
    """Annotations by the image's relative path, kept as JSON text in one buffer until an image is asked for.

    A `file_name` is an image's path relative to the data's root, with or without the split's folder; an absolute one,
    as of another machine, counts by its end. In a folder of
    several files the split may also be in the file's own name (`instances_val2017.json`).

    Args:
        path: the file, or a folder with some.

    Raises:
        AnnotationError: a file is broken, or is not COCO's.
    """

    def __init__(self, path: Path):
        files = [path] if path.is_file() else sorted(filter(_mentions_images, _json_files(path)))
        gathered: dict[_Key, dict[str, Any]] = {}
        absolute: dict[_Key, None] = {}
        self._files = tuple(files)
        for number, file in enumerate(files):
            try:
                for key, whole, entry in _entries(file, _split_of(file) if len(files) > 1 else None):
                    absolute |= {key: None} if whole else {}
                    known = gathered.setdefault(key, {"file": number, "size": entry["size"], "shapes": []})
                    known["shapes"] += entry["shapes"]
            except AnnotationError as error:
                raise AnnotationError(f"{file.name}: {error}") from error
        self._rows = {key: row for row, key in enumerate(gathered)}
        self._ends: dict[str, _Key | None] = {}
        for key in absolute:
            for end in tails(str(key)):
                self._ends[end] = key if end not in self._ends else None  # one end of two paths says nothing
        self._owners = [entry.pop("file") for entry in gathered.values()]
        self._texts = PathTable(json.dumps(entry) for entry in gathered.values())

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def first(self) -> str:
        """An image that has annotations; empty without any."""
        return str(next(iter(self._rows), ""))

    def find(self, relative_path: str) -> Path | None:
        """The place of an image's annotations, as a path below their file, or None."""
        key = self._match(_key(relative_path))
        return None if key is None else self._files[self._owners[self._rows[key]]] / str(key)

    def _match(self, key: _Key) -> _Key | None:
        others = [None] if key.split else SPLIT_ORDER
        found = [other for other in (_Key(split, key.rest) for split in others) if other in self._rows]
        if key in self._rows:
            return key
        if self._ends and (whole := self._ends.get(str(key)) or self._ends.get(key.rest)):
            return whole
        # Without its split an image may be any of several: better none than another's.
        return found[0] if len(found) == 1 else None

    def draw(self, place: Path, canvas: Canvas) -> None:
        """Draw all annotations of the image that `find` named."""
        file = next(file for file in self._files if place.is_relative_to(file))
        entry = json.loads(self._texts[self._rows[_key(place.relative_to(file).as_posix())]])
        canvas.check_size(*entry["size"])
        for shape in entry["shapes"]:
            canvas.attempt(partial(_draw, shape, canvas))


class _Key(NamedTuple):
    split: str | None
    rest: str

    def __str__(self) -> str:
        return f"{self.split}/{self.rest}" if self.split else self.rest


def _key(relative_path: str) -> _Key:
    path = PurePosixPath(plain(relative_path)[0])
    parts = (path.with_suffix(path.suffix.lower()) if path.suffix else path).parts
    split = split_named(parts[0]) if len(parts) > 1 else None
    return _Key(split, "/".join(parts[1:] if split else parts))


def _split_of(file: Path) -> str | None:
    return next(filter(None, map(split_named, re.split(r"[^A-Za-z]+", file.stem))), None)


def _entries(file: Path, split: str | None) -> Iterator[tuple[_Key, bool, dict[str, Any]]]:
    """Yield each annotation with its image's key, whether that is absolute, and its size; captions are left out."""
    content = load_json(file, _MOST)
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise AnnotationError('no lists "images" and "annotations"')
    by_id: dict[str, dict[str, Any]] = {}
    unusable: list[str] = []
    doubtful: dict[str, str] = {}
    sized: dict[str, dict[str, Any]] = {}
    for at, image in enumerate(images):
        number = _id(image, "id")
        if number is not None and isinstance(name := image.get("file_name"), str):
            if by_id.setdefault(number, image)["file_name"] != name:
                doubtful[number] = "an id of two images"
            if _size(other := sized.setdefault(name, image)) != _size(image):
                doubtful |= dict.fromkeys((number, str(_id(other, "id"))), "a file that is listed with two sizes")
        else:
            unusable.append(f"images[{at}] without id or file_name")
    usable = 0
    for at, annotation in enumerate(annotations):
        number = _id(annotation, "image_id")
        if number is None:
            unusable.append(f"annotations[{at}] without image_id")
            continue
        if number in doubtful:
            unusable.append(f"annotations[{at}] of image {number}, {doubtful[number]}")
            continue
        image = by_id.get(number)
        if image is not None and ("segmentation" in annotation or "bbox" in annotation):
            key, whole = _key(image["file_name"]), plain(image["file_name"])[1]
            outline = annotation.get("segmentation")
            # Boxes alone are written with an empty outline, or with a list of one.
            shape = annotation.get("bbox") if outline in (None, [], [[]]) else outline
            usable += 1
            yield _Key(key.split or split, key.rest), whole, {"size": _size(image), "shapes": [shape]}
    _tell(file, unusable, usable)


def _size(image: dict[str, Any]) -> list[Any]:
    return [image.get("width"), image.get("height")]


def _id(entry: Any, key: str) -> str | None:
    """As text, since some tools write numbers on one side and texts, or 7.0, on the other; None for what is no id."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) else None


def _tell(file: Path, unusable: list[str], usable: int) -> None:
    """Say which entries were left out.

    Raises:
        AnnotationError: none is left.
    """
    if unusable and not usable:
        raise AnnotationError(f"images or annotations that are not COCO's: {unusable[0]}")
    if unusable:
        warnings.warn(
            f"{file}: {counted(len(unusable), 'entry', 'entries')} left out, the first is {unusable[0]}: export the "
            "file again, or take them out",
            ModelDoctorWarning,
            stacklevel=2,
        )


def _draw(shape: Any, canvas: Canvas) -> None:
    """Draw run lengths {size, counts}, polygons [[x1, y1, ...], ...] or a box [x, y, width, height].

    Raises:
        AnnotationError: this cannot be drawn; of several polygons, the others are.
    """
    if isinstance(shape, dict):
        _draw_runs(shape, canvas)
    elif shape and isinstance(shape, Sequence) and isinstance(shape[0], list):
        for polygon in shape:
            canvas.attempt(partial(_draw_polygon, polygon, canvas))
    elif shape:
        values = numbers(shape)
        if len(values) != 4:
            raise AnnotationError(f"a flat list of {len(values)} numbers, neither a box nor a list of polygons")
        left, top, width, height = values
        canvas.box(left, top, left + width, top + height)


def _draw_polygon(polygon: Any, canvas: Canvas) -> None:
    canvas.polygon(numbers(polygon, columns=2))


def _draw_runs(shape: dict[str, Any], canvas: Canvas) -> None:
    counts, size = shape.get("counts"), shape.get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise AnnotationError("run lengths without their size")
    canvas.check_size(size[1], size[0])
    if isinstance(counts, str):
        counts = decode_runs(counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise AnnotationError("run lengths that are no whole numbers")
    canvas.runs(counts)


def _json_files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix.lower() == ".json"] if folder.is_dir() else []


def _mentions_images(file: Path) -> bool:
    """Tell COCO's JSON from LabelMe's without parsing hundreds of megabytes."""
    if not file.is_file() or file.stat().st_size == 0:
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(lists.search(text) for lists in _LISTS)
