"""The order of images and their augmentation: the same for every arm, a function of seed and epoch alone.

Shapes: S images, B images a batch, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.config import TrainingConfig
from modeldoctor.data import ImageSet, make_loader
from modeldoctor.training import augment


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Augmented images and what belongs to them.

    Attributes:
        images: (B,C,H,W).
        labels: (B,).
        masks: (B,H,W) bool, True on the object; False everywhere for an image without annotation.
        annotated: (B,) bool, whether the mask counts.
        keys: for each image what its noise depends on.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    annotated: Tensor
    keys: tuple[int, ...]


def epoch_order(
    indices: NDArray[np.int64], annotated: NDArray[np.int64], *, batch_size: int, share: float, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Image indices of one epoch: whole batches, each with its share of annotated images.

    Every image that is not drawn as annotated comes at most once; annotated ones come as often as the share asks for.

    Args:
        indices: of all training images; they fill the other places of the batches.
        annotated: indices of annotated images; none makes the share 0.
        batch_size: B.
        share: of annotated images in each batch.
        seed, epoch: all that the order depends on.
    """
    rng = np.random.default_rng([seed, epoch])
    constrained = round(share * batch_size) if len(annotated) else 0
    batches = max(1, len(indices) // batch_size)
    free = rng.permutation(indices)
    free = np.resize(free, batches * (batch_size - constrained)).reshape(batches, -1)
    if not constrained:
        return np.asarray(free.reshape(-1))
    rounds = -(-batches * constrained // len(annotated))
    drawn = np.concatenate([rng.permutation(annotated) for _ in range(rounds)])[: batches * constrained]
    return np.concatenate([free, drawn.reshape(batches, -1)], axis=1).reshape(-1)


def training_batches(
    images: ImageSet,
    indices: NDArray[np.int64],
    annotated: NDArray[np.int64],
    config: TrainingConfig,
    *,
    share: float,
    seed: int,
    epoch: int,
    workers: int,
) -> Iterator[TrainingBatch]:
    """One epoch of augmented batches; masks move with their images."""
    order = epoch_order(indices, annotated, batch_size=config.batch_size, share=share, seed=seed, epoch=epoch)
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch, 1]).generate_state(1)[0]))
    known = set(annotated.tolist())
    shift = round(config.shift * min(images.preprocessing.input_size[1:]))
    for batch in make_loader(images, order, batch_size=config.batch_size, workers=workers):
        if not len(batch.labels):
            continue
        empty = torch.zeros(batch.images.shape[-2:], dtype=torch.bool)
        found = batch.masks or [None] * len(batch.labels)
        usable = [mask is not None and int(i) in known for mask, i in zip(found, batch.indices, strict=True)]
        masks = torch.stack(
            [mask if use and mask is not None else empty for mask, use in zip(found, usable, strict=True)]
        )
        # The mask travels as one more channel, so that it is moved exactly as its image is.
        together = torch.cat([batch.images, masks[:, None].to(batch.images)], 1)
        moved = augment(together, shift=shift, flip=config.flip, generator=generator)
        yield TrainingBatch(
            images=moved[:, :-1],
            labels=batch.labels,
            masks=moved[:, -1] > 0.5,
            annotated=torch.tensor(usable),
            keys=tuple(batch.indices.tolist()),
        )
