#!/usr/bin/env python
"""What noise costs: a hash of each value's counter, beside a generator that is seeded for each image and draw.

Both keep the promise that batching changes nothing. One row for each shape of maps and number of draws.

scripts/bench_noise.py
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from benching import medians, show, title
from torch import Tensor

from modeldoctor.method.noise import Noise

SHAPES = ((16, 64, 112, 112), (16, 256, 56, 56), (16, 2048, 7, 7), (64, 64, 8, 8), (100, 128, 4, 4))


def seeded(like: Tensor, draws: int, delta: float) -> Tensor:
    """Uniform noise by one generator, whose seed is set for each image and draw."""
    batch, channels, height, width = like.shape
    generator = torch.Generator(like.device)
    noise = torch.empty(draws, batch, height, width, channels, device=like.device)
    for draw in range(draws):
        for image in range(batch):
            generator.manual_seed(draw * batch + image)
            noise[draw, image].uniform_(-delta, delta, generator=generator)
    return noise


def main(
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    draws: Annotated[int, typer.Option(help="J")] = 10,
    repeats: int = 5,
) -> None:
    """Medians, in nanoseconds a value."""
    rows, noise = [], Noise(seed=0, delta=0.1)
    for shape in SHAPES:
        like = torch.empty(shape, device=device)

        def hashed(like: Tensor = like) -> None:
            noise.draw("layer", range(len(like)), range(draws), like)

        def generated(like: Tensor = like) -> None:
            seeded(like, draws, noise.delta)

        ours, theirs = (1e9 * found / (draws * like.numel()) for found in medians([hashed, generated], repeats))
        rows.append([" × ".join(map(str, shape)), f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}×"])
    columns = ["maps (B × K × H × W)", "hash, ns", "generator, ns", "generator / hash"]
    show(title(f"Noise, J = {draws}", device), columns, rows)


if __name__ == "__main__":
    typer.run(main)
