"""What every run did in every epoch: `history.csv`, and on demand a service that shows curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from modeldoctor.config.treat import TreatConfig
from modeldoctor.results import run_directory
from modeldoctor.runtime.files import written_aside
from modeldoctor.treatment.arm_state import Epoch
from modeldoctor.treatment.loggers import SERVICES, Logger, figures_of


class History:
    """The epochs of all runs so far; written anew with each, so that a resumed trial leaves the same file.

    Args:
        config: where to, and whether to a service, too.
        writes: False in all but the first of several processes.
    """

    def __init__(self, config: TreatConfig, *, writes: bool = True):
        self._config, self._writes = config, writes
        self._ended: dict[tuple[str, int], Sequence[Epoch]] = {}
        self._logger: Logger | None = None

    def grown(self, epochs: Sequence[Epoch]) -> None:
        """Write down the run in hand, which has one more epoch."""
        newest = epochs[-1]
        self._write(self._ended | {(newest.arm, newest.seed): epochs})
        if self._config.log is None or not self._writes:
            return
        if self._logger is None:
            self._logger = SERVICES[self._config.log].opened(self._config, f"{newest.arm}-{newest.seed}")
        self._logger.log(figures_of(newest), newest.epoch)

    def ended(self, epochs: Sequence[Epoch]) -> None:
        """A run is over, or stops for a while; it may have been so already when the trial was resumed."""
        if epochs:
            self._ended[epochs[0].arm, epochs[0].seed] = epochs
        self._write(self._ended)
        if self._logger is not None:
            self._logger.close()
            self._logger = None

    def _write(self, runs: Mapping[tuple[str, int], Sequence[Epoch]]) -> None:
        if not self._writes:
            return
        path = self._config.output / run_directory.HISTORY
        with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
            writer.writeheader()
            writer.writerows(asdict(epoch) for epochs in runs.values() for epoch in epochs)
