"""`background-groups`: of every class, images that their background misled and all others come equally often.

As `inferred-groups`, but a wrong image counts only if the original takes its background for another class, too: what is
wrong for another reason says nothing about backgrounds. A few annotated images say where the object usually is; with
that place removed the background is left.

Shapes: S training images, B images of a batch, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.data import make_loader
from modeldoctor.data.found_masks import annotated_batches
from modeldoctor.graph import select_layers
from modeldoctor.treatment.remedies.hard_examples import hard_images
from modeldoctor.treatment.remedies.inferred_groups import equally_often
from modeldoctor.treatment.remedies.remedy import Remedy, RunContext
from modeldoctor.treatment.remedies.swap_background import without_objects


def make(run: RunContext) -> Remedy:
    """The chance of an image is one over the images of its group; no image comes more than `most_repeats` times.

    Where objects have no usual place nothing is removed, and the groups are those of `inferred-groups`.
    """
    misled = [index for index, label, taken_for in _by_background(run) if taken_for != label]
    return Remedy(chances=equally_often(run, np.array(misled, dtype=np.int64)), annotations=run.by_hand)


def usual_place(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H,W), what is object in more than half of the masks (S,H,W)."""
    return np.asarray(masks.mean(0) > 0.5)


def _by_background(run: RunContext) -> Iterator[tuple[int, int, int]]:
    """Index, label and the original's answer without the object's usual place, of each wrong or uncertain image."""
    size, workers = run.config.training.batch_size, run.config.workers
    assert size is not None
    device, images = next(run.network.parameters()).device, run.train.images
    by_hand = np.setdiff1d(run.annotated, [*run.train.found_masks])
    annotated = annotated_batches(images, by_hand, batch_size=size, workers=workers, device=device)
    place = torch.from_numpy(usual_place(np.concatenate([masks.numpy() for _, _, masks in annotated]))).to(device)
    layer = select_layers(run.trainable.layers, "features")[-1:]

    def answers(pixels: Tensor) -> list[int]:
        places = place.expand(len(pixels), -1, -1)
        (cut,) = run.trainable.eval_cuts(without_objects(pixels, places, places.to(pixels)), layer)
        return [int(answer) for answer in cut.head(cut.maps).argmax(1)]

    for batch in make_loader(images.masked_at(()), hard_images(run), batch_size=size, workers=workers, device=device):
        if len(batch.labels):
            found = answers(batch.images.to(device))
            yield from zip(batch.indices.tolist(), batch.labels.tolist(), found, strict=True)
