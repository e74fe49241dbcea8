"""One arm of a trial under one seed: fine-tune, choose the epoch on validation, go on after an interruption.

Shapes: B images, S images of a split, N classes.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import make_loader
from modeldoctor.errors import InterruptedRunError, ModelDoctorWarning
from modeldoctor.graph import logits_of
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.interrupts import StopRequest
from modeldoctor.runtime.memory import told_when_short
from modeldoctor.runtime.progress import Progress
from modeldoctor.treatment.arm_state import ArmState, Epoch, load_state, refuse_state, save_state
from modeldoctor.treatment.batches import TrainingBatch, steps_per_epoch, training_batches
from modeldoctor.treatment.copies import LESS_AT_ONCE
from modeldoctor.treatment.optimisation import Optimisation
from modeldoctor.treatment.penalty import Penalty
from modeldoctor.treatment.remedies import Remedy
from modeldoctor.treatment.subsets import Splits, Subset

_START_BATCHES = 4
_TIMED = 4


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What all runs of a trial share.

    Attributes:
        network: the module whose weights are trained; in eval mode.
        trainable: its captured twin, which shares the weights.
        example: two images (2,C,H,W) of noise, to measure with.
        original: its weights before treatment.
        splits: of the data.
        annotated: indices of the training images whose masks are used.
        by_hand: how many of these a person annotated.
        device: of the network.
        team: the processes that each take a share of every batch; the first alone writes.
        states: the folder where runs are kept after every epoch.
        progress, stop: as in a diagnosis.
    """

    network: nn.Module
    trainable: TrainableNetwork
    example: Tensor
    original: dict[str, Tensor]
    splits: Splits
    annotated: NDArray[np.int64]
    by_hand: int
    device: torch.device
    states: Path
    progress: Progress
    stop: StopRequest
    team: Team = field(default_factory=Team)

    def stop_if_asked(self, where: str) -> None:
        """End here if the user, or any process's scheduler, asked for it.

        Raises:
            InterruptedRunError: with `where` in its message.
        """
        if any(self.team.all_gather(self.stop.requested)):
            raise InterruptedRunError(
                f"interrupted in {where}",
                where=f"whole epochs are kept in {self.states}",
                hint="the same command with --resume goes on from the last whole epoch",
            )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run.

    Attributes:
        name, seed: which it is.
        config: resolved; a pilot's differs from the trial's.
        remedy: what is its own in the training that all arms share.
        epochs: after which it stops for now; None: those of the configuration.
        after_epoch: told the run's history whenever it has grown.
    """

    name: str
    seed: int
    context: TrialContext
    config: TreatConfig
    remedy: Remedy
    epochs: int | None = None
    after_epoch: Callable[[list[Epoch]], None] = lambda history: None

    def run(self) -> ArmState:
        """Train to the last epoch, or go on to it.

        Raises:
            InterruptedRunError: the user asked to stop; whole epochs are kept.
            MemoryLimitError: a step takes more memory than there is; whole epochs are kept.
        """
        done = self._load()
        self.context.network.load_state_dict(done.network)
        self.context.network.zero_grad(set_to_none=True)  # an arm that ended in NaN leaves a half-made step
        self.remedy.hold(self.context.network)
        with self._frozen_body():
            self._train(done)
        return done

    def seconds_per_epoch(self) -> float:
        """Measured on the first steps, validation apart; the network is as before."""
        self.context.network.load_state_dict(self.context.original)
        optimisation, marks = Optimisation(self.context.network, self.config.training, self._updates()), []
        with self._frozen_body(), told_when_short(f"the first steps of {self.name}", LESS_AT_ONCE):
            for number, batch in enumerate(islice(self._batches(0), 1 + _TIMED)):
                self._add_gradient(batch, optimisation, number)
                self._update(optimisation, 0)
                marks.append(time.perf_counter())
                self.context.progress(f"how long an epoch of {self.name} takes", number, 1 + _TIMED)
        self.context.network.load_state_dict(self.context.original)
        # The first step is slower than the others: it starts the processes that read.
        step = float(np.median(np.diff(marks))) if len(marks) > 1 else 0.0
        return max(self.context.team.all_gather(step * self._steps()))

    @contextmanager
    def _frozen_body(self) -> Iterator[None]:
        """Where the head alone is trained, nothing else gets a gradient."""
        parameters = list(self.context.network.parameters())
        if not self.remedy.head_only:
            yield
            return
        head = {id(parameter) for parameter in self.context.trainable.head_parameters()}
        before = [parameter.requires_grad for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.requires_grad_(parameter.requires_grad and id(parameter) in head)
            yield
        finally:
            for parameter, required in zip(parameters, before, strict=True):
                parameter.requires_grad_(required)

    @property
    def _by_batch(self) -> bool:
        """Whether BatchNorm takes each batch's statistics."""
        return self.config.training.batch_norm == "batch" and not self.remedy.head_only

    def _train(self, done: ArmState) -> None:
        optimisation = Optimisation(self.context.network, self.config.training, self._updates())
        if done.optimisation is not None:
            try:
                optimisation.load_state_dict(done.optimisation)
            except Exception as error:  # whatever is in the file
                refuse_state(self._state_path, f"its optimizer is another's: {error}", error)
        if penalty := self.remedy.penalty:
            with told_when_short(f"the start of {self.name}, seed {self.seed}", LESS_AT_ONCE):
                done.start = done.start or self._measure_start(penalty)
            penalty.start = done.start
        for epoch in range(len(done.history), self.epochs or self.config.training.epochs):
            if done.ended:
                break
            began = time.perf_counter()
            with told_when_short(f"epoch {epoch + 1} of {self.name}, seed {self.seed}", LESS_AT_ONCE):
                self._epoch(done, optimisation, epoch)
            done.seconds += time.perf_counter() - began
            self._save(done)
            if not done.ended:
                self.after_epoch(done.history)

    def _epoch(self, done: ArmState, optimisation: Optimisation, epoch: int) -> None:
        sums, steps = np.zeros(3), 0
        for steps, batch in enumerate(self._batches(epoch), start=1):
            figures = self._add_gradient(batch, optimisation, epoch * self._steps() + steps - 1)
            if figures is None:
                self._end(done, epoch)
                return
            sums += figures
            if steps % self.config.training.accumulate == 0:
                self._update(optimisation, epoch * self._updates() + steps // self.config.training.accumulate - 1)
            self._after_step(epoch, steps, sums / steps)
        if steps % self.config.training.accumulate:
            self._update(optimisation, (epoch + 1) * self._updates() - 1)
        right, score = self._judge(optimisation.judged)
        loss, channel, space = (sums / max(steps, 1)).tolist()
        done.history.append(
            Epoch(arm=self.name, seed=self.seed, epoch=epoch + 1, learning_rate=optimisation.learning_rate, loss=loss,
                  channel=channel, space=space, val_accuracy=right, val_score=score)
        )  # fmt: skip
        done.network, done.optimisation = copied(self.context.network), optimisation.state_dict()
        if score > done.best_score:
            done.best, done.best_score = copied(optimisation.judged), score

    def _add_gradient(
        self, batch: TrainingBatch, optimisation: Optimisation, number: int
    ) -> NDArray[np.float64] | None:
        """The loss and the constraints' relative values of one batch, or None if it is not finite."""
        penalty, team = self.remedy.penalty, self.context.team
        with optimisation.forward_type():
            logits, cuts = self.context.trainable.training_pass(
                batch.images, penalty.layers if penalty else (), statistics=self._by_batch
            )
        smoothing = self.config.training.label_smoothing or 0.0
        loss = self.context.trainable.loss(logits, lambda output: batch.loss(output.float(), smoothing))
        if self.remedy.loss:
            loss = loss + self.remedy.loss(logits, batch)
        terms = penalty.terms(logits, cuts, batch, noise_seed(self.seed, number)) if penalty else {}
        total = loss + penalty.total(terms).to(loss) if penalty else loss
        if not math.isfinite(float(team.all_reduce(total))):
            return None
        optimisation.add_gradient(total, self._batches_of_step(number % self._steps()))
        terms = {key: team.all_reduce(term) for key, term in terms.items()}
        return np.array([float(team.all_reduce(loss)), *(penalty.relative(terms) if penalty else (math.nan, math.nan))])

    def _update(self, optimisation: Optimisation, number: int) -> None:
        self.context.team.all_reduce_gradients(self.context.network.parameters())
        optimisation.update(number)
        self.remedy.hold(self.context.network)

    def _after_step(self, epoch: int, steps: int, means: NDArray[np.float64]) -> None:
        stage, total = f"{self.name}, seed {self.seed}", self.config.training.epochs * self._steps()
        figures = zip(("loss", "channel", "space"), means.tolist(), strict=True)
        said = ", ".join(f"{name} {value:.2f}" for name, value in figures if not math.isnan(value))
        self.context.progress(f"{stage} · {said}", epoch * self._steps() + steps, total)
        self.context.stop_if_asked(f"epoch {epoch + 1} of {stage}")

    def _judge(self, network: nn.Module) -> tuple[float, float]:
        """Accuracy and the metric that chooses, on validation."""
        val = self.context.splits.val
        predicted = predict_subset(network, val, self.config, self.context.device, self.context.team)
        score = val.score(predicted, self.config.metric)
        return float(np.mean((predicted == val.labels)[predicted >= 0])), score

    def _measure_start(self, penalty: Penalty) -> dict[tuple[str, str], float]:
        """Each constraint's mean over the first batches that it applies to, before anything is changed."""
        team, found = self.context.team, dict[tuple[str, str], list[float]]()  # the keep term begins at 0
        found |= {("channel", layer.name): [] for layer in penalty.channel_layers}
        found |= {("space", layer.name): [] for layer in penalty.space_layers}
        for step, batch in enumerate(self._batches(0)):
            # Of few annotated images the first may come late.
            if step < _START_BATCHES or int(team.all_reduce(batch.annotated.sum())):
                logits, cuts = self.context.trainable.training_pass(
                    batch.images, penalty.layers, statistics=self._by_batch
                )
                for key, term in penalty.terms(logits, cuts, batch, noise_seed(self.seed, step)).items():
                    value = float(team.all_reduce(term))
                    if key in found and len(found[key]) < _START_BATCHES:
                        found[key].append(value)
            if all(len(values) == _START_BATCHES for values in found.values()):
                break
        self.context.network.load_state_dict(self.context.original)  # the passes moved BatchNorm's statistics
        return {key: max(float(np.mean(values)), 1e-12) for key, values in found.items() if values}

    def _batches(self, epoch: int) -> Iterator[TrainingBatch]:
        context, remedy = self.context, self.remedy
        for batch in training_batches(
            context.splits.train, remedy.drawn, self.config, seed=self.seed, epoch=epoch, device=context.device,
            chances=remedy.chances, team=context.team,
        ):  # fmt: skip
            yield remedy.change(batch, noise_seed(self.seed, epoch)) if remedy.change else batch

    def _steps(self) -> int:
        assert self.config.training.batch_size is not None
        return steps_per_epoch(len(self.context.splits.train.indices), self.config.training.batch_size)

    def _batches_of_step(self, step: int) -> int:
        """Of how many batches the update is the mean that the batch of this number in its epoch belongs to."""
        accumulate = self.config.training.accumulate
        return min(accumulate, self._steps() - step // accumulate * accumulate)

    def _updates(self) -> int:
        return -(-self._steps() // self.config.training.accumulate)

    def _end(self, done: ArmState, epoch: int) -> None:
        done.ended = True
        warnings.warn(
            f"{self.name}, seed {self.seed}: the loss became NaN or infinite in epoch {epoch + 1}; the arm ends with "
            f"its best epoch so far. A smaller learning rate or weight may help",
            ModelDoctorWarning,
            stacklevel=2,
        )

    @property
    def _state_path(self) -> Path:
        return self.context.states / f"{self.name}-{self.seed}.pt"

    def _save(self, done: ArmState) -> None:
        if not self.context.team.is_primary:
            return
        save_state(self._state_path, done)

    def _load(self) -> ArmState:
        if not self._state_path.exists():
            return ArmState(network=self.context.original)
        done = load_state(self._state_path, self.context.original)
        asked = [(self.name, self.seed, epoch + 1) for epoch in range(self.config.training.epochs)]
        told = [(epoch.arm, epoch.seed, epoch.epoch) for epoch in done.history]
        if told != asked[: len(told)]:
            refuse_state(self._state_path, f"its epochs are not those of {self.name}, seed {self.seed}")
        return done


def predict_subset(
    network: nn.Module, part: Subset, config: TreatConfig, device: torch.device, team: Team | None = None
) -> NDArray[np.int64]:
    """Predicted classes (S,) of a part's images, -1 for one that cannot be read.

    Args:
        network: in eval mode.
        team: processes that each take a share of the images.
    """
    team = team or Team()
    mine = replace(part, indices=part.indices[team.shard(len(part.indices))])
    predicted = np.full(len(mine.indices), -1, dtype=np.int64)
    for indices, answers, _ in answered(network, mine, config, device):
        predicted[np.searchsorted(mine.indices, indices)] = answers
    return np.concatenate(team.all_gather(predicted))


def answered(
    network: nn.Module, part: Subset, config: TreatConfig, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Batch by batch, of the images that can be read: indices, predicted classes and confidence, (B,) each; no masks.

    An answer that is no finite number is of none of the N classes: N.

    Args:
        network: in eval mode.
    """
    size = config.training.batch_size
    assert size is not None  # resolved
    loader = make_loader(
        part.images.masked_at(()), part.indices, batch_size=size, workers=config.workers, device=device
    )
    for batch in loader:
        if len(batch.labels):
            with torch.no_grad():
                logits = logits_of(network, batch.images.to(device)).float()
            confidence = logits.softmax(1).amax(1)
            # argmax would answer NaN with the first class, which may be that of most images.
            classes = logits.argmax(1).where(confidence.isfinite(), logits.shape[1])
            yield batch.indices.numpy(), classes.cpu().numpy(), confidence.cpu().numpy()


def noise_seed(seed: int, step: int) -> int:
    """The seed of one step's noise draws."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def copied(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights and buffers, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
