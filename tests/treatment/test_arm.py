"""One run of an arm, on stand-ins for all that it does not do itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import ImageSet
from modeldoctor.data.pictures import PictureArray
from modeldoctor.runtime.distributed import Team
from modeldoctor.treatment.arm import Arm, answered
from modeldoctor.treatment.arm_state import ArmState
from modeldoctor.treatment.remedies import Remedy

LAYER = SimpleNamespace(name="conv")


class Trainable:
    """Counts its passes; a batch's images are a number."""

    def __init__(self) -> None:
        self.passed: list[float] = []

    def training_pass(self, images: Tensor, layers: object, *, statistics: bool) -> tuple[Tensor, list[Any]]:
        assert statistics
        self.passed.append(float(images))
        return images, []


class Penalty:
    """The channel constraint is the batch's number, the space constraint ten times that where there are masks."""

    channel_layers = space_layers = layers = (LAYER,)

    def terms(self, logits: Tensor, cuts: object, batch: Any, seed: int) -> dict[tuple[str, str], Tensor]:
        terms = {("channel", "conv"): logits, ("keep", "conv"): logits * 0}
        return terms | ({("space", "conv"): 10 * logits} if batch.annotated.any() else {})


def made(**context: Any) -> Arm:
    network = nn.Linear(1, 1)
    usual = {"network": network, "original": network.state_dict(), "team": Team(), "states": Path("nowhere")}
    config = SimpleNamespace(training=SimpleNamespace(batch_norm="batch"))
    return Arm(
        name="treat", seed=0, context=SimpleNamespace(**(usual | context)), config=config, remedy=Remedy(),
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    ("masked", "passed", "space"),
    [
        (set(range(12)), [0, 1, 2, 3], (0 + 10 + 20 + 30) / 4),
        ({5, 9}, [0, 1, 2, 3, 5, 9], (50 + 90) / 2),
        ({1, 4, 6, 7, 8}, [0, 1, 2, 3, 4, 6, 7], (10 + 40 + 60 + 70) / 4),
    ],
)
def test_each_constraint_is_measured_on_the_first_batches_that_it_applies_to(
    monkeypatch: pytest.MonkeyPatch, masked: set[int], passed: list[float], space: float
) -> None:
    def batches(arm: Arm, epoch: int) -> Iterator[Any]:
        for number in range(12):
            yield SimpleNamespace(images=torch.tensor(float(number)), annotated=torch.tensor([number in masked]))

    trainable = Trainable()
    monkeypatch.setattr(Arm, "_batches", batches)
    start = made(trainable=trainable)._measure_start(Penalty())  # type: ignore[arg-type]
    assert start == {("channel", "conv"): (0 + 1 + 2 + 3) / 4, ("space", "conv"): space}
    assert trainable.passed == passed


def test_no_gradient_is_left_of_the_arm_before(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, seen = made(), list[Any]()
    for parameter in arm.context.network.parameters():
        parameter.grad = torch.ones_like(parameter)  # as an accumulated step leaves it that ended in NaN
    monkeypatch.setattr(Arm, "_load", lambda self: ArmState(network=self.context.original))
    monkeypatch.setattr(
        Arm, "_train", lambda self, done: seen.extend(p.grad for p in self.context.network.parameters())
    )
    arm.run()
    assert seen == [None, None]


def test_an_answer_that_is_no_number_is_never_right() -> None:
    """A network that has diverged would have the first class right, of whatever share of the images that is."""
    images = ImageSet(
        split="val", class_names=("a", "b"), labels=np.array([0, 0, 0, 1]), paths=[f"val/{i}" for i in range(4)],
        pictures=PictureArray(np.zeros((4, 2, 2, 3), np.uint8)),
        preprocessing=Preprocessing(input_size=(3, 2, 2), mean=(0.5,) * 3, std=(0.5,) * 3),
    )  # fmt: skip
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    nn.init.constant_(network[1].weight, torch.nan)
    part = SimpleNamespace(images=images, indices=np.arange(4))
    config = SimpleNamespace(training=SimpleNamespace(batch_size=3), workers=0)
    ((_, first, _), (_, last, _)) = answered(network, part, config, torch.device("cpu"))  # type: ignore[arg-type]
    assert [*first.tolist(), *last.tolist()] == [2] * 4
