"""Pictures and masks from anybody: each is counted as broken and named, or read; never more."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from conftest import Clinic
from pictures import BROKEN, MASKS, ODD
from PIL import Image
from walk import faults, made

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import Broken, open_data
from modeldoctor.data.outputs import random_access
from modeldoctor.results.hdf5 import read_diagnosis

_LIMIT = 8 * 1024**3
"""Address space of a run, of which PyTorch alone takes some five GiB."""
PREPROCESSING = Preprocessing(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


def read_one(path: Path) -> str:
    """The first image of a list that names this one alone, beside one that is there."""
    good = path.parent / "good.bmp"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(good)
    table = path.parent / "list.csv"
    table.write_text(f"path,label\n{path.name},cat\n{good.name},dog\n")
    images = random_access(open_data(str(table), preprocessing=PREPROCESSING)["all"])
    sample = images[0]
    if isinstance(sample, Broken):
        return f"broken: {path.parent.name}: {sample.reason}"
    assert sample.image.shape == (3, 32, 32)
    assert torch.isfinite(sample.image).all()
    return "read"


def test_files_of_which_no_picture_comes(tmp_path: Path) -> None:
    assert faults(BROKEN, tmp_path, read_one, accepted="broken") == {}


def test_odd_pictures_are_read_or_broken(tmp_path: Path) -> None:
    assert faults(ODD, tmp_path, read_one, accepted=("read", "broken")) == {}


def test_masks(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "cat" / f"{number}.jpg")

    def read(path: Path) -> str:
        (path.parent / "cat").mkdir()
        path.rename(path.parent / "cat" / path.name)
        images = random_access(
            open_data(str(tmp_path / "photos"), preprocessing=PREPROCESSING, masks=path.parent)["all"]
        )
        return str(images[1])

    assert faults(MASKS, tmp_path / "made", read) == {}


def test_a_run_over_all_of_them_names_each(clinic: Clinic, tmp_path: Path) -> None:
    """In one class folder beside good images, with an annotation that cannot be used."""
    data = tmp_path / "data"
    shutil.copytree(clinic.data, data, ignore=shutil.ignore_patterns("test"))
    expected = set()
    for name, make in BROKEN.items():
        if name.startswith(("loop", "nowhere", "a list")):
            continue  # no files, or not of an image's ending
        path = made(name, make, tmp_path / "made")
        target = data / "val" / "amber" / f"{path.parent.name}{path.suffix}"
        path.rename(target)
        expected.add(target.relative_to(data).as_posix())

    # In a process of its own: what autograd did here before would not survive a fork.
    few = "--layers last --noise-draws 0 --samples-per-class 2 --max-explained 2 --workers 1 --device cpu --hooks"
    made_by = subprocess.run(
        [sys.executable, "-m", "modeldoctor", "diagnose", clinic.checkpoint, "--data", data, *few.split(), "-o",
         tmp_path / "d.h5"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT)), capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made_by.returncode == 0, made_by.stderr
    assert {path for path, _ in read_diagnosis(tmp_path / "d.h5").broken} == expected
