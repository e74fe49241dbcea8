"""What lies in one folder of images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from modeldoctor.data.pictures import EXTENSIONS, picture_size
from modeldoctor.errors import DataError
from modeldoctor.runtime.reading import exists

_LEFTOVERS = (
    "__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information",
    "lost+found",
)  # fmt: skip
"""Of unpacking, and of network storages and file systems."""
_NO_PICTURES = frozenset((
    ".csv", ".db", ".gz", ".h5", ".html", ".ini", ".json", ".log", ".mat", ".md", ".npy", ".npz", ".pdf", ".pt",
    ".pth", ".py", ".tar", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".zip",
))  # fmt: skip
"""Endings of files that need no look to know that they are no pictures."""


class Level(NamedTuple):
    """What lies directly in a folder, archive leftovers aside; all sorted."""

    folders: list[str]
    images: list[str]
    others: list[str]
    hidden: list[str]
    """Folders whose names begin with a dot; hidden files are not listed."""


def look(folder: Path, excluded: Path | None = None) -> Level:
    """List a folder, sorted; without the excluded one in it.

    Raises:
        DataError: it cannot be read.
    """
    level = Level([], [], [], [])
    excluded = excluded if excluded is not None and exists(excluded) else None
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    level.hidden.extend([entry.name] if is_folder(entry) else [])
                elif entry.name in _LEFTOVERS:
                    continue
                elif is_folder(entry):
                    if excluded is None or not excluded.samefile(entry.path):
                        level.folders.append(entry.name)
                elif _is_image(entry):
                    level.images.append(entry.name)
                else:
                    level.others.append(entry.name)
    except OSError as error:
        raise DataError(
            f"the folder cannot be read: {error.strerror}",
            where=str(folder),
            expected="a readable folder",
            hint="check its permissions",
        ) from error
    for names in level:
        names.sort()
    return level


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link in a circle, or to where nobody may look, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """By the file's ending; by its first bytes where that says nothing."""
    ending = Path(entry.name).suffix.lower()
    return ending in EXTENSIONS or (ending not in _NO_PICTURES and picture_size(Path(entry.path)) is not None)
