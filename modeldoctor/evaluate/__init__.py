"""Held-out predictions → every arm's figures, comparisons and the verdict; `statistics.py` says what they stand on.

Shapes: R seeds (runs of one arm), S images, N classes, G groups, C cells (sets of images), D resamples, U patterns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modeldoctor.config.treat import Metric
from modeldoctor.errors import UsageError, storable
from modeldoctor.evaluate.metrics import RULES, HeldOut, Predictions, by_run, class_groups
from modeldoctor.evaluate.statistics import difference, estimate, mcnemar, sign_flip, swap, wilson
from modeldoctor.results.diagnosis import Bools, Ints
from modeldoctor.results.remarks import whose_harm
from modeldoctor.results.trial import UNKNOWN_COST, ArmResult, Cell, Comparison, Cost, Outcome, Ruling, Trial

__all__ = [
    "HeldOut",
    "Predictions",
    "build_trial",
    "compare",
    "evaluate_arm",
    "mcnemar",
    "sign_flip",
    "verdict",
    "wilson",
]

RESAMPLES = 2000
ORIGINAL, TREAT, CONTROL = "original", "treat", "continue"


def evaluate_arm(
    predictions: Predictions, held_out: HeldOut, *, resamples: int = RESAMPLES, seed: int = 0
) -> ArmResult:
    """One arm's figures: every metric that `held_out` allows, and each class, group and class within a group.

    Args:
        predictions: of all runs.
        held_out: the images.
        resamples: D.
        seed: of the resampling; the result depends on nothing else.

    Raises:
        ValueError: predictions of another shape.
    """
    right = predictions.right(held_out)
    figures = {metric: by_run(right, RULES[metric], held_out) for metric in held_out.metrics}
    return ArmResult(
        arm=predictions.arm,
        seeds=predictions.seeds,
        images=len(held_out.labels),
        metrics={metric: estimate(right, RULES[metric], held_out, resamples, seed) for metric in figures},
        by_seed={metric: tuple(values.tolist()) for metric, values in figures.items()},
        cost=UNKNOWN_COST,
        **_all_cells(right, held_out),
    )


def _all_cells(right: Bools, held_out: HeldOut) -> dict[str, tuple[Cell, ...]]:
    classes, groups = [storable(name) for name in held_out.classes], held_out.group_names
    of_class: list[tuple[str | None, str | None]] = [(label, None) for label in classes]
    found = {"classes": _cells(right, held_out.labels, of_class), "groups": (), "class_groups": ()}
    if held_out.groups is not None:
        found["groups"] = _cells(right, held_out.group_index(), [(None, group) for group in groups])
        both = [(label, group) for label in classes for group in groups]
        found["class_groups"] = _cells(right, class_groups(held_out), both)
    return found


def _cells(right: Bools, index: Ints, names: Sequence[tuple[str | None, str | None]]) -> tuple[Cell, ...]:
    images = np.bincount(index, minlength=len(names))
    hits = np.bincount(index, weights=right.mean(axis=0), minlength=len(names))
    return tuple(
        Cell(label=label, group=group, images=int(n), accuracy=wilson(float(k), int(n)))
        for (label, group), n, k in zip(names, images, hits, strict=True)
    )


def compare(
    arm: Predictions,
    baseline: Predictions,
    held_out: HeldOut,
    *,
    metric: Metric = Metric.ACCURACY,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """One arm against another on the same images.

    Args:
        arm: predictions of R runs.
        baseline: of the R runs with the same seeds, or of one run, with which every run is compared.
        held_out: the images.
        metric: what is compared.
        resamples: D, of the bootstrap, and of the permutations for other metrics than accuracy.
        seed: of both; the result depends on nothing else.

    Raises:
        ValueError: predictions of another shape, or runs that cannot be paired.
        UsageError: the metric needs groups that are not there.
    """
    if metric not in held_out.metrics:
        raise UsageError(
            f"the metric {metric} needs a group column" + " and training groups" * (metric is Metric.WEIGHTED),
            expected=f"one of {', '.join(held_out.metrics)}",
            hint="give the groups of the images, or choose another metric",
        )
    if len(baseline.seeds) > 1 and baseline.seeds != arm.seeds:
        raise ValueError(f"{arm.arm} ran with seeds {arm.seeds}, {baseline.arm} with {baseline.seeds}")
    right = arm.right(held_out)
    other = np.broadcast_to(baseline.right(held_out), right.shape)
    rule = RULES[metric]
    found = difference(right, other, rule, held_out, resamples, seed)
    exact = metric is Metric.ACCURACY
    return Comparison(
        arm=arm.arm,
        baseline=baseline.arm,
        metric=metric,
        difference=found,
        p_value=sign_flip(right, other) if exact else swap(right, other, found.value, rule, held_out, resamples, seed),
        mcnemar=tuple(mcnemar(s, mine, its) for s, mine, its in zip(arm.seeds, right, other, strict=True)),
    )


def verdict(
    against_original: Comparison,
    against_control: Comparison,
    against_own_control: Comparison | None = None,
    control_against_original: Comparison | None = None,
) -> Ruling:
    """`improved` if the treatment is better than all, `harmed` if worse than one, each at 95%, else `no-benefit`.

    To be better than all needs no correction, to be worse than one of several does.

    Args:
        against_original, against_control: the treatment against the original and against `continue`.
        against_own_control: against the arm that shares all but what it is about, where that is not `continue`.
        control_against_original: `continue` against the original: whose harm it is.

    Raises:
        ValueError: the comparisons are of different metrics.
    """
    compared = [against_original, against_control, *([against_own_control] if against_own_control else [])]
    metrics = sorted({str(comparison.metric) for comparison in compared})
    if len(metrics) > 1:
        raise ValueError(f"comparisons of {' and of '.join(metrics)}")
    if any(comparison.worse_among(len(compared)) for comparison in compared):
        outcome = Outcome.HARMED
    elif all(comparison.better for comparison in compared):
        outcome = Outcome.IMPROVED
    else:
        outcome = Outcome.NO_BENEFIT
    harmed = outcome is Outcome.HARMED and against_original.worse
    harm = whose_harm(against_control, control_against_original) if harmed else ""
    return Ruling(
        outcome=outcome,
        metric=against_original.metric,
        against_original=against_original,
        against_control=against_control,
        against_own_control=against_own_control,
        reason=f"{against_original.arm}, {against_original.metric}: {' and '.join(map(_said, compared))}"
        + (f"; {harm}" if harm else ""),
    )


def _said(comparison: Comparison) -> str:
    word = "better than" if comparison.better else "worse than" if comparison.worse else "not proven different from"
    d = comparison.difference
    return (
        f"{word} {comparison.baseline} ({100 * d.value:+.2f} points, 95% interval {100 * d.low:+.2f} to "
        f"{100 * d.high:+.2f}, p = {comparison.p_value:.2g})"
    )


def build_trial(
    arms: Sequence[Predictions],
    held_out: HeldOut,
    *,
    metric: Metric = Metric.ACCURACY,
    treatment: str = TREAT,
    controls: Mapping[str, str] | None = None,
    costs: Mapping[str, Cost] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    provenance: Mapping[str, Any],
) -> Trial:
    """Every arm's figures, the comparisons and the verdict.

    The treatment is handed back only if it improved; else its own control if that is better than the original and
    `continue` at 95%; else `continue` if it is better than the original; else the original.

    Args:
        arms: with `original`, the treatment and `continue` among them.
        held_out: the images.
        metric: what the verdict is about.
        treatment: the arm that the verdict is about; chosen without these images.
        controls: the own control of each remedy; `continue` for one that is not named.
        costs: what each arm cost, where that is known.
        resamples: D.
        seed: of resampling and permutations.
        provenance: plain values that say how the trial was made.

    Raises:
        ValueError: an arm is missing, or predictions cannot be paired.
        UsageError: the metric needs groups that are not there.
    """
    by_name, controls = {predictions.arm: predictions for predictions in arms}, dict(controls or {})
    own = controls.get(treatment, CONTROL)
    if missing := {ORIGINAL, treatment, CONTROL, own, *controls} - by_name.keys():
        raise ValueError(f"a trial without {', '.join(sorted(missing))}")

    def compared(arm: str, baseline: str, metric: Metric) -> Comparison:
        return compare(by_name[arm], by_name[baseline], held_out, metric=metric, resamples=resamples, seed=seed)

    others = sorted(
        by_name.keys() - {treatment}, key=lambda name: (name not in (ORIGINAL, CONTROL), name != ORIGINAL, name)
    )
    treated = {(name, m): compared(treatment, name, m) for name in others for m in held_out.metrics}
    proven = {name: base for name, base in controls.items() if name != treatment} | {CONTROL: ORIGINAL}
    if own != CONTROL:
        proven |= {own: CONTROL}
    against = {(name, base): compared(name, base, metric) for name, own_base in proven.items()
               for base in dict.fromkeys((ORIGINAL, own_base, *([CONTROL] if name != CONTROL else [])))}  # fmt: skip
    ruling = verdict(
        treated[ORIGINAL, metric],
        treated[CONTROL, metric],
        treated[own, metric] if own != CONTROL else None,
        against[CONTROL, ORIGINAL],
    )
    return Trial(
        ruling=ruling,
        handed_back=_handed_back(ruling, own, against),
        arms=tuple(
            replace(
                evaluate_arm(by_name[name], held_out, resamples=resamples, seed=seed),
                cost=(costs or {}).get(name, UNKNOWN_COST),
            )
            for name in (ORIGINAL, treatment, *others[1:])
        ),
        comparisons=(*treated.values(), *against.values()),
        resamples=resamples,
        seed=seed,
        provenance=dict(provenance),
    )


def _handed_back(ruling: Ruling, own: str, against: Mapping[tuple[str, str], Comparison]) -> str:
    if ruling.outcome is Outcome.IMPROVED:
        return ruling.against_original.arm
    for name in (own, CONTROL):
        if all(comparison.better for (arm, _), comparison in against.items() if arm == name):
            return name
    return ORIGINAL
