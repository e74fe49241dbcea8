"""Paths as other machines wrote them: with backslashes, drive letters, absolute, in another of Unicode's forms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Generic, TypeVar
from unicodedata import normalize

_DRIVE = re.compile(r"(file:/{0,3})?([A-Za-z]:)?(?=[\\/])|[A-Za-z]:")
Value = TypeVar("Value")


def plain(path: str) -> tuple[str, bool]:
    """A path with slashes, composed, without drive, leading slashes and dots; and whether it was absolute."""
    start = _DRIVE.match(path)
    rest = path[start.end() :] if start else path
    return PurePosixPath(normalize("NFC", rest.replace("\\", "/")).lstrip("/")).as_posix(), start is not None


def tails(path: str) -> Iterator[str]:
    """Ends of a path of slashes, the longest first: "a/b/c", "b/c", "c"."""
    parts = path.split("/")
    return ("/".join(parts[at:]) for at in range(len(parts)))


class ByPath(Generic[Value]):
    """Values by the paths of a table, which are looked up by images' paths relative to the data's root.

    A table's path counts as it is; else without its ending, where it has none; else, if it is absolute, by its end.
    """

    def __init__(self) -> None:
        self._exact: dict[str, Value] = {}
        self._ends: dict[str, Value | None] = {}

    def add(self, path: str, value: Value) -> bool:
        """Take a row; False where another one gives the same path another value."""
        name, absolute = plain(path)
        if absolute:
            for end in tails(name):
                # One end of two paths says nothing.
                self._ends[end] = value if self._ends.get(end, value) == value else None
        return self._exact.setdefault(name, value) == value

    def find(self, image: str) -> Value | None:
        """The value of an image; None where no row is clearly of it."""
        name = plain(image)[0]
        for key in (name, str(PurePosixPath(name).with_suffix(""))):
            for known in (self._exact, self._ends):
                if (value := known.get(key)) is not None:
                    return value
        return None
