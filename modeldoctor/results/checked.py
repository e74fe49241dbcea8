"""Is an HDF5 file what it says it is? Asked before its arrays are read: where they lie, how large, of which shapes.

A file may come from anybody. It must lead nowhere else, take no more memory than it can justify, and agree with itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import h5py
import numpy as np

DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
"""What h5py and numpy raise at files that are not what they say."""

# What deflate can do at most, and what is allowed beside it.
_RATIO, _SLACK = 1100, 1 << 20
_LARGEST_PACKED = 1 << 30
_DEPTH = 6


def check_storage(group: h5py.Group) -> None:
    """Refuse links out of the file, arrays that lie elsewhere, and arrays far larger than what is stored of them.

    Raises:
        ValueError: the first of these, by its name in the file.
    """
    for name, item in _walk(group, _DEPTH):
        if not isinstance(item, h5py.Dataset):
            continue
        if item.is_virtual or item.external:
            raise ValueError(f"{name} lies in another file")
        stored = item.id.get_storage_size()
        packed = item.compression is not None
        most = min(stored * _RATIO, _LARGEST_PACKED) if packed else stored
        if item.nbytes > most + _SLACK:
            raise ValueError(f"{name} declares {item.nbytes} bytes, of which {stored} are stored")


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
