"""Which classes share kernels, and whether those are the classes that get confused.

Shapes: N classes, K channels, P pairs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy

from modeldoctor.report.model import PairFigures, SharingFigures
from modeldoctor.results.diagnosis import Bools, Diagnosis, Floats, Ints, LayerDiagnosis
from modeldoctor.results.summary import confusion

_PAIRS_KEPT = 8
MOST_CLASSES = 4000
"""Every pair of classes is held in memory."""


class ClassPairs(NamedTuple):
    """What every pair of classes has in common.

    Attributes:
        layer: where kernels were compared.
        jaccard: (N,N), share of common kernels among those that either class depends on; NaN where there are none.
        confusions: (N,N), images of the one taken for the other, both ways; in the examined split.
    """

    layer: str
    jaccard: Floats
    confusions: Ints


def class_pairs(diagnosis: Diagnosis) -> ClassPairs | None:
    """Sharing and confusions of all pairs at the deepest layer; None with fewer than two measured classes."""
    number = len(diagnosis.classes)
    if not diagnosis.layers or not 2 <= number <= MOST_CLASSES:
        return None
    layer = deepest(diagnosis)
    if (layer.count > 0).sum() < 2:
        return None
    taken = confusion(diagnosis, diagnosis.rows(diagnosis.examined))
    np.fill_diagonal(taken, 0)
    jaccard = _jaccard(layer.correlated(diagnosis.config.threshold))
    jaccard[layer.count == 0] = jaccard[:, layer.count == 0] = np.nan
    return ClassPairs(layer.name, jaccard, taken + taken.T)


def deepest(diagnosis: Diagnosis) -> LayerDiagnosis:
    """The layer that single images were examined at, else the last by depth."""
    if diagnosis.limits is not None and diagnosis.limits.layer in diagnosis.layers:
        return diagnosis.layers[diagnosis.limits.layer]
    return max(diagnosis.layers.values(), key=lambda layer: layer.depth)


def sharing_figures(pairs: ClassPairs, classes: tuple[str, ...]) -> SharingFigures:
    """What there is to say of all pairs."""
    one, other = np.triu_indices(len(classes), 1)
    shared, confused = pairs.jaccard[one, other], pairs.confusions[one, other]
    known = ~np.isnan(shared)
    one, other, shared, confused = one[known], other[known], shared[known], confused[known]

    def first(order: Ints) -> tuple[PairFigures, ...]:
        return tuple(
            PairFigures(
                one=classes[one[i]], other=classes[other[i]], sharing=float(shared[i]), confusions=int(confused[i])
            )
            for i in order[:_PAIRS_KEPT]
        )

    often = np.lexsort((-shared, -confused))
    return SharingFigures(
        layer=pairs.layer,
        pairs=len(shared),
        confused=int((confused > 0).sum()),
        sharing_confused=_mean(shared[confused > 0]),
        sharing_others=_mean(shared[confused == 0]),
        rank_correlation=_spearman(shared, confused),
        closest=first(np.lexsort((-confused, -shared))),
        most_confused=first(often[confused[often] > 0]),
    )


def _jaccard(sets: Bools) -> Floats:
    """(N,N), of the rows of (N,K)."""
    ones = sets.astype(np.float32)
    common = ones @ ones.T
    union = (sizes := ones.sum(axis=1))[:, None] + sizes[None, :] - common
    return np.where(union > 0, common / np.maximum(union, 1), np.nan)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _spearman(first: Floats, other: Ints) -> float:
    """NaN where one of them does not vary."""
    if len(first) < 3 or not np.ptp(first) or not np.ptp(other):
        return math.nan
    return float(scipy.stats.spearmanr(first, other).statistic)
