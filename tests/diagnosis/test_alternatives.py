"""Other preprocessing is tried on few images, and on more where few are no proof."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import ImageSet
from modeldoctor.data.loader import make_loader
from modeldoctor.data.pictures import PictureArray
from modeldoctor.diagnosis.alternatives import BGR, best_of, is_better, try_alternatives
from modeldoctor.diagnosis.passes import Run
from modeldoctor.diagnosis.state import Predictions
from modeldoctor.runtime.distributed import Team


class RedOrBlue(nn.Module):
    """Class 1 where blue exceeds red."""

    def forward(self, images: Tensor) -> Tensor:
        red, _, blue = images.mean((2, 3)).unbind(1)
        return torch.stack([red, blue], 1)


def planted(turns_right: int, turns_wrong: int, number: int) -> Run:
    """A run on grey images of class 0, among which, evenly spread, some of class 1 turn when channels are swapped."""
    pixels, labels = np.full((number, 8, 8, 3), 128, dtype=np.uint8), np.zeros(number, dtype=np.int64)
    rows = np.linspace(0, number - 1, turns_right + turns_wrong).astype(int)
    wrong = np.linspace(0, len(rows) - 1, turns_wrong).astype(int)
    labels[rows] = 1
    pixels[rows, :, :, 0] = 160  # red: taken for class 0, but not with channels in the other order
    pixels[rows[wrong], :, :, 0], pixels[rows[wrong], :, :, 2] = 128, 160
    images = ImageSet(
        split="val",
        class_names=("no", "yes"),
        labels=labels,
        paths=[str(row) for row in range(number)],
        pictures=PictureArray(pixels),
        preprocessing=Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3),
    )
    right = labels == (pixels[..., 2] > pixels[..., 0]).all((1, 2))
    table = np.stack([np.arange(number), labels, np.where(right, labels, 1 - labels), np.ones(number)])
    read: list[int] = []

    def batches(of: Any, indices: Any, size: int) -> Any:
        read.append(len(indices))
        return make_loader(of, indices, batch_size=size, workers=0)

    run = SimpleNamespace(
        state=SimpleNamespace(predictions={"val": Predictions(rows=[table])}, alternatives={}),
        module=RedOrBlue(), classes=2, device=torch.device("cpu"), chunks=SimpleNamespace(batch=64), team=Team(),
        batches=batches, after_batch=lambda *_: None, images=images, read=read,
    )  # fmt: skip
    return cast(Run, run)


@pytest.mark.parametrize(("right", "wrong", "tried"), [(72, 18, 800), (180, 9, 200), (50, 50, 200)])
def test_more_images_decide_only_where_few_hint(right: int, wrong: int, tried: int) -> None:
    run = planted(right, wrong, 900)
    try_alternatives(run, run.images)  # type: ignore[attr-defined]
    gained, lost, number = run.state.alternatives[BGR]
    assert number == tried
    assert gained == pytest.approx(right * tried / 900, abs=4)
    assert lost == pytest.approx(wrong * tried / 900, abs=4)
    assert sorted(run.read)[-1] == max(200, tried - 200)  # type: ignore[attr-defined]
    best = best_of(run.state.alternatives)
    assert best is not None
    assert is_better(*run.state.alternatives[best]) == (right > 2 * wrong)


def test_what_few_images_could_not_tell_from_chance_more_can() -> None:
    """By scipy: the same shares of 200 and of 800 images."""
    assert binomtest(16, 20, alternative="greater").pvalue > 0.001 > binomtest(64, 80, alternative="greater").pvalue
    assert not is_better(16, 4, 200)
    assert is_better(64, 16, 800)
    assert not is_better(40, 20, 800)  # much, but too few of all


def test_a_decided_alternative_is_not_tried_once_more_on_a_resumed_run() -> None:
    run = planted(72, 18, 900)
    try_alternatives(run, run.images)  # type: ignore[attr-defined]
    before, run.read[:] = dict(run.state.alternatives), []  # type: ignore[attr-defined]
    try_alternatives(run, run.images)  # type: ignore[attr-defined]
    assert run.state.alternatives == before
    assert not run.read  # type: ignore[attr-defined]


def test_a_kept_state_that_names_what_is_not_tried_ends_nothing() -> None:
    run = planted(72, 18, 900)
    run.state.alternatives["of another version"] = (8, 1, 200)
    try_alternatives(run, run.images)  # type: ignore[attr-defined]
    assert run.state.alternatives["of another version"] == (8, 1, 200)
    assert run.state.alternatives[BGR][2] == 800


def test_the_best_of_a_kept_state_need_not_be_one_that_is_tried() -> None:
    run = planted(72, 18, 900)
    run.state.alternatives["of another version"] = (30, 15, 200)
    try_alternatives(run, run.images)  # type: ignore[attr-defined]
    assert run.state.alternatives["of another version"] == (30, 15, 200)
