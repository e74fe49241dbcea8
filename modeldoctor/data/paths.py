"""A compact table of paths, so that a million of them neither fill memory nor grow it in forked workers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import overload

import numpy as np
from numpy.typing import NDArray


class PathTable(Sequence[str]):
    """An immutable sequence of strings kept in one bytes buffer and one offsets array.

    Reading an entry touches no other object's reference count, so pages shared with forked workers stay shared.

    Args:
        paths: the strings, in order; file names that are not valid UTF-8 survive unchanged.
    """

    def __init__(self, paths: Iterable[str]):
        encoded = [os.fsencode(path) for path in paths]
        self._buffer = b"".join(encoded)
        self._offsets: NDArray[np.int64] = np.fromiter(accumulate(map(len, encoded), initial=0), np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PathTable: ...
    def __getitem__(self, index: int | slice) -> str | PathTable:
        if isinstance(index, slice):
            return PathTable(self[position] for position in range(len(self))[index])
        position = range(len(self))[index]
        return os.fsdecode(self._buffer[self._offsets[position] : self._offsets[position + 1]])
