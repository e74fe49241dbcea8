"""Whose statistics BatchNorm takes in training: each batch's, as training does, or the running ones of the checkpoint.

A further epoch with each batch's statistics can harm, whatever else it does: a ResNet-20 for CIFAR-10, right on 99% of
its training images, is right on 95% by each batch's statistics (`scripts/FIGURES.md`). It shows before training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from modeldoctor.config.treat import TreatConfig
from modeldoctor.runtime.memory import told_when_short
from modeldoctor.treatment.arm import TrialContext
from modeldoctor.treatment.batches import training_batches
from modeldoctor.treatment.copies import LESS_AT_ONCE

_BATCHES = 16
_LEAST, _ERRORS = 0.03, 2.0
"""The loss of accuracy that counts, and how many of its standard errors it must exceed.

Less counts where it is more than the network gets wrong at all: of one that knows its training images by heart such an
epoch undoes what it has learned.
"""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The untouched network on the first training batches.

    Attributes:
        images: how many.
        running, by_batch: accuracy with the running statistics and with each batch's.
        worse: whether the latter is lower beyond chance, and so much lower that it counts.
    """

    images: int
    running: float
    by_batch: float
    worse: bool


def with_statistics(config: TreatConfig, context: TrialContext) -> tuple[TreatConfig, Agreement | None]:
    """The configuration with `training.batch_norm` decided, and what decided it; None where nothing had to be measured.

    Args:
        config: resolved.
        context: its network has its original weights, before and after.
    """
    if config.training.batch_norm != "auto":
        return config, None
    with told_when_short("the statistics of BatchNorm", LESS_AT_ONCE):
        found = _agreement(config, context) if context.trainable.has_batch_norm else None
    chosen = "running" if found and found.worse else "batch"
    training = config.training.model_copy(update={"batch_norm": chosen})
    return config.model_copy(update={"training": training}), found


def _agreement(config: TreatConfig, context: TrialContext) -> Agreement:
    counts = torch.zeros(4, dtype=torch.float64)
    none = np.empty(0, dtype=np.int64)
    batches = training_batches(
        context.splits.train, none, config, seed=config.seeds[0], epoch=0, device=context.device, team=context.team
    )
    for number, batch in enumerate(islice(batches, _BATCHES)):
        with torch.no_grad():
            running, by_batch = (
                context.trainable.training_pass(batch.images, (), statistics=statistics)[0].argmax(1) == batch.labels
                for statistics in (False, True)
            )
        lost = running.double() - by_batch.double()
        sums = torch.stack([running.double().sum(), by_batch.double().sum(), (lost**2).sum()]).cpu()
        counts += context.team.all_reduce(torch.cat([torch.tensor([float(len(lost))], dtype=torch.float64), sums]))
        context.progress("statistics of BatchNorm", number + 1, _BATCHES)
    context.network.load_state_dict(context.original)  # the passes moved the running statistics
    images, right, right_by_batch, squares = counts.tolist()
    return Agreement(
        images=int(images), running=right / images, by_batch=right_by_batch / images,
        worse=_is_worse(images, right, right_by_batch, squares),
    )  # fmt: skip


def _is_worse(images: float, right: float, right_by_batch: float, turned: float) -> bool:
    """Whether so many more images are wrong by each batch's statistics that it is no chance, and counts.

    Args:
        images: how many there are.
        right, right_by_batch: of these, with either kind of statistics.
        turned: how many are right with one of the two alone.
    """
    lost = (right - right_by_batch) / images
    error = np.sqrt(max(turned / images - lost**2, 0.0) / images)
    return bool(lost > max(min(_LEAST, 1 - right / images), _ERRORS * error))
