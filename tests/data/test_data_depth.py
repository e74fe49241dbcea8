"""Pictures of more than 8 bits, against a ramp of known values."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import open_data
from modeldoctor.data.pictures import EXTENSIONS, UnreadableError, read_picture
from modeldoctor.errors import ModelDoctorWarning

RAMP = np.linspace(0, 1, 64).reshape(4, 16)
LINEAR = np.floor(RAMP * 255.999)


def read(file, picture, **options):
    picture.save(file, **options)
    return np.asarray(read_picture(file, "L")).astype(int)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 255).astype(np.uint16),
        (RAMP * 4095).astype(np.uint16),
        (RAMP * 65535).astype(np.uint16),
        (RAMP * 255).astype(np.int32),
        (RAMP * 4095).astype(np.int32),
        (RAMP * 65535).astype(np.int32),
        (RAMP * 2_000_000_000).astype(np.int32),
        (RAMP * 2000 - 1000).astype(np.int32),
        RAMP.astype(np.float32),
        (RAMP * 255).astype(np.float32),
        (RAMP * 2 - 1).astype(np.float32),
        (RAMP * 1e9).astype(np.float32),
    ],
    ids=lambda values: f"{values.dtype} {values.min():.0f} {values.max():.0f}",
)
def test_a_ramp_stays_a_ramp(tmp_path, values):
    assert np.abs(read(tmp_path / "x.tif", Image.fromarray(values)) - LINEAR).max() <= 1


def test_a_constant_picture_and_one_of_no_numbers(tmp_path):
    assert (read(tmp_path / "x.tif", Image.new("F", (4, 4), 0.5)) == 128).all()
    assert (read(tmp_path / "x.tif", Image.new("F", (4, 4), 1e9)) == 0).all()
    for value in (float("nan"), float("inf")):
        with pytest.raises(UnreadableError, match="no finite numbers"):
            read(tmp_path / "x.tif", Image.new("F", (4, 4), value))


def colours_of_16_bits(values):
    """A PNG by its definition: (H,W,3) uint16, big-endian."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colours_of_16_bits(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(colours_of_16_bits((RAMP[..., None].repeat(3, 2) * 65535).astype(np.uint16)))
    assert np.abs(np.asarray(read_picture(file, "L")) - LINEAR).max() <= 1
    file.write_bytes(colours_of_16_bits((RAMP[..., None].repeat(3, 2) * 4095).astype(np.uint16)))
    with pytest.raises(UnreadableError, match="12 bits or fewer and would be read as black"):
        read_picture(file, "RGB")
    file.write_bytes(colours_of_16_bits(np.zeros((3, 4, 3), np.uint16)))
    assert not np.asarray(read_picture(file, "RGB")).any()


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "JPEG2000", "ICO", "PCX", "SGI", "QOI", "DDS"])
def test_whatever_pillow_opens(tmp_path, kind):
    ending = next(ending for ending, name in Image.registered_extensions().items() if name == kind)
    picture = Image.fromarray((RAMP * 255).astype(np.uint8)).resize((32, 32)).convert("RGB")
    try:
        picture.save(tmp_path / f"x{ending}", kind)
    except (KeyError, OSError, ValueError):
        pytest.skip(f"this Pillow does not write {kind}")
    assert ending in EXTENSIONS
    assert read_picture(tmp_path / f"x{ending}", "RGB").size == (32, 32)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0, 4000]], dtype=np.uint16), "as 12 bits, from 0 to 4095"),
        (np.array([[0, 60000]], dtype=np.uint16), "as 16 bits, from 0 to 65535"),
        (np.array([[0.0, 0.5]], dtype=np.float32), "from 0 to 1"),
        (np.array([[-5, 100000]], dtype=np.int32), "from its own least value -5 to its greatest 100000"),
        (np.array([[0, 200]], dtype=np.uint8), ""),
    ],
)
def test_a_run_says_how_images_of_more_bits_are_scaled(tmp_path, values, said):
    (tmp_path / "cat").mkdir()
    Image.fromarray(values).save(tmp_path / "cat" / "1.tif")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_data(tmp_path, preprocessing=Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3))
    texts = [str(warning.message) for warning in caught if issubclass(warning.category, ModelDoctorWarning)]
    assert len(texts) == bool(said)
    assert all(said in text and "cat/1.tif" in text for text in texts)
