"""What is kept of a diagnosis, a trial, and methods of others: plain numbers for the JSON of a piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from modeldoctor.config.treat import Metric
from modeldoctor.evaluate.metrics import RULES, HeldOut, by_run
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.trial import ArmResult, Trial

Rows = dict[str, tuple[NDArray[np.int64], str, float]]
"""By method, what its runs answer (R,S), what it was fitted on, and its seconds."""


def method_figures(rows: Rows, held_out: HeldOut) -> dict[str, Any]:
    """Metrics of every run of every method."""
    return {
        "images": len(held_out.labels),
        "methods": [
            {
                "method": name, "labels": labels, "seconds": seconds, "seeds": len(predicted),
                "metrics": {
                    str(metric): by_run(predicted == held_out.labels, RULES[metric], held_out).tolist()
                    for metric in (Metric.ACCURACY, Metric.WORST_GROUP, Metric.WEIGHTED)
                },
            }
            for name, (predicted, labels, seconds) in rows.items()
        ],
    }  # fmt: skip


def diagnosis_figures(diagnosis: Diagnosis) -> dict[str, Any]:
    """Sparsity of every layer, and how well stability and confidence tell right images from others."""
    threshold = diagnosis.config.threshold
    rows = diagnosis.rows(diagnosis.examined)
    samples, adversarial = diagnosis.samples, diagnosis.adversarial
    right = rows & (samples.label == samples.predicted)
    wrong = rows & ~right
    figures: dict[str, Any] = {
        "images": int(rows.sum()),
        "accuracy": diagnosis.accuracy,
        "layers": [
            {"name": layer.name, "depth": layer.depth, "correlated": float(layer.correlated(threshold).mean())}
            for layer in diagnosis.layers.values()
        ],
        "wrong_by_confidence": roc_area(-samples.confidence[wrong], -samples.confidence[right]),
        "noise_ranges": samples.noise_ranges.tolist(),
    }
    measured = ~np.isnan(samples.stability).any(1)
    steady = samples.stability[right & measured]
    figures["right_stability"] = steady.mean(0).tolist()
    figures["wrong_stability"] = samples.stability[wrong & measured].mean(0).tolist()
    figures["wrong_by_stability"] = _areas(samples.stability[wrong & measured], steady)
    if adversarial is not None and len(adversarial.sample):
        figures["adversarial"] = {
            "images": len(adversarial.sample),
            "stability": adversarial.stability.mean(0).tolist(),
            "by_stability": _areas(adversarial.stability, steady),
        }
    return figures


def _areas(fragile: NDArray[np.floating[Any]], steady: NDArray[np.floating[Any]]) -> list[float]:
    """For each noise range (columns), how well instability tells the first images from the second."""
    return [roc_area(-few, -others) for few, others in zip(fragile.T, steady.T, strict=True)]


def roc_area(positive: NDArray[np.floating[Any]], negative: NDArray[np.floating[Any]]) -> float:
    """Area under the ROC curve of a score: the chance that a positive's is higher, ties counted half."""
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def trial_figures(trial: Trial) -> dict[str, Any]:
    """Every arm's metrics with their intervals, and the ruling."""
    return {
        "metric": trial.ruling.metric,
        "outcome": str(trial.ruling.outcome),
        "reason": trial.ruling.reason,
        "images": trial.arms[0].images,
        "arms": [_arm(arm) for arm in trial.arms],
    }


def gain_by_class(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Of a trial's figures: is the gain of the remedy that validation chose larger where a class is worse (Fig. 4)?

    Returns:
        By class the original's `accuracy`, the remedy's `gain` over it and `over_continue`; and Pearson's correlation
        of both with the accuracy. An accuracy that luck made low is followed by a gain: `over_continue` is free of it.
    """
    arms = {arm["arm"]: arm["classes"] for arm in trial["arms"]}
    remedy = trial["reason"].split(",")[0]
    accuracy, chosen, plain = (np.array(list(arms[name].values())) for name in ("original", remedy, "continue"))
    gains = {"gain": chosen - accuracy, "over_continue": chosen - plain}
    return {
        "remedy": remedy,
        "accuracy": accuracy.tolist(),
        **{name: gain.tolist() for name, gain in gains.items()},
        **{f"correlation_{name}": float(np.corrcoef(accuracy, gain)[0, 1]) for name, gain in gains.items()},
    }


def _arm(arm: ArmResult) -> dict[str, Any]:
    return {
        "arm": arm.arm,
        "seeds": len(arm.seeds),
        "metrics": {name: [figure.value, figure.low, figure.high] for name, figure in arm.metrics.items()},
        "by_seed": {name: list(values) for name, values in arm.by_seed.items()},
        "classes": {str(cell.label): cell.accuracy.value for cell in arm.classes},
        "groups": {str(group.group): group.accuracy.value for group in arm.groups},
        "seconds": arm.cost.seconds,
        "annotations": arm.cost.annotations,
    }
