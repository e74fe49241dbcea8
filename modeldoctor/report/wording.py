"""What a report says in sentences, for a reader who never saw the paper."""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape

from modeldoctor.errors import counted
from modeldoctor.report.image_model import ImageFigures, LimitFigures
from modeldoctor.report.model import (
    ComparisonFigures,
    DiagnosisFigures,
    ProgressFigures,
    Report,
    StabilityFigures,
)
from modeldoctor.results.diagnosis import Verdict
from modeldoctor.results.expected import accuracy_doubt, trial_doubt
from modeldoctor.results.trial import Comparison, Cost, Ruling, Trial
from modeldoctor.results.verdicts import about_verdict, sentence_of, trust_in

_OPTION = re.compile(r"--[a-z][a-z-]*[a-z]")
VERDICTS = {str(verdict): about_verdict(verdict) for verdict in Verdict}
TRUST = {str(verdict): trust_in(verdict) for verdict in Verdict}
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


def handed_back(trial: Trial) -> str:
    """Which weights the treated checkpoint holds, in a sentence."""
    arm = trial.handed_back
    if arm == "original":
        return "The original weights are handed back unchanged."
    treatment = trial.ruling.against_original.arm
    if arm == treatment:
        return f"The treated checkpoint holds the weights of {arm}."
    what = "plain further training (continue)" if arm == "continue" else f"the control {arm}"
    against = (trial.ruling.against_control, trial.ruling.against_own_control)
    worse = any(pair.worse for pair in against if pair and pair.baseline == arm)
    than = f"{treatment} is worse than it" if worse else f"{treatment} is not proven better than it"
    return f"The checkpoint handed back holds the weights of {what}, which is better than the original; {than}."


def cost_words(cost: Cost) -> tuple[str, str]:
    """Seconds and annotated images of a run; – for what is not known."""
    seconds = "–" if math.isnan(cost.seconds) else f"{cost.seconds:.0f}"
    return seconds, "–" if cost.annotations is None else str(cost.annotations)


def title(report: Report) -> str:
    """The verdict in a few words."""
    if (changes := report.comparison) and not changes.same_preprocessing:
        return "The two cannot be compared"
    if changes and changes.same_checkpoint:
        return "Both are of the same checkpoint"
    return CHANGES[report.verdict] if report.kind == "comparison" else OUTCOMES[report.verdict]


def percent(share: float, digits: int = 1) -> str:
    """Such as 93.8%; – for what was not measured."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}%"


def trial_headline(ruling: Ruling) -> str:
    """What a trial found against the original and the control, in a sentence."""

    def against(comparison: Comparison, name: str) -> str:
        word = "better than" if comparison.better else "worse than" if comparison.worse else "not proven different from"
        d = comparison.difference
        return f"{word} {name} ({100 * d.value:+.1f} points, 95% interval {100 * d.low:+.1f} to {100 * d.high:+.1f})"

    own = ruling.against_own_control
    found = [against(ruling.against_original, "the original")]
    found += [
        against(control, f"the control “{control.baseline}”") for control in (ruling.against_control, own) if control
    ]
    return (
        f"By {ruling.metric.replace('_', ' ')}, the treated network ({ruling.against_original.arm}) is "
        f"{', '.join(found[:-1])} and {found[-1]}."
    )


def diagnosis_headline(found: DiagnosisFigures) -> str:
    """What a diagnosis found, in a sentence or two."""
    known = [row for row in found.classes if row.images]
    said = (
        f"{found.arch} is right on {percent(found.accuracy)} of {counted(found.images, 'image')} of {found.examined}."
    )
    if known and found.wrong:
        worst = min(known, key=lambda row: (row.accuracy, row.name))
        said += f" The worst class is {worst.name} with {percent(worst.accuracy)}."
    if found.explained:
        verdict, count = max(found.verdicts.items(), key=lambda item: item[1])
        were = "was" if found.explained == 1 else "were"
        said += (
            f" Of {counted(found.explained, 'wrong image')} that {were} explained, {count:,} got the verdict {verdict}."
        )
    stays = found.limits.stays_without_object if found.limits else math.nan
    if not math.isnan(stays):
        said += (
            f" With the object removed, {percent(stays, 0)} of the right, confident predictions that were tried stay "
            "the same."
        )
    return said


def comparison_headline(
    before: DiagnosisFigures, after: DiagnosisFigures, changes: ComparisonFigures, outcome: str
) -> str:
    """What changed between two diagnoses, in a sentence."""
    words = {"improved": "Better", "harmed": "Worse", "no-benefit": "No proven change"}
    said, images = words[outcome], changes.images
    if not changes.same_preprocessing:
        said = "Not comparable, images were prepared in different ways"
    elif changes.same_checkpoint:
        said = "The same checkpoint"
    return (
        f"{said}: accuracy was {percent(before.accuracy)} on {counted(before.images, 'image')} of {before.examined} "
        f"and is {percent(after.accuracy)} on {after.images} of {after.examined}. Of "
        f"{counted(images.common, 'image')} in both, {images.turned_right} turned right and "
        f"{images.turned_wrong} turned wrong."
    )


def progress_headline(progress: ProgressFigures) -> str:
    """How far an unfinished trial has come."""
    whole = sum(run.epochs >= progress.epochs > 0 for run in progress.runs)
    epochs = sum(run.epochs for run in progress.runs)
    return (
        f"There is no outcome yet: the trial was interrupted or is still running. {whole} of "
        f"{counted(progress.planned, 'run')} and {epochs} of {counted(progress.planned * progress.epochs, 'epoch')} "
        "are done. The test images have not been read. "
        "The same command with --resume goes on from here."
    )


def doubt_sentence(report: Report) -> str:
    """What may be wrong where the user's own evaluation gives another accuracy; empty where that was checked."""
    found, trial = report.diagnosis, report.trial
    if trial:
        return trial_doubt(trial)
    return accuracy_doubt(found.assumed, found.config.expect_accuracy) if found else ""


def image_sentence(image: ImageFigures, limits: LimitFigures | None) -> str:
    """Why one image is wrong, in one plain sentence with the figure that says so."""
    return sentence_of(image.model_dump(), limits.model_dump() if limits else None)


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


def unbroken(text: str) -> Markup:
    """Words for the page, in which no option is broken at its hyphens."""
    return Markup(_OPTION.sub(r'<span class="whole">\g<0></span>', str(escape(text))))
