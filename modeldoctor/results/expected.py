"""Is the accuracy the one that the user's own evaluation gave?"""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest

from modeldoctor.errors import DataError, printable
from modeldoctor.results.diagnosis import Diagnosis

_BY_CHANCE = 0.001
_SETUP = ("preprocessing", "class-order")


def check_expected(diagnosis: Diagnosis, expected: float) -> None:
    """Compare the examined split's accuracy with what is expected of it.

    Args:
        diagnosis: the accuracy is that of its examined split.
        expected: from 0 to 1; whole images are counted, so that 1 means every image.

    Raises:
        DataError: the accuracy is farther away than chance allows (binomial test, p < 0.001).
    """
    images = int(diagnosis.rows(diagnosis.examined).sum())
    right = round(diagnosis.accuracy * images)
    if binomtest(right, images, expected).pvalue >= _BY_CHANCE:
        return
    causes = [finding.action for finding in diagnosis.findings if finding.name in _SETUP]
    raise DataError(
        f"accuracy is {diagnosis.accuracy:.1%} on {images} images of {diagnosis.examined}",
        where="--expect-accuracy",
        expected=f"{expected:.1%}, give or take what chance allows",
        hint="; ".join(causes)
        or "name the preprocessing of your own evaluation (--input-size, --mean, --std, "
        "--interpolation, --crop-pct), and check that both read the same images and weights",
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
