"""Which images lend their backgrounds, where few of many have a mask."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import ImageSet, make_loader
from modeldoctor.data.pictures import PictureArray
from modeldoctor.diagnosis.backgrounds import _wanted_of_own_class, read_backgrounds
from modeldoctor.diagnosis.state import Predictions, RunState
from modeldoctor.runtime.distributed import Team

NUMBER, MASKED = 2000, (7, 500, 501, 1200, 1999)


class Left:
    """Masks of a few images: the object is their left half."""

    def find(self, relative_path: str) -> Path | None:
        return Path(relative_path) if int(relative_path) in MASKED else None

    def read(self, path: Path, size: tuple[int, int], orientation: int = 1) -> torch.Tensor:
        return (torch.arange(size[0]) < size[0] // 2).expand(size[1], -1)

    def warn(self, text: str) -> None:
        raise AssertionError(text)


def test_however_many_classes_few_images_lend_their_own_class_a_background() -> None:
    ten = _wanted_of_own_class(np.arange(10).repeat(5))
    assert set(ten.values()) == {8}
    assert sorted(ten) == list(range(10))
    many = _wanted_of_own_class(np.concatenate([np.arange(1000), np.arange(900, 940)]))
    assert set(many.values()) == {2}
    assert len(many) == 64
    assert {*range(900, 940)} <= {*many}
    assert _wanted_of_own_class(np.array([], dtype=np.int64)) == {}


def images_of(split: str, pixels: np.ndarray, labels: np.ndarray) -> ImageSet:
    return ImageSet(
        split=split, class_names=("a", "b"), labels=labels, paths=[str(i) for i in range(len(labels))],
        pictures=PictureArray(pixels), masks=Left(),
        preprocessing=Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3),
    ).masked_at(MASKED)  # fmt: skip


@pytest.mark.parametrize("trained", [True, False])
def test_the_few_images_with_a_mask_lend_their_backgrounds(trained: bool) -> None:
    """Those of the own class are of the training split, where that has masks, and of the surest images there."""
    labels = np.arange(NUMBER) % 2
    pixels = np.random.default_rng(0).integers(0, 256, (2, NUMBER, 8, 8, 3), dtype=np.uint8)
    images, source = images_of("val", pixels[0], labels), images_of("train", pixels[1], labels)
    if not trained:
        source.masks = None
    state, read = RunState(""), dict[str, list[int]]()
    rows = np.stack([np.arange(NUMBER), labels, labels, np.linspace(0, 1, NUMBER)])
    state.predictions["train"] = Predictions(NUMBER, [rows.copy()])
    rows[2, 3] = 0  # an image of class 1 is wrong
    state.predictions["val"] = Predictions(NUMBER, [rows])

    def batches(images: ImageSet, indices: Any, size: int, *, masks: bool) -> Any:
        read.setdefault(images.split, []).extend(indices)
        return make_loader(images, indices, batch_size=size)

    run: Any = SimpleNamespace(
        state=state, config=SimpleNamespace(seed=0), batches=batches, chunks=SimpleNamespace(batch=16), team=Team(),
        device=torch.device("cpu"),
    )  # fmt: skip
    found = read_backgrounds(run, images, source)
    assert found is not None
    assert sorted(found.label.tolist()) == sorted(labels[[*MASKED]].tolist())
    assert list(found.of_class) == [1]
    own = [picture[0, 0, -1].item() for picture in found.of_class[1]]  # a pixel beside the object
    assert own == pytest.approx([pixels[int(trained), i, 0, -1, 0] / 127.5 - 1 for i in (1999, 501, 7)], abs=1e-6)
    assert {split: {*indices} for split, indices in read.items()} == (
        {"val": {*MASKED}} | ({"train": {7, 501, 1999}} if trained else {})
    )
    images.masks = None
    read.clear()
    assert read_backgrounds(run, images, source) is None
    assert not read
