"""The end of a trial: the test split is read once, by every run; what won is handed back.

Shapes: S images, R seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.checkpoint import Checkpoint
from modeldoctor.checkpoint.write import as_stored, treated_path, write_checkpoint
from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import ModelDoctorWarning, counted, shortened
from modeldoctor.evaluate import Predictions, build_trial
from modeldoctor.results.trial import Cost, Trial
from modeldoctor.treatment.arm import TrialContext, predict_subset
from modeldoctor.treatment.arm_state import ArmState
from modeldoctor.treatment.subsets import Subset
from modeldoctor.zoo import Classifier


def judge(
    network: Classifier,
    context: TrialContext,
    config: TreatConfig,
    runs: Mapping[str, Sequence[ArmState]],
    provenance: Mapping[str, Any],
    annotations: Mapping[str, int],
) -> tuple[Trial, dict[str, Tensor]]:
    """Read the test split with every run's weights as they will stand in the file; the trial and the weights that won.

    The verdict is about the remedy that did best on validation. Of the winning arm's runs the one that did best on
    validation is handed back.

    Args:
        annotations: how many annotated images each arm uses.
    """
    original, splits = context.original, context.splits
    checkpoint, untreated = _stored(network, original)

    done, total = 0, 1 + sum(map(len, runs.values()))

    def answers(weights: dict[str, Tensor]) -> NDArray[np.int64]:
        nonlocal done
        context.progress("test", done, total)
        done += 1
        context.stop_if_asked("the final test")
        stored = as_stored(checkpoint, weights, untreated=untreated)
        context.network.load_state_dict({name: stored.get(name, tensor) for name, tensor in weights.items()})
        return predict_subset(context.network, splits.test, config, context.device, context.team)

    best = {name: [done.best or original for done in dones] for name, dones in runs.items()}
    arms = [Predictions(arm="original", seeds=(0,), predicted=answers(original)[None])]
    for name, found in best.items():
        predicted = np.stack([answers(weights) for weights in found])
        arms.append(Predictions(arm=name, seeds=config.seeds, predicted=predicted))
    held_out, kept = splits.test.readable(np.concatenate([arm.predicted for arm in arms]))
    if not kept.all():
        _warn_of_lost(splits.test, kept)
        arms = [replace(arm, predicted=arm.predicted[:, kept]) for arm in arms]
    trial = build_trial(
        arms, held_out, metric=config.metric, treatment=best_on_validation(config, runs),
        controls=config.controls, costs=_costs(runs, annotations), provenance=provenance,
    )  # fmt: skip
    if trial.handed_back == "original":
        return trial, original
    chosen = int(np.argmax([done.best_score for done in runs[trial.handed_back]]))
    return trial, best[trial.handed_back][chosen]


def _warn_of_lost(test: Subset, kept: NDArray[np.bool_]) -> None:
    """Name test images that some run could not read; they count for none."""
    lost = [test.images.paths[index] for index in test.indices[~kept].tolist()]
    warnings.warn(
        f"{test.images.split}: {counted(len(lost), 'image')} of {len(kept)} cannot be read and "
        f"{'are' if len(lost) > 1 else 'is'} left out of the test: {shortened(lost)}",
        ModelDoctorWarning,
        stacklevel=3,
    )


def best_on_validation(config: TreatConfig, runs: Mapping[str, Sequence[ArmState]]) -> str:
    """The remedy of the highest mean score over the seeds, the first of equals; controls do not count."""
    return max(config.controls, key=lambda name: float(np.mean([done.best_score for done in runs[name]])))


def _costs(runs: Mapping[str, Sequence[ArmState]], annotations: Mapping[str, int]) -> dict[str, Cost]:
    costs = {
        name: Cost(seconds=float(np.mean([done.seconds for done in dones])), annotations=annotations[name])
        for name, dones in runs.items()
    }
    return {"original": Cost(seconds=0.0, annotations=0), **costs}


def write_treated(network: Classifier, weights: dict[str, Tensor], output: Path) -> Path:
    """The weights in the container and under the keys of the file that the network came from."""
    checkpoint, untreated = _stored(network, weights)
    return write_checkpoint(checkpoint, weights, treated_path(checkpoint, output), untreated=untreated)


def _stored(network: Classifier, weights: Mapping[str, Tensor]) -> tuple[Checkpoint, list[str]]:
    """The file that a network came from, and the names in it that are not the network's."""
    checkpoint = network.source
    assert checkpoint is not None
    return checkpoint, [name for name in checkpoint.tensors if name not in weights]
