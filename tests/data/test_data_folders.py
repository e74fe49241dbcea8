import os
import shutil
import warnings

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from modeldoctor.data.folders import open_folder
from modeldoctor.errors import DataError, ModelDoctorWarning


def make(root, *paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() in (".jpg", ".png"):
            Image.new("RGB", (4, 4)).save(file)
        else:
            file.write_bytes(b"x")


def test_class_folders_equal_torchvisions(tmp_path):
    make(tmp_path, "b/2.jpg", "b/10.jpg", "a/x.png", "a/deep/er/y.jpg", "Zebra/1.JPG", "a/notes.txt")
    with pytest.warns(ModelDoctorWarning, match="passed over: 1 .txt"):
        content = open_folder(tmp_path)["all"]
    oracle = ImageFolder(str(tmp_path))
    assert content.class_names == tuple(oracle.classes)
    expected = {(os.path.relpath(path, tmp_path), label) for path, label in oracle.samples}
    assert set(zip(content.paths, content.labels.tolist(), strict=True)) == expected
    assert list(content.paths) == ["Zebra/1.JPG", "a/deep/er/y.jpg", "a/x.png", "b/10.jpg", "b/2.jpg"]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_splits_in_order_whatever_their_spelling(tmp_path, val):
    make(tmp_path, "test/a/1.jpg", "train/a/1.jpg", "train/b/1.jpg", f"{val}/a/2.jpg", "test/b/1.jpg", f"{val}/b/1.jpg")
    splits = open_folder(tmp_path)
    assert list(splits) == ["train", "val", "test"]
    assert list(splits["val"].paths) == [f"{val}/a/2.jpg", f"{val}/b/1.jpg"]
    assert splits["val"].labels.tolist() == [0, 1]


def test_labels_mean_the_same_in_every_split(tmp_path):
    make(tmp_path, "train/a/1.jpg", "train/c/1.jpg", "val/b/1.jpg", "val/c/1.jpg")
    with pytest.warns(ModelDoctorWarning) as caught:
        splits = open_folder(tmp_path)
    assert splits["train"].class_names == splits["val"].class_names == ("a", "b", "c")
    assert splits["val"].labels.tolist() == [1, 2]
    assert [str(warning.message) for warning in caught] == [
        "train: 1 of 3 classes has no images: b",
        "val: 1 of 3 classes has no images: a",
    ]


def test_a_class_called_train(tmp_path):
    make(tmp_path, "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    assert open_folder(tmp_path)["all"].class_names == ("bus", "car", "train")


def test_hidden_and_leftover_entries_are_ignored(tmp_path):
    make(tmp_path, "a/1.jpg", "a/.hidden.jpg", "a/.DS_Store", "__MACOSX/a/._1.jpg", ".git/config")
    content = open_folder(tmp_path)["all"]
    assert content.class_names == ("a",)
    assert list(content.paths) == ["a/1.jpg"]


def test_masks_inside_the_data_are_no_class(tmp_path):
    make(tmp_path, "a/1.jpg", "masks/a/1.png")
    assert open_folder(tmp_path, tmp_path / "masks")["all"].class_names == ("a",)


def test_links_are_followed_but_not_to_folders_that_are_read_elsewhere(tmp_path):
    make(tmp_path, "elsewhere/1.jpg", "data/train/a/2.jpg", "data/train/c/3.jpg", "data/val/a/4.jpg")
    train = tmp_path / "data/train"
    (train / "b").symlink_to(tmp_path / "elsewhere")
    for name, target in {"up": train, "root": tmp_path / "data", "other": train / "c", "own": train / "a"}.items():
        (train / "a" / name).symlink_to(target)
    with pytest.warns(ModelDoctorWarning) as said:
        found = open_folder(tmp_path / "data")["train"]
    assert dict(zip(found.paths, found.labels.tolist(), strict=True)) == {
        "train/a/2.jpg": 0, "train/b/1.jpg": 1, "train/c/3.jpg": 2,
    }  # fmt: skip
    assert any("4 link(s) to folders that are read elsewhere" in str(warning.message) for warning in said)


def test_names_that_differ_in_case_alone_are_told(tmp_path):
    make(tmp_path, "Dog/1.jpg", "dog/2.jpg", "cat/3.jpg")
    with pytest.warns(ModelDoctorWarning, match="look alike .* are kept apart: Dog and dog"):
        assert open_folder(tmp_path)["all"].class_names == ("Dog", "cat", "dog")


def test_a_link_to_nothing_is_listed_not_dropped(tmp_path):
    make(tmp_path, "a/1.jpg")
    (tmp_path / "a/2.jpg").symlink_to(tmp_path / "gone.jpg")
    assert list(open_folder(tmp_path)["all"].paths) == ["a/1.jpg", "a/2.jpg"]


def test_a_link_in_a_circle_is_an_image_that_cannot_be_read(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    for place in ("a/2.jpg", "b/notes", "loop"):
        (tmp_path / place).symlink_to((tmp_path / place).name)
    with pytest.warns(ModelDoctorWarning, match="1 without an ending"):
        assert list(open_folder(tmp_path)["all"].paths) == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]


def test_empty_class_folder_stays_a_class(tmp_path):
    make(tmp_path, "a/1.jpg", "c/1.jpg")
    (tmp_path / "b").mkdir()
    with pytest.warns(ModelDoctorWarning, match="1 of 3 classes has no images: b"):
        content = open_folder(tmp_path)["all"]
    assert content.class_names == ("a", "b", "c")
    assert content.labels.tolist() == [0, 2]


def test_unlabelled_test_split_is_left_out_with_a_warning(tmp_path):
    make(tmp_path, "train/a/1.jpg", "test/1.jpg", "test/2.jpg")
    with pytest.warns(ModelDoctorWarning, match="2 images directly in .*test"):
        assert list(open_folder(tmp_path)) == ["train"]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["1.jpg", "2.jpg", "3.png"], "3 images directly in data, no class folders"),
        (["train/1.jpg", "val/2.jpg"], r"images directly in train \(1\), val \(1\), no class folders"),
        (["a/1.txt", "b/2.npy"], "2 class folders, but no image in them"),
        (["images.zip"], "only 1 other files such as images.zip"),
        ([], "an empty folder"),
    ],
)
def test_wrong_layouts_say_what_was_found(tmp_path, paths, found):
    root = tmp_path / "data"
    root.mkdir()
    make(root, *paths)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=found) as caught:
            open_folder(root)
    assert caught.value.where == str(root)
    assert "DIR/cat/1.jpg" in caught.value.expected


def test_no_folder_and_two_spellings(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_folder(tmp_path / "gone")
    make(tmp_path, "val/a/1.jpg")
    shutil.copytree(tmp_path / "val", tmp_path / "valid")
    with pytest.raises(DataError, match="val, valid"):
        open_folder(tmp_path)


def test_masks_inside_a_split_are_no_class(tmp_path):
    make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/masks/a/1.png")
    assert open_folder(tmp_path, tmp_path / "train" / "masks")["train"].class_names == ("a", "b")


def test_masks_in_a_folder_that_may_not_be_entered_are_no_fault_of_the_data(tmp_path, monkeypatch):
    make(tmp_path, "data/a/1.jpg")
    stat = os.stat

    def refuse(path, *arguments, **options):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
    assert list(open_folder(tmp_path / "data", tmp_path / "locked")) == ["all"]


def test_a_class_in_two_folders_of_one_name_is_one_and_told(tmp_path):
    composed, decomposed = "\u00e9pinard", "e\u0301pinard"
    make(tmp_path, f"train/{composed}/1.jpg", f"train/{decomposed}/2.jpg", f"val/{decomposed}/3.jpg")
    with pytest.warns(
        ModelDoctorWarning, match="train: two folders each for .pinard, .* taken for one class"
    ) as caught:
        splits = open_folder(tmp_path)
    assert len(caught) == 1  # a class that is spelled so in val and so in train is nobody's fault
    assert splits["train"].class_names == (composed,)
    assert splits["train"].labels.tolist() == [0, 0]
