"""From what the user calls their data to image sets, split by split."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.content import Content
from modeldoctor.data.folders import open_folder
from modeldoctor.data.imageset import ImageSet
from modeldoctor.data.masks import Masks, open_masks
from modeldoctor.data.named import open_named
from modeldoctor.data.pictures import PictureFiles, deep_scaling
from modeldoctor.data.streams import PACKAGES, StreamSet, open_indexed, open_streams
from modeldoctor.data.tables import open_table
from modeldoctor.errors import MaskError, ModelDoctorWarning

_LOOKED_AT = 5


@dataclass(frozen=True)
class _Request:
    data: str
    root: Path | None
    download: bool
    masks: Path | None


def _open_torchvision(request: _Request) -> dict[str, Content]:
    return open_named(request.data.partition(":")[2], request.root, download=request.download)


def _open_indexed(request: _Request) -> dict[str, Content]:
    return open_indexed(request.data, request.root, download=request.download)


def _open_table(request: _Request) -> dict[str, Content]:
    return open_table(Path(request.data), request.root)


def _open_folder(request: _Request) -> dict[str, Content]:
    return open_folder(Path(request.data), request.masks)


_STREAMS = tuple(f"{prefix}/" for prefix in PACKAGES if prefix != "hfds")
_FORMS: tuple[tuple[Callable[[str], bool], Callable[[_Request], dict[str, Content]]], ...] = (
    (lambda data: data.lower().startswith("torchvision:"), _open_torchvision),
    (lambda data: data.lower().startswith("hfds/"), _open_indexed),
    (lambda data: data.lower().endswith((".csv", ".tsv")) and not Path(data).is_dir(), _open_table),
    (lambda data: True, _open_folder),
)
"""What the data's name looks like, and who opens it; the first match wins."""


def open_data(
    data: str | Path,
    *,
    preprocessing: Preprocessing,
    root: Path | None = None,
    download: bool = False,
    masks: Path | None = None,
) -> dict[str, ImageSet | StreamSet]:
    """Open the user's data as image sets by split, in the order train, val, test; one split "all" where there are none.

    Args:
        data: `torchvision:NAME`; timm's `hfds/NAME`, `hfids/NAME`, `tfds/NAME`, `wds/NAME`; a CSV file with the
            columns path, class (or label) and optionally split; or a folder `class/*.jpg`, or `train/ val/ test/` of
            those.
        preprocessing: the network's input.
        root: where the files of a named set are, or where a CSV file's paths start.
        download: may fetch a named set into `root`; nothing is ever fetched without.
        masks: annotations in any format that `open_masks` knows.

    Raises:
        DataError: the data cannot be used; the text says what was found and what was expected.
        MaskError: the masks cannot be used, fit no image, or one would belong to two images.
        UsageError: an unknown name, or a root is missing.
    """
    name = os.fspath(data)
    if name.lower().startswith(_STREAMS):
        if masks is not None:
            raise MaskError(
                "masks for a stream of images",
                where=name,
                expected="images in files, whose paths the masks mirror",
                hint="unpack the shards into a folder, or leave the masks out",
            )
        return dict(open_streams(name, root, preprocessing=preprocessing, download=download))
    request = _Request(name, root, download, masks)
    opener = next(opener for matches, opener in _FORMS if matches(name))
    contents = opener(request)
    found = _masks_of(masks, contents) if masks is not None else None
    _say_scaling(contents)
    return {split: _image_set(split, content, preprocessing, found) for split, content in contents.items()}


def _say_scaling(contents: dict[str, Content]) -> None:
    """Warn where images have more than 8 bits, by a few of each split: training may have scaled them otherwise."""
    for split, content in contents.items():
        if not isinstance(content.pictures, PictureFiles):
            continue
        paths = content.paths[:: max(1, len(content.paths) // _LOOKED_AT)]
        for path in paths[:_LOOKED_AT]:
            if said := deep_scaling(content.pictures.root / path):
                warnings.warn(
                    f"{split}: images have more than 8 bits a value and are scaled to 8, each by its own range: {path}"
                    f" {said}. If your training scaled them otherwise, store them as it did, with 8 bits",
                    ModelDoctorWarning,
                    stacklevel=3,
                )
                return


def _image_set(split: str, content: Content, preprocessing: Preprocessing, masks: Masks | None) -> ImageSet:
    fields: dict[str, Any] = content._asdict()
    return ImageSet(split=split, preprocessing=preprocessing, masks=masks, **fields)


def _masks_of(path: Path, contents: dict[str, Content]) -> Masks:
    masks = open_masks(path, [image for content in contents.values() for image in content.paths])
    for content in contents.values():
        if not isinstance(content.pictures, PictureFiles):
            continue
        for image in content.paths:
            if (mask := masks.find(image)) is None:
                continue
            file = content.pictures.root / image
            if mask.exists() and file.exists() and mask.samefile(file):
                raise MaskError(
                    "the images would be their own masks",
                    where=str(path),
                    expected="a folder of masks, or annotations beside the images",
                    hint="correct the path of the masks",
                )
            break
    return masks
