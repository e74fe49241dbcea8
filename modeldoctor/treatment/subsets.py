"""The images of a trial: what is learned from, what chooses, what is held back; groups, and annotated images.

Shapes: S images of a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modeldoctor.config.arms import ARMS
from modeldoctor.config.treat import Metric, TreatConfig
from modeldoctor.data import Broken, ImageSet, choose_to_annotate
from modeldoctor.data.outputs import AnySet, random_access
from modeldoctor.errors import DataError, MaskError, classes_have, counted, shortened
from modeldoctor.evaluate.metrics import RULES, HeldOut, by_run
from modeldoctor.results.diagnosis import Diagnosis

_HELD_BACK = 0.15
_LEAST = 2
# 15% of 11 are two images per class to choose by and to prove by.
_LEAST_PER_CLASS = 11


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Some images of a set.

    Attributes:
        images: the set.
        indices: ascending, into it.
        groups: (S,) group names; None without a group column.
        group_shares: each group's share of the training images; None likewise.
        found_masks: by index, the measured quality of the masks that no person made.
    """

    images: ImageSet
    indices: NDArray[np.int64]
    groups: NDArray[np.str_] | None = None
    group_shares: Mapping[str, float] | None = None
    found_masks: Mapping[int, float] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(S,), of the part's images."""
        return self.images.labels[self.indices]

    @property
    def has_mask(self) -> NDArray[np.bool_]:
        """(S,), whether an image has an annotation, usable or not."""
        masks, paths = self.images.masks, self.images.paths
        return np.array(
            [masks is not None and masks.find(paths[index]) is not None for index in self.indices.tolist()],
            dtype=np.bool_,
        )

    @property
    def held_out(self) -> HeldOut:
        """What predictions of the part's images are judged by."""
        return HeldOut(
            labels=self.labels,
            classes=self.images.class_names,
            groups=self.groups,
            group_shares=self.group_shares,
        )

    def score(self, predicted: NDArray[np.int64], metric: Metric) -> float:
        """A metric of predictions (S,), over the images that could be read: those that are not -1.

        Raises:
            DataError: none could.
        """
        held_out, kept = self.readable(predicted[None])
        return float(by_run((predicted[kept] == held_out.labels)[None], RULES[metric], held_out)[0])

    def readable(self, predicted: NDArray[np.int64]) -> tuple[HeldOut, NDArray[np.bool_]]:
        """What every run of predictions (R,S) could read, and which (S,) these are.

        Raises:
            DataError: there is no such image.
        """
        kept: NDArray[np.bool_] = np.all(predicted >= 0, axis=0)
        if not kept.any():
            raise DataError(
                f"none of the {len(kept)} images of {self.images.split} can be read any more",
                where=self.images.paths[int(self.indices[0])],
                expected="the images that were there when the trial began",
                hint="put them back and go on with --resume",
            )
        return self.held_out.of(kept), kept


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three parts of a trial; none overlaps another.

    Attributes:
        train, val, test: what is learned from, chooses the epoch, and is read once at the end.
    """

    train: Subset
    val: Subset
    test: Subset

    @property
    def split_off(self) -> list[str]:
        """Which of val and test are images of the split that is trained on."""
        parts = {"val": self.val, "test": self.test}
        return [name for name, part in parts.items() if part.images is self.train.images]


def split_subsets(splits: Mapping[str, AnySet], *, seed: int = 0) -> Splits:
    """Training, validation and test parts of the data; what is missing is split off, stratified by class.

    Without a validation split, 15% of the training images choose the epoch; without a test split, half of the
    validation images are held back for the end.

    Raises:
        DataError: there is no split to train on, a split is a stream, or too few to choose or prove by.
    """
    files = {name: random_access(images) for name, images in splits.items()}
    if "train" not in files and (len(files) > 1 or not files.keys().isdisjoint(("val", "test"))):
        raise DataError(
            f"no split to train on: {', '.join(splits)}", where="the data",
            expected="a split called train, or images without splits, of which some are held back",
            hint="add the training images; or name the folder of the split itself, to train on a part of it",
        )  # fmt: skip
    train = _whole(files.get("train") or next(iter(files.values())))
    if "val" in files:
        val = _whole(files["val"])
    else:
        train, val = _stratified(train, _HELD_BACK, seed)
    if "test" in files:
        test = _whole(files["test"])
    else:
        val, test = _stratified(val, 0.5, seed)
    for name, part in (("validation", val), ("test", test)):
        if len(part.indices) < _LEAST:
            raise DataError(
                counted(len(part.indices), f"{name} image"),
                where="the data",
                expected=f"at least {_LEAST}, to choose and to prove by",
                hint=f"add images to {name}; split off from training it takes {_LEAST_PER_CLASS} images per class",
            )
    return Splits(train=train, val=val, test=test)


def _whole(images: ImageSet) -> Subset:
    return Subset(images=images, indices=np.arange(len(images), dtype=np.int64))


def _stratified(part: Subset, share: float, seed: int) -> tuple[Subset, Subset]:
    """A part without, and a part of, this share of every class."""
    rng = np.random.default_rng([seed, 2])
    order = rng.permutation(len(part.indices))
    rank = np.empty(len(order), dtype=np.float64)
    labels = part.labels
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    taken = rank < share
    return Subset(images=part.images, indices=part.indices[~taken]), Subset(
        images=part.images, indices=part.indices[taken]
    )


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """The annotated training images that a trial uses.

    Attributes:
        indices: ascending, into the training set.
        matched, unmatched: training images with and without a mask.
        invalid: what is wrong with masks that were looked at and left out, one text each.
        whole: paths of images whose mask covers all that the network sees.
    """

    indices: NDArray[np.int64]
    matched: int
    unmatched: int
    invalid: tuple[str, ...]
    whole: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """For the record."""
        return {
            "matched": self.matched, "unmatched": self.unmatched, "invalid": len(self.invalid),
            "used": len(self.indices),
        }  # fmt: skip


class Predicted(NamedTuple):
    """What the original answers on a whole set of S images, by the diagnosis."""

    classes: NDArray[np.int64]
    """(S,), -1 where the diagnosis did not see the image."""
    confidence: NDArray[np.float64]
    """(S,), 0 likewise."""


def needs_masks(config: TreatConfig) -> bool:
    """Whether a treatment uses annotated images."""
    constrained = config.oversampled and any(ARMS[arm].constrained for arm in config.arms)
    return constrained or any("masks" in ARMS[arm].needs for arm in config.arms)


def needs_predictions(config: TreatConfig) -> bool:
    """Whether a treatment chooses training images by the original's predictions."""
    return needs_masks(config) or any(ARMS[arm].chooses_images for arm in config.arms)


def check_read(train: Subset, diagnosis: Diagnosis) -> None:
    """Refuse a diagnosis that did not read all training images.

    Raises:
        DataError: it did not.
    """
    if train.images.split in diagnosis.unread:
        raise DataError(
            f"the diagnosis has not read all images of the split {train.images.split}",
            where="diagnosis",
            expected="the prediction of every training image, by which images are chosen",
            hint="make it again with --scan all, or leave diagnosis out",
        )


def annotated_images(train: Subset, diagnosis: Diagnosis, config: TreatConfig) -> Annotated:
    """The annotated images of the training part that are used, chosen as for annotation; invalid masks are left out.

    Raises:
        DataError: there is none, or the diagnosis did not read all training images.
    """
    check_read(train, diagnosis)
    has_mask = np.zeros(len(train.images), dtype=np.bool_)
    has_mask[train.indices] = train.has_mask
    matched, invalid = int(has_mask.sum()), dict[int, str]()
    predicted, confidence = as_diagnosed(train, diagnosis)
    look = cache(partial(look_at_mask, train.images))
    while True:
        chosen = choose_to_annotate(
            train.images.labels, predicted, confidence, has_mask, per_class=config.space.annotated_per_class,
            num_classes=len(diagnosis.classes),
        )  # fmt: skip
        looked = {index: look(index) for index in chosen.tolist()}
        wrong = {index: text for index, (text, _) in looked.items() if text is not None}
        if not wrong:
            break
        invalid |= wrong
        has_mask[list(wrong)] = False
    if not len(chosen):
        raise DataError(
            f"no training image has a mask that can be used: {matched} masks, {len(invalid)} of them invalid"
            + "".join(f"; {text}" for text in list(invalid.values())[:1]),
            where="data.masks",
            expected="masks of training images",
            hint="`modeldoctor annotate` picks the images to annotate; or set space.weight to 0",
        )
    return Annotated(
        indices=np.sort(chosen),
        matched=matched - len(invalid),
        unmatched=len(train.indices) - matched,
        invalid=tuple(invalid.values()),
        whole=tuple(train.images.paths[index] for index, (_, covers_all) in sorted(looked.items()) if covers_all),
    )


def worth_annotating(
    train: Subset, predicted: Predicted, per_class: int, besides: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Indices of seen training images, chosen as those to annotate are, without some; ascending."""
    free = np.zeros(len(train.images), dtype=np.bool_)
    free[train.indices] = predicted.classes[train.indices] >= 0
    free[[] if besides is None else besides] = False
    chosen = choose_to_annotate(
        train.images.labels, predicted.classes, predicted.confidence, free, per_class=per_class,
        num_classes=len(train.images.class_names),
    )  # fmt: skip
    return np.sort(chosen)


def annotation_warnings(train: Subset, annotated: Annotated, config: TreatConfig) -> Iterator[str]:
    """What a person should know of the annotations before they are trained on: left out, void, too few."""
    if annotated.invalid:
        yield f"left out as unusable: {counted(len(annotated.invalid), 'annotation')}, first {annotated.invalid[0]}"
    if annotated.whole:
        yield (
            f"{len(annotated.whole)} of {len(annotated.indices)} masks cover all that the network sees, so that "
            f"nothing is background; first {annotated.whole[0]}; check that they are 0 on the background"
        )
    names, wanted = train.images.class_names, config.space.annotated_per_class
    used = np.bincount(train.images.labels[annotated.indices], minlength=len(names))
    missing = np.minimum(wanted, np.bincount(train.labels, minlength=len(names))) - used
    few = [f"{names[number]} ({used[number]})" for number in np.flatnonzero(missing > 0)]
    if few:
        yield (
            f"{classes_have(len(few), len(names))} fewer than {wanted} annotated training images: {shortened(few)}; "
            f"{missing[missing > 0].sum()} more would do, which `modeldoctor annotate` picks: few images that come "
            "often are learned by heart"
        )


def as_diagnosed(train: Subset, diagnosis: Diagnosis) -> Predicted:
    """What the original answers on the training set."""
    predicted, confidence = np.full(len(train.images), -1, dtype=np.int64), np.zeros(len(train.images))
    samples = diagnosis.samples
    if train.images.split in samples.splits:
        rows = np.flatnonzero(diagnosis.rows(train.images.split))
        place = dict(zip(samples.path[rows].tolist(), rows.tolist(), strict=True))
        for index in train.indices.tolist():
            row = place.get(train.images.paths[index].encode(errors="surrogateescape"))
            if row is not None:
                predicted[index], confidence[index] = samples.predicted[row], samples.confidence[row]
    return Predicted(predicted, confidence)


def look_at_mask(images: ImageSet, index: int) -> tuple[str | None, bool]:
    """Why an image or its mask cannot be used (None if they can), and whether the mask covers all that is seen."""
    try:
        sample = images[index]
    except MaskError as error:
        return f"{error.where}: {error.found}", False
    if isinstance(sample, Broken):
        return f"{images.paths[index]}: {sample.reason}", False
    return None, sample.mask is not None and bool(sample.mask.all())
