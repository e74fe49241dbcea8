"""Annotations as tools of several generations leave them: labels, sizes and greys that mean something else."""

import io

import numpy as np
import pytest
from annotation_files import (
    BOX_POINTS,
    GOOD,
    HEIGHT,
    POLYGON,
    WIDTH,
    X,
    Y,
    coco,
    flat,
    inside_box,
    labelme,
    put,
    read,
    shape,
    voc,
)
from matplotlib.path import Path as Outline
from PIL import Image

from modeldoctor.errors import ModelDoctorWarning


def test_shapes_that_are_labelled_as_no_object_are_left_out(tmp_path):
    """LabelMe's labels.txt begins with __ignore__ and _background_."""
    whole = [(0, 0), (WIDTH, HEIGHT)]
    others = [shape("rectangle", whole, label=label) for label in ("_background_", "__ignore__", "Background")]
    put(tmp_path, "train/cat/1.json", labelme(*others, GOOD))
    with pytest.warns(ModelDoctorWarning, match="shape labelled _background_"):
        assert np.array_equal(read(tmp_path).numpy(), inside_box())


def test_a_turned_rectangle_is_drawn(tmp_path):
    outlined = Outline([*POLYGON, POLYGON[0]], closed=True).contains_points(np.stack([X, Y], axis=-1).reshape(-1, 2))
    put(tmp_path, "train/cat/1.json", labelme(shape("oriented_rectangle", POLYGON)))
    assert np.array_equal(read(tmp_path).numpy(), outlined.reshape(HEIGHT, WIDTH))


@pytest.mark.parametrize("said", [(str(WIDTH), str(HEIGHT)), (0, 0), (f"{WIDTH}.0", float(HEIGHT)), (0.0, "0")])
def test_a_size_that_is_a_text_or_says_nothing(tmp_path, said):
    put(tmp_path / "a", "train/cat/1.json", labelme(GOOD, imageWidth=said[0], imageHeight=said[1]))
    assert np.array_equal(read(tmp_path / "a").numpy(), inside_box())
    put(tmp_path, "b.json", coco([flat(BOX_POINTS)], size=said))
    assert np.array_equal(read(tmp_path / "b.json").numpy(), inside_box())
    put(tmp_path / "c", "train/cat/1.xml", voc((6, 4, 19, 12), size=said))
    assert np.array_equal(read(tmp_path / "c").numpy(), inside_box())


def jpeg(mask, mode):
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert(mode).save(stream, "JPEG", quality=60)
    return stream


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("renamed", [True, False])
def test_masks_that_went_through_jpeg_have_no_grey_for_object(tmp_path, mode, renamed):
    """Renamed to .png, or saved again as one; beside an edge JPEG is off by pixels, far from it never."""
    stream = jpeg(inside_box(), mode)
    put(tmp_path, "train/cat/1.png", stream.getvalue())
    if not renamed:
        Image.open(stream).save(tmp_path / "train/cat/1.png", "PNG")
    found, right = read(tmp_path).numpy(), inside_box()
    assert (found != right).mean() < 0.02
    assert (np.asarray(Image.open(stream).convert("L")) > 0).mean() > right.mean() + 0.1


@pytest.mark.parametrize("values", [(1, 2, 3, 254), (1, 128, 255), (1, 2, 3), (7,)])
def test_indices_are_objects_however_small(tmp_path, values):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row, value in enumerate(values):
        mask[row + 2, 4:20] = value
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    put(tmp_path, "train/cat/1.png", stream.getvalue())
    assert np.array_equal(read(tmp_path).numpy(), mask > 0)


@pytest.mark.parametrize(
    ("described", "behind"), [("[3, 2]", "0.5 0.5 0.2 0.3 0.6 0.1"), ("[2, 3]", "0.5 0.5 1 0.2 0.3 0")]
)
def test_key_points_behind_a_box_are_no_polygon(tmp_path, described, behind):
    put(tmp_path, "data.yaml", f"names: [cat]\nkpt_shape: {described}\n")
    line = f"0 {12 / WIDTH} {7.5 / HEIGHT} {14 / WIDTH} {9 / HEIGHT} {behind}\n"
    put(tmp_path / "labels", "train/cat/1.txt", line)
    assert np.array_equal(read(tmp_path / "labels").numpy(), inside_box())
