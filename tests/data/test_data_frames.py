"""Masks of pictures that EXIF turns: Pillow's own turning is the oracle."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import open_data
from modeldoctor.data.frames import orientation_of, stored, upright, upright_size
from modeldoctor.diagnosis.setup import with_usable_masks
from modeldoctor.errors import MaskError, ModelDoctorWarning

PREPROCESSING = Preprocessing(input_size=(3, 16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
WIDTH, HEIGHT = 13, 8


def photograph(file, orientation, pixels, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, exif=exif, **options)


def object_of(height=HEIGHT, width=WIDTH):
    """An L that no turn or mirror leaves as it is."""
    found = np.zeros((height, width), dtype=bool)
    found[1:7, 2:4] = found[5:7, 2:8] = True
    return found


def upright_mask(file):
    with Image.open(file) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("L")) > 127


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_are_pillows(tmp_path, orientation):
    photograph(tmp_path / "x.png", orientation, object_of().astype(np.uint8) * 255)
    expected = upright_mask(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert orientation_of(picture) == orientation
        assert np.array_equal(np.asarray(upright(picture, orientation)) > 0, expected)
        assert upright_size(picture.size, orientation) == expected.shape[::-1]
    assert np.array_equal(stored(expected, orientation), object_of())


def labelme(mask, size=None):
    rows, columns = np.nonzero(mask)
    points = [[int(columns.min()), int(rows.min())], [int(columns.max()) + 1, int(rows.max()) + 1]]
    width, height = size or mask.shape[::-1]
    shapes = [{"label": "x", "points": points, "shape_type": "rectangle"}]
    return json.dumps({"shapes": shapes, "imageWidth": width, "imageHeight": height})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_outlines_on_the_upright_picture_fit_the_pixels_that_the_network_sees(tmp_path, orientation, square, kind):
    found = np.zeros((HEIGHT, HEIGHT if square else WIDTH), dtype=bool)
    found[1:4, 2:7] = True
    file = tmp_path / f"a/1.{kind.lower()}"
    photograph(file, orientation, found.astype(np.uint8)[..., None].repeat(3, 2) * 255, format=kind)
    (tmp_path / "a/1.json").write_text(labelme(upright_mask(file)))
    images = open_data(tmp_path, preprocessing=PREPROCESSING, masks=tmp_path)["all"]
    doubtful = kind != "TIFF" and orientation > 1 and (square or orientation < 5)
    with pytest.warns(ModelDoctorWarning, match="turned by EXIF") if doubtful else nullcontext():
        sample = images[0]
    assert sample.mask.any()
    assert ((sample.image[0] > 0.5) == sample.mask).float().mean() > 0.97  # what JPEG and resizing leave
    assert images.check_masks().usable == [0]


def test_a_size_that_fits_the_stored_picture_alone_decides(tmp_path):
    photograph(tmp_path / "images/a/1.jpg", 6, object_of().astype(np.uint8) * 255)
    (tmp_path / "masks/a").mkdir(parents=True)
    for drawn in (object_of(), upright_mask(tmp_path / "images/a/1.jpg")):
        Image.fromarray(drawn).save(tmp_path / "masks/a/1.png")
        images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
        mask = images.masks.read(images.masks.find("a/1.jpg"), (WIDTH, HEIGHT), 6)
        assert (mask.numpy() == object_of()).mean() > 0.95
    Image.fromarray(object_of(9, 9)).save(tmp_path / "masks/a/1.png")
    with pytest.raises(MaskError, match="the mask is 9×9 pixels, its image 8×13 as viewers show it") as caught:
        images[0]
    assert "of this size" in caught.value.hint


def test_coco_of_a_turned_picture(tmp_path):
    photograph(tmp_path / "images/a/1.jpg", 8, object_of().astype(np.uint8) * 255)
    entry = {"id": 1, "file_name": "a/1.JPG", "width": HEIGHT, "height": WIDTH}
    polygon = [0, 3, 5, 3, 5, 11, 0, 11]
    content = {"images": [entry], "annotations": [{"image_id": 1, "segmentation": [polygon]}]}
    (tmp_path / "coco.JSON").write_text(json.dumps(content))
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "coco.JSON")["all"]
    drawn = np.zeros((WIDTH, HEIGHT), dtype=bool)
    drawn[3:11, :5] = True
    expected = np.asarray(Image.fromarray(drawn).transpose(Image.Transpose.ROTATE_270))  # what 8 turns back
    mask = images.masks.read(images.masks.find("a/1.jpg"), (WIDTH, HEIGHT), 8)
    assert np.array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("upright", [True, False])
def test_an_annotation_without_a_size_may_be_of_either_picture(tmp_path, upright):
    """Of a plan of `annotate` it is known: it wrote upright pictures."""
    photograph(tmp_path / "images/a/1.jpg", 6, object_of().astype(np.uint8) * 255)
    (tmp_path / "masks/a").mkdir(parents=True)
    (tmp_path / "masks/a/1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    if upright:
        (tmp_path / "masks/annotate.csv").write_text("path\n")
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
    with nullcontext() if upright else pytest.warns(ModelDoctorWarning, match="taken for upright"):
        assert images.check_masks().usable == [0]


def read_png(tmp_path, picture):
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "masks/a").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images/a/1.jpg")
    picture.save(tmp_path / "masks/a/1.png")
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
    return images.masks.read(images.masks.find("a/1.jpg"), (WIDTH, HEIGHT))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_varying_alpha_channel_is_the_mask(tmp_path, mode):
    picture = Image.new(mode, (WIDTH, HEIGHT), 99)
    picture.putalpha(Image.fromarray(object_of().astype(np.uint8) * 200))
    assert np.array_equal(read_png(tmp_path, picture).numpy(), object_of())


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_no_object(tmp_path, mode):
    """As tools write cutouts that they make smaller: the background has any index, here 5, or the colour 5."""
    values = np.where(object_of(), 0, 5).astype(np.uint8)
    picture = Image.fromarray(values).convert(mode)
    if mode == "P":
        picture.putdata(values.ravel().tolist())
    (tmp_path / "masks/a").mkdir(parents=True)
    (tmp_path / "images/a").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images/a/1.jpg")
    picture.save(tmp_path / "masks/a/1.png", transparency=(5, 5, 5) if mode == "RGB" else 5)
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
    assert np.array_equal(images.masks.read(images.masks.find("a/1.jpg"), (WIDTH, HEIGHT)).numpy(), object_of())


@pytest.mark.parametrize(("indices", "void"), [((1, 255), True), ((7, 255), True), ((255, 255), False)])
def test_index_255_is_void_beside_classes(tmp_path, indices, void):
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    values[1:4, 1:5], values[4, 1:5] = indices
    picture = Image.fromarray(values).convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette([value for value in range(256) for _ in range(3)])
    expected = (values > 0) & (values < 255) if void else values > 0
    assert np.array_equal(read_png(tmp_path, picture).numpy(), expected)


def test_a_bad_annotation_is_left_out_counted_and_named(tmp_path):
    for number in range(4):
        photograph(tmp_path / f"a/{number}.jpg", 1, object_of().astype(np.uint8) * 255)
    good = {"points": [[1, 1], [5, 1], [5, 6]], "shape_type": "polygon"}
    stray = [{"points": [[3, 3]], "shape_type": kind} for kind in ("polygon", "point")]
    line = {"points": [[3, 3], [5, 5]], "shape_type": "polygon"}
    for number, shapes in enumerate(([*stray, good], [line], [])):
        (tmp_path / f"a/{number}.json").write_text(json.dumps({"shapes": shapes}))
    images = open_data(tmp_path, preprocessing=PREPROCESSING, masks=tmp_path)["all"]
    with pytest.warns(ModelDoctorWarning) as said:
        (kept,) = with_usable_masks([images])
    assert [kept[number].mask is not None for number in range(4)] == [True, False, False, False]
    shapes, files = (str(one.message) for one in said)
    assert "1 × a polygon of 1 points, 1 × point left out" in shapes
    assert "2 annotations cannot be used and are left out, 1 can; first " + str(tmp_path / "a/1.json") in files


def test_flat_polygons_of_coco_are_left_out(tmp_path):
    photograph(tmp_path / "images/a/1.jpg", 1, object_of().astype(np.uint8))
    photograph(tmp_path / "images/a/2.jpg", 1, object_of().astype(np.uint8))
    images = [{"id": number, "file_name": f"a/{number}.jpg"} for number in (1, 2)]
    shapes = [[1, 1, 5, 1, 5, 6], [[1, 1, 5, 1, 5, 6], [2, 2, 3, 3]]]
    marks = [{"image_id": number, "segmentation": shapes[number - 1]} for number in (1, 2)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": marks}))
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "coco.json")["all"]
    with pytest.warns(ModelDoctorWarning, match="1 × a polygon of 2 points left out"):
        usable, invalid = images.check_masks()[:2]
    assert usable == [1]
    assert "a flat list of 6 numbers" in invalid[0].found


NAMES = {"composed": "\u00e9pinard", "decomposed": "e\u0301pinard"}


@pytest.mark.parametrize("form", NAMES)
def test_names_in_both_forms_and_endings_in_any_case(tmp_path, form):
    ours, theirs = NAMES[form], next(name for key, name in NAMES.items() if key != form)
    photograph(tmp_path / f"images/{ours}/{ours}.jpg", 1, object_of().astype(np.uint8))
    (tmp_path / f"masks/{theirs}").mkdir(parents=True)
    file = tmp_path / f"masks/{theirs}/{theirs}.JSON"
    file.write_text(labelme(object_of()))
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
    assert images.masks.find(images.paths[0]) == file
    assert len(images.check_masks().usable) == 1
    entry = {"images": [{"id": 1, "file_name": f"{theirs}/{theirs}.jpg"}]}
    entry["annotations"] = [{"image_id": 1, "bbox": [1, 1, 4, 4]}]
    (tmp_path / "coco.json").write_text(json.dumps(entry, ensure_ascii=False))
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "coco.json")["all"]
    assert len(images.check_masks().usable) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb2312", "gb18030", "utf-16"])
def test_encodings_of_json(tmp_path, encoding):
    photograph(tmp_path / "images/\u732b\u72d7/1.jpg", 1, object_of().astype(np.uint8))
    entry = {
        "images": [{"id": 1, "file_name": "\u732b\u72d7/1.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [1, 1, 4, 4]}],
    }
    shapes = [{"label": "\u732b\u72d7", "points": [[1, 1], [5, 1], [5, 6]]}]
    (tmp_path / "masks/\u732b\u72d7").mkdir(parents=True)
    for file, content in (("coco.json", entry), ("masks/\u732b\u72d7/1.json", {"shapes": shapes})):
        (tmp_path / file).write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    for masks in ("coco.json", "masks"):
        images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / masks)["all"]
        assert len(images.check_masks().usable) == 1


def test_a_mask_of_the_whole_image_is_warned_of(tmp_path):
    assert torch.all(read_png(tmp_path, Image.new("L", (WIDTH, HEIGHT), 1)))
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
    assert images.check_masks().whole == [tmp_path / "masks/a/1.png"]
    with pytest.warns(ModelDoctorWarning, match=r"1 of 1 mask cover the whole image.*a.1.png"):
        with_usable_masks([images])


def test_masks_whose_objects_hold_all_corners_are_warned_of(tmp_path):
    """Black objects on white: background and object are exchanged."""
    for number in range(4):
        photograph(tmp_path / f"images/a/{number}.jpg", 1, object_of().astype(np.uint8))
        (tmp_path / "masks/a").mkdir(parents=True, exist_ok=True)
        mask = ~object_of() if number else object_of()
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / f"masks/a/{number}.png")
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
    with pytest.warns(ModelDoctorWarning, match=r"3 of 4 masks hold all four corners.*exchanged"):
        with_usable_masks([images])
