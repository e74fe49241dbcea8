"""Is an HDF5 file what it says it is? Asked before its arrays are read: where they lie, how large, of which shapes.

A file may come from anybody. It must lead nowhere else, take no more memory than it can justify, and agree with itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path

import h5py
import numpy as np

DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
"""What h5py and numpy raise at files that are not what they say."""

# What deflate can do at most, and what is allowed beside it.
_RATIO, _SLACK = 1100, 1 << 20
_LARGEST_PACKED = 1 << 30
_DEPTH = 6
_OF_SCALES = ("DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS")
_HEAP, _ENTRY = b"GCOL\x01", struct.Struct("<H6xQ")
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
"""What HDF5 stores in the place of a text: how long it is, and where it lies."""


def check_storage(group: h5py.Group) -> None:
    """Refuse links out of the file, arrays that lie elsewhere, and arrays far larger than what is stored of them.

    Raises:
        ValueError: the first of these, by its name in the file.
    """
    check_attributes(group)
    for name, item in _walk(group, _DEPTH):
        check_attributes(item)
        if not isinstance(item, h5py.Dataset):
            continue
        if item.is_virtual or item.external:
            raise ValueError(f"{name} lies in another file")
        stored = item.id.get_storage_size()
        packed = item.compression is not None
        most = min(stored * _RATIO, _LARGEST_PACKED) if packed else stored
        if item.nbytes > most + _SLACK:
            raise ValueError(f"{name} declares {item.nbytes} bytes, of which {stored} are stored")
        if item.dtype.kind == "O":
            _check_text(name, item)


def check_heaps(path: Path) -> None:
    """Refuse a heap of texts in which the HDF5 library would go round for ever, at an entry that takes no room.

    Raises:
        ValueError: there is such an entry.
    """
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        start = content.find(_HEAP)
        while start >= 0:
            _check_heap(content, start)
            start = content.find(_HEAP, start + 1)


def _check_heap(content: mmap, start: int) -> None:
    """Walk through its entries as the library does: a number, a size; number 0 is the room that is left."""
    if start + _ENTRY.size > len(content):
        return
    _, size = _ENTRY.unpack_from(content, start)
    place, end = start + _ENTRY.size, min(start + size, len(content))
    while place + _ENTRY.size <= end:
        number, size = _ENTRY.unpack_from(content, place)
        taken = _ENTRY.size + -(-size // 8) * 8 if number else size
        if not 0 < taken <= end - place:
            raise ValueError(f"the heap of texts at byte {start} is damaged")
        place += taken


def check_attributes(item: h5py.Group | h5py.Dataset) -> None:
    """Refuse an attribute of many texts, which may all be the same large one.

    Raises:
        ValueError: the first of these; those of the scales of dimensions are HDF5's own.
    """
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        if attribute.shape and attribute.dtype.kind == "O" and name not in _OF_SCALES:
            raise ValueError(f"the attribute {name} of {item.name} holds {attribute.shape} values instead of one")


def _check_text(name: str, item: h5py.Dataset) -> None:
    """Refuse texts that are longer together than the file: many entries may lead to the same one."""
    start = item.id.get_offset()
    if start is None:
        if item.id.get_storage_size():
            raise ValueError(f"{name} holds text in chunks, whose length cannot be known before it is read")
        return
    path = Path(item.file.filename)
    with path.open("rb") as file:
        file.seek(start)
        entries = np.frombuffer(file.read(item.size * _REFERENCE.itemsize), dtype=_REFERENCE)
    length = int(entries["length"].sum(dtype=np.int64))
    if length > path.stat().st_size:
        raise ValueError(f"{name} declares text of {length} bytes, more than the whole file")


def _walk(group: h5py.Group, depth: int) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    if depth == 0:
        raise ValueError(f"groups within groups below {group.name}")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link to somewhere else")
        item = group[name]
        yield str(item.name), item
        if isinstance(item, h5py.Group):
            yield from _walk(item, depth - 1)


def check_shapes(group: h5py.Group, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Whether arrays have the shapes that the file's own counts ask for.

    Raises:
        ValueError: one has not.
    """
    for name, shape in shapes.items():
        if name in group and group[name].shape != shape:
            raise ValueError(f"{group.name}/{name} is of shape {group[name].shape} instead of {shape}")


def check_range(name: str, values: object, end: int, *, least: int = 0) -> None:
    """Whether numbers count something that is there.

    Raises:
        ValueError: one is below `least`, or `end` or more.
    """
    numbers = np.asarray(values)
    if numbers.size and numbers.dtype.kind not in "iub":  # an empty list has no type of its own
        raise ValueError(f"{name} holds {numbers.dtype} in place of whole numbers")
    if numbers.size and (numbers.min() < least or numbers.max() >= end):
        raise ValueError(f"{name} holds {numbers.min()} to {numbers.max()}, outside of {least} to {end - 1}")
