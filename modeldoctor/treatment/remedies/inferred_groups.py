"""`inferred-groups`: of every class, the images that the original gets right and wrong come equally often.

What misleads a network makes it wrong where it is absent, so that the wrong images of a class stand for the group that
nobody labelled. After Just Train Twice (Liu et al., 2021), balanced as groups are where their labels are known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeldoctor.treatment.remedies.hard_examples import hard_images
from modeldoctor.treatment.remedies.remedy import Remedy, RunContext


def make(run: RunContext) -> Remedy:
    """The chance of an image is one over the images of its group; no image comes more than `most_repeats` times.

    Where few are wrong, the right ones that the original is least sure of are added, as in `hard-examples`.
    """
    return Remedy(chances=equally_often(run, hard_images(run)))


def equally_often(run: RunContext, apart: NDArray[np.int64]) -> NDArray[np.float64]:
    """(S,) chances by which of every class the training images of these indices and all others come equally often."""
    group = run.train.labels * 2 + np.isin(run.train.indices, apart)
    return bounded(1 / np.bincount(group)[group], run.config.space.most_repeats)


def bounded(chances: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """(S,) the chances, lowered where they would let an image come more often than this in a pass over S images."""
    while chances.max() > 1.01 * most * chances.mean():  # what is taken from some raises the share of the others
        chances = np.minimum(chances, most * chances.mean())
    return chances
