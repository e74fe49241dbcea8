import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import ImageSet, StreamSet, choose_to_annotate, open_data
from modeldoctor.data.content import NumberedPaths
from modeldoctor.data.masks import open_masks
from modeldoctor.data.pictures import PictureArray
from modeldoctor.diagnosis.annotate import annotate
from modeldoctor.errors import DataError, MaskError, ModelDoctorWarning, UsageError
from modeldoctor.zoo import load_model

CONFIG = DiagnoseConfig(device="cpu", batch_size=8)


@pytest.fixture(scope="module")
def network(clinic):
    return load_model(clinic.checkpoint)


@pytest.fixture(scope="module")
def by_hand(clinic):
    """For each class its training images, sorted as the design says, by the plain network."""
    paths, images, labels = clinic.images("train")
    with torch.no_grad():
        confidence, predicted = clinic.network()(images).softmax(1).max(1)
    rows = zip(paths, labels.tolist(), predicted.tolist(), confidence.tolist(), strict=True)
    table = [(path, label, one == label, conf) for path, label, one, conf in rows]
    return [
        [path for path, *_ in sorted((row for row in table if row[1] == n and not row[2]), key=lambda row: -row[3])]
        + [path for path, *_ in sorted((row for row in table if row[1] == n and row[2]), key=lambda row: row[3])]
        for n in range(4)
    ]


def rows_of(plan):
    with plan.table.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def outline(file):
    """What LabelMe saves beside an image."""
    shape = {"label": "it", "points": [[4, 4], [20, 4], [20, 20]], "shape_type": "polygon", "flags": {}}
    content = {"version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": file.name, "imageData": None}
    with Image.open(file) as picture:
        content |= {"imageWidth": picture.width, "imageHeight": picture.height}
    file.with_suffix(".json").write_text(json.dumps(content))


def test_the_choice_of_a_list_by_hand():
    label = np.array([0, 0, 0, 0, 0, 0, 1, 1, 3])
    predicted = np.array([0, 1, 0, 2, 1, 0, 1, 1, 0])
    confidence = np.array([0.9, 0.6, 0.4, 0.8, 0.99, 0.4, 0.7, 0.7, 0.5])
    free = np.array([True] * 4 + [False] + [True] * 4)
    chosen = choose_to_annotate(label, predicted, confidence, free, per_class=4, num_classes=4)
    assert chosen.tolist() == [3, 1, 2, 5, 6, 7, 8]
    none = choose_to_annotate(label, predicted, confidence, np.zeros(9, dtype=bool), per_class=4, num_classes=4)
    assert none.tolist() == []


def test_from_the_choice_to_masks_and_back(tmp_path, clinic, network, by_hand):
    out = tmp_path / "todo"
    before = snapshot(clinic.data)
    seen = []
    plan = annotate(
        network, clinic.data, output=out, per_class=3, config=CONFIG, progress=lambda *one: seen.append(one)
    )
    expected = [path for paths in by_hand for path in paths[:3]]
    assert [choice.path for choice in plan.choices] == expected
    assert (plan.split, plan.annotated, plan.broken) == ("train", 0, ())
    assert seen[-1] == ("copy", 12, 12)
    for path in expected:
        assert (out / path).read_bytes() == (clinic.data / path).read_bytes()
    labels = out / "labels.txt"
    assert set(snapshot(out)) == {out / path for path in expected} | {plan.table, labels}
    # As LabelMe reads it: a name a line.
    assert [line.strip() for line in labels.read_text().splitlines() if line.strip()] == list(network.class_names)
    assert shlex.split(plan.labelme)[:4] == ["labelme", str(out), "--labels", str(labels)]
    assert snapshot(clinic.data) == before
    rows = rows_of(plan)
    assert list(rows[0]) == ["path", "class", "predicted", "confidence", "reason", "source"]
    for row, choice in zip(rows, plan.choices, strict=True):
        assert row["path"].split("/")[1] == row["class"] == choice.class_name
        assert Path(row["source"]).samefile(clinic.data / row["path"])
        wrong = f"wrong: taken for {row['predicted']}"
        assert row["reason"].startswith(wrong if row["predicted"] != row["class"] else "right, but")
        assert row["reason"].endswith(f"{choice.confidence:.2f}")

    with pytest.raises(MaskError, match="none is annotated yet"):
        open_data(clinic.data, preprocessing=network.preprocessing, masks=out)
    annotated = expected[1::2]
    for path in annotated:
        outline(out / path)
    images = open_data(clinic.data, preprocessing=network.preprocessing, masks=out)["train"]
    assert [path for path in images.paths if images.masks.find(path)] == sorted(annotated)
    assert all(images[images.paths.index(path)].mask is not None for path in annotated)

    again = annotate(network, clinic.data, output=out, per_class=3, config=CONFIG, masks=out)
    assert again.annotated == len(annotated)
    left = [[path for path in paths if path not in annotated][:3] for paths in by_hand]
    assert [choice.path for choice in again.choices] == [path for paths in left for path in paths]
    assert all((out / path).with_suffix(".json").exists() for path in annotated)


def test_links(tmp_path, clinic, network, by_hand):
    out = tmp_path / "todo"
    before = snapshot(clinic.data)
    annotate(network, clinic.data, output=out, per_class=1, config=CONFIG, link=True)
    for path, *_ in by_hand:
        assert (out / path).is_symlink()
        assert (out / path).samefile(clinic.data / path)
    annotate(network, clinic.data, output=out, per_class=1, config=CONFIG)
    assert not any((out / path).is_symlink() for path, *_ in by_hand)
    assert snapshot(clinic.data) == before


def test_another_split(tmp_path, clinic, network):
    plan = annotate(
        network, clinic.data, output=tmp_path, per_class=1, config=CONFIG.model_copy(update={"split": "val"})
    )
    assert plan.split == "val"
    assert all(choice.path.startswith("val/") for choice in plan.choices)


def numbered(network, count=6):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    images = ImageSet(
        split="train",
        class_names=network.class_names,
        labels=np.arange(count) % 4,
        paths=NumberedPaths("train", count),
        pictures=PictureArray(pixels),
        preprocessing=network.preprocessing,
    )
    return images, pixels


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
def test_images_that_are_no_files_are_written_as_png(tmp_path, network):
    images, pixels = numbered(network)
    plan = annotate(network, {"train": images}, output=tmp_path / "todo", config=CONFIG)
    assert sorted(choice.path for choice in plan.choices) == [f"train/{n:05d}.png" for n in range(6)]
    for n in range(6):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"todo/train/{n:05d}.png")), pixels[n])
    assert plan.choices[0].source == plan.choices[0].path.removesuffix(".png")
    outline(tmp_path / "todo/train/00004.png")
    masks = open_masks(tmp_path / "todo", images.paths)
    assert [n for n in range(6) if masks.find(images.paths[n])] == [4]


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
def test_turned_photographs_are_written_upright(tmp_path, network):
    """Some tools turn a photograph by its EXIF entry, others do not: the copy leaves no choice."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in network.class_names:
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), (200, 100, 0)).save(tmp_path / "data" / name / "1.jpg", exif=exif)
    plan = annotate(network, tmp_path / "data", output=tmp_path / "todo", config=CONFIG, link=True)
    for choice in plan.choices:
        assert choice.path.endswith("/1.png")
        with Image.open(tmp_path / "todo" / choice.path) as picture:
            assert (picture.size, dict(picture.getexif())) == ((30, 40), {})
            outline(tmp_path / "todo" / choice.path)
    images = open_data(tmp_path / "data", preprocessing=network.preprocessing, masks=tmp_path / "todo")["all"]
    assert all(images[index].mask is not None for index in range(4))


@pytest.mark.filterwarnings("default::modeldoctor.errors.ModelDoctorWarning")
def test_broken_images_and_twins_are_left_out(tmp_path, clinic, network):
    for name in network.class_names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(3):
            source = clinic.data / f"train/{name}/{n:02d}.png"
            (tmp_path / f"data/{name}/{n}.png").write_bytes(source.read_bytes() if n else b"broken")
    (tmp_path / "data/coral/2.jpg").write_bytes((tmp_path / "data/coral/2.png").read_bytes())
    with pytest.warns(ModelDoctorWarning, match="2 images with the name of another"):
        plan = annotate(network, tmp_path / "data", output=tmp_path / "todo", config=CONFIG)
    assert len(plan.broken) == 4
    assert [choice.path for choice in plan.choices if choice.class_name == "coral"] == ["coral/1.png"]
    assert len(plan.choices) == 7


def test_an_earlier_plan_stays_where_nothing_is_left_to_annotate(tmp_path, clinic, network):
    plan = annotate(network, clinic.data, output=tmp_path / "plan", per_class=1, config=CONFIG)
    before = snapshot(plan.output)
    with pytest.raises(DataError, match="nothing left to annotate: 56 of 56 images of train have an annotation"):
        annotate(network, clinic.data, output=plan.output, masks=clinic.masks, config=CONFIG)
    assert snapshot(plan.output) == before


def test_what_is_refused(tmp_path, clinic, network):
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    (full / "annotate.csv").write_text("path,class\nx,y\n")
    for output, found in (
        (full, "not empty"),
        (clinic.data / "todo", "within the images"),
        (full / "thesis.txt", "cannot write"),
    ):
        with pytest.raises(UsageError, match=found):
            annotate(network, clinic.data, output=output, config=CONFIG)
    assert set(snapshot(full)) == {full / "thesis.txt", full / "annotate.csv"}
    with pytest.raises(UsageError, match="0 images per class"):
        annotate(network, clinic.data, output=tmp_path / "x", per_class=0, config=CONFIG)
    with pytest.raises(UsageError, match="no split"):
        annotate(network, clinic.data, output=tmp_path / "x", config=CONFIG.model_copy(update={"split": "gone"}))
    stream = object.__new__(StreamSet)
    stream.class_names = network.class_names
    with pytest.raises(DataError, match="a stream"):
        annotate(network, {"train": stream}, output=tmp_path / "x", config=CONFIG)
    (tmp_path / "list.csv").write_text(f"path,class\n{clinic.data}/train/amber/00.png,amber\n")
    with pytest.raises(DataError, match="outside the data's root"), pytest.warns(ModelDoctorWarning):
        annotate(network, tmp_path / "list.csv", output=tmp_path / "x", config=CONFIG)
    assert not (tmp_path / "x").exists()


def test_links_out_of_the_folder_are_not_followed(tmp_path, clinic, network):
    out = tmp_path / "todo"
    annotate(network, clinic.data, output=out, per_class=1, config=CONFIG)
    (tmp_path / "elsewhere").mkdir()
    for name in network.class_names:
        (out / "train" / name).rename(out / f"{name}-old")
        (out / "train" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads out of the output"):
        annotate(network, clinic.data, output=out, per_class=1, config=CONFIG)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_images_of_a_plan_are_not_linked_onto_themselves(network, clinic, tmp_path):
    plan = annotate(network, clinic.data, output=tmp_path / "plan", per_class=1, config=CONFIG)
    moved = tmp_path / "list.csv"
    moved.write_bytes(plan.table.read_bytes())
    before = snapshot(plan.output)
    for data, root in ((plan.table, None), (moved, plan.output)):
        with pytest.raises(UsageError, match="the output holds what is read"):
            annotate(network, data, root=root, output=plan.output, per_class=1, config=CONFIG, link=True)
        assert snapshot(plan.output) == before
