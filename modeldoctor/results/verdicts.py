"""Every verdict in one table: its figure, its limit, and its words. Adding one is one row here, and its test.

A verdict is tried in the order of the table: the first whose figure exceeds its limit is given. Figures grow with how
abnormal they are, and 1 is the most they can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from modeldoctor.results.diagnosis import Limits, Misdiagnosis, Verdict

Image = Mapping[str, Any]
"""One wrong image in the summary's plain values; see `Misdiagnosis`. What was not measured is None or NaN."""


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """One verdict.

    Attributes:
        verdict: its name.
        value, limit: the image's figure, and what right, confident predictions stay within; NaN: not measured.
        meaning: what it says, for the terminal.
        about: the same in a sentence, for the page.
        evidence: what was found on one image, for the terminal.
        sentence: the same for the page, given the limits (None: none).
    """

    verdict: Verdict
    value: Callable[[Misdiagnosis], float]
    limit: Callable[[Limits], float]
    meaning: str
    about: str
    evidence: Callable[[Image], str]
    sentence: Callable[[Image, Image | None], str]


def _share(value: float | None, digits: int = 0) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def _usually(limits: Image | None, name: str) -> str:
    limit = math.nan if limits is None or limits[name] is None else limits[name]
    return "" if math.isnan(limit) else f" (95% of right predictions: at most {_share(limit)})"


def _isolated(image: Image, limits: Image | None) -> str:
    said = f"With noise on its features only {_share(image['stability'])} of the copies stay “{image['predicted']}”"
    if limits:
        said += f" (95% of right predictions stay in at least {_share(limits['stability'])})"
    return f"{said}; {_share(image['fallback'])} turn to “{image['label']}”."


def _background(image: Image, limits: Image | None) -> str:
    said = f"With the object removed it is still taken for “{image['predicted']}” ({_share(image['without_object'])})"
    share = None if limits is None else limits.get("stays_without_object")
    if share is None or math.isnan(share):
        return f"{said}."
    return f"{said}; so are {_share(share)} of the right predictions that were tried."


def _resembles(image: Image, limits: Image | None) -> str:
    said = (
        f"Its features look more like “{image['resembles']}” than like “{image['label']}”: cosine similarity is higher "
        f"by {image['resemblance']:.2f}"
    )
    usual = None if limits is None else limits["resemblance"]
    return (
        f"{said}." if usual is None or math.isnan(usual) else f"{said} (95% of right predictions: at most {usual:.2f})."
    )


def _foreign(image: Image, limits: Image | None) -> str:
    said = (
        f"{_share(image['foreign_share'])} of what carries “{image['predicted']}” lies on kernels that "
        f"“{image['label']}” does not use"
    )
    kernels = [str(kernel["channel"]) for kernel in image["kernels"][:3]]
    above = f", above all {', '.join(kernels)}" if kernels else ""
    return f"{said}{above}{_usually(limits, 'foreign_share')}."


def _foreign_kernels(image: Image) -> str:
    kernels = (
        f"{kernel['channel']} ({kernel['size']:.3g}, usually {kernel['own_class']:.3g})" for kernel in image["kernels"]
    )
    first = ", ".join(islice(kernels, 2))
    return f"{_share(image['foreign_share'], 1)} of it on kernels that {image['label']} does not use: {first}"


VERDICTS: tuple[VerdictRow, ...] = (
    VerdictRow(
        verdict=Verdict.BACKGROUND,
        # An intervention, not a comparison: what right predictions do without their object is no excuse.
        value=lambda image: image.without_object if image.stays_without_object == 1 else 0.0,
        limit=lambda limits: 0.0,
        meaning="with the object removed the prediction stays the same",
        about="With the object removed the prediction stays the same: the background carries it.",
        evidence=lambda image: f"{_share(image['without_object'], 1)} without the object",
        sentence=_background,
    ),
    VerdictRow(
        verdict=Verdict.ISOLATED,
        value=lambda image: 1 - image.stability,
        limit=lambda limits: 1 - limits.stability,
        meaning="the prediction does not survive noise on its features that right ones survive",
        about="The prediction does not survive slight noise on the network's features; right predictions do.",
        evidence=lambda image: (
            f"{_share(image['stability'], 1)} of noisy copies keep it, {_share(image['fallback'], 1)} turn right"
        ),
        sentence=_isolated,
    ),
    VerdictRow(
        verdict=Verdict.RESEMBLES_CLASS,
        # Half a difference of cosines, so that 1 is its most, too.
        value=lambda image: image.resemblance / 2,
        limit=lambda limits: max(limits.resemblance, 0.0) / 2,
        meaning="its kernels respond like another class's",
        about="The features look more like those of another class than like those of the true one.",
        evidence=lambda image: f"like {image['resembles']}, by {image['resemblance']:+.2f} cosine",
        sentence=_resembles,
    ),
    VerdictRow(
        verdict=Verdict.FOREIGN_KERNELS,
        value=lambda image: image.foreign_share,
        limit=lambda limits: limits.foreign_share,
        meaning="kernels that the true class does not use carry the prediction",
        about="The prediction rests on kernels that the true class does not use.",
        evidence=_foreign_kernels,
        sentence=_foreign,
    ),
)
UNCLEAR = "nothing measured sets it apart from right predictions"
UNMEASURED = "its class had no right, confident image, so that nothing could be compared"
_BY_NAME = {str(row.verdict): row for row in VERDICTS}


def meaning_of(verdict: str) -> str:
    """What a verdict says, for the terminal."""
    return _BY_NAME[verdict].meaning if verdict in _BY_NAME else UNCLEAR


def about_verdict(verdict: str) -> str:
    """What a verdict says, in a sentence."""
    return _BY_NAME[verdict].about if verdict in _BY_NAME else f"{UNCLEAR[0].upper()}{UNCLEAR[1:]}."


def evidence_of(image: Image) -> str:
    """What was found on one image, for the terminal."""
    row = _BY_NAME.get(image["verdict"])
    return _nothing(image) if row is None else row.evidence(image)


def sentence_of(image: Image, limits: Image | None) -> str:
    """Why one image is wrong, in one plain sentence with the figure that says so."""
    row = _BY_NAME.get(image["verdict"])
    if row is None:
        said = _nothing(image)
        return f"{said[0].upper()}{said[1:]}."
    return row.sentence(image, limits)


def _nothing(image: Image) -> str:
    share = image["foreign_share"]
    return UNMEASURED if share is None or math.isnan(share) else UNCLEAR
