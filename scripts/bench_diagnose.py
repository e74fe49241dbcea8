#!/usr/bin/env python
"""Eq. 4 behind a cut beside the whole network run for every draw (hooks), and beside captum's NoiseTunnel.

One table for the last layer of each network, one for all layers, one of how cost grows; medians and ratios of one run.
Where they are asked for, as they take a compiler or packages that nothing else needs: torch.compile, and the last layer
by zennit's SmoothGrad and nnsight's traces. captum and zennit put their noise on the images: their figures are others,
their cost is that of a whole network a draw.

scripts/bench_diagnose.py
scripts/bench_diagnose.py --arch torchvision/resnet50 --part all --repeats 5
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import partial
from multiprocessing.synchronize import Barrier
from statistics import median
from typing import Annotated, Any

import torch
import typer
from benching import NETWORKS, build, counted_flop, hooked_flop, medians, products_alone, seconds, show, title
from captum.attr import LayerGradientXActivation, NoiseTunnel
from torch import Tensor, nn

from modeldoctor.graph import Cut, CutNetwork, HookedNetwork, Layer, LayeredNetwork, open_network, select_layers
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit

_CLASSES, _IMAGES_A_CLASS = 1000, 100
# Dense bfloat16 products that ResNet-50 reaches on an H200: a quarter of the card's 989 TFLOP/s, an assumption.
_H200_FLOP_S = 0.25 * 989e12


class Part(StrEnum):
    """Which table."""

    LAST = "last"
    ALL = "all"
    GROWTH = "growth"
    COMPILE = "compile"
    OTHERS = "others"


_USUAL = (Part.LAST, Part.ALL, Part.GROWTH)


def measure(network: LayeredNetwork, layers: Sequence[Layer], images: Tensor, draws: int, rows: int) -> list[Tensor]:
    """The correlation (B,K) of every layer."""
    classes = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    keys, noise = range(len(images)), Noise(seed=0, delta=0.01)
    return [
        correlate_samples(cut, classes, keys, noise=noise, draws=draws, rows=BatchLimit(rows)).correlation
        for cut in network.cuts(images, layers)
    ]


def through_captum(network: nn.Module, name: str, images: Tensor, draws: int) -> None:
    tunnel = NoiseTunnel(LayerGradientXActivation(network, network.get_submodule(name)))
    tunnel.attribute(images, nt_samples=draws, nt_samples_batch_size=1, stdevs=0.01, target=0)


class Case:
    """A network taken apart in both ways."""

    def __init__(self, arch: str, images: Tensor, selection: str):
        torch.manual_seed(0)
        self.arch, self.images = arch, images
        self.module = build(arch).to(images.device)
        opened = open_network(self.module, images[:2], "last")
        assert isinstance(opened, CutNetwork)
        self.cut, self.hooked = opened, HookedNetwork(self.module, images)
        self.layers = select_layers(opened.layers, selection)

    def of_hooks(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The same layers, as hooks know them."""
        names = {layer.name for layer in layers}
        return tuple(layer for layer in self.hooked.layers if layer.name in names)

    def gap(self, draws: int, rows: int) -> float:
        """Largest difference between both ways, as a share of the largest figure."""
        (ours,), (theirs,) = (
            measure(self.cut, self.layers, self.images, draws, rows),
            measure(self.hooked, self.of_hooks(self.layers), self.images, draws, len(self.images)),
        )
        return float((ours - theirs).abs().max() / theirs.abs().max())


def last_layer(archs: Sequence[str], images: Tensor, draws: int, rows: int, repeats: int) -> Iterator[list[str]]:
    for arch in archs:
        case = Case(arch, images, "last")
        (layer,) = case.layers
        ours, hooks, captum = medians(
            [
                lambda case=case: measure(case.cut, case.layers, images, draws, rows),  # type: ignore[misc]
                # Through hooks a chunk holds whole networks, so it is one draw.
                lambda case=case: measure(case.hooked, case.of_hooks(case.layers), images, draws, len(images)),  # type: ignore[misc]
                lambda case=case, layer=layer: through_captum(case.module, layer.name, images, draws),  # type: ignore[misc]
            ],
            repeats,
        )
        flop, alone = (
            counted_flop(case.cut, case.layers, len(images), draws),
            products_alone(case.cut, case.layers, images, draws, rows),
        )
        yield [
            arch, layer.name, f"{ours:.3f}", f"{hooks:.3f}", f"{captum:.3f}", f"{hooks / ours:.1f}×",
            f"{captum / ours:.1f}×", f"{flop / 1e9:.0f}", f"{flop / ours / 1e9:.0f}", f"{alone / ours:.0%}",
            f"{case.gap(draws, rows):.0e}",
        ]  # fmt: skip


def all_layers(archs: Sequence[str], images: Tensor, draws: int, rows: int) -> Iterator[list[str]]:
    """Hooks cost a whole network at every layer, so every eighth one stands for all.

    One draw is what `auto` takes where noise widens the standard errors by at most 5% (`bench_draws.py`).
    """
    for arch in archs:
        case = Case(arch, images, "all")
        sample = case.layers[::8]
        hooked = case.of_hooks(sample)
        measure(case.cut, case.layers[-1:], images, 1, rows)
        ours = seconds(lambda case=case: measure(case.cut, case.layers, images, draws, rows))  # type: ignore[misc]
        single = seconds(lambda case=case: measure(case.cut, case.layers, images, 1, rows))  # type: ignore[misc]
        part = seconds(lambda case=case, hooked=hooked: measure(case.hooked, hooked, images, draws, len(images)))  # type: ignore[misc]
        hooks = part / len(hooked) * len(case.layers)
        alone = products_alone(case.cut, case.layers, images, draws, rows)
        flop = counted_flop(case.cut, case.layers, len(images), draws)
        of_hooks = hooked_flop(case.module, case.layers, images, draws)
        job = counted_flop(case.cut, case.layers, 1, 1) * _CLASSES * _IMAGES_A_CLASS
        yield [
            arch, str(len(case.layers)), f"{ours:.1f}", f"{hooks:.1f}", f"{hooks / ours:.1f}×", f"{single:.1f}",
            f"{hooks / single:.1f}×", f"{flop / 1e9:,.0f}", f"{of_hooks / flop:.2f}×", f"{flop / ours / 1e9:.0f}",
            f"{ours / alone:.2f}×", f"{job / 1e15:.0f}", f"{job / _H200_FLOP_S / 60:.0f}",
        ]  # fmt: skip


def growth(arch: str, images: Tensor, draws: int, rows: int, repeats: int) -> Iterator[list[str]]:
    case = Case(arch, images, "last")
    full = len(images)
    cases = [(f"{number} last layers", f"last:{number}", full, draws) for number in (1, 2, 4)]
    cases += [(f"J = {number}", "last", full, number) for number in (0, 5, 10, 20)]
    cases += [(f"{number} images", "last", number, draws) for number in (1, 2, 4, 8)]
    pictures = images.repeat(-(-8 // full), 1, 1, 1)
    for name, selection, number, j in cases:
        chosen = select_layers(case.cut.layers, selection)

        def call(chosen: Sequence[Layer] = chosen, number: int = number, j: int = j) -> list[Tensor]:
            return measure(case.cut, chosen, pictures[:number], j, rows)

        (time,) = medians([call], repeats)
        yield [name, f"{time:.3f}", f"{1000 * time / number:.0f}"]
    for classes in (10, 1000):
        other = open_network(build(arch, num_classes=classes).to(images.device), images[:2], "last")
        (time,) = medians(
            [lambda other=other: measure(other, select_layers(other.layers, "last"), images, draws, rows)],  # type: ignore[misc]
            repeats,
        )
        yield [f"{classes} classes", f"{time:.3f}", f"{1000 * time / full:.0f}"]
    for processes in (1, 2):
        time = _in_processes(arch, images.shape, draws, rows, processes)
        name = f"{processes} processes, {max(1, torch.get_num_threads() // processes)} threads each"
        yield [name, f"{time:.3f}", f"{1000 * time / full / processes:.0f}"]


def compiled(arch: str, images: Tensor, rows: int, repeats: int) -> Iterator[list[str]]:
    """Forward and backward behind a layer a third, and one two thirds of the way, plain and compiled."""
    case = Case(arch, images, "all")
    for layer in (case.layers[len(case.layers) * part // 3] for part in (1, 2)):
        (cut,) = case.cut.cuts(images, [layer])
        suffix = case.cut._suffix(layer.name)
        graphs = suffix._module, torch.compile(suffix._module)
        maps = cut.maps.repeat(rows // len(images), 1, 1, 1).contiguous(memory_format=torch.channels_last)

        def call(graph: Any, cut: Cut = cut, maps: Tensor = maps, suffix: Any = suffix) -> None:
            suffix._module, at = graph, maps.clone().requires_grad_(True)
            torch.autograd.grad(cut.head(at)[:, 0].sum(), at)

        calls = [partial(call, graph) for graph in graphs]
        first = seconds(calls[1])
        plain, quick = medians(calls, repeats)
        yield [layer.name, f"{plain:.3f}", f"{quick:.3f}", f"{plain / quick:.2f}×", f"{first:.0f}"]


def others(arch: str, images: Tensor, draws: int, rows: int, repeats: int) -> Iterator[list[str]]:
    """By zennit, which has no noise at a layer, and by nnsight, which traces the network for each draw."""
    case = Case(arch, images, "last")
    (layer,) = case.layers
    ways = [
        lambda: measure(case.cut, case.layers, images, draws, rows),
        lambda: through_zennit(case.module, images, draws),
        lambda: through_nnsight(case.module, layer.name, images, draws),
    ]
    times = medians(ways, repeats)
    for name, time in zip(("cut", "zennit's SmoothGrad", "nnsight"), times, strict=True):
        yield [name, f"{time:.3f}", f"{time / times[0]:.1f}×"]


def through_zennit(network: nn.Module, images: Tensor, draws: int) -> None:
    from zennit.attribution import SmoothGrad

    with SmoothGrad(network, noise_level=0.01, n_iter=draws) as smooth:
        smooth(images.clone(), torch.eye(network(images[:1]).shape[1], device=images.device)[:1].repeat(len(images), 1))


def through_nnsight(network: nn.Module, name: str, images: Tensor, draws: int) -> None:
    from nnsight import NNsight

    traced = NNsight(network)
    for _ in range(draws):
        with traced.trace(images):
            place = traced.get(name)
            place.output = place.output + torch.empty_like(place.output).uniform_(-0.01, 0.01)
            maps = place.output
            gradient = maps.grad.save()  # noqa: F841
            traced.output[:, 0].sum().backward()


def _in_processes(arch: str, shape: Sequence[int], draws: int, rows: int, processes: int) -> float:
    """Median seconds of a batch in processes that run side by side."""
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(processes), spawn.SimpleQueue()
    threads = max(1, torch.get_num_threads() // processes)
    runs = [
        spawn.Process(target=_one_process, args=(arch, shape, draws, rows, threads, start, results))
        for _ in range(processes)
    ]
    for run in runs:
        run.start()
    times: list[float] = [results.get() for _ in runs]
    for run in runs:
        run.join()
    return median(times)


def _one_process(
    arch: str,
    shape: Sequence[int],
    draws: int,
    rows: int,
    threads: int,
    start: Barrier,
    results: multiprocessing.SimpleQueue[float],
) -> None:
    torch.set_num_threads(threads)
    case = Case(arch, torch.randn(*shape), "last")
    start.wait()
    results.put(medians([lambda: measure(case.cut, case.layers, case.images, draws, rows)], 3)[0])


def main(
    arch: Annotated[list[str], typer.Option(help="timm/NAME or torchvision/NAME; may be given again")] = list(NETWORKS),  # noqa: B006
    part: Annotated[list[Part], typer.Option(help="which tables; may be given again")] = list(_USUAL),  # noqa: B006
    noise_draws: int = 10,
    input_size: int = 224,
    batch_size: int = 4,
    rows: Annotated[int, typer.Option(help="copies at once behind a cut")] = 40,
    repeats: int = 3,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Time each way in turns, after one call of each that is not counted."""
    images = torch.randn(batch_size, 3, input_size, input_size, device=device)
    setting = f"J = {noise_draws}, {input_size} px, batch {batch_size}"
    if Part.LAST in part:
        show(
            title(f"Last layer, {setting}", device),
            ("network", "layer", "cut s", "hooks s", "captum s", "hooks / cut", "captum / cut", "GFLOP", "GFLOP/s",
             "products alone", "largest difference"),
            last_layer(arch, images, noise_draws, rows, repeats),
        )  # fmt: skip
    if Part.ALL in part:
        show(
            title(f"All layers, {setting}; hooks extrapolated from every eighth layer", device),
            ("network", "layers", "cut s", "hooks s", "hooks / cut", "cut, one draw, s", "hooks / that", "GFLOP",
             "hooks / cut in FLOP", "GFLOP/s", "cut / products alone",
             f"{_CLASSES} classes × {_IMAGES_A_CLASS} images, one draw, PFLOP",
             f"minutes on an H200 at an assumed {_H200_FLOP_S / 1e12:.0f} TFLOP/s"),
            all_layers(arch[:1], images, noise_draws, rows),
        )  # fmt: skip
    if Part.GROWTH in part:
        show(
            title(f"How cost grows, {arch[0]}, last layer, {setting} where not said", device),
            ("what", "s a batch", "ms an image"),
            growth(arch[0], images, noise_draws, rows, repeats),
        )
    if Part.COMPILE in part:
        show(
            title(f"torch.compile of what is behind a layer, {arch[0]}, {input_size} px, {rows} rows", device),
            ("layer", "plain s", "compiled s", "plain / compiled", "first call s"),
            compiled(arch[0], images, rows, repeats),
        )
    if Part.OTHERS in part:
        show(
            title(f"Last layer of {arch[0]} by other libraries, {setting}", device),
            ("what", "s a batch", "of cut's time"),
            others(arch[0], images, noise_draws, rows, repeats),
        )


if __name__ == "__main__":
    typer.run(main)
