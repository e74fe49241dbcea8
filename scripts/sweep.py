#!/usr/bin/env python
"""Carry architectures through everything, each in a process of its own: does the tool work on any classifier?

scripts/sweep.py                        the paper's networks, files as people have them (`forms.py`), the families
                                        beyond convnets, a random sample of 100
scripts/sweep.py ARCH ARCH ...          these alone

Steps: build, save, identify, diagnose (all layers), one constrained training step, save, reload strictly. The weights
are random, the images noise, at the smallest size at which the network runs. An architecture works, falls back (it
does not export, and is measured through hooks: slower, and it cannot be treated), or fails.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from forms import FORMS, logits_of_transformers, transformers_folders
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.checkpoint.write import treated_path, write_checkpoint
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import ModelDoctorError, ModelDoctorWarning
from modeldoctor.graph import select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.constraints import channel_constraint, runner_up, space_constraint
from modeldoctor.runtime.memory import BatchLimit
from modeldoctor.zoo import Classifier, load_model
from modeldoctor.zoo.identify import identify
from modeldoctor.zoo.libraries import Built, architectures, build, plan_of
from modeldoctor.zoo.paper import PAPER, paper_arch

FAMILIES = (
    "timm/vit_tiny_patch16_224", "torchvision/vit_b_32", "timm/deit_tiny_patch16_224",
    "timm/deit_tiny_distilled_patch16_224", "timm/swin_tiny_patch4_window7_224", "timm/swinv2_tiny_window8_256",
    "torchvision/swin_t", "torchvision/swin_v2_t", "timm/maxvit_tiny_tf_224", "torchvision/maxvit_t",
    "timm/convnext_atto", "torchvision/convnext_tiny", "timm/mixer_s16_224", "timm/efficientvit_b0",
    "timm/efficientvit_m0", "timm/mobilevit_xxs", "timm/mobilevitv2_050", "timm/coatnet_0_rw_224",
)  # fmt: skip
FORMED = ("timm/resnet10t", "torchvision/shufflenet_v2_x0_5", "timm/test_vit")
SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 288, 384, 448, 512)
CLASSES, IMAGES = 3, 2


@dataclass
class Outcome:
    """What became of one architecture."""

    arch: str
    state: str = "works"
    step: str = "build"
    reason: str = ""
    size: int = 0
    layers: int = 0
    named: str = ""
    seconds: float = 0.0
    ended: bool = False


def carry_through(
    arch: str, folder: Path, *, size: int | None = None, channels: int = 3, form: str = "plain"
) -> Iterator[Outcome]:
    """Every step for one architecture; the outcome so far after each, with the step that comes next.

    Args:
        arch: its name.
        folder: for all files.
        size, channels: of the images.
        form: how the file is written, of `forms.FORMS`.

    Raises:
        ModelDoctorError: whatever a step says.
    """
    outcome = Outcome(arch)
    yield outcome
    torch.manual_seed(0)
    built, outcome.size = smallest(arch, size, channels)
    own = FORMS[form]
    module = own.change(built)
    fill_at_random(module)
    calibrate(module, torch.randn(8, channels, outcome.size, outcome.size))
    path = own.write(module, folder)
    outcome.step = "identify"
    yield outcome
    options: dict[str, Any] = {name: value.format(folder=folder) for name, value in own.options.items()}
    found = identify(read_checkpoint(path))
    alone = "exact" if len(found.tied) == 1 else "tied"
    outcome.named = alone if arch in found.tied else f"as {found.best.arch}"
    if found.best.arch != arch:
        options.setdefault("arch", arch)
    network = load_model(path, input_size=outcome.size, **options)
    outcome.step = "diagnose"
    yield outcome
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ModelDoctorWarning)
        found_layers = diagnose_all(network, write_images(folder / "data", outcome.size, channels))
    outcome.layers = found_layers
    cut = next((str(one.message) for one in said if "cannot be cut" in str(one.message)), "")
    if cut:
        outcome.state, outcome.reason = "falls back", cut
        return
    outcome.step = "train"
    yield outcome
    train_a_step(network, outcome.size, channels)
    outcome.step = "reload"
    yield outcome
    weights = network.module.state_dict()
    checkpoint = network.source
    assert checkpoint is not None
    untreated = [name for name in checkpoint.tensors if name not in weights]
    written = write_checkpoint(checkpoint, weights, treated_path(checkpoint, folder), untreated=untreated)
    again = load_model(written, input_size=outcome.size, **options).module.state_dict()
    own.load(module, written)
    if not all(torch.equal(weights[name], again[name]) for name in weights):
        raise AssertionError("the treated weights are not what was written")


def carry_folder(name: str, folder: Path, *, path: Path) -> Iterator[Outcome]:
    """The same steps for a folder of transformers, which reads it again."""
    outcome = Outcome(name, step="load", named="by config.json")
    yield outcome
    network = load_model(path)
    outcome.size = network.preprocessing.input_size[-1]
    outcome.step = "diagnose"
    yield outcome
    outcome.layers = diagnose_all(network, write_images(folder / "data", outcome.size, 3))
    outcome.step = "train"
    yield outcome
    train_a_step(network, outcome.size, 3)
    outcome.step = "reload"
    yield outcome
    weights, checkpoint = network.module.state_dict(), network.source
    assert checkpoint is not None
    written = write_checkpoint(checkpoint, weights, treated_path(checkpoint, folder))
    images = torch.randn(2, 3, outcome.size, outcome.size)
    with torch.no_grad():
        ours = network.module.eval()(images)
    torch.testing.assert_close(ours, logits_of_transformers(written, images), rtol=1e-4, atol=1e-4)


def smallest(arch: str, size: int | None, channels: int) -> tuple[Built, int]:
    """The network at the smallest size at which it gives finite logits for random weights."""
    plan = replace(plan_of(arch), num_classes=CLASSES, channels=channels, auxiliary=True)
    default = build(plan, meta=True)
    own = (default.fixed_size or default.defaults["input_size"][-2:])[0]
    refusals = []
    for edge in [size] if size else sorted({*(one for one in SIZES if one < own), own}):
        try:
            built = build(replace(plan, image_size=(edge, edge)))
            fill_at_random(built.module)
            calibrate(built.module, torch.randn(8, channels, edge, edge))
            return built, edge
        except Exception as error:  # each network has its own way to refuse a size
            refusals.append(f"{edge} px: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    raise AssertionError(f"it runs at no size; {refusals[-1]}")


def fill_at_random(module: nn.Module) -> None:
    """Weights that let the signal through: fresh ones may be zero where a block ends."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        parameter = isinstance(tensor, nn.Parameter)
        running = name.endswith(("running_mean", "running_var"))
        if not tensor.is_floating_point() or not (parameter or running):
            continue
        with torch.no_grad():
            if name.endswith("running_var") or (tensor.ndim == 1 and not name.endswith(("bias", "running_mean"))):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim <= 1:
                tensor.uniform_(0, 0.2)  # SqueezeNet's logits pass a ReLU: negative ones have no derivative
            else:
                tensor.normal_(0, 1 / max(1, tensor[0].numel()) ** 0.5)


def calibrate(module: nn.Module, images: Tensor) -> None:
    """Give BatchNorm the statistics of some images: in a deep network values would grow without end otherwise."""
    module.eval()
    norms = [one for one in module.modules() if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d)]
    for one in norms:
        one.train()
        one.momentum = 1.0
    with torch.no_grad():
        module(images)
        module.eval()
        for one in norms:
            if one.running_var is not None:
                one.running_var.clamp_(min=0.01)
        module(images)


def write_images(folder: Path, size: int, channels: int) -> Path:
    """The same noise images in every class's folder, so that some are right whatever the network says."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (size, size) if channels == 1 else (size, size, 3), dtype=np.uint8)
        for label in range(CLASSES):
            place = folder / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def diagnose_all(network: Classifier, data: Path) -> int:
    """Diagnose every layer by one draw; how many layers there are."""
    config = DiagnoseConfig(
        layers="all", noise_draws=1, samples_per_class=1, min_confidence=0.0, max_explained=1, batch_size=2, workers=0,
        device="cpu",
    )  # fmt: skip
    found = diagnose(network, data, config=config)
    measured = [layer for layer in found.layers.values() if np.isfinite(layer.correlation).any()]
    if not measured or len(measured) != len(found.layers):
        raise AssertionError(f"{len(measured)} of {len(found.layers)} layers were measured")
    return len(found.layers)


def train_a_step(network: Classifier, size: int, channels: int) -> None:
    """One update under both constraints at the last layer; every weight stays finite and some move."""
    images = torch.randn(2, channels, size, size)
    trainable = TrainableNetwork(network.module, images)
    layers = select_layers(trainable.layers, "last")
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    logits, (cut,) = trainable.training_pass(images, layers)
    labels = logits.argmax(1)
    kind, classes = Attribution.GRADIENT, torch.stack([labels, runner_up(logits, labels)])
    own, second = attribute(cut, classes, None, {kind: 2}, BatchLimit(len(images)))[kind]
    background = torch.ones(2, *cut.maps.shape[-2:])
    background[:, 0, 0] = 0
    none = torch.zeros(2, cut.maps.shape[1], dtype=torch.bool)
    loss = (
        trainable.loss(logits, lambda one: F.cross_entropy(one, labels)) + channel_constraint(own, second, none).mean()
    )
    loss = loss + space_constraint(own, background, kind).mean()
    if not float(own.detach().abs().sum()):
        raise AssertionError(f"the logits do not depend on {cut.layer.name}")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.module.parameters(), 1.0)
    torch.optim.SGD(network.module.parameters(), lr=0.01).step()
    after = network.module.state_dict()
    if not all(tensor.isfinite().all() for tensor in after.values()):
        raise AssertionError("a weight is no longer finite")
    if all(torch.equal(before[name], after[name]) for name, _ in network.module.named_parameters()):
        raise AssertionError("no weight moved")


def run_one(arch: str, options: dict[str, Any], tell: Callable[[Outcome], None] = lambda outcome: None) -> Outcome:
    """Carry one architecture through, and say at which step it ended, if it did; `tell` hears of every step."""
    outcome, start = Outcome(arch), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            steps = carry_folder if "path" in options else carry_through
            for outcome in steps(arch, Path(folder), **options):
                tell(outcome)
        except Exception as error:  # this is what the sweep is for
            found = error.found if isinstance(error, ModelDoctorError) else f"{type(error).__name__}: {error}"
            outcome.state, outcome.reason = "fails", f"{outcome.step}: {found}"
    outcome.seconds, outcome.ended = time.perf_counter() - start, True
    return outcome


def _child(arch: str, options: dict[str, Any], answer: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answer.send(run_one(arch, options, answer.send))


def isolated(arch: str, options: dict[str, Any], limit: float) -> Outcome:
    """The same in a process of its own, which is ended at the time limit; what crashes it is a failure."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(arch, options, theirs))
    outcome, start = Outcome(arch), time.perf_counter()
    process.start()
    theirs.close()
    try:
        while not outcome.ended and ours.poll(max(0.0, start + limit - time.perf_counter())):
            outcome = ours.recv()
        reason = "" if outcome.ended else f"over {limit:g} s"
    except EOFError:
        process.join()
        reason = f"its process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    if reason:
        outcome.state, outcome.reason = "fails", f"{outcome.step}: {reason}"
        outcome.seconds = time.perf_counter() - start
    return outcome


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def random_sample(number: int, budget: float, seed: int) -> list[str]:
    """Architectures of both libraries, drawn at random among those of at most so many million parameters."""
    names = [name for name in architectures() if not name.startswith("modeldoctor/")]
    random.Random(seed).shuffle(names)
    sample: list[str] = []
    with _quiet():
        for name in names:
            if len(sample) == number:
                break
            try:
                module = build(plan_of(name), meta=True).module
            except ModelDoctorError:
                continue
            if sum(one.numel() for one in module.parameters()) <= budget * 1e6:
                sample.append(name)
    return sample


def show(title: str, outcomes: list[Outcome], console: Console) -> None:
    """The table of one group."""
    counts = Counter(one.state for one in outcomes)
    summary = ", ".join(f"{counts[state]} {state}" for state in ("works", "falls back", "fails") if counts[state])
    table = Table("architecture", "px", "layers", "named", "s", "outcome", title=f"{title}: {summary}")
    for one in outcomes:
        said = one.state + (f": {one.reason}" if one.reason else "")
        table.add_row(one.arch, str(one.size), str(one.layers), one.named, f"{one.seconds:.0f}", said)
    console.print(table)


def main(
    archs: Annotated[list[str] | None, typer.Argument()] = None,
    sample: Annotated[int, typer.Option(help="how many of the libraries' architectures, drawn at random")] = 100,
    budget: Annotated[float, typer.Option(help="million parameters that these have at most")] = 10.0,
    seed: int = 0,
    limit: Annotated[float, typer.Option(help="seconds an architecture")] = 600.0,
    out: Annotated[Path | None, typer.Option(help="append each outcome to this file as a line of JSON")] = None,
) -> None:
    """Sweep, and print a table a group."""
    console = Console(width=200)
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    if archs:
        groups["asked for"] = [(arch, {}) for arch in archs]
    else:
        groups["the paper's, 32 px, one channel"] = [
            (paper_arch(name, 32), {"size": 32, "channels": 1}) for name in PAPER
        ]
        groups["how people have them"] = [(arch, {"form": form}) for form in FORMS for arch in FORMED]
        folder = tempfile.TemporaryDirectory()
        groups["transformers (if installed)"] = [
            (name, {"path": path}) for name, path in transformers_folders(Path(folder.name), CLASSES).items()
        ]
        groups["beyond convnets"] = [(arch, {}) for arch in FAMILIES]
        drawn = random_sample(sample, budget, seed)
        groups[f"random, at most {budget:g} M parameters, seed {seed}"] = [(arch, {}) for arch in drawn]
    failed = False
    for title, members in groups.items():
        outcomes = []
        for arch, options in members:
            outcome = isolated(arch, options, limit)
            outcomes.append(outcome)
            failed |= outcome.state == "fails"
            if out:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(vars(outcome)) + "\n")
        if outcomes:
            show(title, outcomes, console)
    raise typer.Exit(4 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
