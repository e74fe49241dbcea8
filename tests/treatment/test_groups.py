"""Groups of images by a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.config.treat import DataConfig
from modeldoctor.data import open_data
from modeldoctor.errors import DataError, ModelDoctorWarning
from modeldoctor.treatment.groups import read_groups, with_groups
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


def test_a_table_of_groups_with_other_machines_paths_is_read(tmp_path: Path) -> None:
    rows = [
        r"train\a\1.png,land",
        r"C:\Users\me\data\train\a\2.png,water",
        "./train/a/e\u0301.png,land",
        "train/a/4,water",
    ]
    (tmp_path / "groups.csv").write_text("\n".join(["Path , Group", *rows, ""]), encoding="utf-8")
    table = read_groups(tmp_path / "groups.csv", "group")
    names = ("1.png", "2.png", "\u00e9.png", "4.jpg", "5.png")
    assert [table.find(f"train/a/{name}") for name in names] == ["land", "water", "land", "water", None]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a/1.png,", "an empty path or group"),
        ("a/1.png,nan", "an empty path or group"),
        (r"a\1.png,land", "a/1.png|has two groups"),
        (",land", "an empty"),
    ],
)
def test_a_row_of_groups_that_says_nothing_is_named(tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "groups.csv").write_text(f"path,group\na/1.png,water\n{row}\n", encoding="utf-8")
    with pytest.raises(DataError, match=said) as caught:
        read_groups(tmp_path / "groups.csv", "group")
    assert caught.value.where == f"{tmp_path / 'groups.csv'}, line 3"


def test_a_table_of_groups_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("path,group\na/1.png,water\n", encoding="utf-8-sig")
    assert read_groups(tmp_path / "groups.csv", "group").find("a/1.png") == "water"
