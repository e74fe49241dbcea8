"""What the findings say of all wrong images, where only some of these were explained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from modeldoctor.diagnosis.build import every_class_first
from modeldoctor.diagnosis.findings import how_many

_SIZES = (200, 100, 3, 2, 1, 1, 1, 1)


@pytest.mark.parametrize("most", [60, 6])
def test_images_stand_for_as_many_of_their_class_although_every_class_has_one_first(most: int) -> None:
    labels = np.repeat(np.arange(len(_SIZES)), _SIZES)
    planted = labels >= 2  # a fault of the rare classes alone
    planted[: _SIZES[0] // 4] = True
    rng, estimated, by_count = np.random.default_rng(0), [], []
    for _ in range(400):
        drawn = rng.permutation(len(labels))
        chosen = every_class_first(labels[drawn], drawn)[:most]
        images = cast(Any, [SimpleNamespace(label=int(labels[row]), row=row) for row in chosen])
        found = [image for image in images if planted[image.row]]
        estimated.append(how_many(images, labels)(found))
        by_count.append(len(found) / len(images) * len(labels))
        assert how_many(images, labels)(images) == len(labels)
    true, error = planted.sum(), float(np.std(estimated)) / np.sqrt(len(estimated))
    if most >= len(_SIZES):  # else some classes have none
        assert abs(np.mean(estimated) - true) < 4 * error
    assert abs(np.mean(estimated) - true) < abs(np.mean(by_count) - true) / 2


def test_of_no_explained_image_nothing_is_said() -> None:
    assert how_many([], np.array([0, 0, 1]))([]) == 0
