"""Folders around the classes, hidden folders, and files that are no pictures."""

import pytest
from PIL import Image

from modeldoctor.data.folders import open_folder
from modeldoctor.errors import DataError, ModelDoctorWarning


def make(root, *paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file, format="PNG")


@pytest.mark.parametrize(
    ("paths", "fits"),
    [
        (["flowers/rose/1.jpg", "flowers/tulip/1.jpg"], "flowers"),
        (["flowers/train/rose/1.jpg", "flowers/train/tulip/1.jpg", "flowers/val/rose/2.jpg"], "flowers"),
        (["a/b/rose/1.jpg", "a/b/tulip/1.jpg"], "a/b"),
        (
            ["seg_train/seg_train/sea/1.jpg", "seg_train/seg_train/street/1.jpg", "seg_pred/seg_pred/9.jpg",
             "seg_test/seg_test/sea/1.jpg", "seg_test/seg_test/street/1.jpg"],
            "seg_train/seg_train",
        ),
        (
            ["seg_train/sea/1.jpg", "seg_train/street/1.jpg", "seg_pred/9.jpg", "seg_test/sea/1.jpg",
             "seg_test/street/1.jpg"],
            "seg_train",
        ),
        (["train/train/cat/1.jpg", "train/train/dog/1.jpg", "test/test/cat/1.jpg"], "train/train"),
    ],
)  # fmt: skip
def test_the_folder_that_fits_is_named_and_opens(tmp_path, paths, fits):
    make(tmp_path, *paths)
    with pytest.raises(DataError, match="folders that hold only folders") as caught:
        open_folder(tmp_path)
    assert caught.value.hint.split(";")[0] == f"pass --data {tmp_path / fits}"


@pytest.mark.parametrize(
    "paths",
    [
        ["train/n01/images/1.jpg", "train/n02/images/1.jpg"],
        ["cat/1.jpg", "cat/more/2.jpg", "dog/film/1.jpg", "dog/film 2/2.jpg"],
    ],
)
def test_folders_within_classes_are_left_alone(tmp_path, paths):
    make(tmp_path, *paths)
    (content,) = open_folder(tmp_path).values()
    assert len(content.class_names) == 2
    assert len(content.paths) == len(paths)


def test_classes_of_several_folders_are_warned_of(tmp_path):
    make(tmp_path, *(f"{name}/film {number}/1.jpg" for name in ("cat", "dog") for number in (1, 2)))
    with pytest.warns(ModelDoctorWarning, match=f"holds only folders .cat, dog.*--data {tmp_path / 'cat'}"):
        assert open_folder(tmp_path)["all"].class_names == ("cat", "dog")


def test_hidden_folders_with_images_are_named(tmp_path):
    make(tmp_path, "train/.ipynb_checkpoints/1.jpg", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg")
    (tmp_path / "train/.git").mkdir()
    with pytest.warns(ModelDoctorWarning) as said:
        assert open_folder(tmp_path)["train"].class_names == ("a", "b")
    (text,) = (str(one.message) for one in said)
    assert f"{tmp_path}/train/.ipynb_checkpoints;" in text
    assert ".git" not in text


def test_files_passed_over_are_counted_by_ending(tmp_path):
    make(tmp_path, "a/1.jpg", "a/2.AVIF", "a/3", "a/deep/4.picture", "b/1.jfif")
    for name in ("a/x.txt", "a/deep/y.TXT", "b/z.heic", "b/none"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.warns(ModelDoctorWarning, match=r"passed over: 2 \.txt, 1 without an ending, 1 \.heic$"):
        paths = open_folder(tmp_path)["all"].paths
    assert list(paths) == ["a/1.jpg", "a/2.AVIF", "a/3", "a/deep/4.picture", "b/1.jfif"]


def test_annotations_beside_the_images_are_not_passed_over(tmp_path):
    make(tmp_path, "a/1.jpg")
    (tmp_path / "a/1.json").write_text("{}")
    assert len(open_folder(tmp_path, tmp_path)["all"].paths) == 1


def test_class_names_in_both_forms_are_one_class(tmp_path):
    make(tmp_path, "train/\u00e9t/1.jpg", "train/b/1.jpg", "val/e\u0301t/1.jpg", "val/b/1.jpg")
    splits = open_folder(tmp_path)
    assert splits["train"].class_names == ("b", "\u00e9t")
    assert splits["val"].labels.tolist() == [0, 1]
    assert splits["val"].pictures.read(1, "RGB").size == (4, 4)


def test_decomposed_names_keep_the_order_of_the_disk(tmp_path):
    make(tmp_path, "e\u0301t/1.jpg", "z/1.jpg")
    assert open_folder(tmp_path)["all"].class_names == ("\u00e9t", "z")
    make(tmp_path / "composed", "\u00e9t/1.jpg", "z/1.jpg")
    assert open_folder(tmp_path / "composed")["all"].class_names == ("z", "\u00e9t")


@pytest.mark.parametrize(
    "paths",
    [["cat/train/1.jpg", "cat/val/2.jpg", "dog/train/1.jpg"], ["images/train/1.jpg", "images/val/2.jpg"]],
)
def test_splits_within_classes_are_warned_of(tmp_path, paths):
    make(tmp_path, *paths)
    with pytest.warns(ModelDoctorWarning, match=rf"the splits lie within.*{paths[0].rpartition('/')[0]}.*path, label"):
        (content,) = open_folder(tmp_path).values()
    assert len(content.paths) == len(paths)


@pytest.mark.parametrize("beside", ["eval/cat/1.jpg", "seg_val/dog/1.jpg", "cat/1.jpg", "more/9.jpg"])
def test_folders_with_images_beside_the_splits_are_named(tmp_path, beside):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "masks/cat/1.png", "extras/notes/1.jpg", beside)
    with pytest.warns(ModelDoctorWarning, match=rf"left out: {beside.split('/')[0]} in .* val or test"):
        assert list(open_folder(tmp_path)) == ["train"]


def test_two_classes_that_are_one_folder_are_refused(tmp_path):
    make(tmp_path, "train/dog/1.jpg", "train/cat/1.jpg")
    (tmp_path / "train" / "hund").symlink_to("dog")
    with pytest.raises(DataError, match="two classes are one folder: dog and hund"):
        open_folder(tmp_path)


def test_folders_of_network_storages_are_no_classes(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg", "@eaDir/1.jpg", "$RECYCLE.BIN/2.jpg")
    assert open_folder(tmp_path)["all"].class_names == ("cat", "dog")


def test_folders_of_pictures_that_pillow_does_not_read_say_which(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(90))
    with pytest.raises(DataError, match=r"2 class folders, but no image in them: 2 \.heic") as caught:
        open_folder(tmp_path)
    assert "convert them to JPEG or PNG" in caught.value.hint


@pytest.mark.parametrize("name", ["photos.zip", "list.xlsx", "list.json"])
def test_a_file_in_the_place_of_a_folder_gets_its_own_next_step(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="this is no folder") as caught:
        open_folder(tmp_path / name)
    assert "unpack an archive" in caught.value.hint
    assert "columns path and label" in caught.value.hint


def test_folders_within_splits_are_to_be_moved_in_every_split(tmp_path):
    make(tmp_path, *(f"{split}/images/{name}/1.jpg" for split in ("train", "val") for name in ("cat", "dog")))
    with pytest.raises(DataError, match="folders that hold only folders: images") as caught:
        open_folder(tmp_path)
    assert caught.value.hint.startswith(f"pass --data {tmp_path}/train/images;")
    assert f"move the class folders up, into {tmp_path}/train, in each" in caught.value.hint
    for split in ("train", "val"):  # what it says
        for folder in (tmp_path / split / "images").iterdir():
            folder.rename(tmp_path / split / folder.name)
        (tmp_path / split / "images").rmdir()
    assert {split: len(content.paths) for split, content in open_folder(tmp_path).items()} == {"train": 2, "val": 2}
