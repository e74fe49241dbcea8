"""As many images per class as a precision of the class correlation asks for.

The relative standard error of A[n,k] over T images is √(v / T) / A, v the variance between the images' correlations. A
pilot of a few images shows v / A² for each kernel that class n is correlated with; so many images bring the median of
their relative standard errors to p as v / A² / p² has (two-stage sampling after Stein, 1945).

Shapes: N classes, K channels.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.passes import Run, delta_of
from modeldoctor.method.correlation import (
    CorrelationState,
    compute_state,
    correlate_samples,
    empty_state,
    merge_states,
    update_state,
)
from modeldoctor.method.noise import Noise
from modeldoctor.results.diagnosis import normalise

PILOT = 16
"""Images per class of the pilot, and the least that a class gets."""


def wanted(run: Run) -> NDArray[np.int64]:
    """(N,) T of each class: as configured, as planned, or the pilot's before there is a plan."""
    if run.state.wanted is not None:
        return np.array(run.state.wanted, dtype=np.int64)
    number = run.config.samples_per_class if run.config.samples_precision is None else PILOT
    return np.full(run.classes, number, dtype=np.int64)


def plan_samples(run: Run, images: AnySet, pilot: NDArray[np.int64]) -> None:
    """Fix T of every class by what the pilot's images (ascending indices) show; nothing without a wanted precision."""
    precision = run.config.samples_precision
    if precision is None or run.state.wanted is not None:
        return
    sums = {layer.name: empty_state(run.classes, layer.channels) for layer in run.layers}
    done = 0
    for batch in run.batches(images, pilot, run.chunks.batch):
        if len(batch.labels):
            for cut in run.network.cuts(batch.images.to(run.device), run.layers):
                found = correlate_samples(
                    cut,
                    batch.labels.to(run.device),
                    batch.indices.tolist(),
                    noise=Noise(seed=run.config.seed, delta=delta_of(run, cut.layer), stream="samples"),
                    draws=min(1, run.config.draws_per_image),
                    rows=run.chunks.rows[cut.layer.name],
                )
                name = cut.layer.name
                sums[name] = update_state(sums[name], batch.labels, found, cut.maps.mean((2, 3)))
        done += run.passed(images, batch)
        run.after_batch("samples", done, len(pilot))
    everyone = run.team.all_gather(sums)
    whole = [reduce(merge_states, (part[layer.name] for part in everyone)) for layer in run.layers]
    most = len(run.state.predictions[images.split].table()[0]) if run.config.scan == "all" else np.iinfo(np.int32).max
    planned = [images_needed(state, run.config.threshold, precision) for state in whole]
    # A class of which the pilot shows too little is measured as without a precision.
    unknown = np.full(run.classes, math.nan)
    needed = np.fmax.reduce([unknown, *planned])
    needed = np.where(np.isnan(needed), run.config.samples_per_class, np.clip(needed, PILOT, most))
    run.state.wanted = np.ceil(needed).astype(np.int64).tolist()


def images_needed(state: CorrelationState, threshold: float, precision: float) -> NDArray[np.float64]:
    """(N,) images for a median relative standard error of this over a class's correlated kernels; NaN if unknown.

    Args:
        state: of a pilot.
        threshold: v: a kernel is correlated from this share of the class's range on.
        precision: p, such as 0.05.
    """
    figures = compute_state(state)
    mean, variance = figures.correlation.numpy(), figures.variance.numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        correlated = (normalise(mean) >= threshold) & (mean > 0)
        relative = np.where(correlated, variance / mean**2, np.nan)
    known = np.isfinite(relative).any(1)
    needed = np.full(len(mean), math.nan)
    needed[known] = np.nanmedian(relative[known], axis=1) / precision**2
    return needed
