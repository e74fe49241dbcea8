"""What to do after a trial, from its outcome alone; a diagnosis beside it has steps of its own."""

from __future__ import annotations

from dataclasses import dataclass

from modeldoctor.config.treat import Metric
from modeldoctor.report.model import Report
from modeldoctor.results.remarks import whose_harm
from modeldoctor.results.trial import Comparison, Outcome, Trial

_WORTH_ASKING = 0.01
"""A gain that an interval still allows, as a share of the images, from which on a larger trial is worth its time."""
_CONTROLS = {"original", "continue", "hard-examples", "shuffled-channels", "random-mask"}


@dataclass(frozen=True)
class Step:
    """What to do next, and why."""

    action: str
    why: str
    command: str = ""


def trial_steps(report: Report) -> list[Step]:
    """The next steps, the first one first; empty without a trial."""
    if report.progress and not report.trial:
        return [Step("Go on with the trial", "The same command with --resume goes on from the last whole epoch")]
    if not (trial := report.trial):
        return []
    steps = {Outcome.IMPROVED: _improved, Outcome.HARMED: _harmed, Outcome.NO_BENEFIT: _open}[trial.ruling.outcome]
    return steps(trial)


def _improved(trial: Trial) -> list[Step]:
    treatment = trial.ruling.against_original.arm
    steps = [
        Step(
            "Use the treated checkpoint",
            f"It holds the weights of {treatment}; diagnosed on the same images, it shows what is still wrong",
            "modeldoctor diagnose RUN/treated.pt --data DIR -o after.h5 && modeldoctor report BEFORE.h5 after.h5",
        )
    ]
    steps += _price(trial)
    return steps + ([Step("Repeat it with three seeds", trial.caution.rstrip("."), _SEEDS)] if trial.caution else [])


def _price(trial: Trial) -> list[Step]:
    """Where the whole gains and the worst class, or group, loses."""
    treatment = trial.ruling.against_original.arm
    for metric in (Metric.WORST_GROUP, Metric.WORST_CLASS):
        for pair in trial.comparisons:
            if (pair.arm, pair.baseline, pair.metric) == (treatment, "original", metric) and pair.worse:
                what, lost = metric.replace("_", " "), -100 * pair.difference.value
                return [
                    Step(
                        f"Look at the {what} first: it pays for the gain",
                        f"There the original is better by {lost:.1f} points; validation can choose by it",
                        f"--set metric={metric} --set arms=auto",
                    )
                ]
    return []


_SEEDS = "--set seeds=[0,1,2]"


def _harmed(trial: Trial) -> list[Step]:
    ruling = trial.ruling
    against = (ruling.against_original, ruling.against_control, ruling.against_own_control)
    worse = [pair.baseline for pair in against if pair and pair.worse]
    treatment = ruling.against_original.arm
    kept = (
        f"By {ruling.metric.replace('_', ' ')} it is worse than {' and '.join(worse or ['one it was compared with'])}"
    )
    steps = [Step(f"Do not use the weights of {treatment}; use those that were handed back", kept)]
    if ruling.against_original.worse:
        said, _, advice = whose_harm(ruling.against_control, _plain(trial)).partition(": try ")
        weights = "a smaller space.weight or channel.weight, or weight auto, which tries several"
        steps.append(Step(f"Try {advice or weights}", said[:1].upper() + said[1:]))
    return steps


def _open(trial: Trial) -> list[Step]:
    ruling, back = trial.ruling, trial.handed_back
    treatment = ruling.against_original.arm
    steps = [
        Step(
            "Keep the original" if back == "original" else f"Use the weights that were handed back, those of {back}",
            f"{treatment} is not proven better than all that it was compared with",
        )
    ]
    if trial[treatment].cost.annotations == 0 and treatment == "treat":
        steps.append(
            Step(
                "Give object masks",
                "Without them only the channel constraint was tried, which has shown no benefit yet; few are enough",
                "modeldoctor annotate CKPT --data DIR -o TODO",
            )
        )
    if {arm.arm for arm in trial.arms} <= {treatment, *_CONTROLS}:
        steps.append(Step("Try the other remedies", "One alone was tried here", "--set arms=auto"))
    high = ruling.against_control.difference.high
    if high > _WORTH_ASKING:
        more = "three seeds" if trial.caution else "more test images"
        why = f"The interval still allows {100 * high:+.1f} points over {ruling.against_control.baseline}"
        steps.append(Step(f"Or ask again with {more}", why, _SEEDS if trial.caution else ""))
    return steps


def _plain(trial: Trial) -> Comparison | None:
    """Plain further training against the original; None in a trial without it."""
    name, metric = trial.ruling.against_control.baseline, trial.ruling.metric
    pairs = (pair for pair in trial.comparisons if (pair.arm, pair.baseline, pair.metric) == (name, "original", metric))
    return next(pairs, None)
