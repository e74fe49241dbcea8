"""Reading one picture, whatever is wrong with its file."""

from __future__ import annotations

import errno
import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from modeldoctor.data.depth import DepthError, check_upper_bits, drops_bits, eight_bits, is_deep, scaling
from modeldoctor.data.frames import STORED, orientation_of
from modeldoctor.runtime.reading import is_there

# Pillow would hand a PostScript file named .jpg to Ghostscript; the others hold no pixels that it can read.
_NOT_READ = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
# So weak a signature, or none, that a text may pass for one: read only under an ending of the format's own.
_BY_ENDING = frozenset(("FLI", "GBR", "IM", "IMT", "IPTC", "MCIDAS", "PCD", "PIXAR", "SPIDER", "TGA", "XVTHUMB"))


MOST_SIDE = 65535
"""Pixels, the most that a JPEG can have."""
_MOST_PIXELS = {"WEBP": 1 << 26, "AVIF": 1 << 26}
"""In formats whose libraries hold several copies of a picture; Pillow bounds all others at 178,956,970."""


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

    def identity(self) -> bytes:
        """Return what tells these pictures from others, all together; empty where each has a file of its own."""


def decode(source: Path | BinaryIO, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Open a picture's first frame, without EXIF rotation, and return `convert` of it.

    Raises:
        UnreadableError: missing, empty, truncated, not a picture, or too large to decode safely.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_regular(source)
            with Image.open(source, formats=_known_formats(source)) as picture:
                _check_sides(picture)
                upper_bits = drops_bits(picture)
                picture.load()
                if upper_bits:
                    check_upper_bits(picture)
                return convert(picture)
    # Damaged files make Pillow raise nearly anything: OSError, SyntaxError, struct.error, MemoryError ...
    except Exception as error:
        raise UnreadableError(_reason(source, error)) from error


def read_picture(source: Path | BinaryIO, mode: str) -> Image.Image:
    """Decode a picture in the mode (L or RGB), as `decode` does.

    Grey of more than 8 bits is scaled to 8, as `eight_bits` says.

    Raises:
        UnreadableError: see `decode`.
    """

    def convert(picture: Image.Image) -> Image.Image:
        return (eight_bits(picture) if is_deep(picture) else picture).convert(mode)

    return decode(source, convert)


def deep_scaling(source: Path) -> str | None:
    """How a picture of more than 8 bits is scaled to 8, as words; None for any other, and for what cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_regular(source)
            with Image.open(source, formats=_known_formats(source)) as picture:
                if not is_deep(picture):
                    return None
                _check_sides(picture)
                picture.load()
                return scaling(picture)
    except Exception:  # as in `decode`; who reads it says so
        return None


def picture_size(source: Path | BinaryIO) -> tuple[int, int] | None:
    """Return (width, height) from a picture file's header, or None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_regular(source)
            with Image.open(source, formats=_known_formats(source)) as picture:
                return picture.size
    except Exception:  # as in `decode`
        return None


def picture_orientation(source: Path | BinaryIO) -> int:
    """Return EXIF's orientation (1 to 8) from a picture file's header, 1 where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_regular(source)
            with Image.open(source, formats=_known_formats(source)) as picture:
                return orientation_of(picture)
    except Exception:  # as in `decode`
        return STORED


def _check_regular(source: Path | BinaryIO) -> None:
    """A pipe would be waited for without end, and a device has no end.

    Raises:
        UnreadableError: it is neither a regular file nor a stream.
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise UnreadableError("not a regular file")


def _check_sides(picture: Image.Image) -> None:
    """Sides are bounded here, before anything is decoded; the number of pixels is by Pillow.

    Raises:
        UnreadableError: a side is too long.
    """
    if max(picture.size) > MOST_SIDE:
        raise UnreadableError(f"{picture.width}×{picture.height} pixels: a side may have {MOST_SIDE:,} at most")
    most = _MOST_PIXELS.get(picture.format or "")
    if most is not None and picture.width * picture.height > most:
        raise UnreadableError(f"{picture.width}×{picture.height} pixels: a {picture.format} may have {most:,} at most")


def _known_formats(source: Path | BinaryIO | None = None) -> list[str]:
    """Formats that are told by a file's first bytes, and the one that the file's ending says."""
    Image.init()
    ending = source.suffix.lower() if isinstance(source, Path) else ""
    said = Image.registered_extensions().get(ending)
    return [name for name in Image.ID if name not in _NOT_READ and (name not in _BY_ENDING or name == said)]


def known_endings() -> frozenset[str]:
    """Endings, in small letters, of the files that are taken for pictures without a look into them."""
    known = set(_known_formats())
    return frozenset(IMG_EXTENSIONS) | {
        ending for ending, name in Image.registered_extensions().items() if name in known
    }


EXTENSIONS: frozenset[str] = known_endings()


def _reason(source: Path | BinaryIO, error: Exception) -> str:
    if isinstance(source, Path):
        if isinstance(error, FileNotFoundError):
            return "no such file"
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return str(error.strerror)
        if is_there(source) and source.stat().st_size == 0:
            return "the file is empty (0 bytes)"
    if isinstance(error, DepthError | UnreadableError):
        return str(error)
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

    def identity(self) -> bytes:
        """See `Pictures.identity`."""
        return b""


class PictureArray:
    """Pictures in one uint8 array (B,H,W) or (B,H,W,3)."""

    def __init__(self, pixels: NDArray[np.uint8]):
        self.pixels = pixels
        self._identity = b""

    def read(self, index: int, mode: str) -> Image.Image:
        """See `Pictures.read`."""
        return Image.fromarray(self.pixels[index]).convert(mode)

    def size(self, index: int) -> tuple[int, int]:
        """See `Pictures.size`."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def orientation(self, index: int) -> int:
        """See `Pictures.orientation`."""
        return STORED

    def identity(self) -> bytes:
        """See `Pictures.identity`: a digest of every pixel, half a second for CIFAR-10's training images."""
        if not self._identity:
            digest = hashlib.sha256(repr((self.pixels.shape, self.pixels.dtype.str)).encode())
            for row in self.pixels:  # an array in another order has no bytes to show as a whole
                digest.update(np.ascontiguousarray(row).data)
            self._identity = digest.digest()
        return self._identity


class PictureStreams:
    """Pictures behind a function that opens the encoded bytes of one.

    Args:
        open_stream: opens a picture by its index.
        identity: what tells these pictures from others, as far as the library that holds them can say.
    """

    def __init__(self, open_stream: Callable[[int], BinaryIO], identity: bytes = b""):
        self.open_stream, self._identity = open_stream, identity

    def identity(self) -> bytes:
        """See `Pictures.identity`."""
        return self._identity

    def read(self, index: int, mode: str) -> Image.Image:
        """See `Pictures.read`."""
        return read_picture(self._open(index), mode)

    def size(self, index: int) -> tuple[int, int] | None:
        """See `Pictures.size`."""
        try:
            return picture_size(self._open(index))
        except UnreadableError:
            return None

    def orientation(self, index: int) -> int:
        """See `Pictures.orientation`."""
        try:
            return picture_orientation(self._open(index))
        except UnreadableError:
            return STORED

    def _open(self, index: int) -> BinaryIO:
        try:
            return self.open_stream(index)
        except Exception as error:  # of the library that holds the data
            raise UnreadableError(f"{type(error).__name__}: {error}") from error
