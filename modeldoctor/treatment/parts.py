"""The images of a trial: what is learned from, what chooses, what is held back; groups, and annotated images.

Shapes: S images of a part.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modeldoctor.config import TreatConfig
from modeldoctor.data import ImageSet, choose_to_annotate
from modeldoctor.errors import DataError
from modeldoctor.records import Diagnosis

_HELD_BACK = 0.15


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some images of a set.

    Attributes:
        images: the set.
        indices: ascending, into it.
    """

    images: ImageSet
    indices: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of the part's images."""
        return self.images.labels[self.indices]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three parts of a trial; none overlaps another.

    Attributes:
        train, val, test: what is learned from, chooses the epoch, and is read once at the end.
        groups: (S of test,) group names; None without a group column.
    """

    train: Part
    val: Part
    test: Part
    groups: NDArray[np.str_] | None = None


def split_parts(splits: Mapping[str, ImageSet], *, seed: int = 0) -> Splits:
    """Training, validation and test parts of the data; what is missing is split off, stratified by class.

    Without a validation split, 15% of the training images choose the epoch; without a test split, half of the
    validation images are held back for the end.

    Raises:
        DataError: there is no split to train on.
    """
    if "train" not in splits and len(splits) > 1:
        raise DataError(f"splits {', '.join(splits)}", where="the data", expected="a split called train")
    train = _whole(splits.get("train") or next(iter(splits.values())))
    if "val" in splits:
        val = _whole(splits["val"])
    else:
        train, val = _stratified(train, _HELD_BACK, seed)
    if "test" in splits:
        return Splits(train=train, val=val, test=_whole(splits["test"]))
    val, test = _stratified(val, 0.5, seed)
    return Splits(train=train, val=val, test=test)


def _whole(images: ImageSet) -> Part:
    return Part(images=images, indices=np.arange(len(images), dtype=np.int64))


def _stratified(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """A part without, and a part of, this share of every class."""
    rng = np.random.default_rng([seed, 2])
    order = rng.permutation(len(part.indices))
    rank = np.empty(len(order), dtype=np.float64)
    labels = part.labels
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    taken = rank < share
    return Part(images=part.images, indices=part.indices[~taken]), Part(images=part.images, indices=part.indices[taken])


def read_groups(table: Path, column: str, part: Part) -> NDArray[np.str_]:
    """The group of each image of a part, from a CSV with the columns `path` and `column`.

    Raises:
        DataError: a column or an image is missing.
    """
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"path", column} <= set(reader.fieldnames or ()):
            raise DataError(
                f"columns {', '.join(reader.fieldnames or ('none',))}",
                where=str(table),
                expected=f"path and {column}",
                hint="name the column of the groups",
            )
        of_path = {row["path"]: row[column] for row in reader}
    paths = [part.images.paths[index] for index in part.indices.tolist()]
    missing = [path for path in paths if path not in of_path]
    if missing:
        raise DataError(
            f"{len(missing)} images have no group, first {missing[0]}",
            where=str(table),
            expected="a row for every image, with its path relative to the data",
        )
    return np.array([of_path[path] for path in paths])


def annotated_images(train: Part, diagnosis: Diagnosis, config: TreatConfig) -> NDArray[np.int64]:
    """The annotated images of the training part that the space constraint uses, chosen as for annotation.

    Raises:
        DataError: there is none.
    """
    masks = train.images.masks
    if not config.space.weight:
        return np.empty(0, dtype=np.int64)
    has_mask = np.zeros(len(train.images), dtype=np.bool_)
    for index in train.indices.tolist():
        has_mask[index] = masks is not None and masks.find(train.images.paths[index]) is not None
    rows = diagnosis.rows(train.images.split) if train.images.split in diagnosis.samples.splits else None
    predicted, confidence = np.full(len(train.images), -1, dtype=np.int64), np.zeros(len(train.images))
    if rows is not None:
        samples = diagnosis.samples
        place = {
            path: row for row, path in zip(np.flatnonzero(rows).tolist(), samples.path[rows].tolist(), strict=True)
        }
        for index in np.flatnonzero(has_mask).tolist():
            row = place.get(train.images.paths[index].encode(errors="surrogateescape"))
            if row is not None:
                predicted[index], confidence[index] = samples.predicted[row], samples.confidence[row]
    chosen = choose_to_annotate(
        train.images.labels,
        predicted,
        confidence,
        has_mask,
        per_class=config.space.annotated_per_class,
        num_classes=len(diagnosis.classes),
    )
    if not len(chosen):
        raise DataError(
            "no training image has a mask, and the space constraint needs some",
            where="--masks",
            expected="masks of training images",
            hint="`modeldoctor annotate` picks the images to annotate; or set space.weight to 0",
        )
    return np.sort(chosen)
