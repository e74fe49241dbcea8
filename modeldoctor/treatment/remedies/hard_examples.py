"""`hard-examples`: images that the original gets wrong, or right without confidence, come more often.

After Just Train Twice (Liu et al., 2021), which repeats the wrong images of a first network.
"""

from __future__ import annotations

import numpy as np

from modeldoctor.data import choose_to_annotate
from modeldoctor.treatment.remedies.remedy import Remedy, Setting


def make(setting: Setting) -> Remedy:
    """The images that fill `space.annotated_share` of each batch.

    Where the trial uses annotated images these, so that the batches are those of `treat`; else every wrong training
    image, and `space.annotated_per_class` images per class at least, filled up with the least confident right ones.
    """
    if len(setting.annotated):
        return Remedy(drawn=setting.annotated)
    train, predicted = setting.train, setting.predicted
    free = np.zeros(len(train.images), dtype=np.bool_)
    free[train.indices] = predicted.classes[train.indices] >= 0
    chosen = choose_to_annotate(
        train.images.labels, predicted.classes, predicted.confidence, free,
        per_class=setting.config.space.annotated_per_class, num_classes=len(train.images.class_names),
    )  # fmt: skip
    wrong = np.flatnonzero(free & (predicted.classes != train.images.labels))
    return Remedy(drawn=np.union1d(chosen, wrong))
