"""What an arm does to batches, loss and head, as one record; and what it is made from.

Shapes: S training images, N classes, K channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from modeldoctor.config.treat import TreatConfig
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.treatment.batches import TrainingBatch
from modeldoctor.treatment.penalty import Penalty
from modeldoctor.treatment.subsets import Predicted, Subset

NO_IMAGES = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One arm's own part of the training that all arms share.

    Attributes:
        drawn: indices of training images that fill `space.annotated_share` of each batch; none: no such share.
        chances: (S,) in proportion to which the training images are drawn; None: each once per epoch.
        penalty: constraints, added to the loss.
        change: what is done to a batch, given a seed.
        loss: what is added to the cross-entropy, from logits and batch; this process's part of a mean over the batch.
        head_only: train only what lies behind the pooled maps, and leave all statistics as they are.
        hold: makes true of the network's weights what is to stay so, before training and after every update.
        annotations: how many annotated images it uses.
    """

    drawn: NDArray[np.int64] = field(default_factory=lambda: NO_IMAGES)
    chances: NDArray[np.float64] | None = None
    penalty: Penalty | None = None
    change: Callable[[TrainingBatch, int], TrainingBatch] | None = None
    loss: Callable[[Tensor, TrainingBatch], Tensor] | None = None
    head_only: bool = False
    hold: Callable[[nn.Module], None] = lambda network: None
    annotations: int = 0


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What remedies are made from.

    Attributes:
        config: resolved.
        seed: of the run.
        train: what is learned from.
        annotated: indices of the training images whose masks are used; none without masks.
        by_hand: how many of these a person annotated.
        predicted: the original's answers on the training set, by the diagnosis.
        network, trainable: what is trained, with its original weights.
        make_penalty: the configured constraints, their kernels (N,K) by layer changed by a function.
    """

    config: TreatConfig
    seed: int
    train: Subset
    annotated: NDArray[np.int64]
    by_hand: int
    predicted: Predicted
    network: nn.Module
    trainable: TrainableNetwork
    make_penalty: Callable[[Callable[[Tensor], Tensor]], Penalty]
