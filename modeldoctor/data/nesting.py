"""Is the data's folder the level whose folders are the classes, or one above it?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from modeldoctor.data.levels import Level, look
from modeldoctor.data.splits import split_named
from modeldoctor.errors import DataError, ModelDoctorWarning, shortened

_DEEPEST = 3


def check_depth(root: Path, folder: Path, level: Level) -> None:
    """Refuse folders that unpacking or downloading put around the classes'; warn where they may be classes.

    A class may hold folders (`cat/film 3/1.jpg`), so that they alone prove nothing: its one folder, a name repeated
    (`cats/cats/`), or the name of a split (`seg_train/`, `flowers/train/`) does.

    Args:
        root: the data's folder.
        folder: the one whose folders would be the classes, of a split or `root`.
        level: what lies in it.

    Raises:
        DataError: the classes lie deeper; the text names the folder that fits.
    """
    inside = {name: look(folder / name) for name in level.folders}
    filled = {name: folder for name, folder in inside.items() if folder.folders or folder.images}
    nested = {name: folder for name, folder in filled.items() if not folder.images}
    fitting = [place for name in nested for place in _fitting(folder / name, _DEEPEST)]
    if not fitting and nested and len(nested) == len(filled):
        _warn_of_splits_within(folder, nested)
    if not fitting or level.images:
        return
    fitting.sort(key=lambda place: "train" not in place.relative_to(root).as_posix().lower())
    outer = ", ".join(list(nested)[:5]) + (", ..." if len(nested) > 5 else "")
    if len(filled) == 1 or any(_wraps(name, folder) for name, folder in nested.items()):
        others = f"; the others are {', '.join(map(str, fitting[1:4]))}" if fitting[1:] else ""
        hint = f"pass --data {fitting[0]}{others}"
        if folder != root:
            hint += (
                f"; that leaves out the other splits: to keep them, move the class folders up, into {folder}, in each"
            )
        raise DataError(
            f"folders that hold only folders: {outer}",
            where=str(folder),
            expected="class folders with images in them (DIR/cat/1.jpg), or train/, val/, test/ folders of those",
            hint=hint,
        )
    if len(nested) == len(filled):
        warnings.warn(
            f"every class folder in {folder} holds only folders ({outer}); each outer folder is taken for one class. If"
            f" the inner ones are the classes, pass --data {fitting[0]}",
            ModelDoctorWarning,
            stacklevel=3,
        )


def _warn_of_splits_within(folder: Path, nested: Mapping[str, Level]) -> None:
    """Warn where all of the classes' folders are named after splits."""
    within = [f"{name}/{inner}" for name, level in nested.items() for inner in level.folders]
    if not all(split_named(name.rpartition("/")[2]) for name in within):
        return
    warnings.warn(
        f"the splits lie within the folders of {folder}: {shortened(within)}; each outer folder is taken for a class,"
        " and all its images for one split, those of the training, too. Turn them round (train/cat/1.jpg), or list the"
        " images in a CSV file with the columns path, label and split",
        ModelDoctorWarning,
        stacklevel=4,
    )


def _wraps(name: str, level: Level) -> bool:
    return name in level.folders or any(map(split_named, [*level.folders, *re.split(r"[^A-Za-z]+", name)]))


def _fitting(folder: Path, depth: int) -> Iterator[Path]:
    """The highest folders, from this one on, that look like data: several classes, or splits of classes."""
    inside = {name: look(folder / name) for name in look(folder).folders}
    classes = [name for name, level in inside.items() if level.images and not split_named(name)]
    splits = [
        name
        for name, level in inside.items()
        if split_named(name) and any(look(folder / name / deeper).images for deeper in level.folders)
    ]
    if len(classes) > 1 or splits:
        yield folder
    elif depth > 1:
        for name in inside:
            yield from _fitting(folder / name, depth - 1)
