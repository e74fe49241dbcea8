"""The kernels that each class depends on most, each with its interval."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from modeldoctor.report.model import ClassKernels, KernelFigures, StrongestFigures
from modeldoctor.report.sharing import deepest
from modeldoctor.results.diagnosis import Diagnosis

_KERNELS = 5
_Z = NormalDist().inv_cdf(0.975)  # within as many standard deviations lie 95%


def strongest_kernels(diagnosis: Diagnosis) -> StrongestFigures | None:
    """At the layer that single images were examined at; None where no class was measured there.

    Â of a kernel is shifted and scaled by the class's least and largest correlation, its interval is
    Â ± 1.96 · standard error / (largest - least); it is of the kernel alone, as the two are taken as they are.
    """
    if not diagnosis.layers:
        return None
    layer = deepest(diagnosis)
    spread = layer.correlation.max(axis=1) - layer.correlation.min(axis=1)
    measured = np.flatnonzero((layer.count > 0) & (spread > 0))
    normalised, standard_error = layer.normalised, layer.standard_error  # each made of all classes at once
    classes = []
    for number in measured:
        mean, wide = normalised[number], _Z * standard_error[number] / spread[number]
        # A wide layer's order among equals is that of its kernels.
        chosen = np.argsort(-mean, kind="stable")[:_KERNELS]
        kernels = tuple(
            KernelFigures(
                kernel=int(kernel),
                correlation=float(mean[kernel]),
                low=float(mean[kernel] - wide[kernel]),
                high=float(mean[kernel] + wide[kernel]),
            )
            for kernel in chosen
        )
        classes.append(ClassKernels(name=diagnosis.classes[number], images=int(layer.count[number]), kernels=kernels))
    return StrongestFigures(layer=layer.name, classes=tuple(classes)) if classes else None
