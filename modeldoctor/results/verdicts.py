"""Every verdict in one table: its figure, its limit, and its words. Adding one is one row here, and its test.

A verdict is tried in the order of the table: the first whose figure exceeds its limit is given. Figures grow with how
abnormal they are, and 1 is the most they can be. Order and limits were chosen on the development half of the exam of
planted faults (`scripts/planted_faults.py`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from modeldoctor.results.diagnosis import Limits, Misdiagnosis, Verdict

DAMAGES = ("darker", "brighter", "lower in contrast", "blurrier", "noisier", "blockier")
"""What damage makes of an image, compared with training images."""
PULL, DAMAGE, UNFAMILIARITY, LABEL_DOUBT = 1.7, 0.998, 0.85, 0.16
"""From where on an image counts as isolated, damaged, unfamiliar, mislabelled; see `Misdiagnosis`."""
BEYOND_DAMAGE, BEYOND_ATTACK = 2.6, 1.25
"""An image that is more unfamiliar than this is no damaged image of a class, and none that was altered slightly."""
PULL_OVER_BACKGROUND = 2.5
"""From where on an image counts as isolated that its background misled, too: an attack changes backgrounds as well."""
MOST_BACKGROUNDS, MISLED_OTHERS, OWN_BACKGROUNDS = 0.5, 0.3, 0.75
"""An image was misled by its background if it is right before more than the first of other images' backgrounds, if at
least the second of other images' objects, put before it, are taken for the same class, or if it is right before more
than the third of the backgrounds of its own class."""

Image = Mapping[str, Any]
"""One wrong image in the summary's plain values; see `Misdiagnosis`. What was not measured is None or NaN."""


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """One verdict.

    Attributes:
        verdict: its name.
        value, limit: the image's figure (NaN: not measured), and what it must exceed; the limits are None where no
            image was predicted right with confidence.
        meaning: what it says, for the terminal.
        about: the same in a sentence, for the page.
        evidence: what was found on one image, for the terminal.
        sentence: the same for the page, given the limits (None: none).
        exam: recall and precision in the exam of planted faults (`scripts/FIGURES.md`); None: not examined.
    """

    verdict: Verdict
    value: Callable[[Misdiagnosis], float]
    limit: Callable[[Limits | None], float]
    meaning: str
    about: str
    evidence: Callable[[Image], str]
    sentence: Callable[[Image, Image | None], str]
    exam: tuple[float, float] | None = None


def _share(value: float | None, digits: int = 0) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def _isolated(image: Image, limits: Image | None) -> str:
    return (
        f"Slight blur and mirroring turn it towards “{image['label']}” by {_number(image['pull_to_label'])} "
        f"standard deviations more than right images of “{image['predicted']}” (limit {PULL:g}), as they turn "
        "adversarial images."
    )


def _isolation(image: Misdiagnosis) -> float:
    if image.unfamiliarity > BEYOND_ATTACK or (_misled(image) and image.pull_to_label <= PULL_OVER_BACKGROUND):
        return 0.0
    return 1 - 1 / max(image.pull_to_label, 1.0)  # deviations have no most; so their reciprocal's


def _is_right_before_most(image: Image) -> bool:
    return (image["other_backgrounds"] or 0) > MOST_BACKGROUNDS


def _misleads_others(image: Image) -> bool:
    return (image["misleads_others"] or 0) >= MISLED_OTHERS


def _background(image: Image, limits: Image | None) -> str:
    if image["stays_without_object"] != 1 and _is_right_before_most(image):
        return (
            f"Put before other images' backgrounds, its object is predicted right before "
            f"{_share(image['other_backgrounds'])} of them."
        )
    if image["stays_without_object"] != 1 and not _misleads_others(image):
        return (
            f"Put before backgrounds of other “{image['label']}” images, its object is predicted right before "
            f"{_share(image['own_backgrounds'])} of them: the one that it has turns it."
        )
    if image["stays_without_object"] != 1:
        return (
            f"{_share(image['misleads_others'])} of other images' objects, put before its background, are taken for "
            f"“{image['predicted']}”, too."
        )
    said = f"With the object removed it is still taken for “{image['predicted']}” ({_share(image['without_object'])})"
    share = None if limits is None else limits.get("stays_without_object")
    if share is None or math.isnan(share):
        return f"{said}."
    return f"{said}; of the right predictions that were tried {_share(share)} stay the same, too."


def _misled(image: Misdiagnosis) -> float:
    if image.stays_without_object == 1:
        return image.without_object
    if image.other_backgrounds > MOST_BACKGROUNDS:
        return image.other_backgrounds
    if image.misleads_others >= MISLED_OTHERS:
        return image.misleads_others
    return image.own_backgrounds if image.own_backgrounds > OWN_BACKGROUNDS else 0.0


def _background_figure(image: Image) -> str:
    if image["stays_without_object"] == 1:
        return f"{_share(image['without_object'], 1)} without the object"
    if _is_right_before_most(image):
        return f"right before {_share(image['other_backgrounds'])} of other backgrounds"
    if not _misleads_others(image):
        return f"right before {_share(image['own_backgrounds'])} of its class's backgrounds"
    return f"its background makes {_share(image['misleads_others'])} of other objects {image['predicted']}"


def _resembles(image: Image, limits: Image | None) -> str:
    said = (
        f"Its features look more like “{image['resembles']}” than like “{image['label']}”: cosine similarity is higher "
        f"by {image['resemblance']:.2f}"
    )
    usual = None if limits is None else limits["resemblance"]
    return (
        f"{said}." if usual is None or math.isnan(usual) else f"{said} (95% of right predictions: at most {usual:.2f})."
    )


def _damage(image: Image, of: str) -> str:
    share = "all" if image["damage"] == 1 else _share(image["damage"], 1)
    return f"{DAMAGES[image['damage_kind']]} than {share} of {of}"


def _damaged(image: Image, limits: Image | None) -> str:
    return f"It is {_damage(image, 'the training images that it was compared with')}."


def _without_kernel(image: Image) -> str:
    if image["faulty_kernel"] < 0:
        return f"{_share(image['foreign_share'], 1)} of it on kernels that {image['label']} does not use"
    return f"without kernel {image['faulty_kernel']}: right, {_share(image['without_kernel'], 1)}"


def _faulty(image: Image, limits: Image | None) -> str:
    if image["faulty_kernel"] < 0:  # of a file from before kernels were removed to see
        return f"{_without_kernel(image)}."
    return (
        f"Without kernel {image['faulty_kernel']} of the features it is right: “{image['label']}” "
        f"({_share(image['without_kernel'])}). That kernel costs more images than it serves."
    )


def _unfamiliar(image: Image, limits: Image | None) -> str:
    return (
        f"In colours and textures it is {_number(image['unfamiliarity'])} times as far from the training images as 99% "
        f"of these are (limit {UNFAMILIARITY:g})."
    )


def _mislabelled(image: Image, limits: Image | None) -> str:
    return (
        f"It is a usual “{image['predicted']}”, and no more like “{image['label']}” than others are (doubt "
        f"{image['label_doubt']:.2f}, limit {LABEL_DOUBT:g}): is its label right?"
    )


def _resemblance_limit(limits: Limits | None) -> float:
    return math.inf if limits is None else max(limits.resemblance, 0.0) / 2


VERDICTS: tuple[VerdictRow, ...] = (
    VerdictRow(
        verdict=Verdict.DAMAGED,
        value=lambda image: 0.0 if image.unfamiliarity > BEYOND_DAMAGE else image.damage,
        limit=lambda limits: DAMAGE,
        meaning="it is darker, blurrier, noisier ... than the training images",
        about="Its pixels are darker, brighter, blurrier, noisier ... than those of nearly all training images.",
        evidence=lambda image: _damage(image, "the training images"),
        sentence=_damaged,
        exam=(0.93, 0.91),
    ),
    VerdictRow(
        verdict=Verdict.ISOLATED,
        value=_isolation,
        limit=lambda limits: 1 - 1 / PULL,
        meaning="slight alterations turn it to its label, as adversarial images",
        about="Slight alterations of its pixels turn it towards its label far more than they turn right images.",
        evidence=lambda image: f"altered, it turns to {image['label']} by {_number(image['pull_to_label'])} deviations",
        sentence=_isolated,
        exam=(0.80, 0.88),
    ),
    VerdictRow(
        verdict=Verdict.BACKGROUND,
        # An intervention, not a comparison: what right predictions do without their object is no excuse.
        value=_misled,
        limit=lambda limits: 0.0,
        meaning="the background, not the object, carries the prediction",
        about="With the object removed the prediction stays the same, before other "
        "backgrounds, or those of its class, it turns right, or other objects before its background are taken for the "
        "same class: the background carries it.",
        evidence=_background_figure,
        sentence=_background,
        exam=(0.92, 0.91),
    ),
    VerdictRow(
        verdict=Verdict.FOREIGN_KERNELS,
        value=lambda image: image.without_kernel,
        limit=lambda limits: 0.0,
        meaning="without one kernel, which costs more images than it serves, it is right",
        about="Without one kernel of the features it is right, and that kernel costs more images than it serves.",
        evidence=_without_kernel,
        sentence=_faulty,
        exam=(0.98, 0.98),
    ),
    VerdictRow(
        verdict=Verdict.UNFAMILIAR,
        # A distance has no most.
        value=lambda image: image.unfamiliarity / (1 + image.unfamiliarity),
        limit=lambda limits: UNFAMILIARITY / (1 + UNFAMILIARITY),
        meaning="it is like no training image",
        about="In colours and textures it is farther from the training images than nearly all of these are.",
        evidence=lambda image: (
            f"{_number(image['unfamiliarity'])} times as far from training images as 99% of these "
            f"(limit {UNFAMILIARITY:g})"
        ),
        sentence=_unfamiliar,
        exam=(0.63, 0.84),
    ),
    VerdictRow(
        verdict=Verdict.MISLABELLED,
        value=lambda image: image.label_doubt,
        limit=lambda limits: LABEL_DOUBT,
        meaning="it looks like a right image of the predicted class: is its label right?",
        about="It is as far from its label as right images of the predicted class are: the label itself is doubtful.",
        evidence=lambda image: f"looks like {image['predicted']}, doubt {image['label_doubt']:.2f}",
        sentence=_mislabelled,
        exam=(0.80, 0.82),
    ),
    VerdictRow(
        verdict=Verdict.RESEMBLES_CLASS,
        # Half a difference of cosines, so that 1 is its most, too.
        value=lambda image: image.resemblance / 2,
        limit=_resemblance_limit,
        meaning="its kernels respond like another class's",
        about="The features look more like those of another class than like those of the true one.",
        evidence=lambda image: f"like {image['resembles']}, by {image['resemblance']:+.2f} cosine",
        sentence=_resembles,
    ),
)
UNCLEAR = "nothing measured sets it apart from right predictions"
UNMEASURED = "its class had no right, confident image, so that nothing could be compared"
_EITHER = f"{UNCLEAR}, or its class had none to compare with"
_BY_NAME = {str(row.verdict): row for row in VERDICTS}


def most_telling(images: Sequence[Misdiagnosis], number: int) -> list[Misdiagnosis]:
    """The wrong images whose verdict is clearest and whose prediction was surest: of each verdict its first one, then
    of each its second ...; unclear ones come last."""
    ranked = sorted(images, key=lambda image: (-image.strength * image.confidence, -image.confidence))
    seen = Counter[Verdict]()
    rounds = []
    for image in ranked:
        rounds.append((image.verdict is Verdict.UNCLEAR, seen[image.verdict]))
        seen[image.verdict] += 1
    order = sorted(range(len(ranked)), key=rounds.__getitem__)
    return [ranked[place] for place in order[:number]]


def telling_of_classes(images: Sequence[Misdiagnosis], number: int, of_class: int) -> list[Misdiagnosis]:
    """Of each class its most telling wrong image, then of each its second ..., until there are enough.

    Args:
        images: the wrong images that were explained.
        number: of images of all classes, at most; of more classes, those with most wrong images have one.
        of_class: images of a class, at most.
    """
    by_class: defaultdict[int, list[Misdiagnosis]] = defaultdict(list)
    for image in images:
        by_class[image.label].append(image)
    ranked = [most_telling(part, of_class) for part in sorted(by_class.values(), key=len, reverse=True)]
    rounds = zip_longest(*ranked)
    return [image for turn in rounds for image in turn if image is not None][:number]


def meaning_of(verdict: str) -> str:
    """What a verdict says, for the terminal."""
    return _BY_NAME[verdict].meaning if verdict in _BY_NAME else _EITHER


def about_verdict(verdict: str) -> str:
    """What a verdict says, in a sentence."""
    return _BY_NAME[verdict].about if verdict in _BY_NAME else f"{_EITHER[0].upper()}{_EITHER[1:]}."


def trust_in(verdict: str) -> str:
    """How often a verdict was right in the exam of planted faults, in a sentence; empty where there is no figure."""
    exam = _BY_NAME[verdict].exam if verdict in _BY_NAME else None
    if exam is None:
        return ""
    return (
        f"Of images with such a fault planted {_share(exam[0])} got this verdict; of those that got it, "
        f"{_share(exam[1])} had it planted."
    )


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
    share = image["foreign_share"]  # NaN where the class has no correlation to compare with
    return UNMEASURED if share is None or math.isnan(share) else UNCLEAR
