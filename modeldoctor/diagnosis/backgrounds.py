"""Which backgrounds objects are put before: those of a few right images of several classes, and of the own class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

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


def read_backgrounds(run: Run, images: AnySet) -> Backgrounds | None:
    """Backgrounds of right images of the examined split, the same in every process; None without masks."""
    if images.masks is None:
        return None
    index, label, predicted, _ = run.state.predictions[images.split].table()
    order = np.random.default_rng([run.config.seed, 5]).permutation(np.flatnonzero(label == predicted))
    if (masked := images.with_mask) is not None:  # of which there may be few
        order = order[np.isin(index[order], sorted(masked))]
    lending = list(dict.fromkeys(label[order].tolist()))[:_CLASSES]
    if not lending:
        return None
    of_any = dict.fromkeys(lending, _BACKGROUNDS // len(lending))
    of_own = _wanted_of_own_class(label[label != predicted])
    most = {number: max(of_any.get(number, 0), of_own.get(number, 0)) for number in (*of_any, *of_own)}
    found = _read(run, images, {n: index[order[label[order] == n][: _READ_PER_BACKGROUND * most[n]]] for n in most})

    def first(wanted: Mapping[int, int], number: int) -> list[tuple[Tensor, Tensor]]:
        return found.get(number, [])[: wanted[number]]

    def as_batch(lenders: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        pictures, objects = zip(*lenders, strict=True)
        return torch.stack(pictures).to(run.device), torch.stack(objects).to(run.device)

    lenders = [(number, *lender) for number in lending for lender in first(of_any, number)]
    if not lenders:
        return None
    numbers = torch.tensor([number for number, *_ in lenders])
    of_class = {n: without_objects(*as_batch(own)) for n in of_own if (own := first(of_own, n))}
    return Backgrounds(*as_batch([(picture, there) for _, picture, there in lenders]), numbers, of_class)


def _wanted_of_own_class(labels: NDArray[np.int64]) -> dict[int, int]:
    """How many backgrounds of each class of wrong images, those of the most frequent first."""
    frequent = [number for number, _ in Counter(labels.tolist()).most_common(_OF_CLASSES // 2)]
    return dict.fromkeys(frequent, min(_OF_CLASS, _OF_CLASSES // max(1, len(frequent))))


def _read(run: Run, images: AnySet, chosen: Mapping[int, NDArray[np.int64]]) -> dict[int, list[tuple[Tensor, Tensor]]]:
    """By class, images (C,h,w) and masks (1,h,w) of those that show an object, in the order they were chosen in."""
    every = np.concatenate(list(chosen.values()))
    rank = {key: place for place, key in enumerate(every.tolist())}
    part: list[tuple[int, int, Tensor, Tensor]] = []
    for batch in run.batches(images, np.sort(every), run.chunks.batch, masks=True):
        for row, mask in enumerate(batch.masks or ()):
            if is_object(mask):
                part.append((rank[int(batch.indices[row])], int(batch.labels[row]), batch.images[row], mask[None]))
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    everywhere = [lender for of_process in run.team.all_gather(part) for lender in of_process]
    for _, number, picture, there in sorted(everywhere, key=lambda lender: lender[0]):
        found.setdefault(number, []).append((picture, there))
    return found
