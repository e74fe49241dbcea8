"""What every run did in every epoch: `history.csv`, and on demand TensorBoard's events."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec

from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import UsageError
from modeldoctor.results import run_directory
from modeldoctor.runtime.files import written_aside
from modeldoctor.treatment.arm import Epoch


class History:
    """The epochs of all runs so far; written anew with each, so that a resumed trial leaves the same file.

    Args:
        config: where to, and whether for TensorBoard, too.
        writes: False in all but the first of several processes.

    Raises:
        UsageError: TensorBoard's events are asked for, and it is not installed.
    """

    def __init__(self, config: TreatConfig, *, writes: bool = True):
        if config.tensorboard and find_spec("tensorboard") is None:
            raise UsageError(
                "TensorBoard is not installed",
                where="tensorboard: true",
                hint="pip install tensorboard, or leave it out",
            )
        self._output, self._tensorboard, self._writes = config.output, config.tensorboard and writes, writes
        self._ended: list[Epoch] = []

    def grown(self, epochs: Sequence[Epoch]) -> None:
        """Write down the run in hand, which has one more epoch."""
        self._write([*self._ended, *epochs])
        if self._tensorboard:
            self._write_events(epochs[-1])

    def ended(self, epochs: Sequence[Epoch]) -> None:
        """A run is over; it may have been so already when the trial was resumed."""
        self._ended += epochs
        self._write(self._ended)

    def _write(self, epochs: Sequence[Epoch]) -> None:
        if not self._writes:
            return
        path = self._output / run_directory.HISTORY
        with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
            writer.writeheader()
            writer.writerows(asdict(epoch) for epoch in epochs)

    def _write_events(self, epoch: Epoch) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self._output / "tensorboard" / f"{epoch.arm}-{epoch.seed}"
        with SummaryWriter(folder, purge_step=epoch.epoch) as writer:
            for name, value in asdict(epoch).items():
                if isinstance(value, float) and not math.isnan(value):
                    writer.add_scalar(name, value, epoch.epoch)
