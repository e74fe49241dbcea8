"""What a finder of objects says where there is nothing to learn from; `test_propagation.py` has the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modeldoctor.method.object_finder import ObjectFinder, Quality


def cuts(images: Tensor, layers: Sequence[Any]) -> Iterator[Any]:
    yield from (SimpleNamespace(maps=images) for _ in layers)


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_annotated_images_teach_nothing(number: int) -> None:
    layers: list[Any] = [SimpleNamespace(name="conv")]
    finder = ObjectFinder(cuts, layers, batch_size=2, device=torch.device("cpu"))
    batch = (torch.tensor([7]), torch.rand(1, 3, 16, 16), torch.ones(1, 16, 16, dtype=torch.bool))
    quality = finder.learn([batch] * number)
    assert not quality.suffices
    assert (quality.iou, quality.by_place, len(quality.found)) == (0.0, 0.0, number)
    assert quality.indices.tolist() == [7] * number


@pytest.mark.parametrize(
    ("iou", "by_place", "said"),
    [
        (0.6, 0.3, "0.60 (intersection over union; 0.30 by the usual place alone)"),
        (0.4, 0.3, "0.40 (intersection over union; 0.30 by the usual place alone), and 0.50 is wanted"),
        (0.6, 0.7, "0.60 (intersection over union; 0.70 by the usual place alone), and 0.75 is wanted"),
        (1.0, 1.0, "1.00 (intersection over union; 1.00 by the usual place alone), and nothing can be better by 0.05"),
    ],
)
def test_what_is_wanted_can_be_had(iou: float, by_place: float, said: str) -> None:
    quality = Quality(
        iou=iou, by_place=by_place, by_image=np.array([iou]), found=torch.ones(1, 2, 2).bool(), indices=np.array([0])
    )
    assert quality.measured == said
    assert quality.suffices == (not said.endswith(("wanted", "0.05")))
