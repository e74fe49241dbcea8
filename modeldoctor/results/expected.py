"""Is the accuracy the one that the user's own evaluation gave?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import scipy

from modeldoctor.errors import DataError, counted, printable
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.trial import Trial

_BY_CHANCE = 0.001
_SETUP = ("preprocessing", "class-order")


def check_diagnosis(diagnosis: Diagnosis, expected: float | None) -> None:
    """As `check_expected`, of the images that a diagnosis examined; what it found of preprocessing is the next step."""
    rows = diagnosis.rows(diagnosis.examined)
    right = int((diagnosis.samples.label[rows] == diagnosis.samples.predicted[rows]).sum())
    causes = [finding.action for finding in diagnosis.findings if finding.name in _SETUP]
    check_expected(right, int(rows.sum()), diagnosis.examined, expected, causes)


def check_expected(right: int, images: int, split: str, expected: float | None, causes: Sequence[str] = ()) -> None:
    """Compare an accuracy with what the user's own evaluation gave.

    Args:
        right, images: of the split.
        split: its name.
        expected: from 0 to 1, 1 meaning every image; None: nothing is expected.
        causes: what is known to differ, as next steps.

    Raises:
        DataError: the accuracy is farther away than chance allows (binomial test, p < 0.001).
    """
    if expected is None or not images or scipy.stats.binomtest(right, images, expected).pvalue >= _BY_CHANCE:
        return
    raise DataError(
        f"accuracy is {right / images:.1%} on {counted(images, 'image')} of {split}",
        where="--expect-accuracy",
        expected=f"{expected:.1%}, give or take what chance allows",
        hint="; ".join(causes)
        or "name the preprocessing of your own evaluation (--input-size, --mean, --std, --interpolation, --crop-pct, "
        "--resize-mode) and how the network was built (--model-option), and check that both read the same images and "
        "weights",
    )


def accuracy_doubt(assumed: Sequence[str] | None, expected: float | None = None) -> str:
    """What to think of where the user's own evaluation gave another accuracy; empty where that was checked.

    Args:
        assumed: what the checkpoint did not say and was assumed of preprocessing and construction; None if not known.
        expected: the accuracy that was checked.
    """
    if expected is not None:
        return ""
    said = "If your own evaluation gives another accuracy, preprocessing or construction differ."
    if assumed is None:
        return said
    if not assumed:
        return f"{said} Nothing was assumed: the checkpoint or the options say it all."
    return f"{said} Assumed: {'; '.join(map(printable, assumed))}."


def trial_doubt(trial: Trial) -> str:
    """As `accuracy_doubt`, of the network that was treated."""
    asked: Mapping[str, Any] = trial.provenance.get("config") or {}
    return accuracy_doubt(trial.provenance.get("assumed"), asked.get("expect_accuracy"))
