"""`hard-examples`: images that the original gets wrong, or right without confidence, come more often.

After Just Train Twice (Liu et al., 2021), which repeats the wrong images of a first network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeldoctor.treatment.remedies.remedy import Remedy, RunContext
from modeldoctor.treatment.subsets import worth_annotating


def make(run: RunContext) -> Remedy:
    """`space.annotated_share` of each batch: where the trial uses annotated images these, as `treat` does."""
    return Remedy(drawn=run.annotated if len(run.annotated) else hard_images(run))


def hard_images(run: RunContext) -> NDArray[np.int64]:
    """Every wrong training image; where a class has fewer than `annotated_per_class`, the least sure right ones."""
    train, answers = run.train, run.predicted.classes[run.train.indices]
    wrong = train.indices[(answers >= 0) & (answers != train.labels)]
    least = worth_annotating(train, run.predicted, run.config.space.annotated_per_class)
    return np.asarray(np.union1d(least, wrong))
