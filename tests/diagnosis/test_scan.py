"""Reading a split no farther than is needed: what is read and chosen, and that nothing is claimed of the rest."""

from __future__ import annotations

import json
import signal
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, Clinic
from numpy.typing import NDArray

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import open_data
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import InterruptedRunError, ModelDoctorWarning
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.summary import summarise
from modeldoctor.zoo import Classifier, load_model

WANTED = 3
SCANNED: dict[str, Any] = {
    "layers": "layer3.0.conv3", "noise_draws": 0, "samples_per_class": WANTED, "device": "cpu", "hooks": True,
    "max_explained": 0, "shown": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def network(clinic: Clinic) -> Classifier:
    return load_model(clinic.checkpoint)


@pytest.fixture(scope="module")
def scanned(clinic: Clinic, network: Classifier) -> Diagnosis:
    return diagnose(network, clinic.data, config=DiagnoseConfig(**SCANNED))


def usable(clinic: Clinic) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each training image is right with confidence, by the plain network; and its label."""
    _, images, labels = clinic.images("train")
    with torch.no_grad():
        confidence, predicted = clinic.network()(images).softmax(1).max(1)
    return ((predicted == labels) & (confidence >= 0.9)).numpy(), labels.numpy()


def rows(found: Diagnosis) -> tuple[list[bytes], list[bytes]]:
    """Paths that were read, and those that were used."""
    samples = found.samples
    return samples.path[found.rows("train")].tolist(), samples.path[samples.used_in_diagnosis].tolist()


def test_the_first_usable_images_of_a_random_order_are_used(clinic: Clinic, scanned: Diagnosis) -> None:
    good, labels = usable(clinic)
    paths = np.array(clinic.images("train")[0])
    expected = []
    for number in range(len(CLASSES)):
        order = np.random.default_rng([0, 2, number]).permutation(np.flatnonzero(labels == number))
        expected += order[good[order]][:WANTED].tolist()
    read, used = rows(scanned)
    assert [path.decode() for path in used] == paths[np.sort(expected)].tolist()
    assert set(used) < set(read)
    assert read == sorted(read)
    assert scanned["layer3.0.conv3"].count.tolist() == [WANTED] * len(CLASSES)


def test_of_what_was_not_read_nothing_is_claimed(clinic: Clinic, scanned: Diagnosis) -> None:
    read = int(scanned.rows("train").sum())
    assert dict(scanned.unread) == {"train": len(clinic.images("train")[0]) - read}
    assert scanned.unread["train"] > 0
    splits = summarise(scanned)["splits"]
    assert splits["train"] == {"images": read, "unread": scanned.unread["train"], "masks": None, "accuracy": None}
    assert splits["val"]["unread"] == 0
    assert splits["val"]["accuracy"] == pytest.approx(scanned.accuracy)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5, "workers": 1}], ids=str)
def test_batches_and_workers_choose_nothing(
    clinic: Clinic, network: Classifier, scanned: Diagnosis, options: dict[str, Any]
) -> None:
    found = diagnose(network, clinic.data, config=DiagnoseConfig(**SCANNED, **options))
    assert rows(found) == rows(scanned)
    assert found.unread == scanned.unread


def test_everything_is_read_if_asked_for_or_examined(clinic: Clinic, network: Classifier) -> None:
    whole = diagnose(network, clinic.data, config=DiagnoseConfig(**SCANNED, scan="all"))
    assert int(whole.rows("train").sum()) == len(clinic.images("train")[0])
    examined = diagnose(network, clinic.data, config=DiagnoseConfig(**SCANNED, examine="train"))
    assert not whole.unread
    assert not examined.unread
    assert examined.accuracy == pytest.approx(summarise(whole)["splits"]["train"]["accuracy"])


def test_an_interrupted_scan_goes_on_with_the_same_images(
    clinic: Clinic, network: Classifier, scanned: Diagnosis, tmp_path: Path
) -> None:
    config, output = DiagnoseConfig(**SCANNED, batch_size=2), tmp_path / "d.h5"
    for stop_at in (4, 14):

        def stop(stage: str, done: int, total: int | None, stop_at: int = stop_at) -> None:
            if stage == "predict train" and done >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises((InterruptedRunError, KeyboardInterrupt)):
            diagnose(network, clinic.data, config=config, output=output, resume=True, progress=stop)
    resumed = diagnose(network, clinic.data, config=config, output=output, resume=True)
    assert rows(resumed) == rows(scanned)
    assert read_diagnosis(output).unread == scanned.unread


def test_a_stream_is_read_until_every_class_is_full(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    """The classes come one after the other; behind the last needed image lies one that would end the run."""
    good, labels = usable(clinic)
    order = np.random.default_rng(0).permutation(len(labels))
    counts, last = np.zeros(len(CLASSES), dtype=int), 0
    for place, index in enumerate(order):
        counts[labels[index]] += good[index]
        if (counts >= WANTED).all():
            last = place + 1
            break
    paths = clinic.images("train")[0]
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for place, index in enumerate(order):
            archive.add(clinic.data / paths[index], f"{place:04d}.png")
            label = tmp_path / "label"
            label.write_text(str(labels[index]))
            archive.add(label, f"{place:04d}.cls")
    sets = open_data("wds/mine", root=tmp_path, preprocessing=network.preprocessing)
    stream = sets["train"]
    stream.class_names = CLASSES
    val = open_data(str(clinic.data), preprocessing=network.preprocessing)["val"]
    for size in (3, 8):
        found = diagnose(network, {"train": stream, "val": val}, config=DiagnoseConfig(**SCANNED, batch_size=size))
        assert int(found.rows("train").sum()) == last < len(order)
        assert dict(found.unread) == {"train": None}
        assert found["layer3.0.conv3"].count.tolist() == [WANTED] * len(CLASSES)


def test_a_stream_that_goes_on_leaves_no_image_out(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    """With a precision it is read to the pilot's last image and from there on, whatever else that one's batch held."""
    _, labels = usable(clinic)
    paths = clinic.images("train")[0]
    order = np.random.default_rng(1).permutation(len(labels)).tolist()
    pilot = [index for index in order if usable(clinic)[0][index]]
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for place, index in enumerate([*pilot * 2, *order]):
            archive.add(clinic.data / paths[index], f"{place:04d}.png")
            label = tmp_path / "label"
            label.write_text(str(labels[index]))
            archive.add(label, f"{place:04d}.cls")
    val = open_data(str(clinic.data), preprocessing=network.preprocessing)["val"]
    found = []
    for size in (1, 7):
        stream = open_data("wds/mine", root=tmp_path, preprocessing=network.preprocessing)["train"]
        stream.class_names = CLASSES
        config = DiagnoseConfig(**(SCANNED | {"samples_precision": 0.001, "batch_size": size}))
        with pytest.warns(ModelDoctorWarning, match="fewer than the wanted number of images"):
            found.append(diagnose(network, {"train": stream, "val": val}, config=config))
    one, seven = (rows(each) for each in found)
    assert one == seven
    assert len(one[0]) == 2 * len(pilot) + len(order)


def test_an_interrupted_stream_goes_on_although_some_of_it_cannot_be_read(
    clinic: Clinic, network: Classifier, tmp_path: Path
) -> None:
    """timm's description counts samples that cannot be decoded, and which take no index."""
    paths, _, labels = clinic.images("val")
    order = np.random.default_rng(2).permutation(len(paths)).tolist()
    with tarfile.open(tmp_path / "validation-0.tar", "w") as archive:
        for place, index in enumerate(order):
            image, label = tmp_path / "image", tmp_path / "label"
            image.write_bytes(b"broken" if place in (3, 20) else (clinic.data / paths[index]).read_bytes())
            label.write_text(str(int(labels[index])))
            archive.add(image, f"{place:04d}.png")
            archive.add(label, f"{place:04d}.cls")
    split = {"name": "validation", "num_samples": len(order), "filenames": ["validation-0.tar"]}
    described = {"splits": {"validation": split | {"shard_lengths": [len(order)]}}}
    (tmp_path / "_info.json").write_text(json.dumps(described))
    run: dict[str, Any] = {"config": DiagnoseConfig(**(SCANNED | {"batch_size": 4})), "output": tmp_path / "d.h5"}

    def splits() -> dict[str, Any]:
        (stream,) = open_data("wds/mine", root=tmp_path, preprocessing=network.preprocessing).values()
        stream.class_names = CLASSES
        return {"val": stream}

    def stop(stage: str, done: int, total: int | None) -> None:
        if stage.startswith("predict") and done == 8:
            signal.raise_signal(signal.SIGINT)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        whole = diagnose(network, splits(), **run)
        with pytest.raises(InterruptedRunError):
            diagnose(network, splits(), **run, progress=stop)
        resumed = diagnose(network, splits(), **run, resume=True)
    assert len(resumed.samples.label) == len(order) - 2
    assert resumed.samples.label.tolist() == whole.samples.label.tolist()
    assert resumed.samples.confidence.tolist() == whole.samples.confidence.tolist()
