"""What is said of how a trial was made, and that nothing in a file makes it fail."""

from __future__ import annotations

from typing import Any

import pytest

from modeldoctor.results.remarks import provenance_remarks


def said(provenance: dict[str, Any]) -> list[str]:
    return [text for text in provenance_remarks(provenance, "worst class") if text]


def test_masks_that_were_found_are_said_and_nothing_where_there_are_none() -> None:
    assert said({}) == said({"propagation": None}) == []
    record = {"images": 12, "iou": 0.7349, "iou_by_place": 0.1}
    (text,) = said({"propagation": record})
    assert text.startswith("12 further training images had a mask")
    assert "annotated ones by 0.73 (" in text
    assert "counts by" not in text  # a trial of an earlier version
    (text,) = said({"propagation": record | {"weight": 0.7349}})
    assert text.endswith("alone: 0.10), and each counts by that overlap.")
    (text,) = said({"propagation": record | {"images": 0}})
    assert text.startswith("No mask was found well enough")


def test_parts_that_were_split_off_training_images_are_said() -> None:
    (text,) = said({"split_off": ["val", "test"]})
    assert text.startswith("Validation and test images are some of the training images")
    assert said({"split_off": []}) == []
    (text,) = said({"split_off": ["test"]})
    assert text.startswith("Test images are")


def test_remedies_that_a_budget_stopped_are_said_with_when_and_why() -> None:
    stopped = [
        {"arm": "balanced", "epochs": 1, "score": 0.5, "least": 0.625},
        {"arm": "last-layer", "epochs": 2, "score": 0.61, "least": 0.7},
    ]
    (text,) = said({"halving": {"budget": 1800.0, "stopped": stopped}})
    assert text == (
        "To keep within its budget of 30m the trial stopped, by worst class on validation under the first seed: "
        "balanced after 1 epoch (50.0%; the last that went on: 62.5%), "
        "last-layer after 2 epochs (61.0%; the last that went on: 70.0%). They were not tested."
    )
    (text,) = said({"halving": {"budget": None, "stopped": stopped}})
    assert text.startswith("To keep within its budget the trial stopped")
    assert said({"halving": {"budget": 1800.0, "stopped": []}}) == []


@pytest.mark.parametrize(
    "halving",
    [3, "all", [], {"stopped": 3}, {"stopped": [3]}, {"stopped": [{}]},
     {"stopped": [{"epochs": float("inf"), "score": 1, "least": 1}]}],
)  # fmt: skip
def test_of_a_damaged_record_nothing_is_said(halving: object) -> None:
    assert said({"halving": halving, "propagation": halving}) == []
