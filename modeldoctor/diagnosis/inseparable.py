"""Pairs of classes that the network cannot tell apart.

Shapes: N classes.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modeldoctor.evaluate.statistics import LEVEL, wilson

_LEAST_ERRORS, _CLOSE_TO_CHANCE = 5, 0.7


class Pair(NamedTuple):
    """Two classes; of their images that are taken for one of the two, the mean share that is right, and its bound."""

    one: int
    other: int
    errors: int
    right: float
    high: float


def inseparable_pairs(counts: NDArray[np.int64]) -> list[Pair]:
    """The pairs that are told apart hardly better than by a coin, most errors first.

    Both directions need five errors. The mean of the two classes' shares must be below 70% with its upper bound, the
    mean of both shares' Wilson bounds, which allow for all pairs with so many errors (Bonferroni).

    Args:
        counts: (N,N), images by class (rows) and prediction (columns).
    """
    pairs = [(a, b) for a, b in combinations(range(len(counts)), 2) if min(counts[a, b], counts[b, a]) >= _LEAST_ERRORS]
    level = 1 - (1 - LEVEL) / max(2 * len(pairs), 1)
    found = []
    for a, b in pairs:
        shares = [wilson(int(counts[i, i]), int(counts[i, i] + counts[i, j]), level) for i, j in ((a, b), (b, a))]
        right, high = sum(share.value for share in shares) / 2, sum(share.high for share in shares) / 2
        if high < _CLOSE_TO_CHANCE:
            found.append(Pair(a, b, int(counts[a, b] + counts[b, a]), right, high))
    return sorted(found, key=lambda pair: -pair.errors)
