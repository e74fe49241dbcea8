"""Masks among the images of class folders are said."""

import re

import numpy as np
import pytest
from PIL import Image

from modeldoctor.data.folders import open_folder
from modeldoctor.errors import ModelDoctorWarning


def save(root, path, mode="RGB"):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(6, dtype=np.uint8) * 255).convert(mode).save(file)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/cat/benign (1).png", "train/cat/benign (1)_mask.png"),
        ("cat/1.jpg", "cat/1-seg.png"),
        ("cat/1.jpg", "cat/1_Mask_2.gif"),
        ("cat/1.jpg", "cat/1.png"),
    ],
)
def test_masks_among_the_images_are_said(tmp_path, image, mask):
    for name in ("dog", "cat"):
        for path, mode in ((image, "RGB"), (mask, "L")):
            save(tmp_path, path.replace("cat", name), mode)
    stem = "cat/" + ("benign (1)" if "benign" in image else "1")
    with pytest.warns(
        ModelDoctorWarning, match=re.escape(f"first {mask}") + f".*{re.escape(stem)}.png, and give"
    ) as said:
        (content,) = open_folder(tmp_path).values()
    assert "2 files among the images" in str(said[0].message)
    assert len(content.paths) == 4  # a training by torchvision counted them, too


@pytest.mark.parametrize("other", ["cat/masks.jpg", "cat/1_2.jpg", "cat/2_mask.jpg", "cat/1.png"])
def test_other_names_are_images(tmp_path, other):
    save(tmp_path, "cat/1.jpg")
    save(tmp_path, other)
    assert len(open_folder(tmp_path)["all"].paths) == 2
