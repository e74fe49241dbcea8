"""Groups of images by a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.config.treat import DataConfig
from modeldoctor.data import open_data
from modeldoctor.errors import ModelDoctorWarning
from modeldoctor.treatment.groups import with_groups
from modeldoctor.treatment.subsets import split_subsets

PREPROCESSING = Preprocessing(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


def test_groups_of_every_part_with_the_shares_of_training_and_names_that_look_alike(tmp_path: Path) -> None:
    rows = ["path,group"]
    for split, groups in {"train": ("sea",) * 3 + ("land",), "val": ("sea", "Land"), "test": ("land", "sea")}.items():
        for label in ("ant", "bee"):
            for number, group in enumerate(groups):
                path = tmp_path / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(path)
                rows.append(f"{path.relative_to(tmp_path).as_posix()},{group}")
    table = tmp_path / "groups.csv"
    table.write_text("\n".join(rows))
    splits = split_subsets(open_data(str(tmp_path), preprocessing=PREPROCESSING))
    with pytest.warns(ModelDoctorWarning, match="groups whose names look alike .*: Land and land") as caught:
        grouped = with_groups(splits, DataConfig(path=str(tmp_path), groups=table))
    assert len(caught) == 1
    assert grouped.val.groups is not None
    assert grouped.val.groups.tolist() == ["sea", "Land"] * 2
    assert grouped.test.groups is not None
    assert grouped.test.groups.tolist() == ["land", "sea"] * 2
    assert grouped.test.group_shares == {"land": 0.25, "sea": 0.75}
