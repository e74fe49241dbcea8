"""Which images a diagnosis reads, uses and leaves out."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, Clinic, picture
from diagnosed import ARRAYS, LAYERS, PLAIN, QUICK, answers, assert_close
from PIL import Image

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import open_data
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import (
    DataError,
    MaskError,
    ModelDoctorWarning,
    UsageError,
)
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.summary import summarise, write_summary
from modeldoctor.zoo import Classifier, load_model


def test_fewer_samples_a_class_are_a_choice_under_the_seed(clinic: Clinic, network: Classifier) -> None:
    runs = [
        diagnose(network, clinic.data, config=DiagnoseConfig(**(QUICK | {"samples_per_class": 3, "seed": seed})))
        for seed in (0, 0, 1)
    ]
    assert runs[0][LAYERS[0]].count.tolist() == [3] * 4
    chosen = [run.samples.used_in_diagnosis for run in runs]
    assert chosen[0].sum() == 12
    assert (chosen[0] == chosen[1]).all()
    assert not (chosen[0] == chosen[2]).all()
    assert not runs[0].warnings


def test_a_class_without_confident_images_is_nan_counted_and_said(network: Classifier, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for index in range(4):
            pixels = picture(0 if name == "denim" else number, rng)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    with pytest.warns(ModelDoctorWarning, match=r"denim \(0\)"):
        found = diagnose(network, tmp_path, config=DiagnoseConfig(**PLAIN))
    layer = found[LAYERS[0]]
    assert layer.count.tolist() == [4, 4, 4, 0]
    for name in ARRAYS:
        assert np.isnan(getattr(layer, name)[3]).all()
        assert np.isfinite(getattr(layer, name)[:3]).all()
    assert any("denim (0)" in text for text in found.warnings)
    assert found.samples.splits == ("all",)
    assert summarise(found)["layers"][0]["classes_without_samples"] == 1
    assert all(np.isnan(image.foreign_share) for image in found.misdiagnosed if image.label == 3)


def test_no_confident_image_at_all_is_no_fault(clinic: Clinic, network: Classifier) -> None:
    unsure = copy.deepcopy(network.module)
    with torch.no_grad():
        for parameter in unsure.get_submodule("fc").parameters():
            parameter *= 0.01
    with pytest.warns(ModelDoctorWarning, match="4 of 4 classes"):
        found = diagnose(dataclasses.replace(network, module=unsure), clinic.data, config=DiagnoseConfig(**QUICK))
    assert found[LAYERS[0]].count.tolist() == [0] * 4
    assert np.isnan(found[LAYERS[0]].correlation).all()
    assert found.limits is None
    assert {str(image.verdict) for image in found.misdiagnosed} == {"unclear"}


def test_broken_images_are_counted_named_and_skipped(
    clinic: Clinic, network: Classifier, plain: Diagnosis, tmp_path: Path
) -> None:
    shutil.copytree(clinic.data, tmp_path / "data")
    train = tmp_path / "data" / "train"
    (train / "amber" / "0-text.png").write_text("no picture")
    whole = (train / "birch" / "00.png").read_bytes()
    (train / "birch" / "zz-half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "val" / "coral" / "05-empty.jpg").touch()
    one = pytest.warns(ModelDoctorWarning, match="train: 2 images cannot be read")
    other = pytest.warns(ModelDoctorWarning, match="val: 1 image cannot be read")
    with one, other:
        found = diagnose(network, tmp_path / "data", config=DiagnoseConfig(**PLAIN), masks=clinic.masks)
    assert [path for path, _ in found.broken] == [
        "val/coral/05-empty.jpg", "train/amber/0-text.png", "train/birch/zz-half.png"
    ]  # fmt: skip
    assert "empty" in found.broken[0][1]
    assert_close(found, plain)


def test_the_test_split_is_not_read_unless_asked_for(clinic: Clinic, network: Classifier, plain: Diagnosis) -> None:
    """Every file of it is broken, so reading it would show."""
    assert plain.broken == ()
    assert not plain.warnings
    with pytest.raises(DataError, match="none of the 4 images can be read") as caught:
        diagnose(network, clinic.data, config=DiagnoseConfig(**QUICK, examine="test"))
    assert caught.value.where == "split test"


def test_split_and_examine_choose_the_images(clinic: Clinic, network: Classifier) -> None:
    config = DiagnoseConfig(**(QUICK | {"split": "val", "examine": "train", "samples_per_class": 6}))
    found = diagnose(network, clinic.data, config=config)
    label, predicted, _ = answers(clinic, "train")
    assert found.examined == "train"
    assert found.wrong_count == int((label != predicted).sum())
    assert found.samples.used_in_diagnosis[found.rows("val")].sum() == 24
    assert not found.samples.used_in_diagnosis[found.rows("train")].any()
    one = diagnose(network, clinic.data, config=DiagnoseConfig(**QUICK, examine="train"))
    assert one.samples.splits == ("train",)
    assert one.examined == "train"


@pytest.mark.parametrize("key", ["split", "examine"])
def test_a_split_that_is_not_there_is_said(clinic: Clinic, network: Classifier, key: str) -> None:
    with pytest.raises(UsageError, match=r"no split 'validate'[\s\S]*train, val, test"):
        diagnose(network, clinic.data, config=DiagnoseConfig(**PLAIN, **{key: "validate"}))


def test_splits_may_come_from_several_sources(clinic: Clinic, network: Classifier, plain: Diagnosis) -> None:
    def whole(split: str) -> Any:
        return open_data(clinic.data / split, preprocessing=network.preprocessing)["all"]

    found = diagnose(network, {"train": whole("train"), "val": whole("val")}, config=DiagnoseConfig(**PLAIN))
    np.testing.assert_array_equal(found.samples.label, plain.samples.label)
    np.testing.assert_array_equal(found.samples.predicted, plain.samples.predicted)
    np.testing.assert_array_equal(found[LAYERS[0]].correlation, plain[LAYERS[0]].correlation)
    assert found.samples.splits == ("train", "val")


def test_no_more_images_are_explained_than_asked_for(clinic: Clinic, network: Classifier, plain: Diagnosis) -> None:
    runs = [
        diagnose(network, clinic.data, config=DiagnoseConfig(**QUICK, max_explained=3, seed=seed)) for seed in (0, 0, 1)
    ]
    explained = [{image.sample for image in run.misdiagnosed} for run in runs]
    assert [len(one) for one in explained] == [3, 3, 3]
    assert explained[0] == explained[1]
    assert explained[0] <= {image.sample for image in plain.misdiagnosed}
    assert runs[0].wrong_count == plain.wrong_count


def test_without_masks_the_background_is_not_judged(clinic: Clinic, network: Classifier) -> None:
    found = diagnose(network, clinic.data, config=DiagnoseConfig(**QUICK))
    assert all(np.isnan(image.background_share) for image in found.misdiagnosed)
    with pytest.raises(MaskError):
        diagnose(network, clinic.data, config=DiagnoseConfig(**PLAIN), masks=clinic.data / "nowhere")


def test_names_that_are_no_utf8_go_through_to_the_files(clinic: Clinic, tmp_path: Path) -> None:
    content = torch.load(clinic.checkpoint, weights_only=True)
    del content["class_names"]
    torch.save(content, tmp_path / "nameless.pt")
    data = tmp_path / "data"
    for name in CLASSES:
        try:
            shutil.copytree(clinic.data / "train" / name, data / os.fsdecode(f"{name}-\xe9".encode("latin-1")))
        except OSError:
            pytest.skip("the file system takes UTF-8 names alone")
    (data / os.fsdecode(b"amber-\xe9") / os.fsdecode(b"\xff.png")).write_bytes(b"")
    output = tmp_path / "d.h5"
    with pytest.warns(ModelDoctorWarning, match="cannot be read"):
        diagnosis = diagnose(load_model(tmp_path / "nameless.pt"), data, config=DiagnoseConfig(**PLAIN), output=output)
    assert read_diagnosis(output).samples.path[0] == b"amber-\xe9/00.png"
    assert read_diagnosis(output).broken[0][0] == os.fsdecode(b"amber-\xe9/\xff.png")
    assert write_summary(summarise(diagnosis), output).read_text(encoding="utf-8")
