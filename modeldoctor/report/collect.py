"""From stored results to the figures of a report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from modeldoctor.config.treat import Metric
from modeldoctor.errors import counted
from modeldoctor.evaluate.statistics import wilson
from modeldoctor.report.model import (
    ArmProgress,
    CurveFigures,
    DiagnosisFigures,
    KeyFigures,
    ProgressFigures,
    Report,
    StabilityFigures,
)
from modeldoctor.report.results import Results
from modeldoctor.report.sharing import MOST_CLASSES, ClassPairs, class_pairs, sharing_figures
from modeldoctor.report.strongest import strongest_kernels
from modeldoctor.report.wording import diagnosis_headline, progress_headline, trial_headline
from modeldoctor.results.diagnosis import Bools, Diagnosis, Verdict
from modeldoctor.results.summary import summarise
from modeldoctor.results.trial import Trial
from modeldoctor.runtime.versions import own_version


def collect(results: Results) -> Report:
    """The report on a diagnosis or a trial, without gates."""
    found = diagnosis_figures(results.diagnosis, str(results.diagnosis_path)) if results.diagnosis else None
    common: dict[str, Any] = {
        "modeldoctor": own_version(), "diagnosis": found, "notes": (*results.notes, *_notes(found))
    }  # fmt: skip
    if results.trial:
        return Report(
            **common,
            kind="trial",
            state="complete",
            verdict=results.trial.ruling.outcome,
            headline=trial_headline(results.trial.ruling),
            figures=_trial_figures(results.trial, found),
            trial=results.trial,
            progress=_progress(results) if results.history else None,
        )
    if results.config is not None:
        progress = _progress(results)
        return Report(
            **common,
            kind="trial",
            state="interrupted",
            verdict="interrupted",
            headline=progress_headline(progress),
            figures=KeyFigures(**_verdict_shares(found)) if found else KeyFigures(),
            progress=progress,
        )
    assert found is not None
    return Report(
        **common,
        kind="diagnosis",
        state="complete",
        verdict="diagnosed",
        headline=diagnosis_headline(found),
        figures=key_figures(found),
    )


def diagnosis_figures(diagnosis: Diagnosis, file: str) -> DiagnosisFigures:
    """A diagnosis in figures; reads one layer at a time."""
    summary = summarise(diagnosis)
    del summary["schema"], summary["worst_classes"]
    right = summary["images"] - summary["wrong"]
    interval = wilson(right, summary["images"])
    for row in summary["classes"]:
        share = row["accuracy"] or 0.0
        of_class = wilson(share * row["images"], row["images"])
        row |= {"low": of_class.low, "high": of_class.high}
    pairs: ClassPairs | None = class_pairs(diagnosis)
    return DiagnosisFigures(
        **summary,
        file=file,
        low=interval.low,
        high=interval.high,
        strongest=strongest_kernels(diagnosis),
        sharing=sharing_figures(pairs, tuple(row["name"] for row in summary["classes"])) if pairs else None,
        stability=_stability(diagnosis),
    )


def _stability(diagnosis: Diagnosis) -> StabilityFigures | None:
    samples, attack = diagnosis.samples, diagnosis.adversarial
    measured = ~np.isnan(samples.stability).all(axis=1) if samples.stability.size else np.zeros(0, dtype=np.bool_)
    if not measured.any():
        return None
    right = samples.label == samples.predicted

    def curve(rows: Bools) -> CurveFigures:
        return CurveFigures(images=int(rows.sum()), stability=_means(samples.stability[rows]))

    turned = attack and CurveFigures(
        images=len(attack.sample), stability=_means(attack.stability), fallback=_means(attack.fallback)
    )
    return StabilityFigures(
        noise_ranges=tuple(samples.noise_ranges.tolist()),
        right=curve(measured & right),
        wrong=curve(measured & ~right),
        adversarial=turned,
        epsilon=attack.epsilon if attack else math.nan,
        attacked=attack.attacked if attack else 0,
    )


def _means(rows: Any) -> tuple[float, ...]:
    """Of each column; NaN without rows."""
    return tuple(rows.mean(axis=0).tolist()) if len(rows) else (math.nan,) * rows.shape[1]


def key_figures(found: DiagnosisFigures) -> KeyFigures:
    """The figures of a diagnosis that gates call by their bare names."""
    known = [row.accuracy for row in found.classes if row.images]
    return KeyFigures(accuracy=found.accuracy, worst_class=min(known, default=math.nan), **_verdict_shares(found))


def _verdict_shares(found: DiagnosisFigures) -> dict[str, float]:
    shares = {
        str(verdict).replace("-", "_"): found.verdicts[verdict] / found.explained if found.explained else math.nan
        for verdict in Verdict
    }
    unmeasured = max((layer.classes_without_samples for layer in found.layers), default=math.nan)
    return {**shares, "broken": len(found.broken), "classes_without_samples": unmeasured}


def _trial_figures(trial: Trial, found: DiagnosisFigures | None) -> KeyFigures:
    held = trial[trial.handed_back].metrics
    ruling = trial.ruling
    gains = {
        (comparison.baseline): comparison.difference.value
        for comparison in trial.comparisons
        if comparison.arm == ruling.against_original.arm and comparison.metric == Metric.ACCURACY
    }

    def metric(name: Metric) -> float:
        return held[name].value if name in held else math.nan

    return KeyFigures(
        accuracy=metric(Metric.ACCURACY),
        worst_class=metric(Metric.WORST_CLASS),
        worst_group=metric(Metric.WORST_GROUP),
        gain=gains.get(ruling.against_original.baseline, math.nan),
        gain_over_control=gains.get(ruling.against_control.baseline, math.nan),
        **(_verdict_shares(found) if found else {}),
    )


def _progress(results: Results) -> ProgressFigures:
    config = results.config or {}
    runs: dict[tuple[str, int], list[float]] = {}
    for row in results.history:
        if row.arm not in config.get("arms", (row.arm,)):
            continue  # a short run that picked a weight
        runs.setdefault((row.arm, row.seed), []).append(row.figures.get("val_accuracy", math.nan))
    return ProgressFigures(
        epochs=int(config.get("training", {}).get("epochs", 0)),
        planned=len(config.get("arms", ())) * len(config.get("seeds", ())),
        runs=tuple(
            ArmProgress(arm=arm, seed=seed, epochs=len(values), val_accuracy=max(values))
            for (arm, seed), values in runs.items()
        ),
    )


def _notes(found: DiagnosisFigures | None) -> list[str]:
    if found is None:
        return []
    said = []
    if len(found.classes) > MOST_CLASSES:
        said.append(f"With more than {MOST_CLASSES} classes, pairs of classes are not compared.")
    if found.wrong > found.explained > 0:
        said.append(
            f"Of {counted(found.wrong, 'wrong image')} {found.explained}, first one of every class and then at random, "
            f"{'was' if found.explained == 1 else 'were'} explained."
        )
    elif found.wrong and not found.explained:
        said.append("No single image was explained in this diagnosis.")
    return said
