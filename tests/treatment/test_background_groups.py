"""Groups by what a network makes of backgrounds, on pictures whose object and background pull to different classes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import ImageSet
from modeldoctor.data.pictures import PictureArray
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.treatment.remedies import MAKERS, RunContext
from modeldoctor.treatment.subsets import Predicted, Subset

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
ANNOTATED = (3, 7)
DARK, BRIGHT = -0.2, 0.2
# Of either class the first image is right and sure; the second and third are wrong; the last is annotated.
BACKGROUND = (BRIGHT, DARK, BRIGHT, BRIGHT, DARK, BRIGHT, DARK, DARK)
PREDICTED = Predicted(np.array([0, 1, 1, 0, 1, 0, 0, 1]), np.full(8, 0.9))


class Places:
    """Masks of the annotated images: the middle, or two places that do not overlap."""

    def __init__(self, alike: bool):
        self.alike = alike

    def find(self, relative_path: str) -> Path | None:
        return Path(relative_path) if int(relative_path) in ANNOTATED else None

    def read(self, path: Path, size: tuple[int, int], orientation: int = 1) -> torch.Tensor:
        mask = torch.zeros(8, 8, dtype=torch.bool)
        start = 2 if self.alike else 4 * (int(path.name) == ANNOTATED[0])
        mask[start : start + 4, 2:6] = True
        return mask

    def warn(self, text: str) -> None:
        raise AssertionError(text)


def chances(alike: bool) -> Any:
    """Objects, 4 x 4 in the middle, are white before a dark background and black before a bright one: they win."""
    pixels = np.empty((8, 8, 8))
    for row, value in enumerate(BACKGROUND):
        pixels[row] = value
        pixels[row, 2:6, 2:6] = -np.sign(value)
    images = ImageSet(
        split="train", class_names=("bright", "dark"), labels=LABELS, paths=[str(row) for row in range(8)],
        pictures=PictureArray(((pixels + 1) * 127.5).round().astype(np.uint8)), masks=Places(alike),
        preprocessing=Preprocessing(input_size=(1, 8, 8), mean=(0.5,), std=(0.5,)),
    )  # fmt: skip
    stem, head = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        stem.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        head.weight.copy_(torch.eye(2))
    network = nn.Sequential(stem, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    run = RunContext(
        config=TreatConfig(
            checkpoint=Path("a.pt"), data={"path": "b", "masks": "c"}, training={"batch_size": 3},  # type: ignore[arg-type]
            space={"annotated_per_class": 1}, arms=("background-groups", "inferred-groups", "continue"),  # type: ignore[arg-type]
        ),
        seed=0, train=Subset(images=images, indices=np.arange(8)), annotated=np.array(ANNOTATED), by_hand=2,
        predicted=PREDICTED, network=network, trainable=TrainableNetwork(network, torch.rand(2, 1, 8, 8)),
        make_penalty=lambda change: SimpleNamespace(),  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    remedy = MAKERS["background-groups"](run)
    assert remedy.annotations == 2
    assert remedy.chances is not None
    return remedy.chances


@pytest.mark.parametrize(
    ("alike", "misled"),
    [
        # A dark background says class 1, a bright one class 0: image 1 is of class 0, image 5 of class 1.
        (True, ([1], [5])),
        # Without a usual place the objects stay, and say what they say: 2 is black, 6 is white.
        (False, ([2], [6])),
    ],
)
def test_images_that_their_background_misled_come_as_often_as_the_others_of_their_class(
    alike: bool, misled: tuple[list[int], list[int]]
) -> None:
    found = chances(alike)
    sums = [
        found[rows].sum()
        for label in (0, 1)
        for rows in (misled[label], [row for row in np.flatnonzero(label == LABELS) if row not in misled[label]])
    ]
    assert sums == pytest.approx([sums[0]] * 4)
    assert found[misled[0]] == pytest.approx(3 * found[0])
