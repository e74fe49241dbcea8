"""Image sets with annotations: which belongs to which image, who warns, and what fits nothing."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from annotation_files import (
    BOX_POINTS,
    GOOD,
    HEIGHT,
    POLYGON,
    SIZE,
    X,
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
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import make_loader, open_data
from modeldoctor.data.masks import open_masks
from modeldoctor.errors import MaskError, ModelDoctorWarning


def test_shapes_without_area_are_left_out_with_one_warning(tmp_path):
    strokes = [shape(kind, POLYGON[:2]) for kind in ("line", "line", "linestrip", "point")]
    paths = ["cat/1.jpg", "cat/2.jpg"]
    for number in (1, 2):
        put(tmp_path, f"cat/{number}.json", labelme(*strokes, GOOD))
    masks = open_masks(tmp_path, paths)
    with pytest.warns(ModelDoctorWarning, match="2 × line, 1 × linestrip, 1 × point left out") as caught:
        read = [masks.read(masks.find(path), SIZE).numpy() for path in paths]
    assert np.array_equal(read, [inside_box()] * 2)
    assert len(caught) == 1


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_they_are_warned_of_once_whoever_reads(tmp_path, workers):
    names = [f"cat/{number}" for number in range(6)]
    photograph(tmp_path, *(f"{name}.jpg" for name in names))
    for name in names:
        put(tmp_path, f"{name}.json", labelme(*([shape("line", POLYGON[:2])] if name != "cat/0" else ()), GOOD))
    images = open_data(tmp_path, preprocessing=PREPROCESSING, masks=tmp_path)["all"]
    loader = make_loader(images, batch_size=1, workers=workers)
    with pytest.warns(ModelDoctorWarning, match=r"cat/1\.json: 1 × line left out") as caught:
        batches = [*loader, *loader]
    assert all(mask.any() for batch in batches for mask in batch.masks)
    assert [warning.category for warning in caught].count(ModelDoctorWarning) == 1  # Python warns of forks, too


PREPROCESSING = Preprocessing(input_size=(3, HEIGHT, HEIGHT), mean=(0.0,) * 3, std=(1.0,) * 3)


def photograph(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (200, 9, 9)).save(folder / path)


def test_beside_the_images(tmp_path):
    """PNG images are not taken for masks, names may collide across classes, and stray files do no harm."""
    photograph(tmp_path, "cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png")
    put(tmp_path, "cat/1.json", labelme(GOOD))
    put(tmp_path, "cat/3.json", labelme())
    put(tmp_path, "dog/2.xml", voc((1, 1, 15, 22)))
    put(tmp_path, "dog/README.txt", "no annotation")
    images = open_data(tmp_path, preprocessing=PREPROCESSING, masks=tmp_path)["all"]
    with pytest.raises(MaskError, match=re.escape(str(tmp_path / "cat/3.json"))):
        images[2]
    images.labels[:] = 0
    sane = [0, 1, 3, 4]
    for workers in (0, 1):
        (batch,) = make_loader(images, sane, batch_size=5, workers=workers)
        assert [mask is not None for mask in batch.masks] == [True, False, False, True]
        assert batch.masks[0].any()
        assert batch.masks[3][:, :10].all()


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_boxes_and_masks_in_one_tree_are_read_together(tmp_path, ending):
    """Four boxes, one of them beside a mask, and two masks; in another class nothing."""
    names = [f"cat/{number}" for number in range(6)] + ["dog/7"]
    photograph(tmp_path / "images", *(f"{name}.{ending}" for name in names))
    for name in names[:4]:
        put(tmp_path / "masks", f"{name}.json", labelme(GOOD))
    for name in names[4:6]:
        put(tmp_path / "masks", f"{name}.png", png(X > 20))
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
    read = [images.masks.find(f"{name}.{ending}") for name in names]
    assert [path and path.suffix for path in read] == [".json"] * 4 + [".png"] * 2 + [None]
    assert np.array_equal(images.masks.read(read[4], SIZE).numpy(), X > 20)

    put(tmp_path / "masks", "cat/0.png", png(X > 20))  # of a PNG it may be the picture: then no PNG is a mask
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")["all"]
    assert images.masks.find(f"cat/0.{ending}").suffix == ".json"
    assert (images.masks.find(f"cat/4.{ending}") is None) == (ending == "png")


def test_coco_in_worker_processes(tmp_path):
    photograph(tmp_path / "images", "train/cat/1.jpg", "train/dog/1.jpg")
    put(tmp_path, "coco.json", coco([flat(BOX_POINTS)]))
    images = open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "coco.json")["train"]
    here, there = (next(iter(make_loader(images, batch_size=2, workers=n))).masks for n in (0, 1))
    assert here[1] is there[1] is None
    assert torch.equal(here[0], there[0])


def test_masks_that_fit_nothing(tmp_path):
    photograph(tmp_path / "images", "cat/1.png", "cat/1.jpg")
    put(tmp_path, "masks/dog/1.png", png(X > 3))
    with pytest.raises(MaskError, match="no image has an annotation"):
        open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")
    with pytest.raises(MaskError, match="no mask folder"):
        open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "gone")
    put(tmp_path, "masks/cat/1.png", png(X > 3))
    with pytest.raises(MaskError, match=r"one mask for two images, cat/1\.\w+ and cat/1\.\w+"):
        open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "masks")
    (tmp_path / "images/cat/1.jpg").unlink()
    with pytest.raises(MaskError, match="their own masks"):
        open_data(tmp_path / "images", preprocessing=PREPROCESSING, masks=tmp_path / "images")


def test_a_text_in_a_tree_of_masks_is_no_annotation(tmp_path):
    put(tmp_path, "cat/README.txt", "made by hand")
    put(tmp_path, "notes.json", "{}")
    put(tmp_path, "cat/1.png", png(inside_box()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read(tmp_path, "cat/1.jpg").numpy(), inside_box())


def test_what_lies_there_is_named_where_it_fits_no_image(tmp_path):
    put(tmp_path / "tree", "cat/1_outline.json", labelme(GOOD))
    put(tmp_path, "i.json", coco([flat(POLYGON)], name="elsewhere/9.jpg"))
    (tmp_path / "empty").mkdir()
    there = {"tree": "begins with cat/1_outline.json", "i.json": "begins with elsewhere/9.jpg", "empty": "is nothing"}
    for masks, said in there.items():
        with pytest.raises(MaskError, match=f"no image has an annotation there; what is there {said}"):
            open_masks(tmp_path / masks, ["cat/1.jpg"])


def test_annotations_of_an_id_that_two_images_have_are_left_out(tmp_path):
    whole = json.loads(coco([flat(POLYGON)], name="cat/1.jpg"))
    others = [{**whole["images"][0], "id": number, "file_name": f"cat/{name}.jpg"} for number, name in ((8, 2), (8, 3))]
    whole["images"] += others
    whole["annotations"].append({**whole["annotations"][0], "image_id": 8})
    put(tmp_path, "i.json", json.dumps(whole))
    with pytest.warns(ModelDoctorWarning, match=r"1 entry left out.*annotations.1. of image 8, an id of two images"):
        masks = open_masks(tmp_path / "i.json", ["cat/1.jpg", "cat/2.jpg", "cat/3.jpg"])
    assert [masks.find(f"cat/{number}.jpg") is not None for number in (1, 2, 3)] == [True, False, False]


def test_a_file_that_is_listed_with_two_sizes_has_no_annotation(tmp_path):
    whole = json.loads(coco([flat(POLYGON)], name="cat/1.jpg"))
    first = whole["images"][0]
    whole["images"] += [{**first, "id": 8, "width": first["width"] * 2}, {**first, "id": 9, "file_name": "cat/2.jpg"}]
    whole["annotations"] += [{**whole["annotations"][0], "image_id": number} for number in (8, 9)]
    put(tmp_path, "i.json", json.dumps(whole))
    with pytest.warns(ModelDoctorWarning, match=r"2 entries left out.*a file that is listed with two sizes"):
        masks = open_masks(tmp_path / "i.json", ["cat/1.jpg", "cat/2.jpg"])
    assert [masks.find(f"cat/{number}.jpg") is not None for number in (1, 2)] == [False, True]


def test_annotation_files_of_no_image_are_counted(tmp_path):
    put(tmp_path, "cat/1.json", labelme(GOOD))
    put(tmp_path, "cat/1.png", png(inside_box()))  # of the same image
    for name in ("01", "picture 1"):
        put(tmp_path, f"cat/{name}.json", labelme(GOOD))
    put(tmp_path, "cat/._1.json", "what macOS leaves beside a file")
    with pytest.warns(ModelDoctorWarning, match=r"2 annotation files belong to no image of the data, first .*cat.01:"):
        masks = open_masks(tmp_path, ["cat/1.jpg", "cat/2.jpg"])
    assert masks.find("cat/1.jpg").name == "1.json"


def test_a_plan_without_an_annotation_is_not_taken_for_masks(tmp_path):
    put(tmp_path, "annotate.csv", "path\n")
    photograph(tmp_path, "cat/1.jpg", "cat/2.png")
    with pytest.raises(MaskError, match="none is annotated yet") as caught:
        open_masks(tmp_path, ["cat/1.jpg", "cat/2.png"])
    assert caught.value.hint.startswith("outline the objects first: labelme")
