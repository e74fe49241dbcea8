"""What a finder of objects says where there is nothing to learn from; `test_propagation.py` has the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from modeldoctor.method.object_finder import ObjectFinder


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
