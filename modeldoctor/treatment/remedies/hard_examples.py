"""`hard-examples`: images that the original gets wrong, or right without confidence, come more often.

After Just Train Twice (Liu et al., 2021), which repeats the wrong images of a first network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeldoctor.treatment.remedies.remedy import Remedy, Setting
from modeldoctor.treatment.subsets import worth_annotating


def make(setting: Setting) -> Remedy:
    """`space.annotated_share` of each batch: where the trial uses annotated images these, as `treat` does."""
    return Remedy(drawn=setting.annotated if len(setting.annotated) else hard_images(setting))


def hard_images(setting: Setting) -> NDArray[np.int64]:
    """Every wrong training image; where a class has fewer than `annotated_per_class`, the least sure right ones."""
    train, answers = setting.train, setting.predicted.classes[setting.train.indices]
    wrong = train.indices[(answers >= 0) & (answers != train.labels)]
    least = worth_annotating(train, setting.predicted, setting.config.space.annotated_per_class)
    return np.asarray(np.union1d(least, wrong))
