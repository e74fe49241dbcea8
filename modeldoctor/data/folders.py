"""Image folders: `class/*.jpg`, or `train/ val/ test/` of those."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from modeldoctor.data.content import Content, Listing, file_contents
from modeldoctor.data.pictures import EXTENSIONS
from modeldoctor.data.splits import SPLIT_ORDER, WHOLE, split_named
from modeldoctor.errors import DataError, ModelDoctorWarning

_LAYOUT = "class folders with images in them (DIR/cat/1.jpg), or train/, val/, test/ folders of those"


class _Level(NamedTuple):
    """What lies directly in a folder, hidden entries and archive leftovers aside; all sorted."""

    folders: list[str]
    images: list[str]
    others: list[str]


def open_folder(root: Path, excluded: Path | None = None) -> dict[str, Content]:
    """List a folder's images, split by split, in sorted order.

    Args:
        root: the data's folder.
        excluded: a folder in it that holds no classes, such as the masks.

    Raises:
        DataError: no such folder, no class folders, or no images.
    """
    if not root.is_dir():
        raise DataError(
            "there is no such folder" if not root.exists() else "this is no folder",
            where=str(root),
            expected=_LAYOUT,
            hint="correct the path of the data",
        )
    top = _look(root, excluded)
    folders = _split_folders(root, top)
    levels = {split: (root / name, _look(root / name)) for split, name in folders.items()} if folders else {}
    levels = levels or {WHOLE: (root, top)}
    class_names = {name for _, level in levels.values() for name in level.folders}
    listings = {split: _list_classes(folder, root, level) for split, (folder, level) in levels.items()}
    labelled = {split: listing for split, listing in listings.items() if listing.paths}
    if not labelled:
        raise _nothing(root, top, class_names)
    for folder, level in levels.values():
        if level.images:
            warnings.warn(
                f"{len(level.images)} images lie directly in {folder}, beside {len(level.folders)} class folders; they"
                " have no class and are left out",
                ModelDoctorWarning,
                stacklevel=2,
            )
    return file_contents(root, labelled, tuple(sorted(class_names)))


def _split_folders(root: Path, top: _Level) -> dict[str, str] | None:
    """Return split -> folder name, or None where the folders are classes (one of them may be called "train")."""
    named = [(split, name) for name in top.folders if (split := split_named(name))]
    inside = [_look(root / name) for _, name in named]
    nested = any(level.folders and not level.images for level in inside)
    if not named or not (nested or len(named) == len(top.folders)):
        return None
    if len(dict(named)) < len(named):
        raise DataError(
            f"two folders of the same split: {', '.join(name for _, name in named)}",
            where=str(root),
            expected="one folder each for train, val and test",
            hint="remove one of them, or list the images in a CSV file",
        )
    return {split: dict(named)[split] for split in SPLIT_ORDER if split in dict(named)}


def _list_classes(folder: Path, root: Path, level: _Level) -> Listing:
    listing = Listing([], [])
    for name in level.folders:
        paths = sorted(_walk(folder / name, (folder / name).relative_to(root).as_posix(), frozenset()))
        listing.paths.extend(paths)
        listing.classes.extend([name] * len(paths))
    return listing


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Yield the images below a folder; a link back to a folder above is not followed."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    level = _look(folder)
    yield from (f"{prefix}/{name}" for name in level.images)
    for name in level.folders:
        yield from _walk(folder / name, f"{prefix}/{name}", above | {identity})


def _look(folder: Path, excluded: Path | None = None) -> _Level:
    level = _Level([], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    if excluded is None or not excluded.exists() or not excluded.samefile(entry.path):
                        level.folders.append(entry.name)
                elif Path(entry.name).suffix.lower() in EXTENSIONS:
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


def _nothing(root: Path, top: _Level, class_names: set[str]) -> DataError:
    flat = {name: len(_look(root / name).images) for name in top.folders if split_named(name)}
    found = {
        f"{len(top.images)} images directly in {root.name}, no class folders": bool(top.images),
        "images directly in " + ", ".join(f"{name} ({n})" for name, n in flat.items()) + ", no class folders": any(
            flat.values()
        ),
        f"{len(class_names)} class folders, but no image in them": bool(class_names),
        f"no image and no class folder, only {len(top.others)} other files such as {', '.join(top.others[:3])}": bool(
            top.others
        ),
        "an empty folder": True,
    }
    return DataError(
        next(text for text, holds in found.items() if holds),
        where=str(root),
        expected=f"{_LAYOUT}; image files end in {', '.join(sorted(EXTENSIONS))}",
        hint="sort the images into one folder a class, or list them in a CSV file with the columns path and label",
    )
