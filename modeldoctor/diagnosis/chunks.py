"""How many images and copies run at once: measured on two images, so that the memory given is kept to.

Shapes: B images, R copies, C input channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeldoctor.errors import MemoryLimitError
from modeldoctor.graph import Layer, LayeredNetwork
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import UNSEEN, BatchLimit, peak_meter

# More rows at once are no faster, by measurement on a CPU; on a GPU they may fill it better.
_MOST_ROWS = {"cpu": 64, "cuda": 512}


@dataclass
class Chunks:
    """What fits the memory at once.

    Attributes:
        batch: images B of a pass.
        rows: by layer, rows R*B behind it.
    """

    batch: int
    rows: dict[str, BatchLimit]


@dataclass(frozen=True)
class Cost:
    """Bytes at one layer.

    Attributes:
        image: of what one image has alive in the pass that stops there.
        row: of one row behind it, forward and backward.
    """

    image: float
    row: float


def measure_costs(network: LayeredNetwork, layers: Sequence[Layer], images: Tensor) -> tuple[dict[str, Cost], float]:
    """What each layer costs, by doing it once.

    Args:
        network: cut at `layers`.
        images: (B,C,H,W); any will do.

    Returns:
        The costs by layer, and the most that one image takes in a pass without copies.
    """
    for _ in network.cuts(images, layers):
        pass  # what is made once is no cost of an image
    batch, costs, whole = len(images), dict[str, Cost](), 0.0
    classes = torch.zeros(batch, dtype=torch.int64, device=images.device)
    with peak_meter(images.device) as meter:
        for cut in network.cuts(images, layers):
            whole, alive = max(whole, meter.peak()), meter.now()
            meter.restart()
            noise = Noise(seed=0, delta=1e-3)
            correlate_samples(cut, classes, range(batch), noise=noise, draws=1, rows=BatchLimit(batch))
            costs[cut.layer.name] = Cost(UNSEEN * alive / batch, UNSEEN * (meter.peak() - alive) / batch)
            meter.restart()
    return costs, UNSEEN * whole / batch


def plan_chunks(costs: dict[str, Cost], whole: float, budget: int, most_images: int, device: torch.device) -> Chunks:
    """The largest chunks within a budget.

    Args:
        costs, whole: from `measure_costs`.
        budget: bytes.
        most_images: B at most.
        device: of the network.

    Raises:
        MemoryLimitError: the budget is too small for one image with one copy.
    """
    dearest = max(costs, key=lambda name: costs[name].image + costs[name].row)
    least = max(costs[dearest].image + costs[dearest].row, whole)
    batch = min(most_images, int(budget / least) if least else most_images)
    if batch < 1:
        raise MemoryLimitError(
            f"{budget / 2**20:.0f} MiB",
            where="--memory",
            expected=f"at least {least / 2**20:.0f} MiB, for one image at {dearest}",
            hint="give more memory, or leave out that layer",
        )
    rows = {
        name: BatchLimit(min(_MOST_ROWS[device.type], int((budget - batch * cost.image) / max(cost.row, 1.0))), name)
        for name, cost in costs.items()
    }
    return Chunks(batch, rows)
