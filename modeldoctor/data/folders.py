"""Image folders: `class/*.jpg`, or `train/ val/ test/` of those."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from unicodedata import normalize

from torchvision.datasets.folder import IMG_EXTENSIONS

from modeldoctor.data.among import warn_of_masks
from modeldoctor.data.annotations import OUTLINES
from modeldoctor.data.content import Content, Listing, file_contents
from modeldoctor.data.levels import Level, look
from modeldoctor.data.nesting import check_depth
from modeldoctor.data.splits import SPLIT_ORDER, WHOLE, split_named
from modeldoctor.errors import DataError, ModelDoctorWarning, counted, shortened

_OF_MARKS = re.compile("mask|annot|label|segm|outline|bound|box", re.IGNORECASE)
_UNREAD = {".heic", ".heif", ".jxl", ".dcm", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".svg", ".npy"}
"""Pictures of formats that Pillow alone does not open."""
_LAYOUT = "class folders with images in them (DIR/cat/1.jpg), or train/, val/, test/ folders of those"


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
            hint="unpack an archive; a list of images is read from a CSV file (.csv) with the columns path and label"
            if root.is_file()
            else "correct the path of the data",
        )
    top = look(root, excluded)
    folders = _split_folders(root, top)
    levels = {split: (root / name, look(root / name, excluded)) for split, name in (folders or {}).items()}
    levels = levels or {WHOLE: (root, top)}
    for folder, level in levels.values():
        check_depth(root, folder, level)
    class_names: dict[str, str] = {}
    for _, level in levels.values():
        for name in level.folders:
            class_names.setdefault(normalize("NFC", name), name)
    passed = Counter[str]()
    listings = {split: _list_classes(folder, root, level, passed) for split, (folder, level) in levels.items()}
    labelled = {split: listing for split, listing in listings.items() if listing.paths}
    if not labelled:
        raise _nothing(root, top, set(class_names), passed)
    for folder, level in levels.values():
        if level.images:
            warnings.warn(
                f"{counted(len(level.images), 'image')} directly in {folder}, beside "
                f"{counted(len(level.folders), 'class folder')}: they have no class and are left out",
                ModelDoctorWarning,
                stacklevel=2,
            )
    _warn_of_passed(
        root, passed if excluded is None else Counter({e: n for e, n in passed.items() if e not in OUTLINES})
    )
    _warn_of_hidden(levels.values())
    warn_of_masks(root, [path for listing in labelled.values() for path in listing.paths])
    _warn_of_beside(root, set(top.folders) - set(folders.values()) if folders else set(), class_names)
    # In the order of the names as they are on the disk: a training sorted them so.
    return file_contents(root, labelled, tuple(sorted(class_names, key=class_names.__getitem__)))


def _warn_of_passed(root: Path, passed: Counter[str]) -> None:
    """Count by ending the files in class folders that are no pictures."""
    if passed:
        warnings.warn(
            f"files in the class folders of {root} that are no pictures are passed over: {_endings(passed)}",
            ModelDoctorWarning,
            stacklevel=3,
        )


def _endings(passed: Counter[str]) -> str:
    kinds = sorted(passed.items(), key=lambda entry: (-entry[1], entry[0]))
    more = f"; and {len(kinds) - 10} more endings" if len(kinds) > 10 else ""
    return ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in kinds[:10]) + more


def _warn_of_hidden(levels: Iterable[tuple[Path, Level]]) -> None:
    """Name hidden folders with images: torchvision's ImageFolder makes classes of them."""
    found = [folder / name for folder, level in levels for name in level.hidden if _holds_image(folder / name)]
    if found:
        warnings.warn(
            f"hidden folders with images are left out: {', '.join(map(str, found[:5]))}"
            + (f", ... ({len(found)})" if len(found) > 5 else "")
            + "; torchvision's ImageFolder counts each as a class, which moves the numbers of all others: if the"
            " network was trained so, it has an output more than there are classes",
            ModelDoctorWarning,
            stacklevel=3,
        )


def _warn_of_beside(root: Path, names: Collection[str], class_names: Collection[str]) -> None:
    """Name folders beside the splits' that may be splits or classes, too; those of annotations are none."""
    found = []
    for name in sorted(name for name in names if not _OF_MARKS.search(name)):
        level = look(root / name)
        classes = [folder for folder in level.folders if normalize("NFC", folder) in class_names]
        if level.images or any(look(root / name / folder).images for folder in classes):
            found.append(name)
    if found:
        warnings.warn(
            f"folders with images beside those of the splits are left out: {shortened(found)} in {root}; if one is a"
            " split, give it the name val or test, or list the images in a CSV file with the columns path, label and"
            " split",
            ModelDoctorWarning,
            stacklevel=3,
        )


def _holds_image(folder: Path) -> bool:
    return next(_walk(folder, "", frozenset(), Counter()), None) is not None


def _split_folders(root: Path, top: Level) -> dict[str, str] | None:
    """Return split -> folder name, or None where the folders are classes (one of them may be called "train")."""
    named = [(split, name) for name in top.folders if (split := split_named(name))]
    inside = [look(root / name) for _, name in named]
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


def _list_classes(folder: Path, root: Path, level: Level, passed: Counter[str]) -> Listing:
    listing = Listing([], [])
    _warn_of_spellings(folder, level.folders)
    classes = {name: _identity(folder / name) for name in level.folders}
    owners: dict[tuple[int, int], str] = {}
    for name, own in classes.items():
        if (other := owners.setdefault(own, name)) != name:
            raise DataError(
                f"two classes are one folder: {other} and {name}, of which one is a link to the other",
                where=str(folder),
                expected="one class for each image",
                hint="remove the link",
            )
    # An image belongs to one class: a link to another class's folder, or to one above, would give it a second.
    elsewhere = {_identity(part) for part in (folder, root, *root.absolute().parents)} | set(classes.values())
    for name, own in classes.items():
        prefix = (folder / name).relative_to(root).as_posix()
        paths = sorted(_walk(folder / name, prefix, frozenset(elsewhere - {own}), passed))
        listing.paths.extend(paths)
        listing.classes.extend([normalize("NFC", name)] * len(paths))
    return listing


def _warn_of_spellings(folder: Path, names: Collection[str]) -> None:
    """Warn where one class lies in two folders of one split, whose names differ in Unicode's form alone."""
    spelled = Counter(normalize("NFC", name) for name in names)
    if twice := [name for name, times in spelled.items() if times > 1]:
        warnings.warn(
            f"{folder}: two folders each for {shortened(twice)}, whose names are spelled by other code points and look"
            " the same: they are taken for one class. torchvision's ImageFolder makes two of them: if the network was"
            " trained so, it has an output more than there are classes",
            ModelDoctorWarning,
            stacklevel=4,
        )


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _walk(folder: Path, prefix: str, elsewhere: frozenset[tuple[int, int]], passed: Counter[str]) -> Iterator[str]:
    """Yield the images below a folder and count what else is there; a link back, or elsewhere, is not followed."""
    identity = _identity(folder)
    if identity in elsewhere:
        passed["link(s) to folders that are read elsewhere"] += 1
        return
    level = look(folder)
    yield from (f"{prefix}/{name}" for name in level.images)
    passed.update(Path(name).suffix.lower() for name in level.others)
    for name in level.folders:
        yield from _walk(folder / name, f"{prefix}/{name}", elsewhere | {identity}, passed)


def _nothing(root: Path, top: Level, class_names: set[str], passed: Counter[str]) -> DataError:
    flat = {name: len(look(root / name).images) for name in top.folders if split_named(name)}
    found = {
        f"{len(top.images)} images directly in {root.name}, no class folders": bool(top.images),
        "images directly in " + ", ".join(f"{name} ({n})" for name, n in flat.items()) + ", no class folders": any(
            flat.values()
        ),
        f"{len(class_names)} class folders, but no image in them" + (f": {_endings(passed)}" if passed else ""): bool(
            class_names
        ),
        f"no image and no class folder, only {len(top.others)} other files such as {', '.join(top.others[:3])}": bool(
            top.others
        ),
        "an empty folder": True,
    }
    return DataError(
        next(text for text, holds in found.items() if holds),
        where=str(root),
        expected=f"{_LAYOUT}; image files are what Pillow opens, such as {', '.join(sorted(IMG_EXTENSIONS))}",
        hint="convert them to JPEG or PNG: this installation reads none of these formats"
        if passed.keys() & _UNREAD
        else "sort the images into one folder a class, or list them in a CSV file with the columns path and label",
    )
