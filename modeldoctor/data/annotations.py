"""Annotation formats with one file per image: each draws a file's shapes on a canvas.

Readers raise AnnotationError for what cannot be used, and whatever reading the file raises (OSError).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeldoctor.data.canvas import AnnotationError, Canvas, numbers
from modeldoctor.data.encodings import decoded
from modeldoctor.data.pictures import UnreadableError, decode, picture_size
from modeldoctor.runtime.reading import RESULT_MOST, SETTINGS_MOST, plain_yaml
from modeldoctor.runtime.reading import content as content_of


def load_json(path: Path, most: int = RESULT_MOST) -> dict[str, Any]:
    """Read a JSON object of at most so many bytes.

    Raises:
        AnnotationError: it is broken, or no object.
    """
    try:
        held = content_of(path, most)
        content = json.loads(decoded(held, json.detect_encoding(held)))
    except (ValueError, RecursionError, MemoryError) as error:
        hint = "export it again as JSON in UTF-8, or remove it: the image then counts as not annotated"
        raise AnnotationError(f"broken JSON: {error or type(error).__name__}", hint) from error
    if not isinstance(content, dict):
        raise AnnotationError(f"JSON with a {type(content).__name__} at the top")
    return content


def read_png(path: Path, canvas: Canvas) -> None:
    """Any value but 0 is the object; where the alpha channel varies, it alone says so."""
    if (size := picture_size(path)) is not None:
        canvas.check_size(*size)  # before the pixels are read: there may be any number of them
    pixels = _object_pixels(path)
    canvas.check_size(pixels.shape[1], pixels.shape[0])
    canvas.paste(pixels, 0, 0)


def read_labelme(path: Path, canvas: Canvas) -> None:
    """LabelMe's JSON: all shapes, whatever their labels and groups."""
    content = load_json(path)
    shapes = content.get("shapes")
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise AnnotationError('no list "shapes"')
    canvas.check_size(content.get("imageWidth"), content.get("imageHeight"))
    for shape in shapes:
        canvas.attempt(partial(_labelme_shape, canvas, shape))


def read_yolo(path: Path, canvas: Canvas) -> None:
    """YOLO's lines: class, then a box (centre x, y, width, height) or a polygon (x1 y1 x2 y2 ...), as shares.

    Behind a box there may be key points, as many as the data's description says: they look like a polygon's.
    """
    posed = 5 + _key_values(path.parent)
    for number, line in enumerate(decoded(content_of(path)).splitlines(), start=1):
        if words := line.split():
            canvas.attempt(partial(_yolo_shape, canvas, words[:5] if len(words) == posed else words, number))


_DESCRIBED_ABOVE = 3
"""`data.yaml` lies beside `labels/train/`."""


@cache
def _key_values(folder: Path) -> int:
    """Values of the key points in a line of YOLO's labels: `kpt_shape` in a YAML of the data set, else 0."""
    for place in (folder, *folder.absolute().parents[:_DESCRIBED_ABOVE]):
        for file in sorted([*place.glob("*.yaml"), *place.glob("*.yml")]):
            try:
                said = plain_yaml(content_of(file, SETTINGS_MOST).decode())
                return prod(int(count) for count in said["kpt_shape"])
            except (OSError, ValueError, LookupError, TypeError):  # another file of settings
                continue
    return 0


def read_voc(path: Path, canvas: Canvas) -> None:
    """Pascal VOC's XML: boxes whose corners are pixels, counted from 1, both included."""
    try:
        # As text: the parser has few encodings of its own, and takes a declared one for granted.
        root = ElementTree.fromstring(decoded(content_of(path)), ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        hint = "export it again as XML in UTF-8, or remove it: the image then counts as not annotated"
        raise AnnotationError(f"broken XML: {error}", hint) from error
    if root.tag != "annotation":
        raise AnnotationError(f"XML with <{root.tag}> at the top")
    canvas.check_size(root.findtext("size/width"), root.findtext("size/height"))
    for element in root.iter("object"):
        canvas.attempt(partial(_voc_shape, canvas, element.find("bndbox")))


class Format(NamedTuple):
    """A format with one file an image."""

    read: Callable[[Path, Canvas], None]
    expected: str


OUTLINES: dict[str, Format] = {
    ".json": Format(read_labelme, "LabelMe's JSON of this image, with a polygon, rectangle, circle or mask"),
    ".xml": Format(read_voc, "Pascal VOC's XML of this image, with a box, and without a DOCTYPE"),
    ".txt": Format(
        read_yolo, "YOLO's lines: class, then x y width height or x1 y1 x2 y2 x3 y3 ..., as shares in [0, 1]"
    ),
}
"""Formats that outline objects, by the file's suffix; the first that an image has counts."""

PIXELS = ".png"
_HALF, _FEW = 128, 0.1
_VOID = 255
"""Pascal VOC's index of outlines and of objects that do not count, beside those of the classes."""
_DARK = 64
"""Grey levels below it are taken for indices of classes where they stand beside white."""
FORMATS: dict[str, Format] = OUTLINES | {
    PIXELS: Format(read_png, "a PNG of the image's size, 0 on the background and any other value on the object")
}
"""All of them."""


_NO_OBJECT = ("__ignore__", "_background_", "background")
"""Labels that LabelMe's own tools take for no object."""


def _labelme_shape(canvas: Canvas, shape: dict[str, Any]) -> None:
    kind = str(shape.get("shape_type") or "polygon")
    if str(shape.get("label")).strip().lower() in _NO_OBJECT:
        raise AnnotationError(f"shape labelled {shape['label']}")
    if kind not in _LABELME:
        raise AnnotationError(kind)
    _LABELME[kind](canvas, numbers(shape.get("points"), columns=2), shape)


def _yolo_shape(canvas: Canvas, words: list[str], number: int) -> None:
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise AnnotationError(f"line {number} has {len(words)} values")
    values = numbers(words[1:], columns=2) * (canvas.width, canvas.height)
    if len(words) == 5:
        centre, extent = values
        canvas.box(*(centre - extent / 2), *(centre + extent / 2))
    else:
        canvas.polygon(values)


def _voc_shape(canvas: Canvas, box: ElementTree.Element | None) -> None:
    if box is None:
        raise AnnotationError("an <object> without <bndbox>")
    left, top, right, bottom = numbers([box.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax")])
    canvas.box(left - 1, top - 1, right, bottom)


def _labelme_box(canvas: Canvas, points: NDArray[np.float64], shape: dict[str, Any]) -> None:
    if len(points) < 2:
        raise AnnotationError(f"a rectangle of {len(points)} points")
    canvas.box(*points.min(axis=0), *points.max(axis=0))


def _labelme_circle(canvas: Canvas, points: NDArray[np.float64], shape: dict[str, Any]) -> None:
    if len(points) != 2:
        raise AnnotationError(f"a circle of {len(points)} points")
    centre, rim = points
    canvas.circle(centre[0], centre[1], float(np.hypot(*(rim - centre))))


def _labelme_mask(canvas: Canvas, points: NDArray[np.float64], shape: dict[str, Any]) -> None:
    """A PNG within a box whose corners are pixels, both included."""
    try:
        picture = BytesIO(base64.b64decode(shape["mask"], validate=True))
        if prod(picture_size(picture) or ()) > 4 * canvas.mask.size:
            raise AnnotationError("a mask that is larger than its image")
        pixels = _object_pixels(picture)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise AnnotationError("a mask without a PNG in base64") from error
    if len(points) != 2:
        raise AnnotationError(f"a mask with {len(points)} corners")
    (left, top), (right, bottom) = points.astype(int).tolist()
    if pixels.shape != (bottom - top + 1, right - left + 1):
        raise AnnotationError(
            f"a mask of {pixels.shape[1]}×{pixels.shape[0]} pixels in a box of {right - left + 1}×{bottom - top + 1}"
        )
    canvas.paste(pixels, left, top)


# A turned rectangle is "oriented_rectangle", or "rotation" in some of LabelMe's descendants.
_LABELME: dict[str, Callable[[Canvas, NDArray[np.float64], dict[str, Any]], None]] = {
    "polygon": lambda canvas, points, shape: canvas.polygon(points),
    "rotation": lambda canvas, points, shape: canvas.polygon(points),
    "oriented_rectangle": lambda canvas, points, shape: canvas.polygon(points),
    "rectangle": _labelme_box,
    "circle": _labelme_circle,
    "mask": _labelme_mask,
}


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE before its entities are read: they can grow without bounds."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise AnnotationError("XML with a DOCTYPE", "delete the <!DOCTYPE ...> from the file")


def _object_pixels(source: Path | BytesIO) -> NDArray[np.bool_]:
    try:
        return np.asarray(decode(source, _object_values)).astype(np.bool_)
    except UnreadableError as error:
        raise AnnotationError(f"the mask cannot be read: {error}", "save it again as PNG, or remove it") from error


def _object_values(picture: Image.Image) -> Image.Image:
    # Palette indices and 16-bit numbers are kept as they are; an opaque alpha channel is no object.
    if picture.mode in ("1", "L", "P", "I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        found = _opaque(picture.convert("RGBA")) if "transparency" in picture.info else None
        found = values != 0 if found is None else found
        if picture.mode in ("P", "L") and _has_void(values, coloured=picture.mode == "P"):
            found &= values != _VOID
        if picture.mode == "L" and _is_blurred(values, picture.format):
            found &= values >= _HALF
        return Image.fromarray(found.astype(np.uint8))
    if picture.mode == "RGB" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("LA", "PA", "La", "RGBA", "RGBa") and (opaque := _opaque(picture)) is not None:
        return Image.fromarray(opaque.astype(np.uint8))
    brightest = np.asarray(picture.convert("RGB")).max(axis=-1)
    least = _HALF if _is_blurred(brightest, picture.format) else 1
    return Image.fromarray((brightest >= least).astype(np.uint8))


def _has_void(values: NDArray[np.uint8], *, coloured: bool) -> bool:
    """Whether these are indices of classes, of which 255 is void: in a palette beside any other.

    In a grey picture white may as well be the object: there the others are few numbers that nobody tells from black,
    and cover more than the white, which is but outlines.
    """
    others = (values > 0) & (values < _VOID)
    if coloured or not others.any():
        return bool(others.any())
    return bool(values[others].max() < _DARK and others.sum() > (values == _VOID).sum())


def _is_blurred(values: NDArray[np.uint8], stored_as: str | None) -> bool:
    """Whether a mask of black and white went through JPEG, which leaves dark grey on the background.

    That is an 8-bit picture stored as one, or one whose values crowd at both ends, several each, with few between.
    """
    counts = np.bincount(values.ravel(), minlength=256)
    if stored_as == "JPEG":
        return bool(counts[_HALF:].any())
    dark, bright = counts[1:32], counts[224:255]
    between = counts[64:192].sum() / values.size
    return bool((dark > 0).sum() >= 3 and (bright > 0).sum() >= 3 and between < _FEW)


def _opaque(picture: Image.Image) -> NDArray[np.bool_] | None:
    """Where a picture is not at its least opaque; None where it is the same everywhere."""
    alpha = np.asarray(picture.getchannel(picture.mode[-1]))
    return alpha != alpha.min() if alpha.min() != alpha.max() else None
