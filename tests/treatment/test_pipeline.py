"""A configuration from its checkpoint to its trial: the network it means, the diagnosis it needs or is given."""

from __future__ import annotations

import csv
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CLASSES, EDGE, Clinic

from modeldoctor.config.treat import TreatConfig
from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.errors import DataError, ModelDoctorWarning, StoreError, UsageError
from modeldoctor.method import object_finder
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.trial import read_trial
from modeldoctor.treatment.pipeline import load_and_treat, load_network

LAYER = "layer2.0.conv2"


@pytest.fixture(autouse=True)
def _few_images() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        yield


def config(clinic: Clinic, output: Path, **changes: Any) -> TreatConfig:
    usual = {
        "checkpoint": clinic.checkpoint, "output": output,
        "data": {"path": str(table(clinic, output)), "root": clinic.data},
        "channel": {"weight": 0.1, "layers": LAYER}, "noise_draws": 1, "seeds": (0,),
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 0.01},
    }  # fmt: skip
    return TreatConfig(**(usual | changes))


def table(clinic: Clinic, output: Path) -> Path:
    """The clinic's images but for its broken test split, as a CSV."""
    path = output.parent / "images.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for split in ("train", "val"):
            for one in sorted((clinic.data / split).rglob("*.png")):
                writer.writerow([one.relative_to(clinic.data).as_posix(), one.parent.name, split])
    return path


@pytest.fixture(scope="module")
def finished(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        load_and_treat(config(clinic, output))
    return output


def test_the_diagnosis_that_is_needed_is_made(clinic: Clinic, finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "arms", "config.yaml", "diagnosis.h5", "history.csv", "maps.h5", "treated.pt", "trial.json"
    }  # fmt: skip
    assert list(read_diagnosis(finished / "diagnosis.h5").layers) == [LAYER]


def test_the_resolved_configuration_repeats_the_trial(finished: Path, tmp_path: Path) -> None:
    again = load_and_treat(load_treat_config(finished / "config.yaml", output=tmp_path / "again"))
    assert [arm.by_seed for arm in again.arms] == [arm.by_seed for arm in read_trial(finished / "trial.json").arms]
    one, other = (
        torch.load(folder / "arms" / "treat-0.pt", weights_only=True)["network"]
        for folder in (finished, tmp_path / "again")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_given_diagnosis_is_used(clinic: Clinic, finished: Path, tmp_path: Path) -> None:
    load_and_treat(config(clinic, tmp_path / "run", diagnosis=finished / "diagnosis.h5"))
    assert not (tmp_path / "run" / "diagnosis.h5").exists()
    with pytest.raises(StoreError):
        load_and_treat(config(clinic, tmp_path / "other", diagnosis=clinic.checkpoint))
    assert not (tmp_path / "other").exists()


def test_a_finished_trial_is_not_written_over(clinic: Clinic, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(UsageError, match="there is a trial already"):
        load_and_treat(config(clinic, finished))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_nothing_is_downloaded_unasked(clinic: Clinic, tmp_path: Path) -> None:
    data = {"path": "torchvision:CIFAR10", "root": tmp_path}
    with pytest.raises(DataError, match=r"CIFAR10|download"):
        load_and_treat(config(clinic, tmp_path / "run", data=data))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_the_file_does_not_say_comes_from_the_configuration(clinic: Clinic, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pt"
    torch.save(torch.load(clinic.checkpoint, weights_only=True)["state_dict"], bare)
    network = load_network(
        config(
            clinic, tmp_path / "run", checkpoint=bare,
            network={
                "arch": "timm/test_resnet", "num_classes": 4, "channels": 3, "input_size": EDGE, "mean": (0.25,),
                "std": (0.5, 0.4, 0.3), "interpolation": "nearest", "crop_pct": 0.5,
                "resize_mode": "pad", "class_order": "text", "model_options": {"drop_rate": 0.25},
            },
        )
    )  # fmt: skip
    assert (network.arch, network.num_classes) == ("timm/test_resnet", len(CLASSES))
    assert network.preprocessing.input_size == (3, EDGE, EDGE)
    assert network.preprocessing.mean == (0.25,) * 3
    assert network.preprocessing.std == (0.5, 0.4, 0.3)
    assert (network.preprocessing.interpolation, network.preprocessing.crop_pct) == ("nearest", 0.5)
    assert network.preprocessing.resize_mode == "pad"
    assert network.module.drop_rate == 0.25
    assert network.class_order == "text"


def test_the_settings_of_the_original_training_are_taken_over(clinic: Clinic, tmp_path: Path) -> None:
    content = torch.load(clinic.checkpoint, weights_only=True)
    stated = tmp_path / "stated.pt"
    torch.save({**content, "args": {"opt": "adamw", "lr": 0.002, "batch_size": 12, "smoothing": 0.1}}, stated)
    training = {"epochs": 1, "learning_rate": 0.001}
    load_and_treat(config(clinic, tmp_path / "run", checkpoint=stated, training=training))
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["training"]
    found = {
        name: written[name] for name in ("optimizer", "learning_rate", "batch_size", "label_smoothing", "momentum")
    }
    assert found == {
        "optimizer": "adamw", "learning_rate": 0.001, "batch_size": 12, "label_smoothing": 0.1, "momentum": 0.9
    }  # fmt: skip
    state = torch.load(tmp_path / "run" / "arms" / "treat-0.pt", weights_only=True)
    assert "exp_avg_sq" in state["optimisation"]["optimizer"]["state"][0]  # Adam's


def test_training_settings_that_cannot_be_are_left_with_a_warning(clinic: Clinic, tmp_path: Path) -> None:
    content = torch.load(clinic.checkpoint, weights_only=True)
    odd = tmp_path / "odd.pt"
    torch.save({**content, "args": {"lr": -3, "batch_size": 12}}, odd)
    with pytest.warns(ModelDoctorWarning, match="says of its own training cannot be used"):
        load_and_treat(config(clinic, tmp_path / "run", checkpoint=odd, training={"epochs": 1}))


@pytest.mark.parametrize("found", [0, 3])
def test_masks_of_training_images_alone_are_no_fault_of_a_treatment(
    clinic: Clinic, tmp_path: Path, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_finder, "_STEPS", 40)  # the object is always in the same place
    shutil.copytree(clinic.masks / "train", tmp_path / "masks" / "train")
    data = {"path": str(table(clinic, tmp_path / "run")), "root": clinic.data, "masks": tmp_path / "masks"}
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        space = {"propagated_per_class": found}
        load_and_treat(config(clinic, tmp_path / "run", data=data, channel={}, space=space), say=said.append)
    assert any(f"annotated training images by class: {CLASSES[0]} " in text for text in said), said
    assert not [str(one.message) for one in caught if "has a mask that can be used" in str(one.message)]
    diagnosis = read_diagnosis(tmp_path / "run" / "diagnosis.h5")
    assert diagnosis.config.propagate_masks == bool(found)
    # Where masks are found for others, the diagnosis looks for them, too, and says how good they are.
    assert any("annotated" in text and "overlap" in text for text in diagnosis.warnings) == bool(found)
    assert found or "val" not in diagnosis.masked


def test_test_images_that_vanish_or_change_meanwhile_are_left_out_and_told(clinic: Clinic, tmp_path: Path) -> None:
    """The same figures as where the lost images were never listed; before, each counted as wrong in silence."""
    data = shutil.copytree(clinic.data, tmp_path / "data")

    def listed(name: str, without: set[str]) -> Path:
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "split"])
            for split in ("train", "val"):
                for number, one in enumerate(sorted((clinic.data / split).rglob("*.png"))):
                    part = "test" if split == "val" and number % 2 else split
                    if (image := one.relative_to(clinic.data).as_posix()) not in without:
                        writer.writerow([image, one.parent.name, part])
        return path

    whole = listed("whole.csv", set())
    tested = [row["path"] for row in csv.DictReader(whole.open()) if row["split"] == "test"]
    lost = {tested[0], tested[-1]}

    def progress(stage: str, done: int, total: int | None) -> None:
        if stage.startswith("continue"):
            for path in lost:
                (data / path).unlink(missing_ok=True)

    def treated(name: str, table: Path, **more: Any) -> dict[str, Any]:
        place = {"path": str(table), "root": data}
        trial = load_and_treat(config(clinic, tmp_path / name, data=place), **more)
        return {arm.arm: (arm.images, {key: found.value for key, found in arm.metrics.items()}) for arm in trial.arms}

    with pytest.warns(ModelDoctorWarning) as said:
        found = treated("lost", whole, progress=progress)
    text = " ".join(str(warning.message) for warning in said)
    assert f"test: 2 images of {len(tested)} cannot be read and are left out of the test: {tested[0]}" in text
    assert "the data was changed while the trial ran: sizes or times of image files" in text
    expected = treated("never", listed("less.csv", lost))
    assert found == expected
    assert found["original"][0] == len(tested) - 2
