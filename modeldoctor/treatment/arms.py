"""The arms of a trial: what each one constrains, and one run of each under every seed.

Shapes: N classes, K channels.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import ModelDoctorWarning, UsageError
from modeldoctor.graph import Layer, select_layers
from modeldoctor.method.attribution import Attribution
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.runtime.memory import BatchLimit, steady_budget
from modeldoctor.treatment.arm import Arm, TrialContext, predict_subset
from modeldoctor.treatment.arm_state import ArmState
from modeldoctor.treatment.background import MOSTLY, background_shares
from modeldoctor.treatment.budget import Stopped, Times, arms_with
from modeldoctor.treatment.copies import measure_copies, plan_copies
from modeldoctor.treatment.history import History
from modeldoctor.treatment.keep import Keep
from modeldoctor.treatment.penalty import Penalty
from modeldoctor.treatment.pilot import open_weights, with_weights
from modeldoctor.treatment.remedies import MAKERS, Remedy, RunContext
from modeldoctor.treatment.subsets import as_diagnosed, check_read, needs_predictions


class Arms:
    """Makes and runs the arms.

    Args:
        context: what they share.
        diagnosis: what their constraints are made from.
        history: is told of every epoch.

    Attributes:
        annotations: how many annotated images each arm that has run uses.
    """

    def __init__(self, context: TrialContext, diagnosis: Diagnosis, history: History):
        self._context, self._diagnosis, self._history = context, diagnosis, history
        self._rows: dict[tuple[Layer, ...], dict[str, BatchLimit]] = {}
        self._kernels: dict[tuple[Layer, ...], dict[str, Tensor]] = {}
        self._keep: Keep | None = None
        self.annotations: dict[str, int] = {}
        self._predicted = as_diagnosed(context.splits.train, diagnosis)

    def measure(self, config: TreatConfig) -> Times:
        """How long an epoch of each arm takes; a constraint that is still to be weighed counts as weighed.

        Raises:
            UsageError: the diagnosis lacks a layer that is to be constrained.
        """
        self._check_predictions(config)
        context, val, test = self._context, self._context.splits.val, self._context.splits.test
        config = with_weights(config, dict.fromkeys(open_weights(config), 1.0))
        began = time.perf_counter()
        predict_subset(context.network, val, config, context.device, context.team)
        per_image = max(context.team.all_gather(time.perf_counter() - began)) / len(val.indices)
        seed = config.seeds[0]
        epoch = {
            name: Arm(
                name=name, seed=seed, context=context, config=config, remedy=self.remedy(name, seed, config)
            ).seconds_per_epoch() + per_image * len(val.indices)
            for name in config.arms
        }  # fmt: skip
        return Times(epoch=epoch, test=per_image * len(test.indices))

    def halve(self, config: TreatConfig) -> tuple[TreatConfig, list[Stopped]]:
        """The configuration with the arms that `config.rounds` leave, and the remedies that they stop.

        Every remedy is trained under the first seed for a round's epochs; those that did best on validation go on, the
        first of equals. They train on from there in `run`.
        """
        self._check_predictions(config)
        seed, remedies, stopped = config.seeds[0], tuple(config.controls), list[Stopped]()
        for this in config.rounds or ():
            scores = {
                name: self._run(self.remedy(name, seed, config), seed, config, name, this.epochs).score_by(this.epochs)
                for name in remedies
            }
            ranked = sorted(remedies, key=lambda name: -scores[name])
            least = scores[ranked[this.remedies - 1]]
            stopped += [
                Stopped(arm=name, epochs=this.epochs, score=scores[name], least=least)
                for name in ranked[this.remedies :]
            ]
            remedies = tuple(name for name in remedies if name in ranked[: this.remedies])
        return (config.model_copy(update={"arms": arms_with(remedies, config)}) if stopped else config), stopped

    def _check_predictions(self, config: TreatConfig) -> None:
        if needs_predictions(config):
            check_read(self._context.splits.train, self._diagnosis)

    def run(self, config: TreatConfig) -> dict[str, list[ArmState]]:
        """One run of every arm under every seed, by arm.

        Raises:
            UsageError: the diagnosis lacks a layer that is to be constrained.
            InterruptedRunError: Ctrl-C; whole epochs are kept.
        """
        self._check_predictions(config)
        runs: dict[str, list[ArmState]] = {}
        planned = list(product(config.seeds, config.arms))
        # All are made before any is trained: what cannot be done is refused at once.
        remedies = [self.remedy(name, seed, config) for seed, name in planned]
        for (seed, name), remedy in zip(planned, remedies, strict=True):
            runs.setdefault(name, []).append(self._run(remedy, seed, config, name))
        return runs

    def pilot(self, name: str, config: TreatConfig) -> ArmState:
        """A run of `treat` under the first seed and a name of its own."""
        return self._run(self.remedy("treat", config.seeds[0], config), config.seeds[0], config, name)

    def _run(self, remedy: Remedy, seed: int, config: TreatConfig, name: str, epochs: int | None = None) -> ArmState:
        self.annotations[name] = remedy.annotations
        done = Arm(
            name=name,
            seed=seed,
            context=self._context,
            config=config,
            remedy=remedy,
            epochs=epochs,
            after_epoch=self._history.grown,
        ).run()
        self._history.ended(done.history)
        # What is needed for going on is on the disk; only what is judged stays in memory.
        return replace(done, network={}, optimisation=None)

    def remedy(self, arm: str, seed: int, config: TreatConfig) -> Remedy:
        """What an arm does under a seed."""
        context = self._context
        context.network.load_state_dict(context.original)
        return MAKERS[arm](
            RunContext(
                config=config, seed=seed, train=context.splits.train, annotated=context.annotated,
                by_hand=context.by_hand, predicted=self._predicted, network=context.network,
                trainable=context.trainable, make_penalty=lambda change: self._penalty(config, change),
            )
        )  # fmt: skip

    def _penalty(self, config: TreatConfig, change: Callable[[Tensor], Tensor]) -> Penalty:
        layers = self._context.trainable.layers
        channel = select_layers(layers, config.channel.layers) if config.channel.weight else ()
        space = select_layers(layers, config.space.layers) if config.space.weight else ()
        self._check_diagnosed((*channel, *space))
        correlated = {name: change(mask) for name, mask in self._correlated(channel, config).items()}
        return Penalty(
            config=config,
            channel_layers=channel,
            space_layers=space,
            correlated=correlated,
            scales={layer.name: self._diagnosis[layer.name].activation_std for layer in (*channel, *space)},
            expand_px=self._expand_px(config),
            rows=self._copies_at_once(config, channel, space),
            keep=self._kept(config) if space and config.space.keep else None,
            team=self._context.team,
        )

    def _kept(self, config: TreatConfig) -> Keep:
        """The same for all arms and seeds; the network has its original weights."""
        if self._keep is None:
            self._keep = Keep(
                self._context.network, self._context.example, weight=config.space.keep,
                expand_px=self._expand_px(config),
            )  # fmt: skip
        return self._keep

    def _copies_at_once(
        self, config: TreatConfig, channel: tuple[Layer, ...], space: tuple[Layer, ...]
    ) -> dict[str, BatchLimit]:
        """By layer, the same for every arm and seed; none for one with a closed form.

        Raises:
            MemoryLimitError: the memory that the configuration gives is too small for a step.
        """
        context, layers = self._context, tuple(dict.fromkeys((*channel, *space)))
        if layers not in self._rows:
            wanted = {Attribution(config.space.attribution): 1} if space else {}
            wanted |= {Attribution(config.channel.attribution): 2} if channel else {}
            context.network.load_state_dict(context.original)
            found = measure_copies(context.trainable, layers, wanted, context.example, context.progress)
            context.network.load_state_dict(context.original)  # the passes moved BatchNorm's statistics
            budget = config.memory or steady_budget(context.device, context.team.local_world_size)
            batch = -(-(config.training.batch_size or 1) // context.team.world_size)
            self._rows[layers] = plan_copies(*found, budget, batch, context.device, strict=config.memory is not None)
        return self._rows[layers]

    def _correlated(self, layers: tuple[Layer, ...], config: TreatConfig) -> dict[str, Tensor]:
        """By layer (N,K), the kernels that a class may depend on; the same for every arm and seed."""
        if layers not in self._kernels:
            self._kernels[layers] = self._find_correlated(layers, config)
        return self._kernels[layers]

    def _find_correlated(self, layers: tuple[Layer, ...], config: TreatConfig) -> dict[str, Tensor]:
        threshold = self._diagnosis.config.threshold
        found = {layer.name: torch.from_numpy(self._diagnosis[layer.name].correlated(threshold)) for layer in layers}
        if not config.channel.exclude_background or not layers:
            return found
        context, size = self._context, config.training.batch_size
        assert size is not None
        context.network.load_state_dict(context.original)
        shares = background_shares(
            context.trainable, layers, context.splits.train, context.annotated, classes=len(self._diagnosis.classes),
            expand_px=self._expand_px(config), batch_size=size, workers=config.workers, device=context.device,
        )  # fmt: skip
        kept = {name: mask & ~(shares[name] > MOSTLY) for name, mask in found.items()}
        for name, mask in kept.items():
            if bare := int((~mask.any(1) & found[name].any(1)).sum()):
                warnings.warn(
                    f"{name}: all correlated kernels of {bare} classes look at the background, so none is left to them",
                    ModelDoctorWarning,
                    stacklevel=2,
                )
        return kept

    def _expand_px(self, config: TreatConfig) -> int:
        height, width = self._context.splits.train.images.preprocessing.input_size[1:]
        return round(config.space.expand_px * min(height, width) / 224)

    def _check_diagnosed(self, layers: tuple[Layer, ...]) -> None:
        absent = [layer.name for layer in layers if layer.name not in self._diagnosis.layers]
        if absent:
            raise UsageError(
                f"the diagnosis has no layer {', '.join(absent)}",
                where="the diagnosis",
                expected=f"one of {', '.join(self._diagnosis.layers)}",
                hint=f"diagnose with --layers {','.join(absent)}, or constrain a layer that was diagnosed",
            )
