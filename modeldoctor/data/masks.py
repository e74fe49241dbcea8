"""Object masks: which pixels of an image show the object.

Annotations belong to an image by its path relative to the data's root, never by its bare name.
Shape letters: H and W, an image's height and width.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol
from unicodedata import normalize

import torch
from torch import Tensor

from modeldoctor.data.annotations import FORMATS, OUTLINES, PIXELS
from modeldoctor.data.canvas import AnnotationError, Canvas, describe
from modeldoctor.data.coco import EXPECTED, CocoIndex, is_coco
from modeldoctor.data.frames import STORED
from modeldoctor.data.levels import is_folder
from modeldoctor.data.pictures import EXTENSIONS
from modeldoctor.data.splits import split_named
from modeldoctor.errors import MaskError, ModelDoctorWarning, counted

PLAN_FILE = "annotate.csv"
"""Marks a folder of images that are to be annotated: its PNG files are no masks."""
_LOOKED_THROUGH = 10_000
"""Files, at most, of which the first is named."""


class Masks(Protocol):
    """Where an image set's masks come from."""

    def find(self, relative_path: str) -> Path | None:
        """Return where an image's annotation is, by the image's path relative to its root, or None.

        That is a file, or a place in one (`instances.json/train/cat/1.jpg`), and no other image's.
        """

    def read(self, path: Path, size: tuple[int, int], orientation: int = STORED) -> Tensor:
        """Return the mask (H,W) bool, True on the object, for an image of size (width, height) in pixels.

        Size and mask are those of the picture as its file stores it, whatever EXIF's orientation (1 to 8) says.

        Raises:
            MaskError: unreadable, of another size, or without an object.
        """

    def warn(self, text: str) -> None:
        """Warn of something odd in a file, once, since others of the same tool will have it, too."""


class _Drawn:
    """Draws masks, and warns once of shapes that are left out, and once of pictures that may have been turned."""

    upright = False
    """Whether it is known that people annotated upright pictures."""

    def __init__(self) -> None:
        self._warned = self._doubted = False

    def _mask(self, canvas: Canvas, draw: Callable[[], None], path: Path, expected: str) -> Tensor:
        try:
            draw()
            mask = canvas.finished()
        except AnnotationError as error:
            raise MaskError(str(error), where=str(path), expected=expected, hint=error.hint) from error
        except OSError as error:
            found, hint = f"it cannot be read: {error.strerror}", "check the file and its permissions, or remove it"
            raise MaskError(found, where=str(path), expected=expected, hint=hint) from error
        if canvas.ignored:
            self.warn(
                f"{path}: {describe(canvas.ignored)} left out, as they enclose no area, are labelled as no object or "
                "cannot be read; so it is with"
                " any other file's"
            )
        if not (canvas.frame_is_known or self.upright or self._doubted):
            self._doubted = True
            warnings.warn(
                f"{path}: its image is turned by EXIF, and nothing says whether the annotation is of the upright"
                " picture or of the one that is stored; it, and others like it, are taken for upright, as viewers and"
                " LabelMe show them. Programs that ignore EXIF, and some that find masks, see the stored one: look at"
                " one, or store such images upright, without EXIF's orientation, before they are annotated",
                ModelDoctorWarning,
                stacklevel=5,
            )
        return torch.from_numpy(mask)

    def warn(self, text: str) -> None:
        """See `Masks.warn`."""
        if not self._warned:
            self._warned = True
            warnings.warn(text, ModelDoctorWarning, stacklevel=5)


class MaskTree(_Drawn):
    """Annotation files in a tree that mirrors the images': `train/cat/x.jpg` has `train/cat/x.png`, or `cat/x.png`.

    The second form holds where the tree has no folders named after splits. Endings count in any case, and names in
    either of Unicode's forms (composed, as Linux and Windows write them, and decomposed, as macOS does).

    Args:
        root: the folder of the annotations; may be the images' own.
        suffixes: which of `FORMATS` are looked for; the first that an image has counts.

    Raises:
        MaskError: there is no such folder.
    """

    def __init__(self, root: Path, suffixes: Sequence[str] = (PIXELS,)):
        if not root.is_dir():
            raise _missing(root)
        super().__init__()
        self._folders: dict[PurePosixPath, _Folder] = {}
        self.root, self.suffixes = root, tuple(suffixes)
        self.upright = (root / PLAN_FILE).is_file()  # `annotate` wrote the pictures so
        names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
        self._split_folders = {split: name for name in names if (split := split_named(name))}

    def find(self, relative_path: str) -> Path | None:
        """See `Masks.find`."""
        file = self.mirrored(relative_path)
        if file is None:
            return None
        folder, stem = self._folder_of(file), normalize("NFC", file.stem)
        found = (folder.files.get(stem + suffix) for suffix in self.suffixes)
        return next((folder.path / name for name in found if name is not None), None)

    def listed(self) -> Iterator[Path]:
        """The annotations in the folders that were looked through, without their endings."""
        for folder in self._folders.values():
            yield from ((folder.path / name).with_suffix("") for name in folder.files.values() if name[0] != ".")

    def suffixes_beside(self, relative_path: str) -> set[str]:
        """Endings of the annotations in the folder that mirrors an image's."""
        file = self.mirrored(relative_path)
        return {PurePosixPath(name).suffix for name in self._folder_of(file).files} if file else set()

    def _folder_of(self, file: Path) -> _Folder:
        return self._folder(PurePosixPath(file.parent.relative_to(self.root)))

    def _folder(self, place: PurePosixPath) -> _Folder:
        """What lies in a folder, looked up once."""
        if place not in self._folders:
            path = self.root
            if place.name:
                above = self._folder(place.parent)
                path = above.path / above.folders.get(normalize("NFC", place.name), place.name)
            self._folders[place] = _list_folder(path, self.suffixes)
        return self._folders[place]

    def mirrored(self, relative_path: str) -> Path | None:
        """The image's path in this tree; None for a path out of the data's folder."""
        image = PurePosixPath(relative_path)
        if image.is_absolute() or ".." in image.parts:
            return None
        split = split_named(image.parts[0]) if len(image.parts) > 1 else None
        if not split:
            return self.root / image
        other = image.parts[0] if self._split_folders else ""
        return self.root / PurePosixPath(self._split_folders.get(split, other), *image.parts[1:])

    def read(self, path: Path, size: tuple[int, int], orientation: int = STORED) -> Tensor:
        """See `Masks.read`; warns once of shapes that are left out."""
        reader, expected = FORMATS[path.suffix.lower()]
        canvas = Canvas(size, orientation)
        return self._mask(canvas, partial(reader, path, canvas), path, expected)


class _Folder(NamedTuple):
    """A folder and, by their composed names, its folders and annotations; of these the ending is in small letters."""

    path: Path
    folders: dict[str, str]
    files: dict[str, str]


def _list_folder(path: Path, suffixes: Sequence[str]) -> _Folder:
    listed = _Folder(path, {}, {})
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True)
    except OSError:  # not there, or no folder: then it has no masks
        return listed
    for entry in entries:
        name = normalize("NFC", entry.name)
        ending = PurePosixPath(name).suffix
        if ending.lower() in suffixes and not is_folder(entry):
            listed.files[name.removesuffix(ending) + ending.lower()] = entry.name
        elif is_folder(entry):
            listed.folders[name] = entry.name
    return listed


class CocoMasks(_Drawn):
    """COCO's instances, all annotations of an image in one mask.

    Args:
        path: a JSON file, or a folder with some directly in it.

    Raises:
        MaskError: it cannot be read, or is not COCO's.
    """

    def __init__(self, path: Path):
        super().__init__()
        try:
            self.index = CocoIndex(path)
        except (AnnotationError, OSError) as error:
            raise MaskError(
                f"the annotations cannot be read: {error}",
                where=str(path),
                expected='COCO\'s instances in JSON, with the lists "images" and "annotations"',
                hint="export them again; LabelMe's files are given as the folder that they lie in",
            ) from error

    def find(self, relative_path: str) -> Path | None:
        """See `Masks.find`."""
        return self.index.find(relative_path)

    def read(self, path: Path, size: tuple[int, int], orientation: int = STORED) -> Tensor:
        """See `Masks.read`; warns as `MaskTree.read` does."""
        canvas = Canvas(size, orientation)
        return self._mask(canvas, partial(self.index.draw, path, canvas), path, EXPECTED)


class MaskCheck(NamedTuple):
    """What reading each mask of an image set shows."""

    usable: list[int]
    """The images whose mask can be used, ascending."""
    invalid: list[MaskError]
    """Why the others' cannot."""
    whole: list[Path]
    """The usable masks that cover the whole image, so that nothing is background."""
    framing: list[Path]
    """Those that hold all four corners of their image, but not all of it."""


def open_masks(path: Path, image_paths: Sequence[str]) -> MaskTree | CocoMasks:
    """Open annotations in whatever format they are.

    Args:
        path: COCO's JSON or a folder with it; or a folder, mirroring the images or their own, with a file an image:
            LabelMe's .json, Pascal VOC's .xml, YOLO's .txt, or a PNG mask; an outline takes precedence over a PNG.
        image_paths: of all images, relative to the data's root.

    Raises:
        MaskError: nothing there, nothing that fits an image, or one annotation for two images.
    """
    masks = next(opener(path, image_paths) for recognised, opener in _KINDS if recognised(path))
    _check_owners(masks, path, image_paths)
    return masks


def _open_tree(path: Path, image_paths: Sequence[str]) -> MaskTree:
    """A tree of outlines, PNG masks, or both; PNG files that may be the images themselves are no masks."""
    whole = MaskTree(path, tuple(OUTLINES))
    present = _suffixes_beside(whole, image_paths)
    outlines = [
        suffix for suffix in OUTLINES if suffix in present and _any_found(MaskTree(path, [suffix]), image_paths)
    ]
    pictures = (path / PLAN_FILE).is_file() or _holds_pictures(path, outlines, image_paths)
    return MaskTree(path, outlines if pictures else [*outlines, PIXELS])


def _holds_pictures(path: Path, outlines: Sequence[str], image_paths: Iterable[str]) -> bool:
    """Whether an outlined PNG image has a PNG beside its outline, as where the images lie there themselves."""
    outlined, pixels = MaskTree(path, outlines), MaskTree(path, [PIXELS])
    pictures = (image for image in image_paths if image.lower().endswith(PIXELS))
    return any(outlined.find(image) and pixels.find(image) for image in pictures)


_KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path, Sequence[str]], MaskTree | CocoMasks]], ...] = (
    (is_coco, lambda path, image_paths: CocoMasks(path)),
    (lambda path: True, _open_tree),
)
"""How annotations are recognised, and who opens them; the first match wins."""


def _suffixes_beside(tree: MaskTree, image_paths: Iterable[str]) -> set[str]:
    """Suffixes of the files in the folders that mirror the images'."""
    folders = {path.rpartition("/")[0] for path in image_paths}
    return {suffix for folder in folders for suffix in tree.suffixes_beside(f"{folder}/_".lstrip("/"))}


def _any_found(tree: MaskTree, image_paths: Iterable[str]) -> bool:
    return any(tree.find(path) for path in image_paths)


def _check_owners(masks: MaskTree | CocoMasks, path: Path, image_paths: Iterable[str]) -> None:
    """Some image has an annotation, and no two have the same: train/cat/1.jpg and val/cat/1.jpg, 1.jpg and 1.png.

    Files beside these that no image has are counted.
    """
    owners: dict[str, str] = {}
    for image in image_paths:
        found = masks.find(image)
        if found is not None and owners.setdefault(str(found), image) != image:
            raise MaskError(
                f"one mask for two images, {owners[str(found)]} and {image}",
                where=str(found),
                expected="one mask an image",
                hint="sort the masks into folders by split, such as "
                f"{(path / image).with_suffix(PurePosixPath(found).suffix)}; give each image a name of its own",
            )
    if not owners:
        raise _nothing_fits(masks, path, image_paths)
    if isinstance(masks, MaskTree):  # COCO's one file is often of more images than are looked at
        _warn_of_strays({str(file) for file in masks.listed()} - {str(Path(file).with_suffix("")) for file in owners})


def _nothing_fits(masks: MaskTree | CocoMasks, path: Path, image_paths: Iterable[str]) -> MaskError:
    first = next(iter(image_paths), "cat/1.jpg")
    if (path / PLAN_FILE).is_file():
        return MaskError(
            "images to annotate, of which none is annotated yet",
            where=str(path),
            expected="a file beside each image, as LabelMe saves it, such as "
            f"{PurePosixPath(first).with_suffix('.json')}",
            hint=f"outline the objects first: labelme {shlex.quote(str(path))} --nodata --autosave",
        )
    if other := _other_picture(path, image_paths):
        return MaskError(
            f"no image has an annotation there: the pictures, such as {other.name}, are no PNG files",
            where=str(path),
            expected=f"masks as PNG, such as {other.with_suffix(PIXELS).name}",
            hint="if these are the masks, save them as PNG; else correct the path of the masks",
        )
    there = masks.index.first if isinstance(masks, CocoMasks) else _first_file(path)
    return MaskError(
        f"no image has an annotation there; what is there {f'begins with {there}' if there else 'is nothing'}",
        where=str(path),
        expected=f"for {first} the file {PurePosixPath(first).with_suffix('')} with one of "
        f"{', '.join(FORMATS)}; or a COCO JSON whose file_name is {first}",
        hint="correct the path of the masks, or bring their folders in line with the images'",
    )


def _warn_of_strays(strays: Collection[str]) -> None:
    if strays:
        warnings.warn(
            f"{counted(len(strays), 'annotation file belongs', 'annotation files belong')} to no image of the data,"
            f" first {min(strays)}: an image's is found by its path and name",
            ModelDoctorWarning,
            stacklevel=4,
        )


def _first_file(folder: Path) -> str:
    """The first file in a tree, of the annotations' formats if there is one; empty without any."""
    files = sorted(islice((file for file in folder.rglob("[!.]*") if file.is_file()), _LOOKED_THROUGH))
    files.sort(key=lambda file: file.suffix.lower() not in FORMATS)
    return files[0].relative_to(folder).as_posix() if files else ""


def _other_picture(path: Path, image_paths: Iterable[str]) -> Path | None:
    """A picture in the place of an image's mask that is of no format which masks may have."""
    if not path.is_dir():
        return None
    tree = MaskTree(path, sorted(EXTENSIONS - {PIXELS}))
    return next((found for image in image_paths if (found := tree.find(image))), None)


def _missing(path: Path) -> MaskError:
    return MaskError(
        "there is no mask folder" if not path.exists() else "this is no folder of masks",
        where=str(path),
        expected=f"a folder that mirrors the image folder, with {', '.join(FORMATS)} files, or a COCO JSON file",
        hint="correct the path of the masks",
    )
