"""The constraints of a configuration as one penalty on a training pass, Eq. 7.

Shapes: B images, J noise draws, K channels, H x W positions, N classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeldoctor.config.treat import TreatConfig
from modeldoctor.graph import Cut, Layer
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.constraints import (
    background_cells,
    channel_constraint,
    runner_up,
    space_constraint,
)
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.memory import BatchLimit
from modeldoctor.treatment.batches import OWN, TrainingBatch
from modeldoctor.treatment.keep import Keep


@dataclass
class Penalty:
    """Σ_r α L_ch^r / its start + Σ_r β L_sp^r / its start, and λ times the mean over layers of the keep term.

    Attributes:
        config: weights, layers, noise.
        channel_layers, space_layers: S_ch and S_sp.
        correlated: by channel layer (N,K) bool, whether Â[n,k] >= v.
        scales: activation standard deviation by layer.
        expand_px: pixels of the network's input.
        rows: how many noise copies run at once, by layer; none for one with a closed form.
        keep: the original, where what it gets right is kept near it; None leaves that out.
        team: processes that each hold a share of every batch; means are over the images of all.
        start: each constraint's value when treatment began, by (constraint, layer); 1 until it is measured, and for the
            keep term, which is 0 there.
    """

    config: TreatConfig
    channel_layers: tuple[Layer, ...]
    space_layers: tuple[Layer, ...]
    correlated: dict[str, Tensor]
    scales: dict[str, float]
    expand_px: int
    rows: dict[str, BatchLimit]
    keep: Keep | None = None
    team: Team = field(default_factory=Team)
    start: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer that is cut at, once, in execution order."""
        return tuple(dict.fromkeys((*self.channel_layers, *self.space_layers)))

    def terms(self, logits: Tensor, cuts: list[Cut], batch: TrainingBatch, seed: int) -> dict[tuple[str, str], Tensor]:
        """Each constraint's mean over the images that it applies to; none of them for a constraint without images.

        An image counts by the trust in its mask, where a mask is used.

        In a team, this process's part of the mean: the parts of all add up to it.

        Args:
            logits: (B,N) of the training pass.
            cuts: of the same pass.
            batch: on the network's device.
            seed: of the noise.
        """
        terms, evidence = {}, dict[str, Tensor]()
        annotated = int(self.team.all_reduce(batch.annotated.sum()))
        of_channel, of_space = (
            Attribution(constraint.attribution) for constraint in (self.config.channel, self.config.space)
        )
        for cut in cuts:
            name, classes, wanted = cut.layer.name, [batch.labels], dict[Attribution, int]()
            if cut.layer in self.space_layers and annotated:
                wanted[of_space] = 1
            if cut.layer in self.channel_layers:
                classes.append(runner_up(logits, batch.labels))
                wanted[of_channel] = 2
            if not wanted:
                continue
            noise = self._noise(cut, batch.keys, seed)
            found = attribute(
                cut, torch.stack(classes), noise, wanted, self.rows.get(name, BatchLimit(batch.whole, name))
            )
            if cut.layer in self.channel_layers:
                own, second = found[of_channel]
                correlated = self.correlated[name].to(own.device)[batch.labels]
                values = channel_constraint(own, second, correlated)
                terms["channel", name] = values[batch.version == OWN].sum() / batch.whole
            if cut.layer in self.space_layers and annotated:
                own = found[of_space][0]
                evidence[name] = own.sum(1)
                height, width = own.shape[-2:]
                background = background_cells(batch.masks, self.expand_px, (height, width))
                outside = space_constraint(own, background, of_space)
                terms["space", name] = (batch.trust * outside)[batch.annotated].sum() / annotated
        if self.keep and evidence:
            number = max(int(self.team.all_reduce((batch.annotated & (batch.version == OWN)).sum())), 1)

            def attributed(cut: Cut, labels: Tensor, keys: Sequence[int]) -> Tensor:
                limit = self.rows.get(cut.layer.name, BatchLimit(batch.whole, cut.layer.name))
                return attribute(cut, labels[None], self._noise(cut, keys, seed), {of_space: 1}, limit)[of_space][0]

            for name, summed in self.keep.terms(logits, evidence, batch, attributed).items():
                terms["keep", name] = summed / number
        return terms

    def total(self, terms: dict[tuple[str, str], Tensor]) -> Tensor:
        """Eq. 7 without the original loss."""
        weights = {"channel": self.config.channel.weight, "space": self.config.space.weight}
        weights["keep"] = self.keep.weight / len(self.space_layers) if self.keep else 0.0
        parts = [float(weights[key[0]]) * term / self.start.get(key, 1.0) for key, term in terms.items()]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    def relative(self, terms: dict[tuple[str, str], Tensor]) -> tuple[float, float]:
        """Channel and space constraint, summed over layers, in units of their start; NaN where there is none."""
        found = {"channel": math.nan, "space": math.nan}
        for key, term in ((key, term) for key, term in terms.items() if key[0] in found):
            before = 0.0 if math.isnan(found[key[0]]) else found[key[0]]
            found[key[0]] = before + float(term.detach()) / self.start.get(key, 1.0)
        return found["channel"], found["space"]

    def _noise(self, cut: Cut, keys: Sequence[int], seed: int) -> Tensor | None:
        if not self.config.noise_draws:
            return None
        delta = self.config.delta * self.scales[cut.layer.name]
        noise = Noise(seed=seed, delta=delta, stream="treatment")
        return noise.draw(cut.layer.name, keys, range(self.config.noise_draws), cut.maps)
