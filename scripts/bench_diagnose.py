"""Eq. 4 behind a cut beside the whole network run for every draw (hooks): medians and their ratio, in one run.

scripts/bench_diagnose.py --arch torchvision/resnet50 --layers last --noise-draws 10
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

from modeldoctor.correlation import Noise, correlate_samples
from modeldoctor.graph import HookedNetwork, Layer, LayeredNetwork, open_network, select_layers
from modeldoctor.memory import Rows


def build(arch: str) -> nn.Module:
    library, _, name = arch.partition("/")
    if library == "timm":
        network: nn.Module = timm.create_model(name, pretrained=False)
    else:
        network = torchvision.models.get_model(name, weights=None)
    return network.eval()


def measure(network: LayeredNetwork, layers: tuple[Layer, ...], images: Tensor, draws: int, rows: int) -> list[Tensor]:
    """The correlation (B,K) of every layer."""
    classes = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    keys = range(len(images))
    return [
        correlate_samples(cut, classes, keys, noise=Noise(seed=0, delta=0.01), draws=draws, rows=Rows(rows)).correlation
        for cut in network.cuts(images, layers)
    ]


def seconds(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(
    arch: Annotated[list[str], typer.Option(help="timm/NAME or torchvision/NAME; may be given again")] = [  # noqa: B006
        "torchvision/resnet50"
    ],
    layers: str = "last",
    noise_draws: int = 10,
    input_size: int = 224,
    batch_size: int = 4,
    rows: Annotated[int, typer.Option(help="copies at once behind the cut")] = 40,
    repeats: int = 5,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Time both ways alternately, after one call of each that is not counted."""
    table = Table(
        title=f"{layers}, J = {noise_draws}, {input_size} px, batch {batch_size}, {device}, torch {torch.__version__}"
    )
    for head in ("network", "layers", "cut s", "hooks s", "ratio", "largest difference"):
        table.add_column(head, justify="left" if head == "network" else "right")
    for name in arch:
        torch.manual_seed(0)
        module = build(name).to(device)
        images = torch.randn(batch_size, 3, input_size, input_size, device=device)
        cut = open_network(module, images, layers)
        hooked = HookedNetwork(module, images)
        chosen = select_layers(cut.layers, layers)
        same = tuple(layer for layer in hooked.layers if layer.name in {one.name for one in chosen})
        ways = [
            lambda cut=cut, chosen=chosen, images=images: measure(cut, chosen, images, noise_draws, rows),
            # Through hooks a chunk holds whole networks, so it is one draw.
            lambda hooked=hooked, same=same, images=images: measure(hooked, same, images, noise_draws, len(images)),
        ]
        results = [way() for way in ways]
        times = [[seconds(way, device) for way in ways] for _ in range(repeats)]
        fast, slow = (median(column) for column in zip(*times, strict=True))
        gap = max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(*results, strict=True))
        table.add_row(name, str(len(chosen)), f"{fast:.3f}", f"{slow:.3f}", f"{slow / fast:.1f}×", f"{gap:.1e}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
