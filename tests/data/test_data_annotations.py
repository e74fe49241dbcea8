"""Every annotation format, written by hand, against rules on pixel centres."""

import base64
import json
from itertools import groupby

import numpy as np
import pytest
import torch
from annotation_files import (
    BOX_POINTS,
    GOOD,
    HEIGHT,
    PATH,
    POLYGON,
    SIZE,
    WIDTH,
    X,
    Y,
    coco,
    flat,
    inside_box,
    labelme,
    png,
    put,
    read,
    shape,
    voc,
)
from matplotlib.path import Path as Outline
from PIL import Image

from modeldoctor.data.masks import CocoMasks, open_masks
from modeldoctor.errors import MaskError, ModelDoctorWarning

BOX = (5, 3, 19, 12)

CENTRES = np.stack([X, Y], axis=-1).reshape(-1, 2)


def inside(points):
    """Pixels whose centres lie in a polygon."""
    return Outline([*points, points[0]], closed=True).contains_points(CENTRES).reshape(HEIGHT, WIDTH)


def run_lengths(mask):
    """COCO's counts: lengths of equal runs, column after column, background first."""
    runs = [(value, len(list(run))) for value, run in groupby(mask.T.ravel().tolist())]
    return [0] * bool(runs[0][0]) + [length for _, length in runs]


def compressed(counts):
    """COCO's string, from its definition: signed numbers in groups of five bits, low ones first."""
    text = ""
    for position, count in enumerate(counts):
        number = count - counts[position - 2] if position > 2 else count
        more = True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def shares(points):
    return " ".join(f"{x / WIDTH:.7f} {y / HEIGHT:.7f}" for x, y in points)


def runs_of(mask, packed):
    counts = run_lengths(mask)
    return {"size": [HEIGHT, WIDTH], "counts": compressed(counts) if packed else counts}


CORNER = [[3, 2], [27, 19]]
"""A box around the polygon, its corners pixels and included."""
FILES = {
    "polygon": {
        "png": ("train/cat/1.png", png(inside(POLYGON))),
        "labelme": ("train/cat/1.json", labelme(shape("polygon", POLYGON))),
        "labelme without type and size": (
            "cat/1.json",
            labelme(shape(None, POLYGON), imageWidth=None, imageHeight=None),
        ),
        "labelme in two parts": (
            "train/cat/1.json",
            labelme(shape("polygon", POLYGON[:3], label="y", group_id=1), shape("polygon", [*POLYGON[2:], POLYGON[0]])),
        ),
        "labelme mask": (
            "train/cat/1.json",
            labelme(shape("mask", CORNER, mask=base64.b64encode(png(inside(POLYGON)[2:20, 3:28])).decode())),
        ),
        "coco": ("coco.json", coco([flat(POLYGON)])),
        "coco in two parts": ("coco.json", coco([flat(POLYGON[:3]), flat([*POLYGON[2:], POLYGON[0]])])),
        "coco in two annotations": ("coco.json", coco([flat(POLYGON[:3])], [flat([*POLYGON[2:], POLYGON[0]])])),
        "coco runs": ("coco.json", coco(runs_of(inside(POLYGON), packed=False))),
        "coco packed runs": ("coco.json", coco(runs_of(inside(POLYGON), packed=True))),
        "yolo": ("train/cat/1.txt", f"0 {shares(POLYGON)}\n"),
    },
    "box": {
        "png": ("cat/1.png", png(inside_box())),
        "labelme": ("train/cat/1.json", labelme(shape("rectangle", [(19, 3), (5, 12)]))),
        "labelme of four corners": ("train/cat/1.json", labelme(shape("rectangle", BOX_POINTS))),
        "labelme turned": ("train/cat/1.json", labelme(shape("rotation", BOX_POINTS))),
        "labelme polygon": ("train/cat/1.json", labelme(shape("polygon", BOX_POINTS))),
        "coco polygon": ("coco.json", coco([flat(BOX_POINTS)])),
        "coco box": ("coco.json", coco([], bbox=[5, 3, 14, 9])),
        "coco box with a list of no outline": ("coco.json", coco([[]], bbox=[5, 3, 14, 9])),
        "coco packed runs": ("coco.json", coco(runs_of(inside_box(), packed=True))),
        "yolo": ("train/cat/1.txt", f"3 {12 / WIDTH:.6f} {7.5 / HEIGHT:.6f} {14 / WIDTH:.6f} {9 / HEIGHT:.6f}\n\n"),
        "yolo polygon": ("cat/1.txt", f"3 {shares(BOX_POINTS)}"),
        "voc": ("train/cat/1.xml", voc((6, 4, 19, 12))),
        "voc without size": ("cat/1.xml", voc((6, 4, 19, 12), size=(0, 0))),
        "voc in two boxes": ("train/cat/1.xml", voc((6, 4, 12, 12), (10, 4, 19, 12))),
    },
}
CASES = [(thing, name) for thing, files in FILES.items() for name in files]


@pytest.mark.parametrize(("thing", "name"), CASES)
def test_each_format_gives_the_same_mask(tmp_path, thing, name):
    expected = inside(POLYGON) if thing == "polygon" else inside_box()
    mask = read(put(tmp_path, *FILES[thing][name]))
    assert mask.dtype == torch.bool
    assert np.array_equal(mask.numpy(), expected)


def test_a_coco_file_is_given_by_itself(tmp_path):
    put(tmp_path, *FILES["polygon"]["coco"])
    assert np.array_equal(read(tmp_path / "coco.json").numpy(), inside(POLYGON))


def test_circles(tmp_path):
    put(tmp_path, "train/cat/1.json", labelme(shape("circle", [(28, 10), (28, 15)])))
    assert np.array_equal(read(tmp_path).numpy(), np.hypot(X - 28, Y - 10) <= 5)


def test_parts_outside_the_image_are_cut_off(tmp_path):
    wide = [(-40.0, -7.0), (10.0, -7.0), (10.0, 90.0), (-40.0, 90.0)]
    for content in (shape("polygon", wide), shape("rectangle", [wide[0], wide[2]])):
        put(tmp_path, "cat/1.json", labelme(content))
        assert np.array_equal(read(tmp_path).numpy(), X < 10)
    block = base64.b64encode(png(np.ones((5, 40), dtype=bool))).decode()
    put(tmp_path, "cat/1.json", labelme(shape("mask", [[-3, 20], [36, 24]], mask=block)))
    assert np.array_equal(read(tmp_path).numpy(), Y > 20)


BOMB = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>'
BAD = [
    ("1.json", b"", "broken JSON"),
    ("1.json", labelme(GOOD)[:-9], "broken JSON"),
    ("1.json", "[" * 100_000, "broken JSON"),
    ("1.json", b"\xff\xfe{", "broken JSON"),
    ("1.json", "[]", "JSON with a list"),
    ("1.json", "{}", 'no list "shapes"'),
    ("1.json", labelme(), "no shape$"),
    ("1.json", labelme(shape("line", POLYGON[:2]), shape("point", POLYGON[:1])), r"no shape .*1 × line, 1 × point"),
    ("1.json", labelme(GOOD, imageWidth=WIDTH + 1), "the mask is 32×22 pixels, its image 31×22"),
    ("1.json", labelme(shape("polygon", POLYGON[:2])), "a polygon of 2 points"),
    ("1.json", labelme(shape("rectangle", POLYGON[:1])), "a rectangle of 1 points"),
    ("1.json", labelme(shape("circle", POLYGON)), "a circle of 4 points"),
    ("1.json", labelme(shape("polygon", None)), "no coordinates"),
    ("1.json", labelme(shape("polygon", [(1, 2), (3,)])), "no coordinates"),
    ("1.json", labelme(shape("polygon", [(1, 2), (3, float("nan")), (4, 5)])), "no coordinates"),
    ("1.json", labelme(shape("polygon", [(1, 2), (3, 1e300), (4, 5)])), "no coordinates"),
    ("1.json", labelme(shape("polygon", [(100 + x, y) for x, y in POLYGON])), "cover no pixel"),
    ("1.json", labelme(shape("rectangle", [(3, 3), (3, 9)])), "cover no pixel"),
    ("1.json", labelme(shape("mask", CORNER)), "without a PNG"),
    ("1.json", labelme(shape("mask", CORNER, mask="%%%")), "without a PNG"),
    ("1.json", labelme(shape("mask", CORNER, mask="AAAA")), "cannot be read"),
    ("1.json", labelme(shape("mask", CORNER, mask=base64.b64encode(png(X > 3)).decode())), "31×22 pixels in a box"),
    ("1.txt", "", "no shape$"),
    ("1.txt", "0 0.5 0.5 0.2", "line 1 has 4 values"),
    ("1.txt", "\n0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "line 2 has 8 values"),
    ("1.txt", "0 0.5 0.5 wide 0.2", "no coordinates"),
    ("1.txt", "0 120 90 30 40", "cover no pixel"),
    ("1.txt", b"\xff\xfe\x00\x01", "line 1 has"),
    ("1.xml", b"", "broken XML"),
    ("1.xml", voc(BOX)[:-5], "broken XML"),
    ("1.xml", voc(BOX, head=BOMB), "DOCTYPE"),
    ("1.xml", voc(BOX, head='<?xml version="1.0" encoding="utf-16"?>' + BOMB).encode("utf-16"), "DOCTYPE"),
    ("1.xml", "<!DOCTYPE a SYSTEM 'file:///etc/passwd'>" + voc(BOX), "DOCTYPE"),
    ("1.xml", "<html></html>", "XML with <html>"),
    ("1.xml", voc(), "no shape$"),
    ("1.xml", voc(BOX, size=(64, 64)), "is 64×64 pixels"),
    ("1.xml", voc((1, 2, "x", 4)), "no coordinates"),
    ("1.xml", "<annotation><object><name>x</name></object></annotation>", "without <bndbox>"),
    ("1.png", png(np.zeros((HEIGHT, WIDTH), dtype=bool)), "cover no pixel"),
    ("1.png", b"\x89PNG", "cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "found"), BAD)
def test_files_that_cannot_be_used(tmp_path, name, content, found):
    put(tmp_path, f"train/cat/{name}", content)
    with pytest.raises(MaskError) as caught:
        read(tmp_path)
    with pytest.raises(AssertionError, match=found):
        raise AssertionError(caught.value.found)
    assert caught.value.where == str(tmp_path / "train/cat" / name)
    assert caught.value.expected
    assert caught.value.hint


BAD_COCO = [
    ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "runs cover 3 pixels"),
    ({"size": [HEIGHT, WIDTH], "counts": [-5, WIDTH * HEIGHT + 5]}, "runs cover"),
    ({"size": [10**6, 10**6], "counts": [10**12]}, "1000000×1000000 pixels"),
    ({"size": [HEIGHT, WIDTH], "counts": [1.5]}, "no whole numbers"),
    ({"counts": [WIDTH * HEIGHT]}, "without their size"),
    ({"size": [HEIGHT, WIDTH], "counts": "ooo"}, "end within a number"),
    ([[1, 2, 3]], "no coordinates"),
    ([[1, 2, 3, 4]], "a polygon of 2 points"),
    ([[90, 2, 93, 4, 95, 9]], "cover no pixel"),
    ("polygon", "no coordinates"),
    ([], "no shape"),
]


@pytest.mark.parametrize(("segmentation", "found"), BAD_COCO)
def test_coco_annotations_that_cannot_be_used(tmp_path, segmentation, found):
    put(tmp_path, "coco.json", coco(segmentation))
    with pytest.raises(MaskError, match=found) as caught:
        read(tmp_path)
    assert caught.value.where == str(tmp_path / "coco.json" / PATH)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "broken JSON"),
        ("[]", "JSON with a list"),
        (labelme(GOOD), 'no lists "images"'),
        ('{"images": [1], "annotations": []}', "not COCO's"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', r"images\[0\] without id or file_name"),
    ],
)
def test_files_that_are_not_cocos(tmp_path, content, found):
    put(tmp_path, "coco.json", content)
    with pytest.raises(MaskError, match=found) as caught:
        open_masks(tmp_path / "coco.json", [PATH])
    assert "LabelMe" in caught.value.hint


@pytest.mark.parametrize(
    ("files", "image", "found"),
    [
        ({"coco.json": "train/cat/1.jpg"}, "train/cat/1.jpg", "coco.json"),
        ({"coco.json": "./train\\cat\\1.jpg"}, "train/cat/1.jpg", "coco.json"),
        ({"coco.json": "training/cat/1.jpg"}, "train/cat/1.jpg", "coco.json"),
        ({"coco.json": "cat/1.jpg"}, "train/cat/1.jpg", "coco.json"),
        ({"coco.json": "train/cat/1.jpg"}, "cat/1.jpg", "coco.json"),
        ({"coco.json": "val/cat/1.jpg"}, "train/cat/1.jpg", None),
        ({"coco.json": "1.jpg"}, "cat/1.jpg", None),
        ({"coco.json": "dog/1.jpg"}, "cat/1.jpg", None),
        ({"a.json": "train/cat/1.jpg", "b.json": "val/cat/1.jpg"}, "cat/1.jpg", None),
        ({"a.json": "train/cat/1.jpg", "b.json": "val/cat/1.jpg"}, "val/cat/1.jpg", "b.json"),
        ({"x_train2017.json": "cat/1.jpg", "x_val2017.json": "cat/1.jpg"}, "val/cat/1.jpg", "x_val2017.json"),
        ({"x_train2017.json": "cat/1.jpg"}, "val/cat/1.jpg", "x_train2017.json"),
    ],
)
def test_coco_is_matched_by_relative_path(tmp_path, files, image, found):
    for name, file_name in files.items():
        put(tmp_path, name, coco([flat(POLYGON)], name=file_name))
    if found is None:
        with pytest.raises(MaskError, match="no image has an annotation"):
            open_masks(tmp_path, [image])
        return
    masks = open_masks(tmp_path, [image])
    assert masks.find(image).is_relative_to(tmp_path / found)
    assert np.array_equal(masks.read(masks.find(image), SIZE).numpy(), inside(POLYGON))


@pytest.mark.parametrize(
    ("file_name", "image", "found"),
    [
        (r"C:\Users\me\data\train\cat\1.jpg", "train/cat/1.jpg", True),
        (r"D:\data\cat\1.jpg", "cat/1.jpg", True),
        ("/mnt/c/data/train/cat/1.jpg", "train/cat/1.jpg", True),
        (r"\\server\share\cat\1.jpg", "cat/1.jpg", True),
        (r"C:\Users\me\data\dog\1.jpg", "cat/1.jpg", False),
        (r"C:\Users\me\data\cat\1.jpg", "cat/2.jpg", False),
    ],
)
def test_coco_with_absolute_paths_of_another_machine(tmp_path, file_name, image, found):
    masks = CocoMasks(put(tmp_path, "coco.json", coco([flat(POLYGON)], name=file_name)) / "coco.json")
    place = masks.find(image)
    assert (place is not None) == found
    if place is not None:
        assert np.array_equal(masks.read(place, SIZE).numpy(), inside(POLYGON))


@pytest.mark.parametrize(
    "declared", [None, "GB2312", "gbk", "GB18030", "utf-8", "utf-16", "ISO-8859-1", "windows-1252", "none"]
)
@pytest.mark.parametrize("encoding", ["gb2312", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_voc_in_any_encoding(tmp_path, declared, encoding):
    """Whatever it says of itself: the numbers are read."""
    label = "tête" if encoding == "latin-1" else "猫狗"
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    put(
        tmp_path,
        "train/cat/1.xml",
        voc((6, 4, 19, 12), head=head).replace("<name>x", f"<name>{label}").encode(encoding),
    )
    masks = open_masks(tmp_path, [PATH])
    assert np.array_equal(masks.read(masks.find(PATH), SIZE).numpy(), inside_box())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb2312"])
def test_yolo_in_any_encoding(tmp_path, encoding):
    line = f"0 {12 / WIDTH} {7.5 / HEIGHT} {14 / WIDTH} {9 / HEIGHT}\n"
    put(tmp_path, "train/cat/1.txt", line.encode(encoding))
    masks = open_masks(tmp_path, [PATH])
    assert np.array_equal(masks.read(masks.find(PATH), SIZE).numpy(), inside_box())


def test_a_bad_entry_of_coco_is_left_out_and_named(tmp_path):
    content = json.loads(coco([flat(POLYGON)]))
    content["images"].append({"id": 8})
    content["annotations"] = [{"segmentation": [flat(POLYGON)]}, 3, *content["annotations"], {"image_id": [1]}]
    path = put(tmp_path, "coco.json", json.dumps(content))
    with pytest.warns(ModelDoctorWarning, match=r"4 entries left out, the first is images\[1\]"):
        masks = open_masks(path, [PATH])
    assert np.array_equal(masks.read(masks.find(PATH), SIZE).numpy(), drawn_coco(tmp_path / "good"))


def drawn_coco(folder):
    """The same file without the bad entries."""
    masks = open_masks(put(folder, "good.json", coco([flat(POLYGON)])), [PATH])
    return masks.read(masks.find(PATH), SIZE).numpy()


def test_coco_ids_may_be_texts_on_one_side(tmp_path):
    content = json.loads(coco([flat(POLYGON)]))
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    masks = open_masks(put(tmp_path, "texts.json", json.dumps(content)), [PATH])
    assert masks.find(PATH) is not None


def test_captions_are_no_annotations(tmp_path):
    content = json.loads(coco([flat(POLYGON)]))
    content["images"].append({"id": 8, "file_name": "train/cat/2.jpg"})
    content["annotations"] += [{"image_id": 8, "caption": "a cat"}, {"image_id": 99, "segmentation": []}]
    masks = open_masks(put(tmp_path, "captions.json", json.dumps(content)), [PATH, "train/cat/2.jpg"])
    assert masks.find("train/cat/2.jpg") is None


def test_masks_of_another_kind_of_picture_are_named(tmp_path):
    (tmp_path / "masks" / "cat").mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "masks" / "cat" / "1.bmp")
    with pytest.raises(MaskError, match=r"the pictures, such as 1.bmp, are no PNG files") as caught:
        open_masks(tmp_path / "masks", ["cat/1.jpg", "cat/2.jpg"])
    assert "save them as PNG" in caught.value.hint
