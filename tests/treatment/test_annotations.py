"""What is said of the annotations of training images before they are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import EDGE, Clinic
from PIL import Image

from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import ImageSet, open_data
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.treatment.subsets import Subset, annotated_images, annotation_warnings
from modeldoctor.zoo import Classifier


def said(clinic: Clinic, network: Classifier, diagnosis: Diagnosis, masks: Path, per_class: int) -> list[str]:
    config = TreatConfig.model_validate({
        "checkpoint": clinic.checkpoint, "data": {"path": str(clinic.data), "masks": masks},
        "space": {"weight": 1.0, "annotated_per_class": per_class}, "output": masks.parent / "run",
    })  # fmt: skip
    images = open_data(clinic.data, preprocessing=network.preprocessing, masks=masks)["train"]
    assert isinstance(images, ImageSet)
    train = Subset(images=images, indices=np.arange(len(images)))
    return list(annotation_warnings(train, annotated_images(train, diagnosis, config), config))


@pytest.fixture
def masks(clinic: Clinic, tmp_path: Path) -> Path:
    """Three usable masks of each class but birch, which has one; one of amber's covers the whole image."""
    for name, number in (("amber", 3), ("birch", 1), ("coral", 3), ("denim", 3)):
        (tmp_path / "masks" / "train" / name).mkdir(parents=True)
        for index in range(number):
            mask = np.zeros((EDGE, EDGE), np.uint8)
            mask[:, : EDGE if (name, index) == ("amber", 0) else EDGE // 2] = 255
            Image.fromarray(mask).save(tmp_path / "masks" / "train" / name / f"{index:02d}.png")
    return tmp_path / "masks"


def test_classes_with_few_annotations_are_named_with_what_is_missing(
    clinic: Clinic, network: Classifier, plain: Diagnosis, masks: Path
) -> None:
    whole, few = said(clinic, network, plain, masks, 3)
    assert whole.startswith("1 of 10 masks cover all that the network sees")
    assert "amber/00.png" in whole
    assert few.startswith("1 of 4 classes has fewer than 3 annotated training images: birch (1); 2 more would do")
    assert [text for text in said(clinic, network, plain, masks, 1) if "fewer" in text] == []


def test_all_images_annotated_is_enough_whatever_is_wanted(
    clinic: Clinic, network: Classifier, plain: Diagnosis
) -> None:
    assert said(clinic, network, plain, clinic.masks, 99) == []
