"""Images dealt out to the processes of a job, batch by batch, so that what all have done is always a first part.

Shapes: B images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from modeldoctor.data import Batch, StreamSet, make_loader
from modeldoctor.data.outputs import AnySet
from modeldoctor.runtime.distributed import Team


def dealt(
    team: Team,
    images: AnySet,
    indices: Sequence[int] | NDArray[np.int64] | None,
    *,
    batch_size: int,
    workers: int | None,
    device: torch.device,
) -> Iterator[Batch]:
    """Every `team.world_size`-th batch of these images; every process gets as many, the last ones perhaps empty.

    Args:
        team: round after round, each of its processes has one batch.
        images: a stream is read whole by every process.
        indices: which images, in which order; all by default.
        batch_size, workers, device: as in `make_loader`.
    """
    if indices is not None and len(indices) == 0:
        return
    nothing = Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), None, [])
    if isinstance(images, StreamSet):
        stream = iter(make_loader(images, indices, batch_size=batch_size))
        while around := list(islice(stream, team.world_size)):
            yield around[team.rank] if team.rank < len(around) else nothing
        return
    order = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.int64)
    rounds = range(0, len(order), batch_size * team.world_size)
    begins = (start + batch_size * team.rank for start in rounds)
    mine = np.concatenate([order[begin : begin + batch_size] for begin in begins])
    batches = iter(make_loader(images, mine, batch_size=batch_size, workers=workers, device=device))
    for _ in rounds:
        yield next(batches, nothing)
