"""Arms of known or simulated predictions, for the tests of evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from modeldoctor.evaluate import (
    HeldOut,
    Predictions,
)

CLASSES = ("ant", "bee", "cat")

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])


def arm(name: str, right: Any, labels: Any = LABELS) -> Predictions:
    """Predictions that are right where `right` (R,S) says so, by seeds 0, 1, ..."""
    right = np.atleast_2d(right)
    return Predictions(arm=name, seeds=tuple(range(len(right))), predicted=np.where(right, labels, (labels + 1) % 3))


def simulated(
    generator: np.random.Generator,
    shares: tuple[float, ...],
    *,
    runs: int = 3,
    images: int = 1500,
    spread: float = 0.02,
) -> tuple[HeldOut, list[Any]]:
    """Arms of these true accuracies: images differ in difficulty, runs in luck, and each answer a little by itself.

    The first arm has one run, as the original does. `spread` is a run's own, in standard deviations of difficulty.
    """
    difficulty, scale = generator.normal(0, 1, images), math.sqrt(1 + spread**2 + 0.4**2)
    right = []
    for index, share in enumerate(shares):
        rows = runs if index else 1
        luck, own = generator.normal(0, spread, (rows, 1)), generator.normal(0, 0.4, (rows, images))
        right.append(difficulty + luck + own < stats.norm.ppf(share) * scale)
    labels = np.arange(images) % 3
    return HeldOut(labels=labels, classes=CLASSES), right
