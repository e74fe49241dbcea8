"""What `annotate` says of the next step, and `diagnose` of masks that do nothing for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import Call
from conftest import Clinic

from modeldoctor.results.hdf5 import read_diagnosis

QUICK = ("--layers", "layer3.0.conv3", "--noise-draws", "0", "--samples-per-class", "5", "--device", "cpu", "--hooks")


@pytest.mark.parametrize(("split", "serves", "other"), [("train", "treat", "val"), ("val", "diagnose", "train")])
def test_the_next_step_is_said(call: Call, clinic: Clinic, split: str, serves: str, other: str) -> None:
    code, out, err = call(
        "annotate", clinic.checkpoint, "--data", clinic.data, "-o", "to do", "--per-class", "1", "--split", split
    )
    assert code == 0, err
    assert f"4 images of {split} in to do" in out
    assert "leave out an image that shows none" in out
    assert "labelme 'to do' --labels 'to do/labels.txt'" in out
    assert f"give --masks 'to do' to {serves}." in out
    assert out.rstrip().endswith(f"annotate --split {other}.")


@pytest.mark.filterwarnings("always:val. none of its 36 images has a mask")
def test_masks_of_training_images_do_nothing_for_a_diagnosis_and_that_is_said(
    call: Call, clinic: Clinic, tmp_path: Path
) -> None:
    shutil.copytree(clinic.masks / "train", tmp_path / "masks" / "train")
    arguments = ("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "--masks", tmp_path / "masks")
    code, _, err = call(*arguments)
    assert code == 0
    assert "masks of other splits do nothing here: `modeldoctor annotate --split val`" in err
    found = read_diagnosis(Path("diagnosis.h5"))
    assert found.masked["val"] == 0
    assert not any(image.stays_without_object == image.stays_without_object for image in found.misdiagnosed)
