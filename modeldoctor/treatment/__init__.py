"""Fine-tuning under constraints made from a diagnosis, proven against a control: arms × seeds, one trial.

Shapes: S images of a split, N classes, K channels, R seeds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import ModelDoctorWarning, UsageError
from modeldoctor.graph import refuse_unsteady
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.results import run_directory
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.trial import Trial, write_trial
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.files import locked
from modeldoctor.runtime.interrupts import StopRequest, graceful_stop
from modeldoctor.runtime.progress import Progress, silent
from modeldoctor.runtime.session import at_work, resolve_device
from modeldoctor.runtime.versions import used_versions
from modeldoctor.treatment.arm import TrialContext, copied
from modeldoctor.treatment.arms import Arms
from modeldoctor.treatment.batch_statistics import with_statistics
from modeldoctor.treatment.budget import plan_rounds
from modeldoctor.treatment.final_test import judge, write_treated
from modeldoctor.treatment.history import History
from modeldoctor.treatment.pilot import pick_weights
from modeldoctor.treatment.preparation import (
    Prepared,
    begin,
    check_new,
    check_team,
    prepare,
    record_rounds,
    warn_of_changes,
)
from modeldoctor.treatment.prescription import prescribed
from modeldoctor.treatment.propagation import with_propagated
from modeldoctor.treatment.shown import write_shown
from modeldoctor.treatment.subsets import annotated_images, annotation_warnings, needs_masks
from modeldoctor.zoo import Classifier

__all__ = ["treat"]


def treat(
    config: TreatConfig | Prepared,
    network: Classifier,
    diagnosis: Diagnosis,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    team: Team | None = None,
) -> Trial:
    """Fine-tune a network under constraints made from its diagnosis, and say whether that helped.

    Args:
        config: what is constrained, how it is trained, and what it is compared with; or what `prepare` made of it,
            where `check_new` and `prepare` were called before the diagnosis was made.
        network: from `load_model(config.checkpoint)`.
        diagnosis: of this network, with the layers that are constrained.
        resume: go on with the interrupted trial in `config.output`.
        progress: called with (stage, done, total); figures of a stage that trains stand behind " · " in its text.
        team: the processes that share the work (`modeldoctor.runtime.distributed.job`); the first alone writes.

    Returns:
        The trial; `config.output` holds it as trial.json, with treated.<ext>, maps.h5, history.csv and config.yaml.

    Raises:
        UsageError: the diagnosis is of another checkpoint or lacks a layer, the output is in use, or the budget is too
            small.
        DataError: images, groups or annotations are missing.
        StoreError: the trial to resume had other settings.
        MemoryLimitError: `config.memory` is too small for a step, or memory ran out.
        InterruptedRunError: Ctrl-C; whole epochs are kept.
    """
    if isinstance(config, Prepared):
        prepared = config
    else:
        check_new(config, resume, diagnosed=True)
        prepared = prepare(config, network)
    team, settings = team or Team(), prepared.config
    if diagnosis.checkpoint_sha256 != network.checkpoint_sha256:
        raise UsageError(
            f"the diagnosis is of another checkpoint ({diagnosis.checkpoint_sha256[:12]}...)",
            where="diagnosis",
            expected=f"one of {settings.checkpoint} ({network.checkpoint_sha256[:12]}...)",
            hint="diagnose this checkpoint, or leave the diagnosis out",
        )
    settings, _ = prescribed(settings, diagnosis)
    prepared = prepared._replace(config=settings)
    check_team(settings, team)
    team.barrier()  # nobody writes before all have looked
    with locked(settings.output if team.is_primary else None), graceful_stop(patient=team.world_size > 1) as stop:
        config = team.broadcast(begin(prepared, network, resume) if team.is_primary else settings)
        prepared = prepared._replace(config=config)
        trial, weights = _run_trial(prepared, network, diagnosis, progress=progress or silent, stop=stop, team=team)
        if team.is_primary:
            write_treated(network, weights, settings.output)
            write_trial(trial, settings.output / run_directory.TRIAL)
    return trial


def _run_trial(
    prepared: Prepared,
    network: Classifier,
    diagnosis: Diagnosis,
    *,
    progress: Progress,
    stop: StopRequest,
    team: Team,
) -> tuple[Trial, dict[str, Tensor]]:
    """Train every arm under every seed and read the test split once; the trial and the weights that won.

    Writes history.csv, maps.h5 and, for resuming, arms/<arm>-<seed>.pt into `config.output`.

    Raises:
        UsageError: the diagnosis lacks a layer that is to be constrained, or the budget is too small.
        DataError: the space constraint has no annotated image.
        InterruptedRunError: Ctrl-C; whole epochs are kept.
    """
    began = time.perf_counter()
    config, splits = prepared
    device, module = resolve_device(config.device, team.local_rank), network.module
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
        asked = config
        config, agreement = with_statistics(asked, context)
        arms = Arms(context, diagnosis, History(config, writes=team.is_primary))
        times = None
        if config.budget is not None and config.rounds is None:
            times = arms.measure(config)
            rounds = plan_rounds(config, times, spent=team.broadcast(time.perf_counter() - began))
            config = config.model_copy(update={"rounds": rounds})
            if team.is_primary:
                record_rounds(asked.model_copy(update={"rounds": rounds}))
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
            "batch_norm": agreement and asdict(agreement),
            "split_off": splits.split_off,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": used_versions(),
        }
        config, stopped = arms.halve(config)
        provenance["halving"] = {
            "budget": config.budget,
            "seconds_per_epoch": None if times is None else dict(times.epoch),
            "stopped": [asdict(remedy) for remedy in stopped],
        }
        runs = arms.run(config)
        found = judge(network, context, config, runs, provenance, arms.annotations)
        if team.is_primary:
            warn_of_changes(config, splits)
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
