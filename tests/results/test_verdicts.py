"""The table of verdicts: complete, in words for terminal and page, and with the figure that says so."""

from __future__ import annotations

import math

import pytest

from modeldoctor.results.diagnosis import Verdict
from modeldoctor.results.verdicts import (
    UNCLEAR,
    UNMEASURED,
    VERDICTS,
    about_verdict,
    evidence_of,
    meaning_of,
    sentence_of,
)

IMAGE = {
    "label": "cat", "predicted": "dog", "stability": 0.25, "fallback": 0.5, "without_object": 0.91,
    "stays_without_object": 1.0, "other_backgrounds": 0.75, "misleads_others": 0.44, "own_backgrounds": 0.875,
    "foreign_share": 0.4, "resembles": "fox", "resemblance": 0.125, "damage": 0.999, "damage_kind": 3,
    "pull_to_label": 4.25, "unfamiliarity": 1.25, "label_doubt": 0.5, "faulty_kernel": 7, "without_kernel": 0.625,
    "kernels": [{"channel": 42, "size": 0.5, "own_class": 0.25}],
}  # fmt: skip
LIMITS = {"stability": 0.75, "foreign_share": 0.3, "resemblance": math.nan, "stays_without_object": 0.83}


def test_every_verdict_has_a_row_but_the_one_for_what_is_left() -> None:
    assert {row.verdict for row in VERDICTS} == set(Verdict) - {Verdict.UNCLEAR}
    assert len(
        {meaning_of(verdict) for verdict in Verdict} | {about_verdict(verdict) for verdict in Verdict}
    ) == 2 * len(Verdict)


@pytest.mark.parametrize(
    ("verdict", "short", "long"),
    [
        ("damaged", "blurrier than 99.9% of the training images", "It is blurrier than 99.9% of the training"),
        ("isolated", "it turns to cat by 4.2 deviations", "more than right images of “dog” (limit 1.7)"),
        ("unfamiliar", "1.2 times as far from training images", "1.2 times as far from the training images as 99% of"),
        ("mislabelled", "looks like dog, doubt 0.50", "a usual “dog”, and no more like “cat” than others"),
        ("background", "91.0% without the object", "(91%); of the right predictions that were tried 83% stay the same"),
        ("resembles-class", "like fox, by +0.12", "like “fox” than like “cat”: cosine similarity is higher by 0.12."),
        ("foreign-kernels", "without kernel 7: right, 62.5%", "Without kernel 7 of the features it is right"),
        ("unclear", UNCLEAR, "Nothing measured"),
    ],
)  # fmt: skip
def test_evidence_is_in_the_words(verdict: str, short: str, long: str) -> None:
    image = IMAGE | {"verdict": verdict}
    assert short in evidence_of(image)
    assert long in sentence_of(image, LIMITS)


def test_an_image_that_other_backgrounds_turn_right_says_so() -> None:
    image = IMAGE | {"verdict": "background", "stays_without_object": 0.0}
    assert evidence_of(image) == "right before 75% of other backgrounds"
    assert "right before 75% of them" in sentence_of(image, LIMITS)


def test_an_image_whose_background_misleads_other_objects_says_so() -> None:
    image = IMAGE | {"verdict": "background", "stays_without_object": 0.0, "other_backgrounds": 0.5}
    assert evidence_of(image) == "its background makes 44% of other objects dog"
    assert "44% of other images' objects, put before its background, are taken for “dog”, too." in sentence_of(
        image, LIMITS
    )
    assert evidence_of(image | {"other_backgrounds": math.nan}) == evidence_of(image)


def test_an_image_that_backgrounds_of_its_class_turn_right_says_so() -> None:
    image = IMAGE | {"verdict": "background", "stays_without_object": 0.0, "other_backgrounds": 0.5}
    for misled in (0.29, None):
        turned = image | {"misleads_others": misled}
        assert evidence_of(turned) == "right before 88% of its class's backgrounds"
        assert "backgrounds of other “cat” images, its object is predicted right before 88% of them" in sentence_of(
            turned, LIMITS
        )


def test_beyond_every_training_image_is_said_in_a_word() -> None:
    image = IMAGE | {"verdict": "damaged", "damage": 1.0}
    assert evidence_of(image) == "blurrier than all of the training images"


def test_of_a_class_that_could_not_be_measured_it_is_said() -> None:
    image = IMAGE | {"verdict": "unclear", "foreign_share": None}
    assert evidence_of(image) == UNMEASURED
    assert "right, confident image" in sentence_of(image, None)


def test_what_unclear_means_claims_no_comparison_that_was_not_made() -> None:
    for said in (meaning_of("unclear"), about_verdict("unclear")):
        assert "or its class had none to compare with" in said
    assert "compare" not in evidence_of(IMAGE | {"verdict": "unclear"})
