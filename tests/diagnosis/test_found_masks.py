"""A diagnosis whose examined images have no masks but found ones, on discs whose places are known."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from modeldoctor.config.diagnose import DiagnoseConfig, Preprocessing
from modeldoctor.data import found_masks
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import ModelDoctorWarning, UsageError
from modeldoctor.method import object_finder
from modeldoctor.results.diagnosis import Diagnosis

SIZE = 56


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red discs anywhere on grey noise in `data`, their masks in `masks`; `some` holds those of train alone."""
    folder, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    for split, number in ((split, number) for split in ("train", "val") for number in range(24)):
        centre, radius = rng.integers(12, 44, 2), rng.integers(8, 14)
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        picture = np.repeat(rng.integers(60, 160, (SIZE, SIZE, 1)), 3, 2)
        picture[disc] = (220, 30, 30)
        for root, pixels in (("data", picture.astype(np.uint8)), ("masks", disc.astype(np.uint8) * 255)):
            path = folder / root / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    shutil.copytree(folder / "masks" / "train", folder / "some" / "train")
    return folder


def diagnosed(discs: Path, masks: Path | None, **changes: Any) -> Diagnosis:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip
    preprocessing = Preprocessing(input_size=(3, SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)
    settings: dict[str, Any] = {
        "layers": "last", "noise_draws": 0, "min_confidence": 0.0, "samples_per_class": 5, "device": "cpu",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)  # they are in the diagnosis
        return diagnose(
            module,
            discs / "data",
            preprocessing=preprocessing,
            masks=masks,
            config=DiagnoseConfig(**settings, **changes),
        )


def test_masks_that_are_found_tell_where_the_evidence_lies_and_are_called_what_they_are(discs: Path) -> None:
    true, found = diagnosed(discs, discs / "masks"), diagnosed(discs, discs / "some", propagate_masks=True)
    assert found.masked == {"train": 24, "val": 0}  # what people made
    shares = np.array([[image.background_share for image in one.misdiagnosed] for one in (true, found)])
    known = ~np.isnan(shares[1])
    assert known.mean() > 0.9
    assert abs(shares[0] - shares[1])[known].max() < 0.15
    assert np.ptp(shares[0]) > 0.1
    (said,) = [text for text in found.warnings if "nobody's annotations" in text]
    assert said.startswith("val: masks of 2")
    assert "were found from 24 annotated ones" in said
    assert "(intersection over union; " in said
    assert not any("nothing can be said of their backgrounds" in text for text in found.warnings)


def test_as_many_processes_read_as_the_user_says(discs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, plain = [], found_masks.make_loader

    def noted(*args: Any, **options: Any) -> Any:
        said.append(options["workers"])
        return plain(*args, **options)

    monkeypatch.setattr(found_masks, "make_loader", noted)
    monkeypatch.setattr(object_finder, "_STEPS", 100)  # just good enough to be used
    diagnosed(discs, discs / "some", propagate_masks=True, workers=0)
    assert len(said) >= 2  # what is learned from, and where objects are sought
    assert set(said) == {0}


def test_masks_by_people_stay_theirs(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of val is annotated, wrongly on purpose: everything is object."""
    monkeypatch.setattr(object_finder, "_STEPS", 100)
    masks = tmp_path / "masks"
    shutil.copytree(discs / "some", masks)
    for number in range(0, 24, 2):
        path = masks / "val" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(path)
    found = diagnosed(discs, masks, propagate_masks=True)
    assert found.masked == {"train": 24, "val": 12}
    paths = {image.sample: found.samples.path[image.sample].decode() for image in found.misdiagnosed}
    by_hand = [image.background_share for image in found.misdiagnosed if "/a/" in paths[image.sample]]
    assert not any(share > 0 for share in by_hand)


def test_where_the_object_cannot_be_seen_nothing_is_found(discs: Path, tmp_path: Path) -> None:
    """The masks of other images."""
    files = sorted((discs / "some" / "train").rglob("*.png"))
    for file, other in zip(files, files[7:] + files[:7], strict=True):
        there = tmp_path / "train" / file.parent.name / file.name
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(other, there)
    found = diagnosed(discs, tmp_path, propagate_masks=True)
    assert all(np.isnan(image.background_share) for image in found.misdiagnosed)
    assert any(text.startswith("masks are not propagated: ") for text in found.warnings)


def test_without_any_mask_there_is_nothing_to_learn_from(discs: Path) -> None:
    with pytest.raises(UsageError, match="no image has a mask from which others could be found"):
        diagnosed(discs, None, propagate_masks=True)
