"""Image files as tables name them: with backslashes, without endings, absolute, in another of Unicode's forms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

from modeldoctor.data.pictures import EXTENSIONS


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

    def find(self, path: str) -> str:
        """Return the path of the file, relative to the root where it lies below; as it came, if there is no such file.

        An absolute path to nothing may start from the root.
        A file is looked for only where its name leaves a doubt: plain names with a known ending are taken as they are.
        """
        plain = PurePosixPath(path)
        if plain.is_absolute():
            below = plain.is_relative_to(self._whole)
            if not below and (Path(plain).exists() or not (self.root / str(plain).lstrip("/")).is_file()):
                return path
            plain = plain.relative_to(self._whole if below else "/")
        doubtful = "\\" in path or not path.isascii() or plain.suffix.lower() not in EXTENSIONS
        if not doubtful or (self.root / plain).is_file():
            return plain.as_posix()
        candidates = (plain, PurePosixPath(path.replace("\\", "/")))
        return next(
            (found for candidate in candidates if (found := self._look_up(candidate)) is not None), plain.as_posix()
        )

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
            names = sorted((entry.name for entry in whole.iterdir()), reverse=True) if whole.is_dir() else []
            entries = {normalize("NFC", name): name for name in names}
            images = {str(PurePosixPath(key).with_suffix("")): name for key, name in entries.items() if _is_image(key)}
            self._folders[place] = _Folder(path, entries, images)
        return self._folders[place]


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS
