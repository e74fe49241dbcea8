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
        (np.array([[0, 1023]], dtype=np.uint16), "as 10 bits, from 0 to 1023"),
        (np.array([[0, 10000]], dtype=np.uint16), "as 14 bits, from 0 to 16383"),
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


def test_the_bits_that_a_tiff_states_go_before_its_values(tmp_path):
    values = np.array([[0, 512, 1000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={281: 4095})
    assert np.asarray(read_picture(tmp_path / "x.tif", "L")).tolist() == (values[0:1] // 16).tolist()
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={281: 100})  # less than is there
    assert np.asarray(read_picture(tmp_path / "x.tif", "L")).tolist() == (values[0:1] // 4).tolist()


@pytest.mark.filterwarnings("ignore:IM image format is deprecated")
@pytest.mark.parametrize("ending", [".tga", ".TGA", ".vst", ".im"])
def test_formats_of_a_weak_signature_are_read_under_their_own_ending(tmp_path, ending):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    (tmp_path / "cat").mkdir()
    kind = Image.registered_extensions()[ending.lower()]
    Image.fromarray(pixels).save(tmp_path / "cat" / f"x{ending}", kind)
    Image.fromarray(pixels).save(tmp_path / "cat" / "x.unknown", kind)
    (tmp_path / "cat" / f"notes{ending}").write_text("no picture")
    with pytest.warns(ModelDoctorWarning, match=r"no pictures are passed over: 1 \.\w+, 1 \.\w+"):
        splits = open_data(tmp_path, preprocessing=Preprocessing(input_size=(3, 5, 4), mean=(0.0,) * 3, std=(1.0,) * 3))
    assert list(splits["all"].paths) == [f"cat/x{ending}"]
    assert np.array_equal(np.asarray(read_picture(tmp_path / "cat" / f"x{ending}", "RGB")), pixels)
