from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import open_data
from modeldoctor.data.classes import match_classes
from modeldoctor.data.content import NumberedPaths
from modeldoctor.data.imageset import Broken, ImageSet, Sample
from modeldoctor.data.pictures import PictureArray, PictureFiles
from modeldoctor.errors import DataError, MaskError

GREY = Preprocessing(input_size=(1, 4, 4), mean=(0.5,), std=(0.25,))


def grey_set(preprocessing=GREY):
    pixels = np.stack([np.full((4, 4), value, dtype=np.uint8) for value in (0, 51, 255)])
    return ImageSet(
        split="test",
        class_names=("x", "y"),
        labels=np.array([0, 1, 1]),
        paths=NumberedPaths("test", 3),
        pictures=PictureArray(pixels),
        preprocessing=preprocessing,
    )


def test_samples():
    images = grey_set()
    assert len(images) == 3
    sample = images[-2]
    assert isinstance(sample, Sample)
    assert (sample.label, sample.index, sample.mask) == (1, 1, None)
    torch.testing.assert_close(sample.image, torch.full((1, 4, 4), (51 / 255 - 0.5) / 0.25))
    with pytest.raises(IndexError):
        images[3]


def test_grey_pictures_for_a_colour_network():
    colour = Preprocessing(input_size=(3, 4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
    torch.testing.assert_close(grey_set(colour)[1].image, torch.full((3, 4, 4), 0.2))


def test_other_channel_counts_are_refused():
    with pytest.raises(DataError, match="4 channels"):
        grey_set(Preprocessing(input_size=(4, 4, 4), mean=(0.0,) * 4, std=(1.0,) * 4))


def test_broken_picture(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    images = grey_set()
    images.pictures = PictureFiles(tmp_path, ["a.png", "gone.png", "a.png"])
    assert images[1] == Broken(1, "no such file")


def test_relabelled():
    images = grey_set()
    relabelled = images.with_classes(match_classes(("x", "y"), ("y", "z", "x"), 3))
    assert relabelled.labels.tolist() == [2, 0, 0]
    assert relabelled.class_names == ("y", "z", "x")
    assert relabelled[0].label == 2
    assert images.labels.tolist() == [0, 1, 1]


def test_masks_are_read_of_the_chosen_images_alone(tmp_path: Path) -> None:
    for number in range(3):
        for folder in ("images/a", "masks/a"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "masks" / "a" / "2.png").write_bytes(b"no picture")
    preprocessing = Preprocessing(input_size=(1, 8, 8), mean=(0.0,), std=(1.0,))
    images = open_data(tmp_path / "images", preprocessing=preprocessing, masks=tmp_path / "masks")["all"]
    chosen = images.masked_at([1])
    assert [chosen[index].mask is not None for index in range(3)] == [False, True, False]
    assert images[0].mask is not None
    with pytest.raises(MaskError):
        images[2]


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_count_no_class_are_refused(label):
    images = ImageSet(
        split="test", class_names=("a", "b"), labels=np.array([0, label]), paths=["test/0", "test/1"],
        pictures=PictureArray(np.zeros((2, 8, 8, 3), np.uint8)),
        preprocessing=Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3),
    )  # fmt: skip
    with pytest.raises(DataError, match="labels from"):
        images.with_classes(match_classes(("a", "b"), None, 2))
