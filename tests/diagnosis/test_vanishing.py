"""Images that vanish while a diagnosis runs: counted, named, and no figure twice."""

from __future__ import annotations

import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Clinic
from PIL import Image
from torch import Tensor, nn

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import pictures
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import DataError, InterruptedRunError, ModelDoctorWarning, StoreError
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.zoo import Classifier, load_model

LAYER = "layer3.0.conv3"
QUICK: dict[str, Any] = {
    "layers": LAYER, "noise_draws": 1, "samples_per_class": 10, "device": "cpu", "hooks": True, "batch_size": 4,
    "scan": "all",
}  # fmt: skip


@pytest.fixture(scope="module")
def network(clinic: Clinic) -> Classifier:
    return load_model(clinic.checkpoint)


@pytest.fixture
def data(clinic: Clinic, tmp_path: Path) -> Path:
    shutil.copytree(clinic.data, tmp_path / "data", ignore=shutil.ignore_patterns("test"))
    return tmp_path / "data"


def during(stage: str, at: int, happens: Any) -> Any:
    """A progress that lets something happen, once, when a pass has come so far."""
    done: list[int] = []

    def progress(name: str, number: int, total: int | None) -> None:
        if name.partition(" · ")[0] == stage and number >= at and not done:
            done.append(number)
            happens()

    return progress


def used_of(found: Diagnosis, name: str) -> list[str]:
    samples = found.samples
    paths = [path.decode() for path in samples.path[samples.used_in_diagnosis]]
    return [path for path in paths if path.startswith(f"train/{name}/")]


def test_resuming_behind_images_that_vanished_counts_none_twice(
    clinic: Clinic, network: Classifier, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = diagnose(network, data, config=DiagnoseConfig(**QUICK))
    gone = used_of(whole, "amber")[:4]

    def vanish() -> None:
        """The files are as they were, but their disk no longer gives them."""
        read = pictures.read_picture

        def fail(source: Any, mode: str) -> Any:
            if any(str(source).endswith(path) for path in gone):
                raise pictures.UnreadableError("input/output error")
            return read(source, mode)

        monkeypatch.setattr(pictures, "read_picture", fail)

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    options = {"config": DiagnoseConfig(**QUICK), "output": tmp_path / "d.h5"}
    stop_at = len(used_of(whole, "amber")) + 2
    steps = [during("draws", 0, vanish), during("scale", 1, vanish), during("correlate", stop_at, interrupt)]

    def progress(*told: Any) -> None:
        for step in steps:
            step(*told)

    with pytest.raises(InterruptedRunError):
        diagnose(network, data, **options, progress=progress)  # type: ignore[arg-type]
    with pytest.warns(ModelDoctorWarning, match="train: 4 images could be read at first and later not"):
        found = diagnose(network, data, **options, resume=True)  # type: ignore[arg-type]
    assert found[LAYER].count.tolist() == [6, 10, 10, 10]
    assert {path for path, _ in found.broken} == set(gone)


def test_files_that_changed_since_are_not_resumed(
    clinic: Clinic, network: Classifier, data: Path, tmp_path: Path
) -> None:
    options = {"config": DiagnoseConfig(**QUICK), "output": tmp_path / "d.h5"}
    interrupt = during("correlate", 4, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(InterruptedRunError):
        diagnose(network, data, **options, progress=interrupt)  # type: ignore[arg-type]
    next((data / "val").rglob("*.png")).write_bytes(b"")
    with pytest.raises(StoreError, match=r"the data has changed since .*: sizes or times of image files"):
        diagnose(network, data, **options, resume=True)  # type: ignore[arg-type]


def test_wrong_images_that_vanish_are_named_and_the_rest_is_explained(
    clinic: Clinic, network: Classifier, data: Path
) -> None:
    def vanish() -> None:
        for path in (data / "val").rglob("*.png"):
            path.unlink()

    with pytest.warns(ModelDoctorWarning, match="val: .* images could be read at first"):
        found = diagnose(network, data, config=DiagnoseConfig(**QUICK), progress=during("correlate", 1, vanish))
    assert found.misdiagnosed == ()
    assert found.shown is None
    assert found.wrong_count > 0
    assert len(found.broken) > 0
    assert found.accuracy > 0.5


def test_when_everything_vanishes_it_is_said(clinic: Clinic, network: Classifier, data: Path) -> None:
    def vanish() -> None:
        shutil.rmtree(data / "train")

    with pytest.raises(DataError, match="none can be read any more"):
        diagnose(network, data, config=DiagnoseConfig(**QUICK), progress=during("predict train", 56, vanish))


def test_images_and_masks_that_are_replaced_meanwhile_are_named(
    clinic: Clinic, network: Classifier, data: Path, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(clinic.masks, masks)
    images = sorted((data / "train" / "amber").glob("*.png"))
    mask = next(path for path in sorted((masks / "val").rglob("*.png")))

    def replace() -> None:
        images[0].write_bytes(images[1].read_bytes() + b" ")
        mask.write_bytes(mask.read_bytes() + b" ")

    config = DiagnoseConfig(**QUICK)
    with pytest.warns(ModelDoctorWarning) as caught:
        diagnose(network, data, config=config, masks=masks, progress=during("correlate", 4, replace))
    said = [str(warning.message) for warning in caught if "changed while this run read them" in str(warning.message)]
    assert sorted(text.partition(":")[0] for text in said) == ["train", "val"]
    assert images[0].relative_to(data).as_posix() in " ".join(said)


class Silent(nn.Module):
    """The clinic's network, which divides by what is 0 for an image that is not brighter than this."""

    def __init__(self, network: nn.Module, least: float = -1.0):
        super().__init__()
        self.network, self.least = network, least

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        light = (images.amax((1, 2, 3)) > self.least).float()[:, None]
        return logits * light / light


@pytest.fixture(scope="module")
def answered(clinic: Clinic) -> Diagnosis:
    """Of images that all have an answer."""
    network = load_model(Silent(clinic.network()), preprocessing=load_model(clinic.checkpoint).preprocessing)
    return diagnose(network, clinic.data, config=DiagnoseConfig(**(QUICK | {"layers": "last"})))


@pytest.mark.parametrize("batch_size", [1, 16])
def test_an_image_without_an_answer_counts_nowhere(
    clinic: Clinic, data: Path, answered: Diagnosis, batch_size: int
) -> None:
    """Its label is the class with which argmax answers NaN."""
    for split in ("train", "val"):
        Image.new("RGB", (32, 32)).save(data / split / "amber" / "05-black.png")
    network = load_model(Silent(clinic.network()), preprocessing=load_model(clinic.checkpoint).preprocessing)
    config = DiagnoseConfig(**(QUICK | {"layers": "last", "batch_size": batch_size}))
    said = "the network's answers to 1 image are no finite numbers"
    with pytest.warns(ModelDoctorWarning, match=f"val: {said}"), pytest.warns(match=f"train: {said}"):
        found = diagnose(network, data, config=config)
    assert found.accuracy == answered.accuracy
    assert int(found.rows("val").sum()) == int(answered.rows("val").sum())
    assert [path for path, _ in found.broken] == ["val/amber/05-black.png", "train/amber/05-black.png"]
    (layer,) = found.layers
    assert found[layer].count.tolist() == answered[layer].count.tolist()


def test_a_network_that_answers_nothing_is_refused(clinic: Clinic) -> None:
    """Noise, by which a network is tried before, is brighter than any picture."""
    network = load_model(Silent(clinic.network(), 1.5), preprocessing=load_model(clinic.checkpoint).preprocessing)
    with pytest.raises(DataError, match="the network's answers to all 36 images are no finite numbers"):
        diagnose(network, clinic.data, config=DiagnoseConfig(**(QUICK | {"layers": "last"})))


def test_images_that_a_second_scan_cannot_read_did_not_vanish(clinic: Clinic, network: Classifier, data: Path) -> None:
    """A precision is planned by a pilot; what is read after that for the first time was never there to vanish."""
    for image in [*(data / "train").rglob("*.png")]:
        for copy in ("a", "b"):
            shutil.copy(image, image.with_name(f"{image.stem}{copy}.png"))
    names = sorted(path.name for path in (data / "train" / "amber").iterdir())
    order = np.random.default_rng([0, 2, 0]).permutation(len(names))
    (data / "train" / "amber" / names[order[-1]]).write_bytes(b"broken")
    config = DiagnoseConfig(**(QUICK | {"scan": "enough", "samples_precision": 0.001}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ModelDoctorWarning)
        diagnose(network, data, config=config)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, ModelDoctorWarning)]
    assert any("train: 1 image cannot be read" in text for text in said), said
    assert not any("could be read at first" in text for text in said)
