"""Classes that training saw seldom and that are right less often than the others.

Shapes: N classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from modeldoctor.evaluate.statistics import LEVEL

_SELDOM = 0.5
"""Of an even share of the training images."""


class RareClass(NamedTuple):
    """A class, its training images, its examined images, how many of these are right, and the errors beyond usual."""

    label: int
    trained: int
    examined: int
    right: int
    excess: int


def rare_classes(trained: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[list[RareClass], float]:
    """Rare classes that are worse than those that are not rare, most errors first; and how often these are right.

    A class is rare with fewer than half of an even share of the training images. Fisher's exact test says whether it
    is worse, allowing for all rare classes (Bonferroni).

    Args:
        trained: (N,), training images of each class.
        counts: (N,N), examined images by class (rows) and prediction (columns).
    """
    examined, right = counts.sum(1), np.diag(counts)
    rare = trained < _SELDOM * trained.mean()
    others, others_right = int(examined[~rare].sum()), int(right[~rare].sum())
    if not rare.any() or not others:
        return [], float("nan")
    usual = others_right / others
    found = []
    for label in np.flatnonzero(rare).tolist():
        own, own_right = int(examined[label]), int(right[label])
        table = np.array([[own_right, own - own_right], [others_right, others - others_right]])
        chance = float(scipy.stats.fisher_exact(table, alternative="less").pvalue) if own else 1.0
        if chance < (1 - LEVEL) / int(rare.sum()):
            excess = round(own * usual - own_right)
            found.append(RareClass(label, int(trained[label]), own, own_right, excess))
    return sorted(found, key=lambda one: -one.excess), usual
