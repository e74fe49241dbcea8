import pytest
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.sources import open_data
from modeldoctor.errors import DataError, MaskError, UsageError

PREPROCESSING = Preprocessing(input_size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)


def save(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 255).save(root / path)


def test_forms_of_file_data(tmp_path):
    save(tmp_path, "data/a/1.png", "data/b/1.png")
    (tmp_path / "list.csv").write_text("path,class\ndata/a/1.png,a\ndata/b/1.png,b\n")
    (tmp_path / "list.tsv").write_text("path\tclass\ndata/a/1.png\ta\ndata/b/1.png\tb\n")
    for data, root in (
        (tmp_path / "data", None),
        (tmp_path / "list.tsv", None),
        (str(tmp_path / "list.csv"), None),
        (tmp_path / "list.csv", tmp_path),
        ("torchvision:ImageFolder", tmp_path / "data"),
        ("torchvision:mini-imagenet", tmp_path / "data"),
    ):
        images = open_data(data, root=root, preprocessing=PREPROCESSING)["all"]
        assert images.class_names == ("a", "b")
        assert [images[index].label for index in range(len(images))] == [0, 1]


def test_masks_beside_the_splits(tmp_path):
    save(tmp_path, "train/a/1.png", "val/a/1.png", "masks/train/a/1.png")
    sets = open_data(tmp_path, preprocessing=PREPROCESSING, masks=tmp_path / "masks")
    assert sets["train"][0].mask.all()
    assert sets["val"][0].mask is None


def test_masks_without_splits(tmp_path):
    save(tmp_path, "train/a/1.png", "val/a/2.png", "masks/a/1.png", "masks/a/2.png")
    sets = open_data(tmp_path, preprocessing=PREPROCESSING, masks=tmp_path / "masks")
    assert sets["val"][0].mask.all()
    save(tmp_path, "val/a/1.png")
    with pytest.raises(MaskError, match=r"one mask for two images, train/a/1.png and val/a/1.png"):
        open_data(tmp_path, preprocessing=PREPROCESSING, masks=tmp_path / "masks")


def test_errors_of_each_form(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_data(tmp_path / "gone", preprocessing=PREPROCESSING)
    with pytest.raises(DataError, match="cannot be read"):
        open_data(tmp_path / "gone.csv", preprocessing=PREPROCESSING)
    with pytest.raises(UsageError, match="unknown data set"):
        open_data("torchvision:nothing", root=tmp_path, preprocessing=PREPROCESSING)
