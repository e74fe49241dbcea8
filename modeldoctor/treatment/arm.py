"""One arm of a trial under one seed: fine-tune, choose the epoch on validation, go on after an interruption.

Shapes: B images, S images of a split, N classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.config import TreatConfig
from modeldoctor.data import make_loader
from modeldoctor.errors import InterruptedRunError, ModelDoctorWarning
from modeldoctor.files import written_aside
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.interrupts import StopRequest
from modeldoctor.treatment.batches import TrainingBatch, training_batches
from modeldoctor.treatment.parts import Part
from modeldoctor.treatment.penalty import Penalty

Progress = Callable[[str, int, int | None], None]
_START_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """A row of `history.csv`; NaN for a constraint that is not in the arm."""

    arm: str
    seed: int
    epoch: int
    loss: float
    channel: float
    space: float
    val_accuracy: float


@dataclass
class Progressed:
    """Where an arm stands after its last whole epoch; all that resuming needs, as draws depend on seed and epoch.

    Attributes:
        network, optimizer: their state dicts.
        best: the network's at the best epoch so far; None before the first.
        best_accuracy: on validation.
        start: the constraints' values when treatment began.
        history: epochs done.
        ended: the loss became NaN.
    """

    network: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    best: dict[str, Tensor] | None = None
    best_accuracy: float = -1.0
    start: dict[tuple[str, str], float] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    ended: bool = False


@dataclass
class Arm:
    """What one run of an arm needs.

    Attributes:
        name, seed: which run it is.
        network: the module whose weights are trained; in eval mode.
        trainable: its captured twin, which shares the weights.
        original: its weights before treatment.
        penalty: None for an arm without constraints.
        change_masks: what the arm does to the masks of a batch.
        train, val: parts of the data.
        annotated: indices of annotated training images.
        config: of the treatment.
        device: of the network.
        state_path: where the run is kept after every epoch.
        progress, stop: as in a diagnosis.
        after_epoch: told the arm's history whenever it has grown.
    """

    name: str
    seed: int
    network: nn.Module
    trainable: TrainableNetwork
    original: dict[str, Tensor]
    penalty: Penalty | None
    change_masks: Callable[[Tensor, int], Tensor] | None
    train: Part
    val: Part
    annotated: NDArray[np.int64]
    config: TreatConfig
    device: torch.device
    state_path: Path
    progress: Progress
    stop: StopRequest
    after_epoch: Callable[[list[Epoch]], None]

    def run(self) -> Progressed:
        """Train to the last epoch, or go on to it.

        Raises:
            InterruptedRunError: the user asked to stop; whole epochs are kept.
        """
        done = self._load()
        self.network.load_state_dict(done.network)
        optimizer = self._optimizer(done)
        if self.penalty and not done.start:
            done.start = self._measure_start()
        if self.penalty:
            self.penalty.start = done.start
        for epoch in range(len(done.history), self.config.training.epochs):
            if done.ended:
                break
            self._epoch(done, optimizer, epoch)
            self._save(done)
            self.after_epoch(done.history)
        return done

    def _epoch(self, done: Progressed, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        batches = self._steps_per_epoch()
        schedule = CosineLRScheduler(
            optimizer, t_initial=self.config.training.epochs * batches, t_in_epochs=False, lr_min=0.0
        )
        sums = np.zeros(3)
        for step, batch in enumerate(self._batches(epoch)):
            schedule.step_update(epoch * batches + step)
            figures = self._step(batch, optimizer, epoch * batches + step)
            if figures is None:
                self._end(done, epoch)
                return
            sums += figures
            stage = f"{self.name}, seed {self.seed}"
            self.progress(stage, epoch * batches + step + 1, self.config.training.epochs * batches)
            if self.stop.requested:
                raise InterruptedRunError(
                    f"interrupted in epoch {epoch + 1} of {stage}",
                    where=f"whole epochs are kept in {self.state_path.parent}",
                    hint="the same command with --resume goes on from the last whole epoch",
                )
        accuracy = float(np.mean(predict_part(self.network, self.val, self.config, self.device) == self.val.labels))
        loss, channel, space = (sums / batches).tolist()
        done.history.append(
            Epoch(arm=self.name, seed=self.seed, epoch=epoch + 1, loss=loss, channel=channel, space=space,
                  val_accuracy=accuracy)
        )  # fmt: skip
        done.network, done.optimizer = _copy(self.network), optimizer.state_dict()
        if accuracy > done.best_accuracy:
            done.best, done.best_accuracy = done.network, accuracy

    def _step(self, batch: TrainingBatch, optimizer: torch.optim.Optimizer, number: int) -> NDArray[np.float64] | None:
        """One update; the loss and the constraints' relative values, or None if it is not finite."""
        logits, cuts = self.trainable.training_pass(batch.images, self.penalty.layers if self.penalty else ())
        loss = F.cross_entropy(logits, batch.labels)
        terms = self.penalty.terms(logits, cuts, batch, noise_seed(self.seed, number)) if self.penalty else {}
        total = loss + self.penalty.total(terms).to(loss) if self.penalty else loss
        if not math.isfinite(float(total.detach())):
            return None
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.training.clip_norm)
        optimizer.step()
        values = {"channel": math.nan, "space": math.nan}
        for (kind, layer), term in terms.items():
            relative = float(term.detach()) / (self.penalty.start.get((kind, layer), 1.0) if self.penalty else 1.0)
            values[kind] = relative + (0.0 if math.isnan(values[kind]) else values[kind])
        return np.array([float(loss.detach()), values["channel"], values["space"]])

    def _measure_start(self) -> dict[tuple[str, str], float]:
        """Each constraint's mean over the first batches, before anything is changed."""
        assert self.penalty is not None
        sums: dict[tuple[str, str], list[float]] = {}
        before = _copy(self.network)
        for step, batch in zip(range(_START_BATCHES), self._batches(0), strict=False):
            logits, cuts = self.trainable.training_pass(batch.images, self.penalty.layers)
            for key, term in self.penalty.terms(logits, cuts, batch, noise_seed(self.seed, step)).items():
                sums.setdefault(key, []).append(float(term.detach()))
        self.network.load_state_dict(before)  # the passes moved BatchNorm's statistics
        return {key: max(float(np.mean(values)), 1e-12) for key, values in sums.items()}

    def _batches(self, epoch: int) -> Iterator[TrainingBatch]:
        for batch in training_batches(
            self.train.images,
            self.train.indices,
            self.annotated,
            self.config.training,
            share=self.config.space.annotated_share,
            seed=self.seed,
            epoch=epoch,
            workers=self.config.workers,
        ):
            masks = self.change_masks(batch.masks, batch.keys[0]) if self.change_masks else batch.masks
            moved = {"images": batch.images, "labels": batch.labels, "masks": masks, "annotated": batch.annotated}
            yield TrainingBatch(keys=batch.keys, **{name: one.to(self.device) for name, one in moved.items()})

    def _steps_per_epoch(self) -> int:
        return max(1, len(self.train.indices) // self.config.training.batch_size)

    def _optimizer(self, done: Progressed) -> torch.optim.Optimizer:
        training = self.config.training
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            self.network,
            opt=training.optimizer,
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            momentum=training.momentum,
        )
        if done.optimizer is not None:
            optimizer.load_state_dict(done.optimizer)
        return optimizer

    def _end(self, done: Progressed, epoch: int) -> None:
        done.ended = True
        warnings.warn(
            f"{self.name}, seed {self.seed}: the loss became NaN or infinite in epoch {epoch + 1}; the arm ends with "
            f"its best epoch so far. A smaller learning rate or weight may help",
            ModelDoctorWarning,
            stacklevel=2,
        )
        self.network.load_state_dict(done.network)

    def _save(self, done: Progressed) -> None:
        content = {**vars(done), "history": [asdict(epoch) for epoch in done.history]}
        with written_aside(self.state_path) as aside:
            torch.save(content, aside)

    def _load(self) -> Progressed:
        if not self.state_path.exists():
            return Progressed(network=self.original)
        content = torch.load(self.state_path, weights_only=True, map_location="cpu")
        return Progressed(**{**content, "history": [Epoch(**epoch) for epoch in content["history"]]})


def predict_part(network: nn.Module, part: Part, config: TreatConfig, device: torch.device) -> NDArray[np.int64]:
    """Predicted classes (S,) of a part's images, -1 for one that cannot be read.

    Args:
        network: in eval mode.
    """
    predicted = np.full(len(part.indices), -1, dtype=np.int64)
    size = config.training.batch_size
    with torch.no_grad():
        for batch in make_loader(part.images, part.indices, batch_size=size, workers=config.workers):
            if len(batch.labels):
                rows = np.searchsorted(part.indices, batch.indices.numpy())
                predicted[rows] = network(batch.images.to(device)).argmax(1).cpu().numpy()
    return predicted


def noise_seed(seed: int, step: int) -> int:
    """The seed of one step's noise draws."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
