"""Classes of few training images: named where they are worse than the others, and only there."""

from __future__ import annotations

import shlex
from math import comb
from pathlib import Path

import numpy as np
import pytest

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.data import ImageSet
from modeldoctor.data.pictures import PictureArray
from modeldoctor.diagnosis.findings import _rare
from modeldoctor.diagnosis.rare import rare_classes


def confusion(right: list[int], examined: list[int]) -> np.ndarray:
    """Errors of each class go to the next one."""
    counts = np.diag(right)
    for row, (good, number) in enumerate(zip(right, examined, strict=True)):
        counts[row, (row + 1) % len(right)] += number - good
    return counts


def test_a_rare_class_that_is_worse_is_found_with_its_errors_beyond_usual() -> None:
    (found,), usual = rare_classes(np.array([500, 40, 460]), confusion([95, 10, 85], [100, 30, 100]))
    assert usual == 180 / 200
    assert found == (1, 40, 30, 10, round(30 * 0.9) - 10)


def test_what_chance_allows_is_not_said_by_the_hypergeometric_tail() -> None:
    """Of 6 rare images k are right, of 60 others 54: the chance of as few, counted by hand, decides."""
    for right in range(7):
        total = right + 54
        tail = sum(comb(6, k) * comb(60, total - k) for k in range(max(0, total - 60), right + 1)) / comb(66, total)
        found, _ = rare_classes(np.array([300, 300, 30]), confusion([27, 27, right], [30, 30, 6]))
        assert bool(found) == (tail < 0.05), right


@pytest.mark.parametrize(
    ("trained", "right"),
    [
        ([100, 100, 100], [90, 90, 20]),  # worse, but not rare
        ([100, 100, 10], [90, 90, 92]),  # rare, but not worse
        ([100, 0, 0], [0, 0, 0]),  # all are wrong
    ],
)
def test_what_is_not_rare_or_not_worse_is_not_named(trained: list[int], right: list[int]) -> None:
    assert rare_classes(np.array(trained), confusion(right, [100, 100, 100]))[0] == []


def test_of_several_the_one_with_most_errors_comes_first() -> None:
    found, _ = rare_classes(np.array([900, 900, 20, 30]), confusion([95, 95, 60, 20], [100] * 4))
    assert [rare.label for rare in found] == [3, 2]


def test_the_finding_names_classes_figures_and_the_remedy() -> None:
    trained = np.repeat([0, 1, 2], [500, 40, 460])
    train = ImageSet(
        split="train",
        class_names=("cell", "crack", "edge"),
        labels=trained,
        paths=[str(row) for row in range(len(trained))],
        pictures=PictureArray(np.zeros((len(trained), 2, 2), dtype=np.uint8)),
        preprocessing=Preprocessing(input_size=(1, 2, 2), mean=(0.5,), std=(0.5,)),
    )
    label = np.repeat([0, 1, 2], [100, 30, 100])
    predicted = label.copy()
    predicted[:5], predicted[110:130], predicted[-15:] = 1, 2, 0
    (found,) = _rare(train, label, predicted, train.class_names, 1000)
    assert found.sentence == (
        "Rare in train, and right less often than the other classes (90%): "
        "crack (40 images; 10 of 30 examined ones right)"
    )
    words = shlex.split(found.command)
    changes = [word for word, before in zip(words[1:], words, strict=False) if before == "--set"]
    asked = load_treat_config(None, changes, checkpoint=Path("ckpt.pt"), data__path="photos")
    assert (asked.arms, asked.metric) == (("balanced", "continue"), "worst_class")
    assert found.wrong == 17
    assert found.samples == tuple(range(1110, 1130))
    assert not list(_rare(train, label, label, train.class_names, 0))
