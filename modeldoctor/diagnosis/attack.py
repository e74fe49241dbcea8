"""The pass that turns right predictions with FGSM and asks how the turned ones bear noise (Discovery 2, Fig. 3).

Shapes: B images, C input channels, h x w pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import Batch
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.explain import Probe, measure_stability
from modeldoctor.diagnosis.passes import Run
from modeldoctor.graph import logits_of
from modeldoctor.results.diagnosis import Adversarial


def fgsm(
    network: nn.Module, images: Tensor, labels: Tensor, epsilon: float, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Images (B,C,h,w) after one step of the fast gradient sign method away from their labels.

    The step is made in pixels, which stay in [0, 1] (Goodfellow et al., 2015, "Explaining and harnessing adversarial
    examples", section 4).

    Args:
        network: in eval mode; images to logits (B,N), or to a sequence that begins with them.
        images: preprocessed.
        labels: (B,).
        epsilon: the step, for pixels in [0, 1].
        mean, std: of the preprocessing, a value a channel.
    """
    centre, spread = (torch.tensor(values).to(images).view(1, -1, 1, 1) for values in (mean, std))
    with torch.enable_grad():
        pixels = (images * spread + centre).requires_grad_()
        logits = logits_of(network, (pixels - centre) / spread)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")  # each image's own gradient
        (gradient,) = torch.autograd.grad(loss, pixels)
    turned = (pixels.detach() + epsilon * gradient.sign()).clamp(0, 1)
    return (turned - centre) / spread


def attack(run: Run, images: AnySet, chosen: NDArray[np.int64], first_row: int, probe: Probe) -> None:
    """Fourth pass: attack right, confident images, and measure the stability of those that are turned.

    Args:
        images: the examined split.
        chosen: ascending indices in it of images that are predicted right.
        first_row: of this split among all samples.
        probe: how noise is put on.
    """
    state, preprocessing = run.state, images.preprocessing
    index = state.predictions[images.split].table()[0]
    begin = state.positions.get("attack", 0)
    for batch in run.batches(images, chosen[begin:], run.chunks.batch):
        found = _turned(run, probe, batch, preprocessing) if len(batch.labels) else []
        for number, rows in run.team.all_gather((len(batch.labels), found)):
            state.attacked += number
            state.adversarial += [[first_row + int(np.searchsorted(index, key)), *rest] for key, *rest in rows]
        begin += run.passed(images, batch)
        state.positions["attack"] = begin
        run.after_batch("attack", begin, len(chosen))


def _turned(run: Run, probe: Probe, batch: Batch, preprocessing: Preprocessing) -> list[list[Any]]:
    """Index, prediction, stability and fallback of each image of a batch that FGSM turns."""
    labels = batch.labels.to(run.device)
    changed = fgsm(
        run.module,
        batch.images.to(run.device),
        labels,
        run.config.fgsm_epsilon,
        preprocessing.mean,
        preprocessing.std,
    )
    predicted = run.network.logits(changed).argmax(1)
    turned = predicted != labels
    keys = batch.indices[turned.cpu()].tolist()
    if not keys:
        return []
    shares = measure_stability(run.network, probe, changed[turned], labels[turned], predicted[turned], keys)
    return [list(row) for row in zip(keys, predicted[turned].tolist(), *shares, strict=True)]


def adversarial(run: Run) -> Adversarial | None:
    """What the pass found; None if nothing was attacked."""
    state, ranges = run.state, len(run.config.noise_ranges)
    if not state.attacked:
        return None
    sample, predicted, stability, fallback = ([row[i] for row in state.adversarial] for i in range(4))
    return Adversarial(
        epsilon=run.config.fgsm_epsilon,
        attacked=state.attacked,
        sample=np.array(sample, dtype=np.int32),
        predicted=np.array(predicted, dtype=np.int32),
        stability=np.array(stability, dtype=np.float32).reshape(-1, ranges),
        fallback=np.array(fallback, dtype=np.float32).reshape(-1, ranges),
    )
