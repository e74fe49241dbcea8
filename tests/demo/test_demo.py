import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from modeldoctor.demo import DemoPlan, run_demo
from modeldoctor.demo.drawing import SHAPES, TEXTURES, ImageSetPlan, draw_image, draw_image_set
from modeldoctor.errors import UsageError
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.zoo import load_model

SMALL = ImageSetPlan(edge=32, train=20, val=10, test=6)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    draw_image_set(folder, SMALL, seed=0)
    return folder


def test_the_same_seed_draws_the_same_bytes_and_another_none_of_them(drawn, tmp_path):
    for seed, name in ((0, "again"), (1, "other")):
        (tmp_path / name).mkdir()
        draw_image_set(tmp_path / name, SMALL, seed=seed)
    first, other = files(drawn), files(tmp_path / "other")
    assert first == files(tmp_path / "again")
    assert first.keys() == other.keys()
    assert not [name for name in first if name.startswith("data/") and first[name] == other[name]]


def test_no_two_images_are_the_same(drawn):
    images = [content for name, content in files(drawn).items() if name.startswith("data/")]
    assert len(images) == len(set(images)) == SMALL.total == 6 * (20 + 10 + 6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_is_what_stays_when_the_background_is_exchanged(shape):
    for number in range(20):
        pairs = [draw_image(shape, background, edge=64, seed=(number,)) for background in TEXTURES]
        images = np.stack([image for image, _ in pairs])
        stays = (images == images[0]).all(axis=(0, 3))
        for _, mask in pairs:
            np.testing.assert_array_equal(mask, stays)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("cross", 2 * 0.6 * 1.9 - 0.6**2),
        ("disc", np.pi * 0.9**2),
        ("ring", np.pi * (1 - 0.55**2)),
        ("square", 1.4**2),
        ("star", 5 * 0.4 * np.sin(np.pi / 5)),
        ("triangle", 3 * np.sqrt(3) / 4),
    ],
)
def test_shapes_have_the_area_of_their_formula(shape, area):
    u, v = np.meshgrid(*[(np.arange(2000) + 0.5) / 1000 - 1] * 2)
    assert SHAPES[shape](u, v).mean() * 4 == pytest.approx(area, rel=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_objects_lie_wholly_in_the_image(shape):
    u, v = np.meshgrid(*[np.linspace(-2, 2, 801)] * 2)
    assert np.hypot(u, v)[SHAPES[shape](u, v)].max() <= 1
    for number in range(50):
        _, mask = draw_image(shape, "dots", edge=64, seed=(number,))
        y, x = np.nonzero(mask)
        assert max(np.ptp(x), np.ptp(y)) >= 64 * 0.2


def test_masks_are_one_bit_and_beside_every_image(drawn):
    for row in rows(drawn):
        image = Image.open(drawn / "data" / row["path"])
        mask = Image.open(drawn / "data-masks" / row["path"])
        assert (mask.mode, mask.size, image.mode) == ("1", image.size, "RGB")
        assert 0 < np.asarray(mask).mean() < 0.5
    assert len(files(drawn)) == 2 * SMALL.total + 1


@pytest.mark.parametrize(("split", "count"), [("train", 20), ("val", 10)])
def test_most_training_images_have_the_class_s_own_background(drawn, split, count):
    listed = [row for row in rows(drawn) if row["path"].startswith(f"{split}/")]
    own = set()
    for shape in SHAPES:
        seen = Counter(row["background"] for row in listed if row["class"] == shape)
        background, most = seen.most_common(1)[0]
        assert (most, seen.total()) == (round(SMALL.aligned * count), count)
        assert max([*seen.values()][1:]) - min([*seen.values()][1:]) <= 1
        assert {row["group"] for row in listed if (row["class"], row["background"]) == (shape, background)} == {
            "aligned"
        }
        own.add(background)
    assert own == set(TEXTURES)
    assert Counter(row["group"] for row in listed)["aligned"] == 6 * round(SMALL.aligned * count)


def test_backgrounds_say_nothing_in_the_test_split(drawn):
    listed = [row for row in rows(drawn) if row["path"].startswith("test/")]
    assert Counter((row["class"], row["background"]) for row in listed) == {(s, b): 1 for s in SHAPES for b in TEXTURES}
    assert Counter(row["group"] for row in listed) == {"aligned": 6, "conflicting": 30}


@pytest.mark.filterwarnings("ignore:.*better than chance")  # it has hardly been trained
@pytest.mark.filterwarnings("ignore:.*images predicted right with confidence")
def test_a_demo_ends_with_a_diagnosis_and_a_checkpoint_and_can_be_run_again(tmp_path):
    stages = []
    (tmp_path / "out" / "data" / "train" / "disc").mkdir(parents=True)
    (tmp_path / "out" / "data" / "train" / "disc" / "stale.png").touch()
    (tmp_path / "out" / ".modeldoctor-demo").touch()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    result = run_demo(
        tmp_path / "out",
        seed=3,
        plan=DemoPlan(images=SMALL, epochs=2, treatment_epochs=1),
        progress=lambda stage, done, total: stages.append((stage, done, total)),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list(tmp_path.rglob("stale.png"))
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"

    assert result.report == tmp_path / "out" / "report.html"
    assert all(shape in result.report.read_text() for shape in SHAPES)
    assert {"report.json", "report.md"} <= {path.name for path in result.folder.iterdir()}

    stored = read_diagnosis(result.output)
    assert stored.classes == tuple(sorted(SHAPES))
    assert stored.samples.splits == ("train", "val")
    assert len(stored.samples.label) == 6 * (20 + 10)
    assert stored.seed == result.diagnosis.seed == 3
    last = list(stored.layers.values())[-1]
    assert min(last.height, last.width) >= 3

    content = torch.load(result.checkpoint, weights_only=True)
    library, name = content["arch"].split("/")
    network = timm.create_model(name, num_classes=content["num_classes"], in_chans=content["in_chans"])
    network.load_state_dict(content["state_dict"], strict=True)
    loaded = load_model(result.checkpoint)
    assert (library, loaded.class_names) == ("timm", stored.classes)
    example = torch.rand(2, *loaded.preprocessing.input_size)
    torch.testing.assert_close(network.eval()(example), loaded.module(example), rtol=0, atol=0)

    assert {("draw", 216, 216), ("train", 6, 6)} <= set(stages)
    assert list(dict.fromkeys(stage for stage, _, _ in stages))[:2] == ["draw", "train"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.png").write_bytes(b"1")
    (tmp_path / "metadata.csv").write_text("path,class\n")
    before = files(tmp_path)
    with pytest.raises(UsageError, match="not empty") as caught:
        run_demo(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert files(tmp_path) == before


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(UsageError, match="cannot be made"):
        run_demo(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "1"
