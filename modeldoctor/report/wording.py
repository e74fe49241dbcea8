"""What a report says in sentences, for a reader who never saw the paper."""

from __future__ import annotations

import math

from modeldoctor.report.model import (
    DiagnosisFigures,
    ImageChanges,
    ImageFigures,
    LimitFigures,
    ProgressFigures,
    Report,
    StabilityFigures,
)
from modeldoctor.results.trial import Comparison, Ruling

VERDICTS = {
    "isolated": "The prediction does not survive slight noise on the network's features; right predictions do.",
    "background": "The evidence for the prediction lies outside the object.",
    "resembles-class": "The features look more like those of another class than like those of the true one.",
    "foreign-kernels": "The prediction rests on kernels that the true class does not use.",
    "unclear": "Nothing that was measured sets it apart from right predictions.",
}
OUTCOMES = {
    "improved": "The treatment helped",
    "no-benefit": "The treatment brought no proven benefit",
    "harmed": "The treatment did harm",
    "interrupted": "This trial has not ended",
    "diagnosed": "Diagnosis",
}
CHANGES = {
    "improved": "The later network is better",
    "no-benefit": "No proven change between the two",
    "harmed": "The later network is worse",
}
HANDED_BACK = {
    "treat": "The treated checkpoint holds the treated weights.",
    "continue": "The checkpoint handed back holds the control's weights: plain further training did better.",
    "original": "The original weights are handed back unchanged.",
}


def title(report: Report) -> str:
    """The verdict in a few words."""
    return CHANGES[report.verdict] if report.kind == "comparison" else OUTCOMES[report.verdict]


def percent(share: float, digits: int = 1) -> str:
    """Such as 93.8%; – for what was not measured."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}%"


def trial_headline(ruling: Ruling) -> str:
    """What a trial found against the original and the control, in a sentence."""

    def against(one: Comparison, name: str) -> str:
        word = "better than" if one.better else "worse than" if one.worse else "not proven different from"
        d = one.difference
        return f"{word} {name} ({100 * d.value:+.1f} points, 95% interval {100 * d.low:+.1f} to {100 * d.high:+.1f})"

    original, control = ruling.against_original, ruling.against_control
    return (
        f"By {ruling.metric.replace('_', ' ')}, the treated network is {against(original, 'the original')} and "
        f"{against(control, f'the control “{control.baseline}”')}."
    )


def diagnosis_headline(found: DiagnosisFigures) -> str:
    """What a diagnosis found, in a sentence or two."""
    known = [row for row in found.classes if row.images]
    said = f"{found.arch} is right on {percent(found.accuracy)} of the {found.images} images of {found.examined}."
    if known:
        worst = min(known, key=lambda one: one.accuracy)
        said += f" The worst class is {worst.name} with {percent(worst.accuracy)}."
    if found.explained:
        verdict, count = max(found.verdicts.items(), key=lambda item: item[1])
        said += f" Of {found.explained} wrong images that were explained, {count} are {verdict}."
    return said


def comparison_headline(before: DiagnosisFigures, after: DiagnosisFigures, images: ImageChanges, outcome: str) -> str:
    """What changed between two diagnoses, in a sentence."""
    words = {"improved": "Better", "harmed": "Worse", "no-benefit": "No proven change"}
    return (
        f"{words[outcome]}: accuracy was {percent(before.accuracy)} on {before.images} images of {before.examined} and "
        f"is {percent(after.accuracy)} on {after.images} of {after.examined}. Of {images.common} images in both, "
        f"{images.turned_right} turned right and {images.turned_wrong} turned wrong."
    )


def progress_headline(progress: ProgressFigures) -> str:
    """How far an unfinished trial has come."""
    whole = sum(run.epochs >= progress.epochs > 0 for run in progress.runs)
    epochs = sum(run.epochs for run in progress.runs)
    return (
        f"There is no verdict: the trial was interrupted or is still running. {whole} of {progress.planned} runs are "
        f"done, {epochs} of {progress.planned * progress.epochs} epochs. The test images have not been read. "
        "The same command with --resume goes on from here."
    )


def image_sentence(image: ImageFigures, limits: LimitFigures | None) -> str:
    """Why one image is wrong, in one plain sentence with the figure that says so."""
    label, predicted = f"“{image.label}”", f"“{image.predicted}”"
    if image.verdict == "isolated":
        said = f"With noise on its features only {percent(image.stability, 0)} of the copies stay {predicted}"
        if limits:
            said += f" (95% of right predictions stay in at least {percent(limits.stability, 0)})"
        return f"{said}; {percent(image.fallback, 0)} turn to {label}."
    if image.verdict == "background":
        said = f"{percent(image.background_share, 0)} of the evidence for {predicted} lies outside the object"
        return f"{said}{_usually(limits.background_share if limits else None)}."
    if image.verdict == "resembles-class":
        said = f"Its features look more like “{image.resembles}” than like {label}: cosine similarity is higher by "
        usual = limits.resemblance if limits else math.nan
        return f"{said}{image.resemblance:.2f}" + (
            "." if math.isnan(usual) else f" (95% of right predictions: at most {usual:.2f})."
        )
    if image.verdict == "foreign-kernels":
        kernels = [str(kernel.channel) for kernel in image.kernels[:3]]
        said = (
            f"{percent(image.foreign_share, 0)} of what carries {predicted} lies on kernels that {label} does not use"
        )
        above = f", above all {', '.join(kernels)}" if kernels else ""
        return f"{said}{above}{_usually(limits.foreign_share if limits else None)}."
    return VERDICTS["unclear"]


def firmness_sentence(figures: StabilityFigures) -> str:
    """What this network's own curves say, at the strongest noise."""
    kept = {"right": figures.right.stability[-1], "wrong": figures.wrong.stability[-1]}
    if figures.adversarial and figures.adversarial.images:
        kept["adversarial"] = figures.adversarial.stability[-1]
    said = ", ".join(f"{percent(share, 0)} of {name}" for name, share in kept.items() if not math.isnan(share))
    said = f"Here, at the strongest noise, {said} predictions are kept."
    if "adversarial" in kept and kept["adversarial"] > kept["right"] - 0.1:
        said += " So in this network adversarial images of this step size are not isolated."
    return said


def _usually(limit: float | None) -> str:
    return "" if limit is None or math.isnan(limit) else f" (95% of right predictions: at most {percent(limit, 0)})"
