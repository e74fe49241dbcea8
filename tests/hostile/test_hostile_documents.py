"""Texts from anybody: YAML, JSON, CSV and annotations end in one message that names them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from documents import COCO, CSV, GROUPS, LABELME, VOC, YAML, YOLO, trials
from PIL import Image
from stored_results import write_run
from walk import Make, faults

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.config.treat import DataConfig
from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.data import Broken, open_data
from modeldoctor.data.outputs import random_access
from modeldoctor.report import make_report
from modeldoctor.treatment.groups import with_groups
from modeldoctor.treatment.subsets import split_subsets

PREPROCESSING = Preprocessing(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


def test_configurations(tmp_path: Path) -> None:
    assert faults(YAML, tmp_path, load_treat_config) == {}


def test_lists_of_images(tmp_path: Path) -> None:
    def read(path: Path) -> str:
        splits = open_data(str(path), preprocessing=PREPROCESSING)
        images = random_access(next(iter(splits.values())))
        assert all(isinstance(images[index], Broken) for index in range(len(images)))
        return "broken"

    cases = {name if "/" in name else f"{name}/file.csv": make for name, make in CSV.items()}
    assert faults(cases, tmp_path, read, accepted="broken") == {}


def photos(folder: Path) -> Path:
    """Eleven images of 64×48 of each of two classes."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(11):
            Image.fromarray(np.full((48, 64, 3), number, np.uint8)).save(folder / name / f"{number}.png")
    return folder


def test_tables_of_groups(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")

    def read(path: Path) -> None:
        splits = split_subsets(open_data(str(data), preprocessing=PREPROCESSING))
        with_groups(splits, DataConfig(path=str(data), groups=path))

    assert faults(GROUPS, tmp_path / "made", read) == {}


def test_trials(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", gain=0.2)
    good = json.loads((run / "trial.json").read_text())

    def read(path: Path) -> str:
        for file in run.iterdir():
            if not (path.parent / file.name).exists() and file.name != path.name:
                (path.parent / file.name).symlink_to(file)
        return make_report(path.parent).report.verdict

    assert faults(trials(good), tmp_path / "made", read) == {}


@pytest.mark.parametrize(
    ("cases", "ending"), [(LABELME, ".json"), (VOC, ".xml"), (YOLO, ".txt")], ids=["LabelMe", "VOC", "YOLO"]
)
def test_annotations_of_one_image(tmp_path: Path, cases: dict[str, Make], ending: str) -> None:
    data = photos(tmp_path / "photos")

    def read(path: Path) -> str:
        (path.parent / "cat").mkdir()
        path.rename(path.parent / "cat" / f"1{ending}")
        splits = open_data(str(data), preprocessing=PREPROCESSING, masks=path.parent)
        random_access(splits["all"])[1]
        return "read"

    assert faults(cases, tmp_path / "made", read) == {}


def test_annotations_of_many_images(tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")

    def read(path: Path) -> str:
        splits = open_data(str(data), preprocessing=PREPROCESSING, masks=path)
        random_access(splits["all"])[1]
        return "read"

    cases = {f"{name}/instances.json": make for name, make in COCO.items()}
    assert faults(cases, tmp_path / "made", read) == {}
