"""As many noise draws per layer as the precision of the class correlations asks for.

The class correlation is a mean over T images of a mean over J draws, so its standard error is √((v_i + v_d / J) / T):
v_i is the variance between images of a class, v_d that between draws of one image. J draws widen it by the factor
√(1 + v_d / (J v_i)) compared with infinitely many, so the fewest draws for a share p are v_d / v_i / ((1 + p)² - 1).

Shapes: B images, J draws, K channels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.passes import Run, delta_of
from modeldoctor.diagnosis.state import Draws
from modeldoctor.graph import Cut
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise

_CLASSES, _PER_CLASS, _DRAWS = 4, 8, 3
_MOST = 100


def plan_draws(run: Run, images: AnySet, chosen: NDArray[np.int64]) -> None:
    """Fix the noise draws of every layer: as configured, or by the variances that a few of the chosen images show."""
    given = run.config.noise_draws
    if given != "auto":
        run.state.draws = {layer.name: Draws(given, math.nan, math.nan) for layer in run.layers}
    if all(layer.name in run.state.draws for layer in run.layers):
        return
    pilot = _pilot(run, images, chosen)
    if not len(pilot):  # nothing to measure, nothing to draw for
        run.state.draws = {layer.name: Draws(1, math.nan, math.nan) for layer in run.layers}
        return
    parts: dict[str, list[Tensor]] = {layer.name: [] for layer in run.layers}
    labels: list[Tensor] = []
    done = 0
    for batch in run.batches(images, pilot, run.chunks.batch):
        if len(batch.labels):
            labels.append(batch.labels)
            for cut in run.network.cuts(batch.images.to(run.device), run.layers):
                parts[cut.layer.name].append(_each_draw(run, cut, batch.labels, batch.indices.tolist()))
        done += run.passed(images, batch)
        run.after_batch("draws", done, len(pilot))
    everyone = run.team.all_gather((labels, parts))
    found_labels = [label for some, _ in everyone for label in some]
    if not found_labels:  # every one of them has vanished since it was predicted
        run.state.draws = {layer.name: Draws(1, math.nan, math.nan) for layer in run.layers}
        return
    whole = torch.cat(found_labels)
    for layer in run.layers:
        values = torch.cat([part for _, found in everyone for part in found[layer.name]], dim=1)
        run.state.draws[layer.name] = fewest_draws(values, whole, run.config.draws_precision)


def fewest_draws(values: Tensor, labels: Tensor, precision: float) -> Draws:
    """The fewest draws for which noise widens the standard error of class means by at most this share.

    Args:
        values: (J,B,K) float64, the correlation of every draw, J >= 2.
        labels: (B,) classes; one with a single image says nothing about images.
        precision: p, such as 0.05.

    Returns:
        At least 1 draw, at most 100; with the variances summed over kernels.
    """
    between_draws = float(values.var(dim=0).mean(dim=0).sum()) if values.shape[1] else 0.0
    means, degrees, squares = values.mean(dim=0), 0, 0.0
    for label in labels.unique():
        of_class = means[labels == label]
        degrees += len(of_class) - 1
        squares += float(((of_class - of_class.mean(dim=0)) ** 2).sum())
    seen = squares / degrees if degrees else math.nan
    # The mean of J draws still holds 1/J of the noise.
    between_images = seen - between_draws / len(values)
    if not between_images > 0:
        return Draws(1 if between_draws == 0 else _MOST, between_draws, max(between_images, 0.0))
    needed = math.ceil(between_draws / between_images / ((1 + precision) ** 2 - 1))
    return Draws(min(max(needed, 1), _MOST), between_draws, between_images)


def _pilot(run: Run, images: AnySet, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """A few images of a few classes, ascending; classes with many chosen images first."""
    index, label, *_ = run.state.predictions[images.split].table()
    labels = label[np.argsort(index)][np.searchsorted(np.sort(index), chosen)]
    counts = np.bincount(labels, minlength=run.classes)
    classes = np.argsort(-counts, kind="stable")[:_CLASSES]
    return np.sort(np.concatenate([chosen[labels == number][:_PER_CLASS] for number in classes]))


def _each_draw(run: Run, cut: Cut, labels: Tensor, keys: list[int]) -> Tensor:
    """(J,B,K) float64, the correlation of each draw by itself."""
    found = [
        correlate_samples(
            cut,
            labels.to(run.device),
            keys,
            noise=Noise(seed=run.config.seed, delta=delta_of(run, cut.layer), stream=f"pilot {draw}"),
            draws=1,
            rows=run.chunks.rows[cut.layer.name],
        ).correlation
        for draw in range(_DRAWS)
    ]
    return torch.stack(found).cpu().double()
