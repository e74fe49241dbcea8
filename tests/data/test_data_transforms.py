import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms.v2 import functional as F

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.transforms import make_transform, normalised
from modeldoctor.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(64, 64), (200, 133), (97, 301), (31, 17), (40, 41), (333, 90)]


def picture(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.875])
@pytest.mark.parametrize("input_size", [(3, 64, 64), (3, 48, 80), (3, 81, 33)])
def test_equals_timms_evaluation_transform(size, interpolation, crop_pct, input_size):
    image = picture(*size)
    oracle = create_transform(
        input_size, is_training=False, interpolation=interpolation, mean=MEAN, std=STD, crop_pct=crop_pct
    )
    mine = make_transform(
        Preprocessing(input_size=input_size, mean=MEAN, std=STD, interpolation=interpolation, crop_pct=crop_pct)
    )
    result, mask = mine(image)
    assert mask is None
    torch.testing.assert_close(result, oracle(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("mode", "theirs"), [("squash", "squash"), ("pad", "border")])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("input_size", [(3, 64, 64), (3, 48, 80)])
def test_further_resize_modes_equal_timms(size, mode, theirs, crop_pct, input_size):
    image, given = picture(*size), {"input_size": input_size, "mean": MEAN, "std": STD, "crop_pct": crop_pct}
    oracle = create_transform(is_training=False, interpolation="bilinear", crop_mode=theirs, **given)
    mine = make_transform(Preprocessing(interpolation="bilinear", resize_mode=mode, **given))
    torch.testing.assert_close(mine(image)[0], oracle(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_a_mask_takes_the_way_of_every_resize_mode(mode):
    """White where the mask is, in a picture three times as wide as high; the corners are seen in both modes."""
    inside = np.zeros((40, 120), dtype=bool)
    inside[:10, :30] = inside[-10:, -30:] = True
    image = Image.fromarray((inside * 255).astype(np.uint8)).convert("RGB")
    given = Preprocessing(
        input_size=(3, 60, 60), mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="nearest", resize_mode=mode
    )
    result, mask = make_transform(given)(image, torch.from_numpy(inside))
    assert mask.any()
    assert torch.equal(result[0] > 0.5, mask)
    assert mask.sum() == (2 * 15 * 15 if mode == "squash" else 2 * 5 * 15)


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_a_thread_of_a_picture_takes_no_memory(mode):
    """Its long side is never enlarged."""
    given = Preprocessing(input_size=(3, 32, 32), mean=MEAN, std=STD, resize_mode=mode)
    assert make_transform(given)(picture(30000, 1))[0].shape == (3, 32, 32)


def test_grey_equals_timms():
    image = picture(50, 70, channels=1)
    oracle = create_transform((1, 32, 32), is_training=False, interpolation="bicubic", mean=(0.3,), std=(0.2,))
    mine = make_transform(Preprocessing(input_size=(1, 32, 32), mean=(0.3,), std=(0.2,), crop_pct=0.875))
    torch.testing.assert_close(mine(image)[0], oracle(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("input_size", [(3, 64, 64), (3, 48, 80)])
def test_mask_takes_the_same_way_as_the_image(size, input_size):
    """The image is white exactly on the mask, so its preprocessed pixels must say the same as the mask."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    inside = (np.abs(x - 0.4 * width) < 0.3 * width) & (np.abs(y - 0.55 * height) < 0.25 * height)
    image = Image.fromarray(np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2))
    preprocessing = Preprocessing(
        input_size=input_size, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="nearest", crop_pct=0.9
    )
    result, mask = make_transform(preprocessing)(image, torch.from_numpy(inside))
    assert mask.dtype == torch.bool
    assert mask.shape == input_size[1:]
    assert mask.any()
    assert not mask.all()
    assert torch.equal(mask, result[0] > 0.5)


def test_mask_is_not_shifted():
    """A mask that is symmetric stays so; sampling at cell corners would shift it."""
    mask = torch.zeros(90, 90, dtype=torch.bool)
    mask[:, 30:60] = True
    preprocessing = Preprocessing(input_size=(3, 20, 20), mean=(0.0,) * 3, std=(1.0,) * 3)
    _, small = make_transform(preprocessing)(picture(90, 90), mask)
    assert torch.equal(small, small.flip(1))


def test_two_channels_are_refused():
    with pytest.raises(DataError, match="2 channels"):
        make_transform(Preprocessing(input_size=(2, 8, 8), mean=(0.0, 0.0), std=(1.0, 1.0)))


@pytest.mark.parametrize("size", [(64 * 40, 64), (64, 64 * 40 + 1)])
def test_ends_that_the_crop_drops_change_nothing(size):
    image = picture(*size)
    oracle = create_transform(
        (3, 64, 64), is_training=False, interpolation="bilinear", mean=MEAN, std=STD, crop_pct=1.0
    )
    mine = make_transform(
        Preprocessing(input_size=(3, 64, 64), mean=MEAN, std=STD, interpolation="bilinear", crop_pct=1.0)
    )
    mask = torch.zeros(size[::-1], dtype=torch.bool)
    mask[size[1] // 2, size[0] // 2] = True
    found, moved = mine(image, mask)
    assert torch.allclose(found, oracle(image), atol=1e-5)
    assert moved.nonzero().tolist() == [[32, 32]]


def test_a_thread_of_a_picture_costs_no_memory():
    long = Image.new("RGB", (60_000, 1), (255, 0, 0))  # whole, resized to 224 px, it would have 3 billion pixels
    transform = make_transform(Preprocessing(input_size=(3, 224, 224), mean=(0.0,) * 3, std=(1.0,) * 3))
    found, _ = transform(long)
    assert found.shape == (3, 224, 224)
    assert found[0].min() == 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_are_torchvisions_to_the_bit(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels[..., 0] if mode == "L" else pixels)
    mean, std = (0.485, 0.456, 0.406)[: len(picture.getbands())], (0.229, 0.224, 0.225)[: len(picture.getbands())]
    known = F.normalize(F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True), list(mean), list(std))
    found = normalised(picture, Preprocessing(input_size=(len(mean), 9, 7), mean=mean, std=std))
    assert torch.equal(found, known)
