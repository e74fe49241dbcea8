import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from modeldoctor.data.pictures import UnreadableError, picture_size, read_picture

RED = np.zeros((5, 7, 3), dtype=np.uint8)
RED[..., 0] = 255


def png_header(width, height):
    """A PNG of the given size whose pixels would take gigabytes, in a few bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_colour_modes_become_rgb(tmp_path, kind):
    file = tmp_path / "x.tif"
    Image.fromarray(RED).convert(kind).save(file)
    pixels = np.asarray(read_picture(file, "RGB"))
    assert pixels.shape == (5, 7, 3)
    assert np.abs(pixels.astype(int) - RED).max() <= 2


@pytest.mark.parametrize(("kind", "value"), [("L", 200), ("LA", 200), ("1", 255)])
def test_grey_modes_become_rgb_and_grey(tmp_path, kind, value):
    file = tmp_path / "x.png"
    Image.new("L", (7, 5), value).convert(kind).save(file)
    assert (np.asarray(read_picture(file, "RGB")) == value).all()
    assert np.asarray(read_picture(file, "L")).tolist() == [[value] * 7] * 5


def test_palette_with_transparency_is_read_without_a_warning(tmp_path):
    file = tmp_path / "x.png"
    Image.fromarray(RED).convert("P").save(file, transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(file, "RGB").size == (7, 5)


def test_16_bit_grey_is_scaled_not_cut(tmp_path):
    file = tmp_path / "x.png"
    Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16)).save(file)
    assert np.asarray(read_picture(file, "L")).tolist() == [[0, 1, 128, 255]]


def test_first_frame_of_an_animation(tmp_path):
    file = tmp_path / "x.jpg"
    frames = [Image.new("RGB", (7, 5), colour) for colour in ("red", "blue")]
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(read_picture(file, "RGB"))[0, 0].tolist() == [255, 0, 0]


def test_exif_orientation_is_not_applied(tmp_path):
    file = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RED).save(file, exif=exif)
    assert read_picture(file, "RGB").size == (7, 5)


def jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am no picture\n" * 9, "not a picture"),
        (jpeg()[:1500], "truncated"),
        (png_header(60_000, 60_000), "DecompressionBomb"),
        (png_header(60, 60), "Error"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not a picture"),
        (None, "no such file"),
    ],
    ids=["empty", "text", "truncated", "bomb", "no pixels", "postscript", "missing"],
)
def test_broken_files_say_why(tmp_path, content, reason):
    file = tmp_path / "x.jpg"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnreadableError, match=reason):
        read_picture(file, "RGB")


def test_size_from_the_header(tmp_path):
    (tmp_path / "x.png").write_bytes(png_header(60, 40))
    (tmp_path / "y.png").write_bytes(b"no")
    assert picture_size(tmp_path / "x.png") == (60, 40)
    assert picture_size(tmp_path / "y.png") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_picture_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(UnreadableError, match="not a regular file"):
        read_picture(tmp_path / "x.png", "RGB")
    assert picture_size(tmp_path / "x.png") is None


def test_a_side_without_bounds_is_refused_before_decoding(tmp_path):
    with pytest.raises(UnreadableError, match="65,535 at most"):
        read_picture(io.BytesIO(png_header(3_000_000, 1)), "RGB")
