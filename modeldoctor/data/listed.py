"""Image files as tables name them: with backslashes, without endings, absolute, in another of Unicode's forms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

from modeldoctor.data.foreign_paths import plain as plain_path
from modeldoctor.data.foreign_paths import tails
from modeldoctor.data.pictures import EXTENSIONS
from modeldoctor.runtime.reading import exists, is_there


class _Folder(NamedTuple):
    """What a folder holds, by composed names."""

    path: str
    """Relative to the root; "" for itself."""
    entries: Mapping[str, str]
    images: Mapping[str, str]
    """Image files by their names without ending; the first in sorted order."""


class ListedFiles:
    """Finds the files that a table means.

    Args:
        root: the folder that relative paths start from.
    """

    def __init__(self, root: Path):
        self.root = root
        self._whole = PurePosixPath(root.absolute().as_posix())
        self._folders: dict[PurePosixPath, _Folder] = {}
        self._foreign = ""  # what stood before the root on the machine that wrote the table, once it is known

    def find(self, path: str) -> str:
        """Return the path of the file, relative to the root where it lies below; as it came, if there is no such file.

        An absolute path to nothing, as of another machine, is looked for below the root by its end.
        A file is looked for only where its name leaves a doubt: plain names with a known ending are taken as they are.
        """
        path = self._without_turns(path)
        name, absolute = plain_path(path)
        if absolute:
            below = PurePosixPath(path).is_relative_to(self._whole)
            if not below:
                return path if exists(Path(path)) else self._find_end(name) or path
            name = PurePosixPath(path).relative_to(self._whole).as_posix()
        plain = PurePosixPath(name if absolute else path)
        doubtful = "\\" in path or not path.isascii() or plain.suffix.lower() not in EXTENSIONS
        if not doubtful or is_there(self.root / plain):
            return plain.as_posix()
        candidates = (plain, PurePosixPath(name))
        return next(
            (found for candidate in candidates if (found := self._look_up(candidate)) is not None), plain.as_posix()
        )

    def _without_turns(self, path: str) -> str:
        """Without `a/..`, so that an image has one name; not where `a` is a link to elsewhere."""
        if ".." not in PurePosixPath(path).parts:
            return path
        there = self.root / path
        plain = Path(os.path.normpath(there.absolute()))
        same = is_there(there) and is_there(plain) and plain.samefile(there)
        return plain.as_posix() if same and plain.is_relative_to(self.root.absolute()) else path

    def _find_end(self, name: str) -> str | None:
        """The file below the root that has the longest end of a path; of a beginning that is known, the rest."""
        ends = [name.removeprefix(self._foreign)] if self._foreign and name.startswith(self._foreign) else []
        for end in (*ends, *tails(name)):
            if (found := self._look_up(PurePosixPath(end))) is not None and (self.root / found).is_file():
                self._foreign = name.removesuffix(end)
                return found
        return None

    def _look_up(self, path: PurePosixPath) -> str | None:
        if path.is_absolute() or ".." in path.parts:
            return None
        folder, name = self._folder(path.parent), normalize("NFC", path.name)
        found = folder.entries.get(name) if path.suffix.lower() in EXTENSIONS else folder.images.get(name)
        return None if found is None else str(PurePosixPath(folder.path, found))

    def _folder(self, place: PurePosixPath) -> _Folder:
        if place not in self._folders:
            path = ""
            if place.name:
                above = self._folder(place.parent)
                path = str(PurePosixPath(above.path, above.entries.get(normalize("NFC", place.name), place.name)))
            whole = self.root / path
            try:
                names = sorted((entry.name for entry in whole.iterdir()), reverse=True)
            except (OSError, ValueError):  # not there, or no folder: then it has no images
                names = []
            entries = {normalize("NFC", name): name for name in names}
            images = {str(PurePosixPath(key).with_suffix("")): name for key, name in entries.items() if _is_image(key)}
            self._folders[place] = _Folder(path, entries, images)
        return self._folders[place]


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS
