#!/usr/bin/env python
"""What fewer noise draws cost and give up: one checkpoint diagnosed with `auto`, 10 and 100 draws on the same images.

One row for each layer: its draws, by how much noise widens the standard errors of its class means (as planned, and as
seen beside 100 draws), and how far the means lie from those of 100 draws. Then the seconds of each diagnosis.

scripts/bench_draws.py cifar10-resnet20.th --data cifar10
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from benching import show, title

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.diagnosis import diagnose
from modeldoctor.results.diagnosis import Diagnosis, LayerDiagnosis
from modeldoctor.zoo import load_model

_REFERENCE = 100
Draws = int | Literal["auto"]


def compare(auto: LayerDiagnosis, ten: LayerDiagnosis, reference: LayerDiagnosis) -> list[str]:
    """One row: medians over classes and kernels of ratios of standard errors, root mean squares of differences."""
    planned = np.sqrt(1 + auto.variance_between_draws / (auto.draws * auto.variance_between_images)) - 1
    used = reference.standard_error > 0
    row = [auto.name, str(auto.draws), f"{planned:.2%}"]
    for found in (auto, ten):
        ratio = found.standard_error[used] / reference.standard_error[used]
        apart = (found.correlation - reference.correlation)[used] / reference.standard_error[used]
        row += [f"{np.median(ratio) - 1:+.2%}", f"{np.sqrt(np.mean(apart**2)):.3f}"]
    return row


def main(
    checkpoint: Path,
    data: Annotated[str, typer.Option(help="as in `modeldoctor diagnose --data`")],
    layers: str = "all",
    samples_per_class: int = 20,
    device: str = "cpu",
) -> None:
    """Diagnose three times; nothing but the number of draws differs."""
    network = load_model(checkpoint)
    found: dict[Draws, Diagnosis] = {}
    taken: dict[Draws, float] = {}
    every: tuple[Draws, ...] = ("auto", 10, _REFERENCE)
    for draws in every:
        config = DiagnoseConfig(
            layers=layers, noise_draws=draws, samples_per_class=samples_per_class, device=device, max_explained=0,
            shown=0, fgsm_epsilon=0,
        )  # fmt: skip
        start = time.perf_counter()
        found[draws] = diagnose(network, data, config=config)
        taken[draws] = time.perf_counter() - start
    columns = (
        "layer", "draws", "planned", "auto: wider", "auto: off, in SE", "10: wider", "10: off, in SE",
    )  # fmt: skip
    rows = [
        compare(layer, found[10].layers[name], found[_REFERENCE].layers[name])
        for name, layer in found["auto"].layers.items()
    ]
    show(title(f"Draws by precision beside {_REFERENCE}", device), columns, rows)
    print(", ".join(f"{draws} draws: {seconds:.1f} s" for draws, seconds in taken.items()))


if __name__ == "__main__":
    typer.run(main)
