"""How many noise copies run at once behind a constrained layer: measured on two images, within the memory given.

Shapes: B images, R copies, J noise draws, C input channels, K channels, H x W positions, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeldoctor.errors import MemoryLimitError
from modeldoctor.graph import Cut, Layer
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.runtime.memory import UNSEEN, BatchLimit, PeakMeter, peak_meter
from modeldoctor.runtime.progress import Progress, silent

LESS_AT_ONCE = (
    "a smaller training.batch_size with training.accumulate, fewer noise_draws, or a layer nearer to the head"
)
# Copies beyond those that make the gradients of the weights a small part of the memory are no faster on a CPU, whose
# caches they leave: ViT-S/16's last block took 1.9 s with 16 of 160 at once, 2.6 s with 64, 4.0 s with all.
_WEIGHTS_IN_ROWS = 4.0


@dataclass(frozen=True)
class Cost:
    """Bytes at one layer, forward, backward and twice backward.

    Attributes:
        row: of one row R*B.
        fixed: of the gradients of what every row reads.
    """

    row: float
    fixed: float


def measure_copies(
    trainable: TrainableNetwork,
    layers: Sequence[Layer],
    wanted: dict[Attribution, int],
    images: Tensor,
    progress: Progress = silent,
) -> tuple[dict[str, Cost], float]:
    """What copies cost behind each layer, and what an image's training pass keeps, by doing each once.

    Args:
        trainable: its running statistics move, as in any training pass.
        layers: to measure.
        wanted: kinds of attribution, each of how many classes.
        images: (B,C,H,W), B >= 2; any will do.
        progress: called with (stage, done, total).

    Returns:
        Costs by layer, without those that have a closed form; bytes of an image.
    """
    trainable.training_pass(images, layers)  # what is made once is no cost of an image
    with peak_meter(images.device) as meter:
        _, cuts = trainable.training_pass(images, layers)
        image = UNSEEN * meter.now() / len(images)
        costs = {}
        for done, cut in enumerate(cuts, start=1):
            if cut.pooled is None:
                one, two = (UNSEEN * _peak(cut, wanted, draws, meter) for draws in (1, 2))
                row = max(two - one, 1.0) / len(images)
                costs[cut.layer.name] = Cost(row, max(one - row * len(images), 0.0))
            progress("copies", done, len(cuts))
    return costs, image


def plan_copies(
    costs: dict[str, Cost], image: float, budget: int, batch: int, device: torch.device, *, strict: bool
) -> dict[str, BatchLimit]:
    """Rows at once behind each layer, a copy of the whole batch at least.

    Args:
        costs, image: from `measure_copies`.
        budget: bytes for a step.
        batch: images of this process's share of a step.
        device: of the network.
        strict: refuse a budget that is too small for that.

    Raises:
        MemoryLimitError: it is too small.
    """
    if not costs:
        return {}
    dearest = max(costs, key=lambda name: costs[name].fixed + batch * costs[name].row)
    least = batch * image + costs[dearest].fixed + batch * costs[dearest].row
    if strict and budget < least:
        raise MemoryLimitError(
            f"{budget / 2**20:.0f} MiB",
            where="memory",
            expected=f"at least {least / 2**20:.0f} MiB, for one copy of {batch} images behind {dearest}",
            hint=f"give more memory; or {LESS_AT_ONCE}",
        )
    left = budget - batch * image - max(cost.fixed for cost in costs.values())
    rows = {}
    for name, cost in costs.items():
        number = left / len(costs) / cost.row  # where all copies run at once, the graphs of all layers are kept
        if device.type == "cpu":
            number = min(number, _WEIGHTS_IN_ROWS * cost.fixed / cost.row)
        rows[name] = BatchLimit(max(batch, int(number)), name, LESS_AT_ONCE)
    return rows


def _peak(cut: Cut, wanted: dict[Attribution, int], draws: int, meter: PeakMeter) -> float:
    """Bytes that so many copies take at most, beside what was there before."""
    batch, before = len(cut.maps), meter.now()
    meter.restart()
    classes = torch.zeros(max(wanted.values()), batch, dtype=torch.int64, device=cut.maps.device)
    noise = cut.maps.detach().repeat(draws, 1, 1, 1).mul_(1e-3)
    found = attribute(cut, classes, noise, wanted, BatchLimit(len(noise)))
    inputs = [value for value in (cut.maps, *cut.live_values) if value.requires_grad]
    total = torch.stack([term.sum() for term in found.values()]).sum()
    torch.autograd.grad(total, inputs, retain_graph=True, materialize_grads=True)
    return meter.peak() - before
