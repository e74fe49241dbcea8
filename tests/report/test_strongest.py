"""The kernels that each class depends on most, with intervals calculated by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from modeldoctor.report.strongest import strongest_kernels
from modeldoctor.results.diagnosis import Diagnosis


def test_they_come_with_the_interval_of_their_mean(handmade: Callable[..., Diagnosis]) -> None:
    found = handmade()
    (layer,) = (layer for name, layer in found.layers.items() if name == "body.1#2")
    rows = np.full((3, 4), 4.0, dtype=np.float32)
    rows[0, :3], rows[1], rows[2, :2] = (2, 10, 6), np.nan, (0, 8)
    variance = np.full((3, 4), 4.0, dtype=np.float32)
    variance[2] = np.nan  # one image has none
    changed = replace(layer, channels=4, correlation=rows, variance=variance, count=np.array([16, 0, 1]))
    strongest = strongest_kernels(replace(found, layers={"body.1#2": changed}))
    assert strongest is not None
    assert strongest.layer == "body.1#2"
    first, third = strongest.classes
    assert (first.name, first.images) == (found.classes[0], 16)
    assert [kernel.kernel for kernel in first.kernels][:3] == [1, 2, 3]  # 100%, 50%, and the first of those at 25%
    best, second = first.kernels[:2]
    # Standard error √(4 / 16) = 0.5, on a range from 2 to 10.
    assert (best.correlation, second.correlation) == (1.0, 0.5)
    assert second.low == pytest.approx(0.5 - 1.959964 * 0.5 / 8, rel=1e-5)
    assert second.high == pytest.approx(0.5 + 1.959964 * 0.5 / 8, rel=1e-5)
    assert third.name == found.classes[2]
    assert np.isnan([third.kernels[0].low, third.kernels[0].high]).all()


def test_a_class_whose_kernels_are_all_alike_and_a_diagnosis_without_layers_have_none(
    handmade: Callable[..., Diagnosis],
) -> None:
    found = handmade()
    layer = found.layers["body.1#2"]
    alike = replace(layer, correlation=np.ones_like(layer.correlation), count=np.full(3, 5))
    assert strongest_kernels(replace(found, layers={"body.1#2": alike})) is None
    assert strongest_kernels(replace(found, layers={})) is None
