#!/usr/bin/env python
"""A training step with constraints beside a plain one: medians and their ratio, in one run.

Both constraints with their default attributions at the same layers, every image annotated; the plain step is the
network's own in training mode.

scripts/bench_treat.py
scripts/bench_treat.py --arch torchvision/resnet50 --batch-size 32 --repeats 3
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import torch
import typer
from benching import NETWORKS, build, forward_flop, medians, show, title
from torch import Tensor
from torch.nn import functional as F

from modeldoctor.config.treat import TreatConfig
from modeldoctor.graph import Layer, select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution
from modeldoctor.runtime.memory import BatchLimit, steady_budget
from modeldoctor.treatment.batches import TrainingBatch
from modeldoctor.treatment.copies import measure_copies, plan_copies
from modeldoctor.treatment.penalty import Penalty


class Steps:
    """Both steps of one network on the same images."""

    def __init__(self, arch: str, images: Tensor):
        torch.manual_seed(0)
        self.images = images
        self.labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.network = build(arch).to(images.device)
        self.trainable = TrainableNetwork(self.network, images[:2])
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-6)

    def plain(self) -> None:
        """Cross-entropy alone."""
        self._update(F.cross_entropy(self.network.train()(self.images), self.labels))

    def constrained(self, layers: str, draws: int) -> Callable[[], None]:
        """Cross-entropy and both constraints, as a trial adds them."""
        batch, penalty = self._batch(), self._penalty(layers, draws)

        def step() -> None:
            logits, cuts = self.trainable.training_pass(self.images, penalty.layers)
            self._update(batch.loss(logits, 0.0) + penalty.total(penalty.terms(logits, cuts, batch, seed=0)))

        return step

    def _batch(self) -> TrainingBatch:
        number, device = len(self.images), self.images.device
        masks = torch.zeros(number, *self.images.shape[-2:], dtype=torch.bool, device=device)
        masks[:, ::2, ::2] = True
        return TrainingBatch(
            images=self.images, labels=self.labels, other_labels=self.labels, share=torch.ones(number, device=device),
            masks=masks, annotated=torch.ones(number, dtype=torch.bool, device=device), keys=tuple(range(number)),
            trust=torch.ones(number, device=device), weight=torch.ones(number, device=device),
            version=torch.zeros_like(self.labels), origin=torch.arange(number, device=device), whole=number,
        )  # fmt: skip

    def _penalty(self, layers: str, draws: int) -> Penalty:
        each = {"weight": 1e-6, "layers": layers}
        chosen = select_layers(self.trainable.layers, layers)
        return Penalty(
            config=TreatConfig(
                checkpoint="a.pt", data={"path": "b", "masks": "c"}, channel=each, space=each, noise_draws=draws
            ),
            channel_layers=chosen,
            space_layers=chosen,
            correlated={layer.name: torch.zeros(1, layer.channels, dtype=torch.bool) for layer in chosen},
            scales=dict.fromkeys((layer.name for layer in chosen), 1.0),
            expand_px=8,
            rows=self._rows(chosen),
        )

    def _rows(self, layers: tuple[Layer, ...]) -> dict[str, BatchLimit]:
        wanted = {Attribution.GRADIENT_X_ACTIVATION: 1, Attribution.GRADIENT: 2}
        found, device = measure_copies(self.trainable, layers, wanted, self.images[:2]), self.images.device
        return plan_copies(*found, steady_budget(device), len(self.images), device, strict=False)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def compare(archs: list[str], layers: str, draws: list[int], images: Tensor, repeats: int) -> Iterator[list[str]]:
    for arch in archs:
        steps = Steps(arch, images)
        plain, *dear = medians([steps.plain, *(steps.constrained(layers, number) for number in draws)], repeats)
        flop = 3.0 * forward_flop(steps.network.eval(), images)  # forward, and backward to data and weights
        for number, time in zip(draws, dear, strict=True):
            yield [
                arch, layers, str(number), f"{plain:.3f}", f"{time:.3f}", f"{time / plain:.2f}×",
                f"{flop / 1e9:,.0f}", f"{flop / plain / 1e9:.0f}",
            ]  # fmt: skip


def main(
    arch: Annotated[list[str], typer.Option(help="timm/NAME or torchvision/NAME; may be given again")] = list(NETWORKS),  # noqa: B006
    layers: str = "last",
    noise_draws: Annotated[list[int], typer.Option(help="J; may be given again")] = [0, 10],  # noqa: B006
    input_size: int = 224,
    batch_size: int = 16,
    repeats: int = 2,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Time the steps in turns, after one of each that is not counted."""
    torch.set_flush_denormal(True)
    images = torch.randn(batch_size, 3, input_size, input_size, device=device)
    show(
        title(f"A training step, {input_size} px, batch {batch_size}", device),
        ("network", "layers", "J", "plain s", "both constraints s", "ratio", "GFLOP of a plain step", "its GFLOP/s"),
        compare(arch, layers, noise_draws, images, repeats),
    )


if __name__ == "__main__":
    typer.run(main)
