"""Which backgrounds objects are put before: those of a few right images of several classes, and of the own class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.interventions import Backgrounds, is_object, without_objects
from modeldoctor.diagnosis.passes import Run

_BACKGROUNDS, _CLASSES = 16, 8
"""So many backgrounds, of as many classes, at random."""
_OF_CLASS, _OF_CLASSES = 8, 128
"""So many backgrounds of a wrong image's class at most, and of all classes together; two of a class at least."""
_READ_PER_BACKGROUND = 4
"""So many right images are read for each background that is wanted: not every one has a mask."""


def read_backgrounds(run: Run, images: AnySet, source: AnySet) -> Backgrounds | None:
    """Backgrounds of right images, the same in every process; None without masks of the examined split.

    Those of wrong images' own classes are of the split of the class correlation where it has masks, as they show what a
    class usually has behind it; and of its surest images.

    Args:
        images: the examined split.
        source: the split of the class correlation.
    """
    index, label, _ = _right_with_mask(run, images)
    order = np.random.default_rng([run.config.seed, 5]).permutation(len(index))
    classes = list(dict.fromkeys(label[order].tolist()))[:_CLASSES]
    if not classes:
        return None
    per_class = _BACKGROUNDS // len(classes)
    chosen = [order[label[order] == number][: per_class * _READ_PER_BACKGROUND] for number in classes]
    lenders = _read(run, images, index[np.concatenate(chosen)], dict.fromkeys(classes, per_class))
    if not lenders:
        return None
    lent = [_as_batch(run, lenders[number]) for number in classes if number in lenders]
    numbers = [number for number in classes for _ in lenders.get(number, ())]
    pictures, objects = (torch.cat(parts) for parts in zip(*lent, strict=True))
    return Backgrounds(pictures, objects, torch.tensor(numbers), _of_own_class(run, images, source))


def _of_own_class(run: Run, images: AnySet, source: AnySet) -> dict[int, Tensor]:
    """Pictures without their objects of each class that has wrong images."""
    _, label, predicted, _ = run.state.predictions[images.split].table()
    wanted = _wanted_of_own_class(label[label != predicted])
    lending, right = source, _right_with_mask(run, source)
    if not len(right.rows):
        lending, right = images, _right_with_mask(run, images)
    surest = np.argsort(-right.confidence, kind="stable")
    chosen = [surest[right.label[surest] == number][: most * _READ_PER_BACKGROUND] for number, most in wanted.items()]
    if not chosen:
        return {}
    found = _read(run, lending, right.rows[np.concatenate(chosen)], wanted)
    return {number: without_objects(*_as_batch(run, lenders)) for number, lenders in found.items()}


class _Right(NamedTuple):
    """Right images: their indices (rows) in a split, labels and confidences."""

    rows: NDArray[np.int64]
    label: NDArray[np.int64]
    confidence: NDArray[np.float64]


def _right_with_mask(run: Run, images: AnySet) -> _Right:
    """Right images of a split that may have a mask; none of a split without masks."""
    index, label, predicted, confidence = run.state.predictions[images.split].table()
    kept = (label == predicted) & (images.masks is not None)
    if images.masks is not None and (masked := images.with_mask) is not None:  # of which there may be few
        kept &= np.isin(index, sorted(masked))
    return _Right(index[kept], label[kept], confidence[kept])


def _as_batch(run: Run, lenders: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    pictures, objects = zip(*lenders, strict=True)
    return torch.stack(pictures).to(run.device), torch.stack(objects).to(run.device)


def _wanted_of_own_class(labels: NDArray[np.int64]) -> dict[int, int]:
    """How many backgrounds of each class of wrong images, those of the most frequent first."""
    frequent = [number for number, _ in Counter(labels.tolist()).most_common(_OF_CLASSES // 2)]
    return dict.fromkeys(frequent, min(_OF_CLASS, _OF_CLASSES // max(1, len(frequent))))


def _read(
    run: Run, images: AnySet, chosen: NDArray[np.int64], wanted: Mapping[int, int]
) -> dict[int, list[tuple[Tensor, Tensor]]]:
    """By class, images (C,h,w) and masks (1,h,w): the first that show an object, as many as are wanted."""
    rank = {key: place for place, key in enumerate(chosen.tolist())}
    part: list[tuple[int, int, Tensor, Tensor]] = []
    for batch in run.batches(images, np.sort(chosen), run.chunks.batch, masks=True):
        for row, mask in enumerate(batch.masks or ()):
            if is_object(mask):
                part.append((rank[int(batch.indices[row])], int(batch.labels[row]), batch.images[row], mask[None]))
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    everywhere = [lender for of_process in run.team.all_gather(part) for lender in of_process]
    for _, number, picture, there in sorted(everywhere, key=lambda lender: lender[0]):
        if len(of_class := found.setdefault(number, [])) < wanted[number]:
            of_class.append((picture, there))
    return found
