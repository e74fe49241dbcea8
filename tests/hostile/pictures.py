"""Hostile pictures, and masks: made with Pillow and by hand, none larger than some kilobytes."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from walk import Make, cut, folder_instead, loop, sparse


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def plain(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG, with its sum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, colour: int = 2, depth: int = 8, rows: bytes = b"", before: bytes = b"") -> bytes:
    """A PNG by hand; its sides are what it says, not what it holds."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def bomb(side: int, mode: str, kind: str, **options: Any) -> Make:
    """A picture of one colour, whose file is small and whose pixels are not."""
    return lambda path: encoded(Image.new(mode, (side, side)), kind, **options)


def tiff(*tags: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A TIFF of one directory; each tag is (number, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def fits_bomb() -> bytes:
    """A compressed table of 300 kB that unfolds to 300 MB, of a picture of 10×10."""
    cards = [
        "SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0", "END",
    ]  # fmt: skip
    table = [
        "XTENSION= 'BINTABLE'          ", "BITPIX  =                    8", "NAXIS   =                    2",
        "NAXIS1  =                   10", "NAXIS2  =                   10", "ZIMAGE  =                    T",
        "ZCMPTYPE= 'GZIP_1  '          ", "ZBITPIX =                    8", "ZNAXIS  =                    2",
        "ZNAXIS1 =                   10", "ZNAXIS2 =                   10", "END",
    ]  # fmt: skip

    def block(lines: list[str]) -> bytes:
        return "".join(line.ljust(80) for line in lines).ljust(2880).encode()

    packed = gzip.compress(bytes(1 << 20), 9) * 3000
    return block(cards) + block(table) + packed


_EXIF_LOOP = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
_EXIF_WILD = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(256)) * 4
_EXIF_TURN = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 77) + bytes(4)
_GOOD = encoded(plain(), "PNG")
_JPEG = encoded(plain(), "JPEG")

BROKEN: dict[str, Make] = {
    **{f"PNG {name}/x.png": make for name, make in cut(_GOOD, 8).items()},
    **{f"JPEG {name}/x.jpg": make for name, make in cut(_JPEG, 6).items()},
    **{f"GIF {name}/x.gif": make for name, make in cut(encoded(plain(), "GIF"), 6).items()},
    **{f"WebP {name}/x.webp": make for name, make in cut(encoded(plain(), "WEBP"), 6).items()},
    **{f"TIFF {name}/x.tif": make for name, make in cut(encoded(plain(), "TIFF"), 6).items()},
    "PNG of 2^31 by 2^31/x.png": lambda path: png(2**31 - 1, 2**31 - 1),
    "PNG of no width/x.png": lambda path: png(0, 10),
    "PNG without rows/x.png": lambda path: png(40, 30),
    "PNG as long as can be/x.png": lambda path: png(3_000_000, 1, rows=bytes(9_000_001)),
    "PNG beyond Pillow's bound/x.png": lambda path: png(20_000, 20_000),
    "PNG of an unknown depth/x.png": lambda path: png(10, 10, depth=7, rows=bytes(310)),
    "PNG without a palette/x.png": lambda path: png(10, 10, colour=3, depth=9, rows=bytes(110)),
    "PNG text bomb/x.png": lambda path: png(
        10, 10, rows=bytes(310), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20), 9)) * 8
    ),
    "PNG with a wrong sum/x.png": lambda path: _GOOD[:40] + bytes([_GOOD[40] ^ 1]) + _GOOD[41:],
    "GIF of 65535 by 65535/x.gif": lambda path: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    "TIFF of many rows/x.tif": lambda path: tiff(
        (256, 4, 1, 60_000),
        (257, 4, 1, 60_000),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (278, 4, 1, 60_000),
        (279, 4, 1, 4),
    ),
    "TIFF of 2^30 tags/x.tif": lambda path: tiff((256, 4, 2**30, 8), (257, 4, 2**30, 8), (273, 16, 2**30, 8)),
    "TIFF in itself/x.tif": lambda path: tiff((330, 4, 1, 8), (256, 4, 1, 10), (257, 4, 1, 10)),
    "BMP of negative sides/x.bmp": lambda path: (
        b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, -(2**31), -(2**31), 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "PPM of huge sides/x.ppm": lambda path: b"P6 99999999999 99999999999 255\n",
    "PPM of words/x.ppm": lambda path: b"P6 wide high 255\n",
    "PSD of nothing/x.psd": lambda path: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 56, 30_000, 30_000, 8, 3),
    "ICO of a lie/x.ico": lambda path: b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, 2**31, 22),
    "WebP of 10,000 by 10,000/x.webp": lambda path: (
        b"RIFF\x2c\0\0\0WEBPVP8L\x20\0\0\0\x2f" + struct.pack("<I", 9999 | 9999 << 14) + bytes(27)
    ),
    "a list of numbers/x.npy": lambda path: b"\x93NUMPY\1\0",
    "text/x.jpg": lambda path: "not a picture",
    "page/x.png": lambda path: "<!DOCTYPE html><html></html>",
    "PostScript/x.jpg": lambda path: "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "empty/x.png": lambda path: b"",
    "zero/x.jpg": lambda path: bytes(100_000),
    "loop/x.png": loop,
    "nowhere/x.png": lambda path: path.symlink_to("nowhere.png"),
    "FITS bomb/x.fits": lambda path: fits_bomb(),
    "sparse/x.png": sparse(4 << 30, _GOOD[:60]),
}
"""Files of which no picture comes."""

ODD: dict[str, Make] = {
    "bomb of 16 bits/x.png": bomb(13_000, "I;16", "PNG", compress_level=1),
    "bomb of floats/x.tif": bomb(13_000, "F", "TIFF", compression="tiff_adobe_deflate"),
    "CMYK/x.jpg": lambda path: encoded(plain(mode="CMYK"), "JPEG"),
    "Lab/x.tif": lambda path: encoded(Image.new("LAB", (40, 30)), "TIFF"),
    "one pixel/x.png": lambda path: encoded(plain(1, 1), "PNG"),
    "one row/x.png": lambda path: encoded(plain(9000, 1), "PNG"),
    "one column/x.png": lambda path: encoded(plain(1, 9000), "PNG"),
    "floats that are none/x.tif": lambda path: encoded(
        Image.fromarray(np.array([[np.nan, np.inf], [-np.inf, 1e38]], np.float32)), "TIFF"
    ),
    "colour profile of nonsense/x.jpg": lambda path: encoded(plain(), "JPEG", icc_profile=bytes(range(256)) * 200),
    "EXIF within itself/x.jpg": lambda path: encoded(plain(), "JPEG", exif=_EXIF_LOOP),
    "EXIF of nonsense/x.jpg": lambda path: encoded(plain(), "JPEG", exif=_EXIF_WILD),
    "EXIF turned by 77/x.jpg": lambda path: encoded(plain(), "JPEG", exif=_EXIF_TURN),
    "animated GIF/x.gif": lambda path: encoded(
        plain(), "GIF", save_all=True, append_images=[plain(40, 30, "L").convert("RGB")] * 5
    ),
    "animated WebP/x.webp": lambda path: encoded(plain(), "WEBP", save_all=True, append_images=[plain()] * 5),
    "a folder among the images/x.png": folder_instead,
}
"""Files of which a picture may come, or not; nothing else may."""

MASKS: dict[str, Make] = {
    **{f"mask {name}/1.png": make for name, make in cut(encoded(plain(64, 48, "L"), "PNG"), 5).items()},
    "mask of truecolour bomb/1.png": bomb(13_000, "RGBA", "PNG", compress_level=1),
    "mask of another size/1.png": lambda path: encoded(plain(48, 64, "L"), "PNG"),
    "mask of nothing/1.png": lambda path: encoded(Image.new("L", (64, 48)), "PNG"),
    "mask of 3,000,000 by 1/1.png": lambda path: png(3_000_000, 1, rows=bytes(9_000_001)),
    "mask of text/1.png": lambda path: "mask",
    "mask of nothing at all/1.png": lambda path: b"",
    "mask in zero bytes/1.png": sparse(3 << 30),
}
