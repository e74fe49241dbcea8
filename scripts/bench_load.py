#!/usr/bin/env python
"""How fast images are read, beside how fast they are diagnosed: the readers must keep up.

Draws JPEG files, reads them with 0, 1, 2 ... workers, and measures the last layer on what was read. A second table has
other decoders beside Pillow's, and how far the network's input is from Pillow's: libjpeg-turbo as torchvision has it,
and Pillow's draft mode, which decodes large pictures at 1/2, 1/4 or 1/8.

scripts/bench_load.py --images 512 --workers 0 --workers 2
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from benching import build, medians, show, title
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms.functional import to_pil_image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import ImageSet, make_loader, make_transform, open_data
from modeldoctor.graph import LayeredNetwork, open_network, select_layers
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit


def write_pictures(folder: Path, number: int, edge: int) -> None:
    """Smooth JPEG files, about as dear to decode as photographs of that size."""
    rng = np.random.default_rng(0)
    (folder / "a").mkdir(parents=True)
    for index in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (edge // 8, edge // 8, 3), dtype=np.uint8))
        coarse.resize((edge, edge), Image.Resampling.BICUBIC).save(folder / "a" / f"{index:05d}.jpg", quality=90)


def read(images: ImageSet, batch_size: int, workers: int, device: str) -> None:
    for batch in make_loader(images, batch_size=batch_size, workers=workers, device=device):
        batch.images.to(device, non_blocking=True)


def measure(network: LayeredNetwork, images: Tensor, selection: str, draws: int) -> None:
    classes = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    for cut in network.cuts(images, select_layers(network.layers, selection)):
        noise = Noise(seed=0, delta=0.01)
        correlate_samples(cut, classes, range(len(images)), noise=noise, draws=draws, rows=BatchLimit(64))


def rates(
    folder: Path, arch: str, number: int, edge: int, input_size: int, batch_size: int, workers: list[int], device: str,
    repeats: int,
) -> Iterator[list[str]]:  # fmt: skip
    write_pictures(folder / "data", number, edge)
    preprocessing = Preprocessing(
        input_size=(3, input_size, input_size), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), crop_pct=0.875
    )
    images = next(iter(open_data(str(folder / "data"), preprocessing=preprocessing).values()))
    assert isinstance(images, ImageSet)
    for count in workers:
        (time,) = medians([lambda count=count: read(images, batch_size, count, device)], repeats)  # type: ignore[misc]
        yield [f"reading, {count} workers", f"{number / time:.0f}"]
    some = torch.randn(batch_size, 3, input_size, input_size, device=device)
    network = open_network(build(arch).to(device), some[:2], "last")
    (time,) = medians([lambda: network.logits(some)], repeats)
    yield ["predicting", f"{batch_size / time:.1f}"]
    for draws in (0, 10):
        (time,) = medians([lambda draws=draws: measure(network, some, "last", draws)], repeats)  # type: ignore[misc]
        yield [f"last layer, J = {draws}", f"{batch_size / time:.1f}"]


def with_pillow(path: Path, least: int) -> Image.Image:
    return Image.open(path).convert("RGB")


def with_draft(path: Path, least: int) -> Image.Image:
    """At the least scale that still has twice the pixels that are wanted, so that what follows can smooth."""
    picture = Image.open(path)
    picture.draft("RGB", (2 * least, 2 * least))
    return picture.convert("RGB")


def with_torchvision(path: Path, least: int) -> Image.Image:
    decoded: Image.Image = to_pil_image(decode_image(read_file(str(path)), ImageReadMode.RGB))
    return decoded


def with_torchcodec(path: Path, least: int) -> Image.Image:
    """Measured where the package is installed; nothing else needs it."""
    from torchcodec.decoders import decode_jpeg

    decoded: Image.Image = to_pil_image(decode_jpeg(path, mode="RGB"))
    return decoded


def inputs(way: Callable[[Path, int], Image.Image], paths: list[Path], input_size: int) -> Tensor:
    preprocessing = Preprocessing(input_size=(3, input_size, input_size), mean=(0.0,) * 3, std=(1.0,) * 3)
    transform = make_transform(preprocessing)
    return torch.stack([transform(way(path, input_size))[0] for path in paths])


def decoders(folder: Path, number: int, edges: list[int], input_size: int, repeats: int) -> Iterator[list[str]]:
    ways = [with_pillow, with_torchvision, with_draft]
    ways += [with_torchcodec] if find_spec("torchcodec") else []
    for edge in edges:
        write_pictures(folder / str(edge), number, edge)
        paths = sorted((folder / str(edge)).rglob("*.jpg"))
        times = medians([partial(inputs, way, paths, input_size) for way in ways], repeats)
        usual = inputs(with_pillow, paths, input_size)
        for way, time in zip(ways, times, strict=True):
            off = (inputs(way, paths, input_size) - usual).abs() * 255
            yield [str(edge), way.__name__.removeprefix("with_"), f"{number / time:.0f}", f"{times[0] / time:.2f}",
                   f"{off.mean():.2f}", f"{off.max():.0f}"]  # fmt: skip


def main(
    arch: str = "torchvision/resnet50",
    images: int = 256,
    edge: Annotated[int, typer.Option(help="pixels of the files")] = 500,
    input_size: int = 224,
    batch_size: int = 16,
    workers: Annotated[list[int], typer.Option(help="may be given again")] = [0, 1, 2],  # noqa: B006
    repeats: int = 2,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Read and measure in one run, after one of each that is not counted."""
    heading = title(f"{arch}, JPEG of {edge} px to {input_size} px, batch {batch_size}", device)
    with tempfile.TemporaryDirectory() as folder:
        columns = ("what", "images/s")
        show(
            heading,
            columns,
            rates(Path(folder), arch, images, edge, input_size, batch_size, workers, device, repeats),
        )
        show(
            title(f"decoders, one process, JPEG to {input_size} px", "cpu"),
            ("px", "decoder", "images/s", "of Pillow's", "mean difference of 255", "largest"),
            decoders(Path(folder), max(1, images // 8), [edge, 2 * edge, 6 * edge], input_size, repeats),
        )


if __name__ == "__main__":
    typer.run(main)
