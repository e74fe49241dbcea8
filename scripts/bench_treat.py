"""A training step with constraints beside a plain one: medians and their ratio, in one run.

scripts/bench_treat.py --arch torchvision/resnet50 --batch-size 32 --noise-draws 10
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import timm
import torch
import torchvision
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.constraints import Attribution, attribute, channel_constraint, runner_up, space_constraint
from modeldoctor.correlation import Noise
from modeldoctor.graph import select_layers
from modeldoctor.graph.trainable import TrainableNetwork


def build(arch: str) -> nn.Module:
    library, _, name = arch.partition("/")
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    network: nn.Module = make(name)
    return network


def step(network: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Seconds of one update."""
    start = time.perf_counter()
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    if next(network.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(
    arch: str = "torchvision/resnet50",
    layers: str = "last",
    noise_draws: int = 10,
    input_size: int = 224,
    batch_size: int = 32,
    repeats: int = 3,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    attribution: Annotated[Attribution, typer.Option()] = Attribution.GRADIENT_X_ACTIVATION,
) -> None:
    """Time both steps alternately, after one of each that is not counted."""
    torch.manual_seed(0)
    network = build(arch).to(device)
    images = torch.randn(batch_size, 3, input_size, input_size, device=device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    trainable = TrainableNetwork(network, images[:2])
    chosen = select_layers(trainable.layers, layers)
    noise = Noise(seed=0, delta=0.01)

    def plain() -> Tensor:
        return F.cross_entropy(network.train()(images), labels)

    def constrained() -> Tensor:
        logits, cuts = trainable.training_pass(images, chosen)
        loss = F.cross_entropy(logits, labels)
        for cut in cuts:
            classes = torch.stack([labels, runner_up(logits, labels)])
            sigma = noise.draw(cut.layer.name, range(batch_size), range(noise_draws), cut.maps) if noise_draws else None
            own, second = attribute(cut, classes, sigma, attribution)
            background = torch.ones_like(own[:, 0])
            nothing = torch.zeros(own.shape[:2], dtype=torch.bool, device=device)
            loss = loss + 1e-6 * channel_constraint(own, second, nothing).mean()
            loss = loss + 1e-6 * space_constraint(own, background, attribution).mean()
        return loss

    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    times = [[step(network, way, optimizer) for way in (plain, constrained)] for _ in range(repeats + 1)][1:]
    base, dear = (median(column) for column in zip(*times, strict=True))
    table = Table(title=f"{arch}, {input_size} px, batch {batch_size}, {device}, torch {torch.__version__}")
    for head in ("layers", "J", "plain s", "both constraints s", "ratio"):
        table.add_column(head, justify="right")
    table.add_row(layers, str(noise_draws), f"{base:.3f}", f"{dear:.3f}", f"{dear / base:.2f}×")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
