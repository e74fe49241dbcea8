"""Fine-tuning under constraints made from a diagnosis, proven against a control: arms × seeds, one trial.

Shapes: S images of a split, N classes, K channels, R seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.checkpoint_write import as_stored, treated_path, write_checkpoint
from modeldoctor.config import DiagnoseConfig, TreatConfig
from modeldoctor.data import ImageSet, open_data
from modeldoctor.errors import StoreError, UsageError
from modeldoctor.evaluate import HeldOut, Predictions, build_trial
from modeldoctor.files import written_aside
from modeldoctor.graph import select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.interrupts import StopRequest, graceful_stop
from modeldoctor.records import Diagnosis
from modeldoctor.setting import in_eval_mode, in_network_classes, resolve_device
from modeldoctor.treatment.arm import Arm, Epoch, Progress, Progressed, predict_part
from modeldoctor.treatment.masks import random_masks
from modeldoctor.treatment.parts import Splits, annotated_images, read_groups, split_parts
from modeldoctor.treatment.penalty import Penalty
from modeldoctor.trial_records import Trial, write_trial
from modeldoctor.zoo import Network

CONSTRAINED = ("treat", "shuffled-channels", "random-mask")


def treat(
    config: TreatConfig,
    network: Network,
    diagnosis: Diagnosis,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trial:
    """Fine-tune a network under constraints made from its diagnosis, and say whether that helped.

    Args:
        config: what is constrained, how it is trained, and what it is compared with.
        network: from `load_model(config.checkpoint)`.
        diagnosis: of this network, with the layers that are constrained.
        resume: go on with the interrupted trial in `config.output`.
        progress: called with (stage, done, total).

    Returns:
        The trial; `config.output` holds it as trial.json, with treated.<ext>, history.csv and config.yaml.

    Raises:
        UsageError: the diagnosis is of another checkpoint or lacks a layer, or the output is in use.
        DataError: images, groups or annotations are missing.
        StoreError: the trial to resume had other settings.
        InterruptedRunError: Ctrl-C; whole epochs are kept.
    """
    if diagnosis.checkpoint_sha256 != network.checkpoint_sha256:
        raise UsageError(
            f"the diagnosis is of another checkpoint ({diagnosis.checkpoint_sha256[:12]}...)",
            where="diagnosis",
            expected=f"one of {network.path} ({network.checkpoint_sha256[:12]}...)",
            hint="diagnose this checkpoint, or leave the diagnosis out",
        )
    opened = open_data(
        config.data.path, preprocessing=network.preprocessing, root=config.data.root, masks=config.data.masks
    )
    matched, _ = in_network_classes(network, opened)
    parts = split_parts({name: images for name, images in matched.items() if isinstance(images, ImageSet)})
    if config.data.groups is not None:
        groups = read_groups(config.data.groups, config.data.group_column, parts.test)
        parts = replace(parts, groups=groups)
    _begin(config, network, resume)
    with graceful_stop() as stop:
        return run_trial(
            network,
            parts,
            diagnosis,
            config,
            output=config.output,
            device=resolve_device(config.device),
            progress=progress or (lambda stage, done, total: None),
            stop=stop,
        )


def diagnosis_needed(config: TreatConfig) -> DiagnoseConfig:
    """What to diagnose so that a configuration can be treated: the constrained layers, and no single image."""
    layers = {part.layers for part in (config.channel, config.space) if part.weight}
    # A selection such as last:3 cannot stand beside others; `all` holds every one.
    selection = layers.pop() if len(layers) == 1 else "all"
    return DiagnoseConfig(layers=selection, max_explained=0, workers=config.workers, device=config.device)


def _begin(config: TreatConfig, network: Network, resume: bool) -> None:
    """Write the resolved configuration, or check that the trial to resume had the same one."""
    path = config.output / "config.yaml"
    text = yaml.safe_dump(
        {"checkpoint_sha256": network.checkpoint_sha256, **config.model_dump(mode="json")}, sort_keys=False
    )
    if resume and path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise StoreError(
                "the interrupted trial had other settings",
                where=str(path),
                expected="the same configuration and checkpoint",
                hint="resume with the old configuration, or choose another output",
            )
        return
    if path.exists():
        raise UsageError(
            "there is a trial already",
            where=str(config.output),
            expected="a new run directory",
            hint="--resume goes on with it; or choose another output",
        )
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def run_trial(
    network: Network,
    splits: Splits,
    diagnosis: Diagnosis,
    config: TreatConfig,
    *,
    output: Path,
    device: torch.device,
    progress: Progress,
    stop: StopRequest,
) -> Trial:
    """Train every arm under every seed, read the test split once, and hand back what won.

    Writes `output`/trial.json, history.csv, treated.<ext> and, for resuming, arms/<arm>-<seed>.pt.

    Raises:
        UsageError: the diagnosis lacks a layer that is to be constrained.
        DataError: the space constraint has no annotated image.
        InterruptedRunError: Ctrl-C; whole epochs are kept.
    """
    module = network.module.to(device)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(2, *network.preprocessing.input_size, generator=generator).to(device)
    annotated = annotated_images(splits.train, diagnosis, config)
    with in_eval_mode(module), _weights_given_back(module) as original:
        trainable = TrainableNetwork(module, example)
        runs: dict[str, list[Progressed]] = {}
        earlier: list[Epoch] = []
        for seed, name in product(config.seeds, config.arms):
            arm = Arm(
                name=name,
                seed=seed,
                network=module,
                trainable=trainable,
                original=original,
                penalty=_penalty(name, seed, config, trainable, diagnosis, network) if name in CONSTRAINED else None,
                change_masks=random_masks if name == "random-mask" else None,
                train=splits.train,
                val=splits.val,
                annotated=annotated,
                config=config,
                device=device,
                state_path=output / "arms" / f"{name}-{seed}.pt",
                progress=progress,
                stop=stop,
                after_epoch=partial(_write_history, output, tuple(earlier)),
            )
            runs.setdefault(name, []).append(arm.run())
            earlier += runs[name][-1].history
        _write_history(output, earlier, ())
        trial, weights = _judge(network, splits, config, runs, original, module, device)
    write_checkpoint_of(network, weights, output)
    write_trial(trial, output / "trial.json")
    return trial


@contextmanager
def _weights_given_back(module: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a copy of a network's weights, and put them back at the end, whatever happened."""
    original = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
    try:
        yield original
    finally:
        module.load_state_dict(original)
        module.zero_grad(set_to_none=True)


def write_checkpoint_of(network: Network, weights: dict[str, Tensor], output: Path) -> Path:
    """The weights in the container and under the keys of the file that the network came from."""
    checkpoint = read_checkpoint(network.path)
    untreated = [name for name in checkpoint.tensors if name not in weights]
    return write_checkpoint(checkpoint, weights, treated_path(checkpoint, output), untreated=untreated)


def _penalty(
    arm: str, seed: int, config: TreatConfig, trainable: TrainableNetwork, diagnosis: Diagnosis, network: Network
) -> Penalty:
    channel = select_layers(trainable.layers, config.channel.layers) if config.channel.weight else ()
    space = select_layers(trainable.layers, config.space.layers) if config.space.weight else ()
    absent = [layer.name for layer in (*channel, *space) if layer.name not in diagnosis.layers]
    if absent:
        raise UsageError(
            f"the diagnosis has no layer {', '.join(absent)}",
            where="the diagnosis",
            expected=f"one of {', '.join(diagnosis.layers)}",
            hint=f"diagnose with --layers {','.join(absent)}, or constrain a layer that was diagnosed",
        )
    threshold = float(diagnosis.config["threshold"])
    correlated = {layer.name: diagnosis[layer.name].correlated(threshold) for layer in channel}
    if arm == "shuffled-channels":
        rng = np.random.default_rng(seed)
        correlated = {name: rng.permuted(mask, axis=1) for name, mask in correlated.items()}
    height, width = network.preprocessing.input_size[1:]
    return Penalty(
        config=config,
        channel_layers=channel,
        space_layers=space,
        correlated={name: torch.from_numpy(mask) for name, mask in correlated.items()},
        scales={layer.name: diagnosis[layer.name].activation_std for layer in (*channel, *space)},
        expand_px=round(config.space.expand_px * min(height, width) / 224),
    )


def _judge(
    network: Network,
    splits: Splits,
    config: TreatConfig,
    runs: Mapping[str, list[Progressed]],
    original: dict[str, Tensor],
    module: torch.nn.Module,
    device: torch.device,
) -> tuple[Trial, dict[str, Tensor]]:
    """Read the test split, once for every run, as the weights will stand in the file; the trial and what won."""
    checkpoint = read_checkpoint(network.path)
    untreated = [name for name in checkpoint.tensors if name not in original]

    def answers(weights: dict[str, Tensor]) -> NDArray[np.int64]:
        stored = as_stored(checkpoint, weights, untreated=untreated)
        module.load_state_dict({name: stored.get(name, tensor) for name, tensor in weights.items()})
        return predict_part(module, splits.test, config, device)

    best = {name: [done.best or original for done in dones] for name, dones in runs.items()}
    arms = [
        Predictions(arm=name, seeds=config.seeds, predicted=np.stack([answers(weights) for weights in found]))
        for name, found in best.items()
    ]
    arms.insert(0, Predictions(arm="original", seeds=(0,), predicted=answers(original)[None]))
    held_out = HeldOut(labels=splits.test.labels, classes=splits.test.images.class_names, groups=splits.groups)
    trial = build_trial(
        arms,
        held_out,
        provenance={
            "arch": network.arch,
            "checkpoint_sha256": network.checkpoint_sha256,
            "config": config.model_dump(mode="json"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("modeldoctor", "torch", "torchvision", "timm")},
        },
    )
    if trial.handed_back == "original":
        return trial, original
    chosen = int(np.argmax([done.best_accuracy for done in runs[trial.handed_back]]))
    return trial, best[trial.handed_back][chosen]


def _write_history(output: Path, earlier: Sequence[Epoch], history: Sequence[Epoch]) -> None:
    with written_aside(output / "history.csv") as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Epoch)])
        writer.writeheader()
        writer.writerows(asdict(epoch) for epoch in (*earlier, *history))
