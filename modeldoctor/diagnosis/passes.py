"""The passes of a diagnosis over the images: predict, scale, correlate, examine. Each goes on where its state stands.

Shapes: B images, C input channels, K channels, H x W positions, N classes, S samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import Batch, ImageSet
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.chunks import Chunks
from modeldoctor.diagnosis.explain import Probe, gather_evidence
from modeldoctor.diagnosis.interventions import Backgrounds
from modeldoctor.diagnosis.sharding import dealt
from modeldoctor.diagnosis.state import Predictions, RunState
from modeldoctor.errors import DataError, InterruptedRunError
from modeldoctor.graph import Layer, LayeredNetwork
from modeldoctor.method.correlation import (
    CorrelationState,
    correlate_samples,
    empty_state,
    merge_states,
    update_state,
)
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.interrupts import StopRequest
from modeldoctor.runtime.progress import Progress

_SAVE_EVERY_S = 30.0
_SCALE_IMAGES = 256
NO_ANSWER = "the network's answer to it is no finite number"


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
        chunks: how many images and copies run at once.
        team: the processes that share the images.
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
    chunks: Chunks
    team: Team = field(default_factory=Team)
    _saved: float = field(default_factory=time.monotonic)

    def batches(
        self, images: AnySet, indices: Sequence[int] | NDArray[np.int64] | None, size: int, *, masks: bool = False
    ) -> Iterator[Batch]:
        """This process's batches of these images; every process gets as many, the last ones perhaps empty.

        Masks take longer to read than small images; without `masks` there are none.
        """
        workers = self.config.workers
        if isinstance(images, ImageSet) and not masks:
            images = images.masked_at(())
        return dealt(self.team, images, indices, batch_size=size, workers=workers, device=self.device)

    def passed(self, images: AnySet, batch: Batch) -> int:
        """How many images of the list this round of batches took; those that can no longer be read are noted."""
        broken = [(images.paths[bad.index], bad.reason) for bad in batch.broken]
        noted, taken = self.state.predictions[images.split].broken, 0
        for number, gone in self.team.all_gather((len(batch.labels), broken)):
            noted += [pair for pair in gone if pair[0] not in {path for path, _ in noted}]
            taken += number + len(gone)
        return taken

    def after_batch(self, stage: str, done: int, total: int | None) -> None:
        """Show progress, keep the state now and then, and end here if anyone was asked to.

        Raises:
            InterruptedRunError: the user asked to stop; the state is kept.
        """
        self.progress(stage, done, total)
        late = time.monotonic() - self._saved > _SAVE_EVERY_S
        asked = self.team.all_gather((self.stop.requested, late))
        stopped = any(stop for stop, _ in asked)
        if self.state_path and (asked[0][1] or stopped):
            self.merge_correlations()
            if self.team.is_primary:
                self._keep_chunks()
                self.state.save(self.state_path)
            self._saved = time.monotonic()
        if stopped:
            kept = f"what was done is in {self.state_path}" if self.state_path else "nothing was kept"
            raise InterruptedRunError(
                f"interrupted while it was doing: {stage}, {done} of {total if total is not None else '?'}",
                where=kept,
                hint="the same command with --resume goes on from here" if self.state_path else None,
            )

    def _keep_chunks(self) -> None:
        rows = {name: row.number for name, row in self.chunks.rows.items()}
        if self.state.chunks:
            self.state.chunks = self.state.chunks._replace(rows=rows)

    def merge_correlations(self) -> None:
        """Hand every process's sums to the first one; the others begin anew."""
        if self.team.world_size == 1:
            return
        for layer in self.layers:
            empty = empty_state(self.classes, layer.channels)
            parts = self.team.gather(self.state.correlations.get(layer.name, empty))
            if self.state.correlations:
                self.state.correlations[layer.name] = reduce(merge_states, parts) if parts else empty


def predict(run: Run, images: AnySet) -> Predictions:
    """First pass: prediction and confidence of every image of a split.

    Raises:
        DataError: not one image can be read.
    """
    prediction = run.state.predictions.setdefault(images.split, Predictions())
    read_predictions(run, *rest_of(images, prediction), whole=True)
    return checked(prediction, images.split)


def rest_of(images: AnySet, prediction: Predictions) -> tuple[AnySet, NDArray[np.int64] | None]:
    """What is still to be read of a split that is read from its beginning on: of which images, and which; None: all."""
    if not isinstance(images, ImageSet):  # how many samples it will give, nobody knows
        return images.beginning_at(prediction.next), None
    return images, None if prediction.next == 0 else np.arange(prediction.next, len(images))


def read_predictions(
    run: Run,
    images: AnySet,
    indices: NDArray[np.int64] | None,
    enough: Callable[[NDArray[np.float64]], int | None] | None = None,
    *,
    whole: bool = False,
) -> None:
    """Predict these images, None for all, and add them to the state.

    Args:
        indices: ascending.
        enough: given the next rows (4,B), how many of them are the last that are needed, or None to go on.
        whole: whether these are all of the split, so that its accuracy can be told on the way.
    """
    prediction = run.state.predictions[images.split]
    right, known = _counted_right(prediction.rows)
    total = len(images) if isinstance(images, ImageSet) else None
    if indices is not None:
        total = prediction.next + len(indices)
    for batch in run.batches(images, indices, run.chunks.batch):
        rows, unusable = _answers(run, batch)
        filled = False
        for part, broken in run.team.all_gather((rows, [(index, images.paths[index], why) for index, why in unusable])):
            if filled:
                break
            needed = enough(part) if enough else None
            filled = needed is not None
            kept = part[:, :needed]
            # A stream goes on right behind the last image that was needed, however many its batch had.
            left_out = [bad for bad in broken if not filled or bad[0] < kept[0, -1]]
            prediction.rows += [kept] if kept.shape[1] else []
            prediction.broken += [(path, why) for _, path, why in left_out]
            hits, seen = _counted_right([kept])
            right, known = right + hits, known + seen
            prediction.next += kept.shape[1] + len(left_out)
        said = f" · accuracy {right / known:.1%}" if known and whole else ""
        run.after_batch(f"predict {images.split}{said}", prediction.next, total)
        if filled:
            return


def _answers(run: Run, batch: Batch) -> tuple[NDArray[np.float64], list[tuple[int, str]]]:
    """The rows (4,B) of a batch, and which images have none, with the reason: unreadable, or without an answer."""
    unusable = [(bad.index, bad.reason) for bad in batch.broken]
    if not len(batch.labels):
        return np.empty((4, 0)), unusable
    probabilities = run.network.logits(batch.images.to(run.device)).float().softmax(1)
    confidence, predicted = (part.cpu().numpy() for part in probabilities.max(1))
    rows = np.stack([batch.indices.numpy(), batch.labels.numpy(), predicted, confidence])
    answered = np.isfinite(confidence)
    unusable += [(index, NO_ANSWER) for index in batch.indices[~answered].tolist()]
    return rows[:, answered], sorted(unusable)


def _counted_right(rows: Sequence[NDArray[np.float64]]) -> tuple[int, int]:
    """How many images of these parts (4,B) are right, and how many there are."""
    return sum(int((part[1] == part[2]).sum()) for part in rows), sum(part.shape[1] for part in rows)


def checked(prediction: Predictions, split: str) -> Predictions:
    """The predictions of a split.

    Raises:
        DataError: not one image can be read.
    """
    if any(part.shape[1] for part in prediction.rows):
        return prediction
    if prediction.broken and all(why == NO_ANSWER for _, why in prediction.broken):
        raise DataError(
            f"the network's answers to all {prediction.next} images are no finite numbers",
            where=f"split {split}",
            expected="logits that are numbers",
            hint="check the weights and the preprocessing by which the network was evaluated, and --precision",
        )
    first = "; ".join(f"{path}: {reason}" for path, reason in prediction.broken[:3])
    raise DataError(
        f"none of the {prediction.next} images can be read" + (f" ({first})" if first else ""),
        where=f"split {split}",
        expected="image files that PIL can decode",
        hint="check the files",
    )


def vanished(prediction: Predictions, images: AnySet) -> list[tuple[str, str]]:
    """Of the images that cannot be read, those that could be in the first pass: they have a row."""
    if not prediction.broken:
        return []
    read = {images.paths[index] for index in prediction.table()[0].tolist()}
    return [pair for pair in prediction.broken if pair[0] in read]


def measure_scales(run: Run, images: AnySet) -> None:
    """Standard deviation of each layer's activation over evenly spread images of a split, for δ in its units."""
    if all(layer.name in run.state.scales for layer in run.layers):
        return
    index = run.state.predictions[images.split].table()[0]
    chosen = np.sort(index)[np.unique(np.linspace(0, len(index) - 1, min(_SCALE_IMAGES, len(index))).astype(int))]
    sums = {layer.name: np.zeros(3) for layer in run.layers}
    done = 0
    for batch in run.batches(images, chosen, run.chunks.batch):
        if len(batch.labels):
            for cut in run.network.cuts(batch.images.to(run.device), run.layers):
                maps = cut.maps.double()
                sums[cut.layer.name] += [maps.numel(), float(maps.sum()), float((maps**2).sum())]
        done += run.passed(images, batch)
        run.after_batch("scale", done, len(chosen))
    everyone = run.team.all_gather(sums)
    if run.layers and not sum(part[run.layers[0].name][0] for part in everyone):
        raise DataError(
            f"of {done} images that could be read at first none can be read any more",
            where=f"split {images.split}",
            expected="images that stay while they are measured",
            hint="check the disk or the mount that they are on",
        )
    for name in sums:
        count, total, squares = np.sum([part[name] for part in everyone], axis=0)
        run.state.scales[name] = float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0)))


def delta_of(run: Run, layer: Layer) -> float:
    """δ of Eq. 4 in units of a layer's activation."""
    return run.config.delta * (run.state.scales[layer.name] if run.config.delta_unit == "std" else 1.0)


def correlate(run: Run, images: AnySet, chosen: NDArray[np.int64]) -> None:
    """Second pass: Eq. 2-4 for the chosen samples, summed by class, at every layer."""
    state = run.state
    for layer in run.layers:
        state.correlations.setdefault(layer.name, empty_state(run.classes, layer.channels))
    begin = state.positions.get("correlate", 0)
    for batch in run.batches(images, chosen[begin:], run.chunks.batch):
        if len(batch.labels):
            state.correlations = _with_batch(run, batch)
        begin += run.passed(images, batch)
        state.positions["correlate"] = begin
        run.after_batch("correlate", begin, len(chosen))
    run.merge_correlations()


def _with_batch(run: Run, batch: Batch) -> dict[str, CorrelationState]:
    """Every layer's sums with a batch added; as they were, should anything go wrong on the way."""
    labels, fresh = batch.labels.to(run.device), {}
    for cut in run.network.cuts(batch.images.to(run.device), run.layers):
        name = cut.layer.name
        result = correlate_samples(
            cut,
            labels,
            batch.indices.tolist(),
            noise=Noise(seed=run.config.seed, delta=delta_of(run, cut.layer)),
            draws=run.state.draws[name].draws,
            rows=run.chunks.rows[name],
        )
        fresh[name] = update_state(run.state.correlations[name], batch.labels, result, cut.maps.mean((2, 3)))
    return fresh


def examine(
    run: Run, images: AnySet, chosen: NDArray[np.int64], first_row: int, probe: Probe, backgrounds: Backgrounds | None
) -> None:
    """Third pass: gather evidence on wrong images and their references.

    Args:
        images: the examined split.
        chosen: ascending indices in it.
        first_row: of this split among all samples.
        probe: how they are examined.
        backgrounds: that objects are put before.
    """
    state = run.state
    index, _, predicted, confidence = state.predictions[images.split].table()
    begin = state.positions.get("explain", 0)
    for batch in run.batches(images, chosen[begin:], run.chunks.batch, masks=True):
        keys = batch.indices.tolist()
        here = np.searchsorted(index, keys)  # ascending, as images are read in order
        evidence = (
            gather_evidence(
                run.network,
                probe,
                batch.images.to(run.device),
                batch.masks,
                batch.labels.to(run.device),
                torch.from_numpy(predicted[here]).to(run.device),
                confidence[here].tolist(),
                (first_row + here).tolist(),
                keys,
                backgrounds,
            )
            if keys
            else []
        )
        state.evidence += chain.from_iterable(run.team.all_gather([seen._asdict() for seen in evidence]))
        begin += run.passed(images, batch)
        state.positions["explain"] = begin
        run.after_batch("explain", begin, len(chosen))
