"""`last-layer`: the head alone is refitted, on classes that come equally often, and unsure images more often.

After automatic feature reweighting (AFR; Qiu et al., 2023), whose weights are exp(-γ p) for the label's probability p.

Shapes: S training images, N classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeldoctor.treatment.remedies.remedy import Remedy, RunContext

GAMMA = 4.0
"""In AFR chosen by group labels between 4 and 20; with the least of these every image keeps a chance."""


def make(run: RunContext) -> Remedy:
    """Only what lies behind the pooled maps is trained; the rest, BatchNorm's statistics included, stays as it is."""
    return Remedy(chances=unsure_chances(run), head_only=True)


def unsure_chances(run: RunContext) -> NDArray[np.float64]:
    """(S,) exp(-γ p), every class's sum alike.

    p is the confidence of a right prediction; of a wrong one the rest is split evenly among the other classes.
    """
    train, indices = run.train, run.train.indices
    classes, confidence = run.predicted.classes[indices], run.predicted.confidence[indices]
    others = max(1, len(train.images.class_names) - 1)
    chances = np.exp(-GAMMA * np.where(classes == train.labels, confidence, (1 - confidence) / others))
    return np.asarray(chances / np.bincount(train.labels, weights=chances)[train.labels])
