"""Whether data has changed between a run and its resumption, and what of it."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import Clinic

from modeldoctor.data import open_data
from modeldoctor.data.identity import WHAT, changed, identify_data, stamps_of
from modeldoctor.results.run_directory import data_in, data_line
from modeldoctor.zoo import load_model


def digests(folder: Path) -> dict[str, str]:
    network = load_model(folder / "net.pt")
    sets = open_data(folder / "data", preprocessing=network.preprocessing, masks=folder / "masks")
    return identify_data([(sets[name], stamps_of(sets[name])) for name in ("train", "val")], (folder / "groups.csv",))


@pytest.fixture
def folder(clinic: Clinic, tmp_path: Path) -> Path:
    shutil.copytree(clinic.data, tmp_path / "data", ignore=shutil.ignore_patterns("test"))
    shutil.copytree(clinic.masks, tmp_path / "masks")
    shutil.copy(clinic.checkpoint, tmp_path / "net.pt")
    (tmp_path / "groups.csv").write_text("path,group\n")
    return tmp_path


def test_what_changed_is_named_and_nothing_else(folder: Path) -> None:
    first = digests(folder)
    assert changed(first, digests(folder)) == ""
    image = next((folder / "data" / "val").rglob("*.png"))
    mask = next((folder / "masks" / "train").rglob("*.png"))
    for what, change in {
        "files": lambda: os.utime(image, (1, 1)),
        "masks": lambda: mask.unlink(),
        "tables": lambda: (folder / "groups.csv").write_text("path,group\na,b\n"),
    }.items():
        before = digests(folder)
        change()
        assert changed(before, digests(folder)) == WHAT[what]
    before = digests(folder)
    swapped = folder / "data" / "train"
    (swapped / "amber" / "00.png").rename(swapped / "birch" / "moved.png")
    (folder / "masks" / "train" / "amber" / "00.png").unlink(missing_ok=True)
    assert WHAT["names"] in changed(before, digests(folder))
    assert WHAT["labels"] in changed(before, digests(folder))


def test_digests_survive_in_a_configuration(folder: Path) -> None:
    first = digests(folder)
    assert data_in(f"# Of the checkpoint with ...\n{data_line(first)}seeds: [0]\n") == first
    assert changed(data_in("seeds: [0]\n"), first) == ""


def test_a_changed_file_of_many_masks_is_seen(folder: Path) -> None:
    """COCO's annotations of all images lie in one file, of which an image's mask is a place."""
    network = load_model(folder / "net.pt")
    square = [[4, 4, 20, 4, 20, 20, 4, 20]]
    coco = {"images": [{"id": 1, "file_name": "train/amber/00.png", "width": 32, "height": 32}]}

    def digest(shape: list[list[int]]) -> dict[str, str]:
        coco["annotations"] = [{"image_id": 1, "segmentation": shape}]
        (folder / "coco.json").write_text(json.dumps(coco))
        sets = open_data(folder / "data", preprocessing=network.preprocessing, masks=folder / "coco.json")
        return identify_data([(sets["train"], stamps_of(sets["train"]))])

    first = digest(square)
    os.utime(folder / "coco.json", (1, 1))
    assert changed(first, digest([[4, 4, 20, 4, 20, 20, 4, 2]])) == WHAT["masks"]


def test_changed_shards_are_seen(folder: Path) -> None:
    network = load_model(folder / "net.pt")
    for number in range(2):
        with tarfile.open(folder / f"train-{number}.tar", "w") as archive:
            archive.add(folder / "data" / "train" / "amber" / "00.png", "0.png")

    def digest() -> dict[str, str]:
        sets = open_data("wds/mine", root=folder, preprocessing=network.preprocessing)
        return identify_data([(images, stamps_of(images)) for images in sets.values()])

    first = digest()
    assert changed(first, digest()) == ""
    os.utime(folder / "train-1.tar", (1, 1))
    assert changed(first, digest()) == WHAT["files"]
