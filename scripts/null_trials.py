#!/usr/bin/env python
"""How often a trial without any effect is called improved or harmed, and how often a real effect is found.

    scripts/null_trials.py [TRIALS]

Images differ in difficulty, runs in luck, and each answer a little by itself; the original is one fixed network.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from modeldoctor.evaluate import HeldOut, Predictions, compare, verdict
from modeldoctor.results.trial import Outcome

ARMS = ("original", "treat", "continue")
NOTHING, EFFECT = (0.8, 0.8, 0.8), (0.75, 0.83, 0.78)


def outcome(
    generator: np.random.Generator, shares: tuple[float, ...], *, images: int, seeds: int, luck: float
) -> Outcome:
    """Of a trial whose arms have these true accuracies; `luck` is a run's own, in deviations of difficulty."""
    difficulty, labels = generator.normal(0, 1, images), np.arange(images) % 3
    held_out = HeldOut(labels=labels, classes=("a", "b", "c"))

    def arm(name: str, share: float) -> Predictions:
        rows, own = (1, 0.0) if name == "original" else (seeds, luck)
        noise = generator.normal(0, own, (rows, 1)) + generator.normal(0, 0.4, (rows, images))
        right: NDArray[np.bool_] = difficulty + noise < stats.norm.ppf(share) * math.sqrt(1 + own**2 + 0.4**2)
        return Predictions(arm=name, seeds=tuple(range(rows)), predicted=np.where(right, labels, (labels + 1) % 3))

    arms = dict(zip(ARMS, map(arm, ARMS, shares), strict=True))
    found = [compare(arms["treat"], arms[name], held_out, resamples=300) for name in ("original", "continue")]
    return verdict(*found).outcome


def main(trials: int) -> None:
    print("images  seeds  luck   improved  harmed   found")
    for images, seeds, luck in product((6, 20, 100, 1000, 5000), (1, 2, 3, 5), (0.02, 0.05)):
        generator = np.random.default_rng([images, seeds])
        null, real = (
            Counter(outcome(generator, shares, images=images, seeds=seeds, luck=luck) for _ in range(trials))
            for shares in (NOTHING, EFFECT)
        )
        rates = (null[Outcome.IMPROVED], null[Outcome.HARMED], real[Outcome.IMPROVED])
        print(f"{images:6} {seeds:6} {luck:5}" + "".join(f"{rate / trials:9.1%}" for rate in rates), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
