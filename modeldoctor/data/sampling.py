"""Choosing images: those that a class's correlation is measured on, and those worth annotating."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def choose_confident(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.floating],
    *,
    per_class: int | Sequence[int],
    threshold: float,
    seed: int,
    num_classes: int,
) -> list[NDArray[np.int64]]:
    """Draw for each class, at random, samples of it that are predicted right and with confidence.

    Every class has a random stream of its own: its choice depends on the seed and on its own samples alone.

    Args:
        labels: (B,) true classes.
        predicted: (B,) predicted classes.
        confidence: (B,) softmax probability of the prediction; NaN is never chosen.
        per_class: at most so many samples per class; or N of these.
        threshold: the least confidence.
        seed: not negative.
        num_classes: N.

    Returns:
        N arrays of sample indices, ascending; shorter than `per_class`, or empty, where samples are lacking.
    """
    eligible = np.flatnonzero((labels == predicted) & (confidence >= threshold))
    by_class = eligible[np.argsort(labels[eligible], kind="stable")]
    bounds = np.searchsorted(labels[by_class], np.arange(num_classes + 1))
    most = np.broadcast_to(per_class, num_classes).tolist()
    return [
        _draw(by_class[bounds[number] : bounds[number + 1]], most[number], np.random.SeedSequence([seed, number]))
        for number in range(num_classes)
    ]


def choose_to_annotate(
    label: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.floating],
    free: NDArray[np.bool_],
    *,
    per_class: int,
    num_classes: int,
) -> NDArray[np.int64]:
    """Choose for each class the wrong images, the most confident first, then the right ones, the least confident first.

    Args:
        label: (S,) true classes.
        predicted: (S,) predicted classes.
        confidence: (S,) softmax probability of the prediction.
        free: (S,) whether an image may be chosen.
        per_class: at most so many images per class.
        num_classes: N.

    Returns:
        Rows, class after class in this order; equal ones in the order given.
    """
    right = label == predicted
    order = np.lexsort((np.where(right, confidence, -confidence), right, label))
    order = order[free[order]]
    bounds = np.searchsorted(label[order], np.arange(num_classes + 1))
    return np.concatenate([order[start:end][:per_class] for start, end in pairwise(bounds)])


def _draw(candidates: NDArray[np.int64], count: int, seed: np.random.SeedSequence) -> NDArray[np.int64]:
    if len(candidates) <= count:
        return candidates
    return np.sort(np.random.default_rng(seed).choice(candidates, count, replace=False))
