"""Whether data has changed between a run and its resumption, and what of it."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from conftest import Clinic

from modeldoctor.data import open_data, streams
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


def test_changed_images_of_a_set_in_one_array_are_seen(folder: Path) -> None:
    """torchvision's sets by name: no image has a file, and a split may have other pixels under the same labels."""
    preprocessing = load_model(folder / "net.pt").preprocessing
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)

    def digest(pixels: np.ndarray) -> dict[str, str]:
        for split in ("train", "t10k"):
            header = np.array([0x803, len(pixels), 28, 28], ">i4").tobytes()
            (raw / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
            header = np.array([0x801, len(pixels)], ">i4").tobytes()
            (raw / f"{split}-labels-idx1-ubyte").write_bytes(header + bytes(range(len(pixels))))
        sets = open_data("torchvision:mnist", root=folder, preprocessing=preprocessing)
        return identify_data([(images, stamps_of(images)) for images in sets.values()])

    pixels = np.zeros((10, 28, 28), np.uint8)
    first = digest(pixels)
    assert changed(first, digest(pixels)) == ""
    pixels[9, 27, 27] = 1
    assert changed(first, digest(pixels)) == WHAT["files"]


def test_changed_sets_of_hugging_face_are_seen(folder: Path, clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library's own fingerprint, and by its files, which it does not read again."""
    preprocessing = load_model(folder / "net.pt").preprocessing
    arrow = folder / "pets.arrow"
    arrow.write_bytes(b"table")
    held = SimpleNamespace(_fingerprint="a1", cache_files=[{"filename": str(arrow)}])

    class Reader(list[int]):
        class_to_idx: ClassVar = {"amber": 0, "birch": 1}
        dataset = held

        def iter_targets(self) -> Iterator[int]:
            return iter(self)

    def create(name: str, *, split: str, root: str | None) -> SimpleNamespace:
        return SimpleNamespace(reader=Reader([1, 0]))

    monkeypatch.setattr(streams, "_require", lambda name: "hfds")
    monkeypatch.setattr(streams, "create_dataset", create)

    def digest() -> dict[str, str]:
        sets = open_data("hfds/me/pets", preprocessing=preprocessing)
        return identify_data([(images, stamps_of(images)) for images in sets.values()])

    first = digest()
    assert changed(first, digest()) == ""
    held._fingerprint = "a2"
    second = digest()
    assert changed(first, second) == WHAT["files"]
    os.utime(arrow, (1, 1))
    assert changed(second, digest()) == WHAT["files"]


@pytest.mark.parametrize(("prefix", "attribute"), [("tfds", "data_dir"), ("hfids", "cache_dir")])
def test_changed_files_of_a_prepared_stream_are_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, attribute: str
) -> None:
    preprocessing = load_model(folder / "net.pt").preprocessing
    prepared = folder / "pets" / "1.0.0"
    prepared.mkdir(parents=True)
    (prepared / "pets-train.tfrecord-00000").write_bytes(b"records")
    builder = SimpleNamespace(**{attribute: str(prepared)})

    def create(name: str, **options: object) -> SimpleNamespace:
        return SimpleNamespace(reader=SimpleNamespace(builder=builder, class_to_idx={"amber": 0, "birch": 1}))

    monkeypatch.setattr(streams, "_require", lambda name: prefix)
    monkeypatch.setattr(streams, "create_dataset", create)

    def digest() -> dict[str, str]:
        sets = open_data(f"{prefix}/pets", preprocessing=preprocessing)
        return identify_data([(images, stamps_of(images)) for images in sets.values()])

    first = digest()
    (prepared / "pets.lock").touch()
    assert changed(first, digest()) == ""
    (prepared / "pets-train.tfrecord-00000").write_bytes(b"other records")
    assert changed(first, digest()) == WHAT["files"]
