import os

import numpy as np
import pytest
import torch
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.imageset import Broken
from modeldoctor.data.masks import MaskTree, open_masks
from modeldoctor.data.sources import open_data
from modeldoctor.errors import MaskError

OBJECT = np.array([[0, 0, 0], [0, 1, 1]], dtype=bool)


def save(file, image):
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def mask_image(value=255, mode="L"):
    return Image.fromarray((OBJECT * value).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("tree", "image", "mask"),
    [
        ("train/cat/x.png", "train/cat/x.jpg", "train/cat/x.png"),
        ("train/cat/x.png", "val/cat/x.jpg", None),
        ("val/cat/x.png", "validation/cat/x.jpg", "val/cat/x.png"),
        ("cat/x.png", "train/cat/x.JPEG", "cat/x.png"),
        ("cat/x.png", "cat/x.tiff", "cat/x.png"),
        ("cat/deep/x.v2.png", "train/cat/deep/x.v2.jpg", "cat/deep/x.v2.png"),
        ("cat/x.png", "dog/x.jpg", None),
        ("cat/x.png", "../cat/x.jpg", None),
    ],
)
def test_finds_the_mirrored_path(tmp_path, tree, image, mask):
    save(tmp_path / tree, mask_image())
    assert MaskTree(tmp_path).find(image) == (tmp_path / mask if mask else None)


@pytest.mark.parametrize(
    "image",
    [
        mask_image(),
        mask_image(1),
        mask_image(mode="1"),
        mask_image(mode="RGB"),
        mask_image(mode="RGBA"),
        Image.fromarray((OBJECT * 7).astype(np.uint16)),
        Image.fromarray(OBJECT[..., None] * np.array([0, 0, 1], dtype=np.uint8)),
    ],
    ids=["L", "value 1", "1 bit", "RGB", "opaque alpha", "16 bit", "dark blue"],
)
def test_any_value_but_zero_is_object(tmp_path, image):
    save(tmp_path / "x.png", image)
    mask = MaskTree(tmp_path).read(tmp_path / "x.png", (3, 2))
    assert mask.dtype == torch.bool
    assert mask.tolist() == OBJECT.tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 15, 15, 15, 255, 0], [0, 1, 1, 1, 0, 0]),  # SegmentationClassAug: a class, its outline
        ([0, 1, 2, 20, 255, 255], [0, 1, 1, 1, 0, 0]),
        ([0, 0, 255, 255, 255, 0], [0, 0, 1, 1, 1, 0]),  # black and white
        ([0, 3, 255, 255, 255, 0], [0, 1, 1, 1, 1, 0]),  # white is more than an outline
        ([0, 128, 128, 128, 255, 0], [0, 1, 1, 1, 1, 0]),  # a soft edge
    ],
)
def test_white_beside_indices_is_void_in_grey_masks(tmp_path, values, expected):
    save(tmp_path / "x.png", Image.fromarray(np.array(values, dtype=np.uint8).reshape(2, 3)))
    assert MaskTree(tmp_path).read(tmp_path / "x.png", (3, 2)).int().flatten().tolist() == expected


def test_palette_masks_are_read_by_index(tmp_path):
    image = Image.fromarray(OBJECT.astype(np.uint8))
    palette = image.convert("P")
    palette.putdata(list(OBJECT.astype(int).ravel()))
    palette.putpalette([9, 9, 9, 0, 0, 0])
    save(tmp_path / "x.png", palette)
    assert MaskTree(tmp_path).read(tmp_path / "x.png", (3, 2)).tolist() == OBJECT.tolist()


def test_wrong_masks_say_so(tmp_path):
    save(tmp_path / "x.png", mask_image())
    with pytest.raises(MaskError, match="the mask is 3×2 pixels, its image 6×4"):
        MaskTree(tmp_path).read(tmp_path / "x.png", (6, 4))
    (tmp_path / "y.png").write_bytes(b"")
    with pytest.raises(MaskError, match="0 bytes"):
        MaskTree(tmp_path).read(tmp_path / "y.png", (6, 4))
    with pytest.raises(MaskError, match="no mask folder"):
        MaskTree(tmp_path / "gone")


@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "link in a circle", "device"])
def test_what_is_no_file_is_a_mask_that_cannot_be_used(tmp_path, kind):
    if kind == "pipe":
        os.mkfifo(tmp_path / "x.png")
    else:
        (tmp_path / "x.png").symlink_to({"device": "/dev/zero", "link in a circle": "x.png"}.get(kind, "gone.png"))
    masks = MaskTree(tmp_path)
    assert masks.find("x.jpg") == tmp_path / "x.png"
    with pytest.raises(MaskError, match="cannot be read"):
        masks.read(tmp_path / "x.png", (3, 2))


def test_an_image_comes_with_its_mask(tmp_path):
    preprocessing = Preprocessing(input_size=(1, 4, 4), mean=(0.0,), std=(1.0,))
    for name, size in (("a/1", (3, 2)), ("a/2", (3, 2)), ("a/3", (5, 5)), ("a/4", (3, 2))):
        save(tmp_path / f"images/{name}.jpg", Image.new("RGB", size))
    for name in ("a/1", "a/3", "a/4"):
        save(tmp_path / f"masks/{name}.png", mask_image())
    (tmp_path / "images/a/4.jpg").write_bytes(b"broken")
    images = open_data(tmp_path / "images", preprocessing=preprocessing, masks=tmp_path / "masks")["all"]
    assert [index for index in (0, 1) if images[index].mask is not None] == [0]
    with pytest.raises(MaskError, match="3×2"):
        images[2]
    assert isinstance(images[3], Broken)
    images.masks = None
    assert all(images[index].mask is None for index in range(3))


def test_what_a_treatment_wrote_beside_the_masks_is_no_coco(tmp_path):
    save(tmp_path / "train" / "cat" / "x.png", mask_image())
    (tmp_path / "trial.json").write_text('{"split": {"images": 4}, "budget": {"annotations": {"train": 1}}}')
    masks = open_masks(tmp_path, ["train/cat/x.jpg"])
    assert masks.read(masks.find("train/cat/x.jpg"), (3, 2)).tolist() == OBJECT.tolist()
