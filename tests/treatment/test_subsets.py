"""The parts of a trial: none may hold images of another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import open_data
from modeldoctor.errors import DataError
from modeldoctor.treatment.subsets import split_subsets

PREPROCESSING = Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


def images(folder: Path) -> None:
    for label in ("ant", "bee"):
        for number in range(20):
            path = folder / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_that_is_to_choose_or_to_prove_is_not_trained_on(tmp_path: Path, split: str) -> None:
    images(tmp_path / split)
    with pytest.raises(DataError, match=f"no split to train on: {split}") as caught:
        split_subsets(open_data(str(tmp_path), preprocessing=PREPROCESSING))
    assert caught.value.hint


def test_images_without_splits_are_split_so_that_none_is_in_two_parts(tmp_path: Path) -> None:
    images(tmp_path)
    parts = split_subsets(open_data(str(tmp_path), preprocessing=PREPROCESSING))
    indices = [part.indices for part in (parts.train, parts.val, parts.test)]
    assert sorted(np.concatenate(indices).tolist()) == list(range(40))
