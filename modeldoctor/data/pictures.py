"""Reading one picture, whatever is wrong with its file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from modeldoctor.data.frames import STORED, orientation_of

EXTENSIONS: frozenset[str] = frozenset(IMG_EXTENSIONS)
# Pillow would hand a PostScript file named .jpg to Ghostscript.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


class UnreadableError(Exception):
    """A file is no picture, or a damaged one; the text says why."""


class Pictures(Protocol):
    """Where an image set's pictures come from."""

    def read(self, index: int, mode: str) -> Image.Image:
        """Return the picture in the Pillow mode.

        Raises:
            UnreadableError: the picture cannot be decoded.
        """

    def size(self, index: int) -> tuple[int, int] | None:
        """Return (width, height) in pixels from the picture's header, or None where it cannot be read."""

    def orientation(self, index: int) -> int:
        """Return EXIF's orientation, 1 to 8; `read` and `size` give the picture as stored, not turned by it."""


def decode(source: Path | BinaryIO, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Open a picture's first frame, without EXIF rotation, and return `convert` of it.

    Raises:
        UnreadableError: missing, empty, truncated, not a picture, or too large to decode safely.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=_known_formats()) as picture:
                picture.load()
                return convert(picture)
    # Damaged files make Pillow raise nearly anything: OSError, SyntaxError, struct.error, MemoryError ...
    except Exception as error:
        raise UnreadableError(_reason(source, error)) from error


def read_picture(source: Path | BinaryIO, mode: str) -> Image.Image:
    """Decode a picture in the mode (L or RGB), as `decode` does.

    16-bit grey is scaled to 8 bits; Pillow's own conversion would cut everything above 255 to white.

    Raises:
        UnreadableError: see `decode`.
    """

    def convert(picture: Image.Image) -> Image.Image:
        if picture.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert(mode)
        return picture.convert(mode)

    return decode(source, convert)


def picture_size(source: Path | BinaryIO) -> tuple[int, int] | None:
    """Return (width, height) from a picture file's header, or None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=_known_formats()) as picture:
                return picture.size
    except Exception:  # as in `decode`
        return None


def picture_orientation(source: Path | BinaryIO) -> int:
    """Return EXIF's orientation (1 to 8) from a picture file's header, 1 where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=_known_formats()) as picture:
                return orientation_of(picture)
    except Exception:  # as in `decode`
        return STORED


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _reason(source: Path | BinaryIO, error: Exception) -> str:
    if isinstance(source, Path):
        if not source.is_file():
            return "no such file"
        if source.stat().st_size == 0:
            return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class PictureFiles:
    """Pictures in files.

    Args:
        root: the folder that relative paths start from; absolute paths stand for themselves.
        paths: one path per picture.
    """

    def __init__(self, root: Path, paths: Sequence[str]):
        self.root, self.paths = root, paths

    def read(self, index: int, mode: str) -> Image.Image:
        """See `Pictures.read`."""
        return read_picture(self.root / self.paths[index], mode)

    def size(self, index: int) -> tuple[int, int] | None:
        """See `Pictures.size`."""
        return picture_size(self.root / self.paths[index])

    def orientation(self, index: int) -> int:
        """See `Pictures.orientation`."""
        return picture_orientation(self.root / self.paths[index])


class PictureArray:
    """Pictures in one uint8 array (B,H,W) or (B,H,W,3)."""

    def __init__(self, pixels: NDArray[np.uint8]):
        self.pixels = pixels

    def read(self, index: int, mode: str) -> Image.Image:
        """See `Pictures.read`."""
        return Image.fromarray(self.pixels[index]).convert(mode)

    def size(self, index: int) -> tuple[int, int]:
        """See `Pictures.size`."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def orientation(self, index: int) -> int:
        """See `Pictures.orientation`."""
        return STORED


class PictureStreams:
    """Pictures behind a function that opens the encoded bytes of one."""

    def __init__(self, open_stream: Callable[[int], BinaryIO]):
        self.open_stream = open_stream

    def read(self, index: int, mode: str) -> Image.Image:
        """See `Pictures.read`."""
        try:
            stream = self.open_stream(index)
        except (OSError, AssertionError) as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from error
        return read_picture(stream, mode)

    def size(self, index: int) -> tuple[int, int] | None:
        """See `Pictures.size`."""
        return picture_size(self.open_stream(index))

    def orientation(self, index: int) -> int:
        """See `Pictures.orientation`."""
        return picture_orientation(self.open_stream(index))
