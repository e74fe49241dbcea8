"""The passes of a diagnosis over the images: predict, scale, correlate, examine. Each goes on where its state stands.

Shapes: B images, C input channels, K channels, H x W positions, N classes, S samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeldoctor.config import DiagnoseConfig
from modeldoctor.correlation import Noise, correlate_samples, empty_state, update_state
from modeldoctor.data import Batch, ImageSet, make_loader
from modeldoctor.diagnosis.state import Predictions, RunState
from modeldoctor.errors import DataError, InterruptedRunError
from modeldoctor.explain import Probe, gather_evidence
from modeldoctor.graph import Layer, LayeredNetwork
from modeldoctor.interrupts import StopRequest
from modeldoctor.setting import AnySet

Progress = Callable[[str, int, int | None], None]
_SAVE_EVERY_S = 30.0
_MEMORY_BYTES = 2 * 1024**3
_MOST_ROWS = 256
_SCALE_IMAGES = 256


@dataclass
class Run:
    """What the passes share.

    Attributes:
        module: the network as it is, in eval mode.
        network, layers: cut where it is measured.
        config: of the diagnosis.
        classes: N.
        device: where the network is.
        state: what has been done.
        state_path: where that is kept; None keeps nothing.
        progress: told (stage, done, total).
        stop: asked after every batch.
    """

    module: nn.Module
    network: LayeredNetwork
    layers: tuple[Layer, ...]
    config: DiagnoseConfig
    classes: int
    device: torch.device
    state: RunState
    state_path: Path | None
    progress: Progress
    stop: StopRequest
    _saved: float = field(default_factory=time.monotonic)

    def rows(self, layer: Layer) -> int:
        """How many copies may run behind a layer at once within the memory that is planned for."""
        return max(1, min(_MOST_ROWS, _MEMORY_BYTES // max(1, layer.bytes_after)))

    def loader(self, images: AnySet, indices: Sequence[int] | NDArray[np.int64] | None, size: int) -> Iterator[Batch]:
        """Batches of these images, none for an empty choice."""
        if indices is not None and len(indices) == 0:
            return iter(())
        return iter(make_loader(images, indices, batch_size=size, workers=self.config.workers, device=self.device))

    def batch_size(self) -> int:
        """Images at once in the passes that cut the network, so that one copy of each fits the memory."""
        return min(self.config.batch_size, *(self.rows(layer) for layer in self.layers))

    def after_batch(self, stage: str, done: int, total: int | None) -> None:
        """Show progress, keep the state now and then, and end here if asked to.

        Raises:
            InterruptedRunError: the user asked to stop; the state is kept.
        """
        self.progress(stage, done, total)
        late = time.monotonic() - self._saved > _SAVE_EVERY_S
        if self.state_path and (late or self.stop.requested):
            self.state.save(self.state_path)
            self._saved = time.monotonic()
        if self.stop.requested:
            kept = f"what was done is in {self.state_path}" if self.state_path else "nothing was kept"
            raise InterruptedRunError(
                f"interrupted while it was doing: {stage}, {done} of {total if total is not None else '?'}",
                where=kept,
                hint="the same command with --resume goes on from here" if self.state_path else None,
            )


def predict(run: Run, images: AnySet) -> Predictions:
    """First pass: prediction and confidence of every image of a split.

    Raises:
        DataError: not one image can be read.
    """
    split = images.split
    one = run.state.predictions.setdefault(split, Predictions())
    total = len(images) if isinstance(images, ImageSet) or one.next else None
    rest = None if one.next == 0 else np.arange(one.next, len(images))
    for batch in run.loader(images, rest, run.config.batch_size):
        if len(batch.labels):
            probabilities = run.network.logits(batch.images.to(run.device)).float().softmax(1)
            confidence, predicted = (part.cpu().numpy() for part in probabilities.max(1))
            one.rows.append(np.stack([batch.indices.numpy(), batch.labels.numpy(), predicted, confidence]))
        one.broken += [(images.paths[bad.index], bad.reason) for bad in batch.broken]
        one.next += len(batch.labels) + len(batch.broken)
        run.after_batch(f"predict {split}", one.next, total)
    if not one.rows:
        first = "; ".join(f"{path}: {reason}" for path, reason in one.broken[:3])
        raise DataError(
            f"none of the {one.next} images can be read" + (f" ({first})" if first else ""),
            where=f"split {split}",
            expected="image files that PIL can decode",
            hint="check the files",
        )
    return one


def measure_scales(run: Run, images: AnySet) -> None:
    """Standard deviation of each layer's activation over evenly spread images of a split, for δ in its units."""
    if all(layer.name in run.state.scales for layer in run.layers):
        return
    index = run.state.predictions[images.split].table()[0]
    chosen = np.sort(index)[np.unique(np.linspace(0, len(index) - 1, min(_SCALE_IMAGES, len(index))).astype(int))]
    sums = {layer.name: np.zeros(3) for layer in run.layers}
    done = 0
    for batch in run.loader(images, chosen, run.config.batch_size):
        for cut in run.network.cuts(batch.images.to(run.device), run.layers):
            maps = cut.maps.double()
            sums[cut.layer.name] += [maps.numel(), float(maps.sum()), float((maps**2).sum())]
        done += len(batch.labels)
        run.after_batch("scale", done, len(chosen))
    for name, (count, total, squares) in sums.items():
        run.state.scales[name] = float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0)))


def delta_of(run: Run, layer: Layer) -> float:
    """δ of Eq. 4 in units of a layer's activation."""
    return run.config.delta * (run.state.scales[layer.name] if run.config.delta_unit == "std" else 1.0)


def correlate(run: Run, images: AnySet, chosen: NDArray[np.int64]) -> None:
    """Second pass: Eq. 2-4 for the chosen samples, summed by class, at every layer."""
    state, size = run.state, run.batch_size()
    for layer in run.layers:
        state.correlations.setdefault(layer.name, empty_state(run.classes, layer.channels))
    for batch in run.loader(images, chosen[state.correlated :], size):
        pictures, labels = batch.images.to(run.device), batch.labels.to(run.device)
        fresh = {}
        for cut in run.network.cuts(pictures, run.layers):
            noise = Noise(seed=run.config.seed, delta=delta_of(run, cut.layer))
            result = correlate_samples(
                cut,
                labels,
                batch.indices.tolist(),
                noise=noise,
                draws=run.config.noise_draws,
                rows=run.rows(cut.layer),
            )
            old = state.correlations[cut.layer.name]
            fresh[cut.layer.name] = update_state(old, batch.labels, result, cut.maps.mean((2, 3)))
        state.correlations = fresh
        state.correlated += len(batch.labels)
        run.after_batch("correlate", state.correlated, len(chosen))


def examine(run: Run, images: AnySet, chosen: NDArray[np.int64], first_row: int, probe: Probe) -> None:
    """Third pass: gather evidence on wrong images and their references.

    Args:
        images: the examined split.
        chosen: ascending indices in it.
        first_row: of this split among all samples.
        probe: how they are examined.
    """
    state = run.state
    index, _, predicted, confidence = state.predictions[images.split].table()
    for batch in run.loader(images, chosen[len(state.evidence) :], run.batch_size()):
        keys = batch.indices.tolist()
        here = np.searchsorted(index, keys)  # ascending, as images are read in order
        evidence = gather_evidence(
            run.network,
            probe,
            batch.images.to(run.device),
            batch.masks,
            batch.labels.to(run.device),
            torch.from_numpy(predicted[here]).to(run.device),
            confidence[here].tolist(),
            (first_row + here).tolist(),
            keys,
        )
        state.evidence += [one._asdict() for one in evidence]
        run.after_batch("explain", len(state.evidence), len(chosen))
