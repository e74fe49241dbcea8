"""Fine-tuning under constraints made from a diagnosis, proven against a control: arms × seeds, one trial.

Shapes: S images of a split, N classes, K channels, R seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from modeldoctor.config.arms import ARMS
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TrainingConfig, TreatConfig
from modeldoctor.data import open_data
from modeldoctor.data.identity import changed, identify_data
from modeldoctor.data.outputs import in_network_classes
from modeldoctor.errors import DataError, ModelDoctorWarning, StoreError, UsageError
from modeldoctor.graph import refuse_unsteady
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.results import run_directory
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.outputs import check_outputs
from modeldoctor.results.run_directory import written_files
from modeldoctor.results.trial import Trial, write_trial
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.files import locked, written_aside
from modeldoctor.runtime.interrupts import StopRequest, graceful_stop
from modeldoctor.runtime.progress import Progress, silent
from modeldoctor.runtime.reading import SETTINGS_MOST, content, is_there, plain_yaml
from modeldoctor.runtime.session import at_work, resolve_device
from modeldoctor.runtime.versions import used_versions
from modeldoctor.treatment.arm import TrialContext, copied
from modeldoctor.treatment.arms import Arms
from modeldoctor.treatment.final_test import judge, write_treated
from modeldoctor.treatment.history import History
from modeldoctor.treatment.loggers import check_logger
from modeldoctor.treatment.optimisation import Optimisation
from modeldoctor.treatment.pilot import pick_weights
from modeldoctor.treatment.propagation import with_propagated
from modeldoctor.treatment.shown import write_shown
from modeldoctor.treatment.subsets import (
    Splits,
    annotated_images,
    annotation_warnings,
    needs_masks,
    needs_predictions,
    split_subsets,
    with_groups,
)
from modeldoctor.zoo import Classifier

__all__ = ["Prepared", "carry_out", "check_new", "diagnosis_needed", "prepare", "treat"]

UNSTATED = {
    "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.03, "weight_decay": 5e-4, "momentum": 0.9,
    "label_smoothing": 0.0,
}  # fmt: skip
"""Training settings where neither the configuration nor the checkpoint states one."""
_EXPLAINED = 100
_CHANGE_NO_FIGURE = {"workers", "device", "memory", "log"}
_RECORDED = {"optimizer": "opt", "learning_rate": "lr", "label_smoothing": "smoothing"}


def treat(
    config: TreatConfig,
    network: Classifier,
    diagnosis: Diagnosis,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    team: Team | None = None,
) -> Trial:
    """Fine-tune a network under constraints made from its diagnosis, and say whether that helped.

    Args:
        config: what is constrained, how it is trained, and what it is compared with.
        network: from `load_model(config.checkpoint)`.
        diagnosis: of this network, with the layers that are constrained.
        resume: go on with the interrupted trial in `config.output`.
        progress: called with (stage, done, total); figures of a stage that trains stand behind " · " in its text.
        team: the processes that share the work (`modeldoctor.runtime.distributed.job`); the first alone writes.

    Returns:
        The trial; `config.output` holds it as trial.json, with treated.<ext>, maps.h5, history.csv and config.yaml.

    Raises:
        UsageError: the diagnosis is of another checkpoint or lacks a layer, or the output is in use.
        DataError: images, groups or annotations are missing.
        StoreError: the trial to resume had other settings.
        MemoryLimitError: `config.memory` is too small for a step, or memory ran out.
        InterruptedRunError: Ctrl-C; whole epochs are kept.
    """
    check_new(config, resume, diagnosed=True)
    prepared = prepare(config, network)
    (team or Team()).barrier()  # nobody writes before all have looked
    return carry_out(prepared, network, diagnosis, resume=resume, progress=progress, team=team)


class Prepared(NamedTuple):
    """A resolved configuration and the images that it means."""

    config: TreatConfig
    splits: Splits


def prepare(config: TreatConfig, network: Classifier) -> Prepared:
    """Resolve a configuration and open its images: all that can be refused before a diagnosis is made.

    Raises:
        UsageError: the network came without a checkpoint.
        ConfigError: the optimizer cannot be made, or the package of `log` is not there.
        DataError: images, groups or annotations are missing.
    """
    if network.source is None:
        raise UsageError(
            "a network that came without a checkpoint",
            where="treat",
            expected="a file, in whose container the treated weights are written",
            hint="save its state_dict() and load that with load_model",
        )
    check_logger(config)
    config = resolved(config, network)
    Optimisation(torch.nn.Linear(1, 1), config.training, updates_per_epoch=1)
    opened = open_data(
        config.data.path, preprocessing=network.preprocessing, root=config.data.root, download=config.data.download,
        masks=config.data.masks,
    )  # fmt: skip
    matched, _ = in_network_classes(opened, network.class_names, network.num_classes, network.class_order)
    splits = with_groups(split_subsets(matched), config.data)
    if needs_masks(config) and not splits.train.has_mask.any():
        raise DataError(
            f"none of {len(splits.train.indices)} training images has a mask",
            where=str(config.data.masks),
            expected="masks of training images, in the images' folder structure",
            hint="`modeldoctor annotate` picks the images to annotate; or set space.weight to 0",
        )
    return Prepared(config, splits)


def carry_out(
    prepared: Prepared,
    network: Classifier,
    diagnosis: Diagnosis,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    team: Team | None = None,
) -> Trial:
    """Run a prepared trial and write its files; see `treat`."""
    config = prepared.config
    if diagnosis.checkpoint_sha256 != network.checkpoint_sha256:
        raise UsageError(
            f"the diagnosis is of another checkpoint ({diagnosis.checkpoint_sha256[:12]}...)",
            where="diagnosis",
            expected=f"one of {config.checkpoint} ({network.checkpoint_sha256[:12]}...)",
            hint="diagnose this checkpoint, or leave the diagnosis out",
        )
    team = team or Team()
    _check_team(config, team)
    with locked(config.output if team.is_primary else None), graceful_stop(patient=team.world_size > 1) as stop:
        if team.is_primary:
            _begin(prepared, network, resume)
        team.broadcast(None)
        trial, weights = run_trial(
            network, prepared.splits, diagnosis, config, progress=progress or silent,
            stop=stop, team=team,
        )  # fmt: skip
        if team.is_primary:
            write_treated(network, weights, config.output)
            write_trial(trial, config.output / run_directory.TRIAL)
    return trial


def resolved(config: TreatConfig, network: Classifier) -> TreatConfig:
    """The configuration with every training setting that it left open: the original training's, else `UNSTATED`."""
    recorded = network.training
    wanted = {name: value for name, value in config.training.model_dump().items() if value is not None}
    stated = {name: recorded[key] for name in UNSTATED if (key := _RECORDED.get(name, name)) in recorded}
    try:
        training = TrainingConfig(**{**UNSTATED, **stated, **wanted})
    except ValidationError:
        said = ", ".join(f"{name} {value!r}" for name, value in stated.items() if name not in wanted)
        warnings.warn(
            f"what the checkpoint says of its own training cannot be used here and is not: {said}",
            ModelDoctorWarning,
            stacklevel=3,
        )
        training = TrainingConfig(**{**UNSTATED, **wanted})
    return config.model_copy(update={"training": training})


def diagnosis_needed(config: TreatConfig) -> DiagnoseConfig:
    """What to diagnose so that a configuration can be treated: the constrained layers; some wrong images to report."""
    constrained = any(ARMS[arm].constrained for arm in config.arms)
    layers = {part.layers: None for part in (config.channel, config.space) if part.weight and constrained}
    return DiagnoseConfig(
        layers=",".join(layers) or DiagnoseConfig().layers,
        # Annotated and hard images are chosen by their predictions.
        scan="all" if needs_predictions(config) else "enough",
        max_explained=_EXPLAINED,
        workers=config.workers,
        device=config.device,
        memory=config.memory,
    )


def check_new(config: TreatConfig, resume: bool, *, diagnosed: bool = False) -> None:
    """Refuse to write over a trial, an input, or a file of somebody else.

    Args:
        config: of the treatment.
        resume: whether the trial in its output is to be continued.
        diagnosed: whether the diagnosis is given, so that none is written.

    Raises:
        UsageError: something of that kind is there.
    """
    _check_no_trial(config, resume)
    data, folder = config.data, config.output
    given = diagnosed or config.diagnosis is not None
    written = [
        path
        for path in written_files(folder, config.checkpoint.suffix)
        if not (given and path.name.startswith(run_directory.DIAGNOSIS))
    ]
    root = data.root if Path(data.path).is_file() else None
    check_outputs(written, (config.checkpoint, data.path, root, data.masks, data.groups))
    left = next((path for path in written if path.exists()), None)
    if left and not resume:
        raise UsageError(
            f"there is a file of another run: {left.name}",
            where=str(folder),
            expected="a new run directory",
            hint="choose another output",
        )


def _check_no_trial(config: TreatConfig, resume: bool) -> None:
    if not resume and is_there(config.output / run_directory.CONFIG):
        raise UsageError(
            "there is a trial already",
            where=str(config.output),
            expected="a new run directory",
            hint="--resume goes on with it; or choose another output",
        )


def _begin(prepared: Prepared, network: Classifier, resume: bool) -> None:
    """Write the resolved configuration, or check that the trial to resume had the same one and the same data."""
    config, splits = prepared.config, prepared.splits
    _check_no_trial(config, resume)
    path = config.output / run_directory.CONFIG
    sets = {id(part.images): part.images for part in (splits.train, splits.val, splits.test)}
    data = identify_data(sets.values(), (config.data.groups,))
    text = run_directory.identity_line(network.checkpoint_sha256) + run_directory.data_line(data)
    text += yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    if path.exists():
        _check_same(path, text, data)
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _check_same(path: Path, text: str, data: dict[str, str]) -> None:
    """Whether the trial to resume had this configuration and this data."""
    try:
        before = content(path, SETTINGS_MOST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"the configuration of the interrupted trial cannot be read ({type(error).__name__})",
            where=str(path),
            expected="the file as `modeldoctor treat` wrote it",
            hint="choose another output",
        ) from error
    if _what_counts(before) != _what_counts(text):
        raise StoreError(
            "the interrupted trial had other settings",
            where=str(path),
            expected="the same configuration and checkpoint",
            hint="resume with the old configuration, or choose another output",
        )
    if differing := changed(run_directory.data_in(before), data):
        raise StoreError(
            f"the data has changed since the trial was interrupted: {differing}",
            where=str(path),
            expected="the same images, labels, masks and groups",
            hint="put the data back as it was, or begin a trial in another output",
        )


def _what_counts(text: str) -> tuple[str, dict[str, Any]]:
    """The checkpoint's line and the settings of a resolved configuration, without those that change no figure."""
    try:
        settings = plain_yaml(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):  # somebody changed the file
        settings = {}
    return text.partition("\n")[0], {key: value for key, value in settings.items() if key not in _CHANGE_NO_FIGURE}


def _check_team(config: TreatConfig, team: Team) -> None:
    if (size := config.training.batch_size or 1) < team.world_size:
        raise UsageError(
            f"{team.world_size} processes for batches of {size} images",
            where="training.batch_size",
            expected="an image of every batch for each process",
            hint="larger batches or fewer processes",
        )


def run_trial(
    network: Classifier,
    splits: Splits,
    diagnosis: Diagnosis,
    config: TreatConfig,
    *,
    progress: Progress,
    stop: StopRequest,
    team: Team,
) -> tuple[Trial, dict[str, Tensor]]:
    """Train every arm under every seed and read the test split once; the trial and the weights that won.

    Writes history.csv, maps.h5 and, for resuming, arms/<arm>-<seed>.pt into `config.output`.

    Raises:
        UsageError: the diagnosis lacks a layer that is to be constrained.
        DataError: the space constraint has no annotated image.
        InterruptedRunError: Ctrl-C; whole epochs are kept.
    """
    device = resolve_device(config.device, team.local_rank)
    module = network.module
    annotated = annotated_images(splits.train, diagnosis, config) if needs_masks(config) else None
    for text in () if annotated is None else annotation_warnings(splits.train, annotated, config):
        warnings.warn(text, ModelDoctorWarning, stacklevel=3)
    with at_work(module, device), _weights_given_back(module) as original:
        example = network.example(device)
        refuse_unsteady(module, example)
        context = TrialContext(
            network=module,
            trainable=TrainableNetwork(module, example, team),
            example=example,
            original=original,
            splits=splits,
            annotated=np.empty(0, dtype=np.int64) if annotated is None else annotated.indices,
            by_hand=0 if annotated is None else len(annotated.indices),
            device=device,
            states=config.output / run_directory.ARMS,
            progress=progress,
            stop=stop,
            team=team,
        )
        context, propagation = with_propagated(context, diagnosis, config)
        arms = Arms(context, diagnosis, History(config, writes=team.is_primary))
        config, rungs = pick_weights(config, arms.pilot)
        provenance = {
            "preprocessing": network.preprocessing.model_dump(mode="json"),
            "assumed": list(network.notes),
            "arch": network.arch,
            "checkpoint_sha256": network.checkpoint_sha256,
            "config": config.model_dump(mode="json"),
            "pilot": [asdict(rung) for rung in rungs],
            "annotations": None if annotated is None else annotated.counts,
            "propagation": propagation,
            "split_off": splits.split_off,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": used_versions(),
        }
        runs = arms.run(config)
        found = judge(network, context, config, runs, provenance, arms.annotations)
        if team.is_primary:
            write_shown(network, context, config, runs)
        return found


@contextmanager
def _weights_given_back(module: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a copy of a network's weights, and put them back at the end, whatever happened."""
    original = copied(module)
    try:
        yield original
    finally:
        module.load_state_dict(original)
        module.zero_grad(set_to_none=True)
