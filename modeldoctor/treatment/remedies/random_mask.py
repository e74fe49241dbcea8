"""`random-mask`: the control whose masks have the right size and shape in the wrong place."""

from __future__ import annotations

from dataclasses import replace

from modeldoctor.treatment.batches import TrainingBatch
from modeldoctor.treatment.masks import random_masks
from modeldoctor.treatment.remedies import treat
from modeldoctor.treatment.remedies.remedy import Remedy, RunContext


def make(run: RunContext) -> Remedy:
    """`treat` with every mask rolled by a random offset."""
    return replace(treat.make(run), change=_misplaced)


def _misplaced(batch: TrainingBatch, seed: int) -> TrainingBatch:
    return replace(batch, masks=random_masks(batch.masks, batch.keys, seed))
