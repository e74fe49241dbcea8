"""`inferred-groups`: of every class, the images that the original gets right and wrong come equally often.

What misleads a network makes it wrong where it is absent, so that the wrong images of a class stand for the group that
nobody labelled. After Just Train Twice (Liu et al., 2021), balanced as groups are where their labels are known.
"""

from __future__ import annotations

import numpy as np

from modeldoctor.errors import UsageError
from modeldoctor.treatment.remedies.remedy import Remedy, Setting

LEAST_WRONG = 10
"""Wrong training images per class, on average: fewer would come so often that they are learned by heart."""


def make(setting: Setting) -> Remedy:
    """The chance of an image is one over the images of its class that the original answers alike, right or wrong.

    Raises:
        UsageError: the original is wrong on too few training images.
    """
    train = setting.train
    answers = setting.predicted.classes[train.indices]
    wrong = (answers != train.labels) & (answers >= 0)
    classes = len(train.images.class_names)
    if wrong.sum() < LEAST_WRONG * classes:
        raise UsageError(
            f"the original is wrong on {wrong.sum()} of {len(wrong)} training images of {classes} classes",
            where="arms: inferred-groups",
            expected=f"at least {LEAST_WRONG * classes}, from which groups can be inferred",
            hint="leave out inferred-groups; hard-examples takes the images that it is least sure of, too",
        )
    group = train.labels * 2 + wrong
    return Remedy(chances=1 / np.bincount(group)[group])
