#!/usr/bin/env python
"""How often is a network named from its weights alone? Every architecture, as people's files hold it, is looked up.

scripts/measure_identify.py [--change finetuned]     about 20 minutes on one core; networks are built on the meta device
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from modeldoctor.checkpoint import Checkpoint, CheckpointMetadata, Container
from modeldoctor.errors import ArchitectureError
from modeldoctor.zoo.identify import Identification, identify
from modeldoctor.zoo.libraries import Built, architectures, build, plan_of

State = dict[str, Tensor]
CLASSES = 7


def finetuned(built: Built, state: State) -> State:
    """Half precision, without BatchNorm's counters, with a profiler's leftovers."""
    kept = {name: tensor.half() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    return {**kept, "total_ops": torch.zeros(1), "total_params": torch.zeros(1)}


def headless(built: Built, state: State) -> State:
    """Without the head."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(f"{built.head}.")}


def new_head(built: Built, state: State) -> State:
    """With two linear layers as the head, under a name of one's own, and a loss's weights beside the network."""
    wide = {
        f"{built.head}.{at}.{name}": torch.empty(CLASSES, 64 if name == "weight" else 1)
        for at in (0, 2)
        for name in ("weight", "bias")
    }
    whole = {**headless(built, state), **wide}
    return {**{f"classifier_module.{name}": tensor for name, tensor in whole.items()}, "loss.weight": torch.empty(7)}


CHANGES: dict[str, Callable[[Built, State], State]] = {
    "plain": lambda built, state: state,
    "finetuned": finetuned,
    "headless": headless,
    "new_head": new_head,
}


def as_checkpoint(state: State) -> Checkpoint:
    """What `read_checkpoint` makes of a file with these tensors and nothing else."""
    return Checkpoint(
        path=Path("ckpt.pt"), container=Container.TORCH, weights_path=Path("ckpt.pt"), sha256="", tensors=state, key=(),
        prefix="", metadata=CheckpointMetadata(),
    )  # fmt: skip


def verdict(arch: str, found: Identification | None) -> str:
    """Exact (alone, or chosen among ties), tied (listed with the chosen one), or missed."""
    if found is None or arch not in found.tied:
        return "missed"
    if len(found.tied) == 1:
        return "exact"
    return "tied, chosen" if found.best.arch == arch else "tied, listed"


def cold_seconds(arch: str, folder: Path) -> float:
    """Processor time of `modeldoctor identify` in a process of its own, imports and reading included."""
    module = build(replace(plan_of(arch), num_classes=CLASSES)).module
    torch.save(module.state_dict(), folder / "ckpt.pt")
    start = os.times()
    command = [sys.executable, "-m", "modeldoctor", "identify", str(folder / "ckpt.pt")]
    subprocess.run(command, check=True, capture_output=True)
    end = os.times()
    return end.children_user + end.children_system - start.children_user - start.children_system


def main(
    change: Annotated[str, typer.Option(help=f"what was done to the file: {', '.join(CHANGES)}")] = "finetuned",
    sample: Annotated[int | None, typer.Option(help="so many architectures, drawn at random, instead of all")] = None,
    seed: int = 0,
    cold: Annotated[list[str], typer.Option(help="measured in a fresh process")] = ["torchvision/resnet50"],  # noqa: B006
) -> None:
    """Build, change, identify; count and time. Processor time, as what else the machine does is no matter here."""
    warnings.simplefilter("ignore")
    console, counts, seconds = Console(), Counter[str](), {}
    names = architectures()
    names = random.Random(seed).sample(names, sample) if sample else names
    for arch in track(names, change, console=console):
        try:
            built = build(replace(plan_of(arch), num_classes=CLASSES), meta=True)
        except ArchitectureError as error:
            counts["cannot be built"] += 1
            console.print(f"{arch}: {error.found}", markup=False)
            continue
        checkpoint = as_checkpoint(CHANGES[change](built, dict(built.module.state_dict())))
        start = time.process_time()
        try:
            found = identify(checkpoint)
        except ArchitectureError:
            found = None
        seconds[arch] = time.process_time() - start
        said = verdict(arch, found)
        counts[said] += 1
        if said == "missed":
            console.print(f"{arch}: taken for {found.best.arch if found else 'nothing'}", markup=False)
    total = sum(count for what, count in counts.items() if what != "cannot be built")
    for what, count in sorted(counts.items()):
        console.print(f"{what}: {count} ({count / total:.2%})")
    slowest = max(seconds, key=lambda arch: seconds[arch])
    over = sum(one > 2 for one in seconds.values())
    usual, most = median(seconds.values()), seconds[slowest]
    console.print(f"processor seconds: median {usual:.2f}, most {most:.2f} ({slowest}), {over} over 2 s")
    for arch in cold:
        with tempfile.TemporaryDirectory() as folder:
            console.print(f"a process of its own, {arch}: {cold_seconds(arch, Path(folder)):.1f} processor seconds")


if __name__ == "__main__":
    typer.run(main)
