#!/usr/bin/env python
"""Time and peak memory of `modeldoctor diagnose` over folders of more and more images: memory must not grow.

scripts/bench_memory.py CHECKPOINT --data torchvision:FashionMNIST --root DIR --images 10000 --images 60000
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from modeldoctor.data import ImageSet, open_data
from modeldoctor.zoo import load_model


def write_folder(images: ImageSet, number: int, folder: Path) -> None:
    """The first images of a set as PNG files in class folders; begins anew where the set ends."""
    for index in track(range(number), f"writing {number} images"):
        row = index % len(images)
        place = folder / images.class_names[int(images.labels[row])].replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        images.pictures.read(row, "L").save(place / f"{index:06d}.png", compress_level=1)


def run_measured(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of a command, from /usr/bin/time -v's own source: wait4."""
    script = (
        "import resource, subprocess, sys, time; start = time.perf_counter();"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
    wall, peak = done.stdout.split()
    return float(wall), float(peak)


def main(
    checkpoint: Path,
    data: str = "torchvision:FashionMNIST",
    root: Path | None = None,
    images: Annotated[list[int], typer.Option(help="folder sizes")] = [10_000, 60_000],  # noqa: B006
    layers: str = "all",
) -> None:
    """Diagnose folders of the given sizes, one after another."""
    table = Table("images", "seconds", "peak MiB", title=f"{checkpoint.name}, --layers {layers}")
    source = open_data(data, preprocessing=load_model(checkpoint).preprocessing, root=root)["train"]
    assert isinstance(source, ImageSet)
    for number in images:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(source, number, Path(folder) / "data")
            command = [sys.executable, "-m", "modeldoctor", "diagnose", str(checkpoint), "--data", f"{folder}/data"]
            wall, peak = run_measured([*command, "-o", f"{folder}/out.h5", "--layers", layers])
            table.add_row(f"{number:,}", f"{wall:.0f}", f"{peak:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
