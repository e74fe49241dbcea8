"""Kernels that look at the background: of a biased network, the correlated kernels are the background's.

Shapes: B images, N classes, K channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.data.found_masks import annotated_batches
from modeldoctor.graph import Layer
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.constraints import background_cells
from modeldoctor.runtime.memory import BatchLimit
from modeldoctor.treatment.subsets import Subset

MOSTLY = 0.5
"""A kernel looks mostly at the background from this share of its |∂y/∂m · m| on."""


def background_shares(
    trainable: TrainableNetwork,
    layers: Sequence[Layer],
    train: Subset,
    annotated: NDArray[np.int64],
    *,
    classes: int,
    expand_px: int,
    batch_size: int,
    workers: int | None,
    device: torch.device,
) -> dict[str, Tensor]:
    """By layer (N,K), the share of Σ_hw |∂y_n/∂m_k · m_k| outside the object over annotated images of class n.

    NaN for a class without annotated images, or where a kernel contributes nothing.

    Args:
        trainable: with the weights to measure.
        layers: where.
        train: holds the annotated images.
        annotated: their indices.
        classes: N.
        expand_px: pixels of the input by which objects are grown.
        batch_size: images at once.
        workers: processes that read images.
        device: of the network.
    """
    kind = Attribution.GRADIENT_X_ACTIVATION
    sums = {layer.name: torch.zeros(2, classes, layer.channels, dtype=torch.float64) for layer in layers}
    for indices, images, object_masks in annotated_batches(
        train.images, annotated, batch_size=batch_size, workers=workers, device=device
    ):
        masks, own = object_masks.to(device), torch.from_numpy(train.images.labels[indices.numpy()])
        labels = own.to(device)
        for cut in trainable.eval_cuts(images.to(device), layers):
            found = attribute(cut, labels[None], None, {kind: 1}, BatchLimit(len(labels), cut.layer.name))
            values = found[kind][0].detach()
            outside = background_cells(masks, expand_px, (values.shape[2], values.shape[3]))[:, None]
            parts = torch.stack([(values * outside).sum((2, 3)), values.sum((2, 3))])
            sums[cut.layer.name].index_add_(1, own, parts.cpu().double())
    return {name: torch.where(total > 0, outside / total, torch.nan) for name, (outside, total) in sums.items()}
