"""Which backgrounds objects are put before: those of a few right images of several classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.interventions import Backgrounds, is_object
from modeldoctor.diagnosis.passes import Run

_BACKGROUNDS, _CLASSES = 16, 8
"""So many backgrounds, of as many classes, at random."""
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
    classes = list(dict.fromkeys(label[order].tolist()))[:_CLASSES]
    if not classes:
        return None
    per_class = _BACKGROUNDS // len(classes)
    chosen = np.concatenate([order[label[order] == number][: per_class * _READ_PER_BACKGROUND] for number in classes])
    rank = {key: place for place, key in enumerate(index[chosen].tolist())}
    found: list[tuple[int, int, Tensor, Tensor]] = []
    for batch in run.batches(images, np.sort(index[chosen]), run.chunks.batch, masks=True):
        for row, mask in enumerate(batch.masks or ()):
            if is_object(mask):
                found.append((rank[int(batch.indices[row])], int(batch.labels[row]), batch.images[row], mask[None]))
    kept: list[tuple[int, Tensor, Tensor]] = []
    everywhere = [background for part in run.team.all_gather(found) for background in part]
    for _, number, picture, there in sorted(everywhere, key=lambda background: background[0]):
        if sum(number == other for other, *_ in kept) < per_class:
            kept.append((number, picture, there))
    if not kept:
        return None
    numbers, pictures, objects = zip(*kept, strict=True)
    return Backgrounds(torch.stack(pictures).to(run.device), torch.stack(objects).to(run.device), torch.tensor(numbers))
