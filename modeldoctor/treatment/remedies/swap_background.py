"""`swap-background`: objects stand before other images' backgrounds, and a background without its object says nothing.

On annotated images: the object pasted before another image's background must be predicted right (cross-entropy) and as
the image itself (consistency); the object removed must leave the prior of the classes.

Shapes: B images of a batch, M annotated ones, C channels, H x W pixels, N classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modeldoctor.treatment.batches import OWN, REMOVED, SWAPPED, TrainingBatch
from modeldoctor.treatment.remedies.remedy import Remedy, RunContext

TAPER = 3 / 224
"""Width of the edge over which object and background blend, as a share of the image's edge; a hard edge is learned."""


def make(run: RunContext) -> Remedy:
    """Annotated images fill a share of each batch, and each comes in three versions."""
    counts = np.bincount(run.train.labels, minlength=len(run.train.images.class_names))
    prior = torch.from_numpy(counts / counts.sum()).float()

    def loss(logits: Tensor, batch: TrainingBatch) -> Tensor:
        return intervention_loss(logits, batch, prior.to(logits.device))

    return Remedy(drawn=run.annotated, change=with_versions, loss=loss, annotations=run.by_hand)


def with_versions(batch: TrainingBatch, seed: int) -> TrainingBatch:
    """The batch with, for each of its M annotated images, the background swapped and the object removed: B + 2M images.

    An annotated image and its swapped version share its weight in the cross-entropy, equally where its mask is trusted
    fully; without its object it has none.

    Args:
        batch: B images.
        seed: with the images' keys all that the choice of backgrounds depends on.
    """
    rows = torch.nonzero(batch.annotated)[:, 0]
    if not len(rows) or len(batch.keys) < 2:
        return batch
    keys = [batch.keys[row] for row in rows.tolist()]
    steps = [int(np.random.default_rng([seed, key]).integers(1, len(batch.keys))) for key in keys]
    partners = (rows + torch.tensor(steps, device=rows.device)) % len(batch.keys)
    alpha = tapered(batch.masks)
    empty = without_objects(batch.images, batch.masks, alpha)
    own = alpha[rows, None]
    swapped = own * batch.images[rows] + (1 - own) * empty[partners]
    half = batch.weight * batch.trust / 2
    share = torch.where(batch.annotated, batch.weight - half, batch.weight)

    def twice(values: Tensor) -> Tensor:
        return torch.cat([values, values[rows], values[rows]])

    none = torch.zeros_like(rows, dtype=torch.bool)
    return replace(
        batch,
        images=torch.cat([batch.images, swapped, empty[rows]]),
        labels=twice(batch.labels),
        other_labels=twice(batch.other_labels),
        share=twice(batch.share),
        masks=twice(batch.masks),
        trust=twice(batch.trust),
        annotated=torch.cat([batch.annotated, ~none, none]),
        weight=torch.cat([share, half[rows], torch.zeros_like(half[rows])]),
        version=torch.cat([batch.version, torch.full_like(rows, SWAPPED), torch.full_like(rows, REMOVED)]),
        origin=twice(batch.origin),
        keys=(*batch.keys, *keys, *keys),
    )


def tapered(masks: Tensor) -> Tensor:
    """(B,H,W) in [0,1]: 1 on the object, falling to 0 over a narrow rim around it."""
    width = max(1, round(TAPER * min(masks.shape[-2:])))
    size = 2 * width + 1
    grown = F.max_pool2d(masks[:, None].float(), size, stride=1, padding=width)
    return F.avg_pool2d(grown, size, stride=1, padding=width, count_include_pad=False)[:, 0]


def without_objects(images: Tensor, masks: Tensor, alpha: Tensor) -> Tensor:
    """Images (B,C,H,W) whose objects are filled with the mean of what lies outside; one without a mask stays itself."""
    outside = (~masks)[:, None].to(images)
    fill = (images * outside).sum((2, 3), keepdim=True) / outside.sum((2, 3), keepdim=True).clamp_min(1)
    return images + alpha[:, None] * (fill - images)


def intervention_loss(logits: Tensor, batch: TrainingBatch, prior: Tensor) -> Tensor:
    """Consistency and the prior, each summed over the annotated images and divided by the images of the batch.

    An image counts by the trust in its mask.

    Consistency: the mean of KL(own, swapped) and KL(swapped, own). Prior: KL(prior, object removed).

    Args:
        logits: (B + 2M,N).
        batch: from `with_versions`.
        prior: (N,), the classes' shares of the training images.
    """
    logs = logits.float().log_softmax(1)
    swapped, removed = batch.version == SWAPPED, batch.version == REMOVED
    before, after = logs[: int((batch.version == OWN).sum())][batch.origin[swapped]], logs[swapped]
    consistency = ((before.exp() - after.exp()) * (before - after)).sum(1) / 2
    to_prior = (torch.special.xlogy(prior, prior) - prior * logs[removed]).sum(1)
    weighed = (batch.trust[swapped] * consistency).sum() + (batch.trust[removed] * to_prior).sum()
    summed: Tensor = weighed / batch.whole
    return summed
