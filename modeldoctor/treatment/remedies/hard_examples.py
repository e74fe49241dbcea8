"""`hard-examples`: images that the original gets wrong, or right without confidence, come more often.

After Just Train Twice (Liu et al., 2021), which repeats the wrong images of a first network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data import choose_to_annotate
from modeldoctor.treatment.remedies.remedy import Remedy, Setting


def make(setting: Setting) -> Remedy:
    """`space.annotated_share` of each batch: where the trial uses annotated images these, as `treat` does."""
    return Remedy(drawn=setting.annotated if len(setting.annotated) else hard_images(setting))


def hard_images(setting: Setting) -> NDArray[np.int64]:
    """Every wrong training image; where a class has fewer than `annotated_per_class`, the least sure right ones."""
    train, predicted = setting.train, setting.predicted
    free = np.zeros(len(train.images), dtype=np.bool_)
    free[train.indices] = predicted.classes[train.indices] >= 0
    chosen = choose_to_annotate(
        train.images.labels, predicted.classes, predicted.confidence, free,
        per_class=setting.config.space.annotated_per_class, num_classes=len(train.images.class_names),
    )  # fmt: skip
    wrong = np.flatnonzero(free & (predicted.classes != train.images.labels))
    return np.asarray(np.union1d(chosen, wrong))
