"""Parts of the data sets that two cores can train on, as folders of links; nothing is copied, and nothing is moved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from place import Place

HELD_OUT = 100
"""Images of each class that validation has, from the end of the training images; training has none of them."""


def part_of(place: Place, source: str, name: str, counts: Sequence[int]) -> Path:
    """The first classes of `source/{train,test}/CLASS/*`, so many training images of each, and their test images.

    Args:
        place: where the data are, and where the part is made.
        source: folder of the data set.
        name: of the part.
        counts: training images by class; as many classes, in the order of their names, as there are counts.
    """
    data = place.data / source
    classes = sorted(entry.name for entry in (data / "train").iterdir())[: len(counts)]
    return _linked(
        place.work / name,
        {label: _files(data / "train" / label) for label in classes},
        {label: _files(data / "test" / label) for label in classes},
        counts,
    )


def tiny_imagenet(place: Place, name: str, counts: Sequence[int]) -> tuple[Path, Path]:
    """The first classes of tiny-ImageNet, and the boxes of their training images in COCO's format.

    Its validation images, whose classes are published, are the test split.
    """
    data = place.data / "tiny-imagenet-200"
    classes = sorted(entry.name for entry in (data / "train").iterdir())[: len(counts)]
    train = {label: _files(data / "train" / label / "images") for label in classes}
    test: dict[str, list[Path]] = {label: [] for label in classes}
    for line in (data / "val" / "val_annotations.txt").read_text().splitlines():
        image, label, *_ = line.split("\t")
        if label in test:
            test[label].append(data / "val" / "images" / image)
    folder = _linked(place.work / name, train, test, counts)
    boxes = place.work / f"{name}.json"
    boxes.write_text(json.dumps(_coco(data, classes, folder)), encoding="utf-8")
    return folder, boxes


def _coco(data: Path, classes: Sequence[str], folder: Path) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for category, label in enumerate(classes):
        for line in (data / "train" / label / f"{label}_boxes.txt").read_text().splitlines():
            image, *corners = line.split()
            left, top, right, bottom = map(int, corners)
            if (folder / "train" / label / image).exists():
                number, box = len(images), [left, top, right - left + 1, bottom - top + 1]
                images.append({"id": number, "file_name": f"train/{label}/{image}", "width": 64, "height": 64})
                annotations.append({"id": number, "image_id": number, "category_id": category, "bbox": box})
    named = [{"id": category, "name": label} for category, label in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": named}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _linked(
    folder: Path, train: Mapping[str, Sequence[Path]], test: Mapping[str, Sequence[Path]], counts: Sequence[int]
) -> Path:
    """Links by split and class; an interrupted piece goes on behind those that are there."""
    for (label, images), few in zip(train.items(), counts, strict=True):
        chosen = {"train": images[:-HELD_OUT][:few], "val": images[-HELD_OUT:], "test": test[label]}
        for split, files in chosen.items():
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for image in files:
                link = folder / split / label / image.name
                if not link.is_symlink():
                    link.symlink_to(image)
    return folder
