"""Diagnoses of one small trained network against hooks and plain autograd, image by image; resumption bit by bit.

Shapes: N classes, K channels, H x W positions.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import random
import shlex
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, Clinic, picture
from PIL import Image
from torch import Tensor, nn

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import open_data
from modeldoctor.diagnosis import diagnose, list_layers
from modeldoctor.diagnosis.attack import fgsm
from modeldoctor.errors import (
    DataError,
    InterruptedRunError,
    MaskError,
    MemoryLimitError,
    ModelDoctorWarning,
    StoreError,
    UsageError,
)
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.summary import summarise, write_summary
from modeldoctor.runtime.session import resolve_device
from modeldoctor.zoo import Classifier, load_model

LAYERS = ("layer2.0.conv2", "layer3.0.conv3")
ARRAYS = ("correlation", "variance", "signed", "activation", "contribution")
# 10 images of each class are right and confident: no warning that there are fewer.
PLAIN: dict[str, Any] = {
    "layers": ",".join(LAYERS), "noise_draws": 0, "samples_per_class": 10, "scan": "all", "device": "cpu",
}  # fmt: skip
# Through hooks nothing is exported, which takes most of the time of so small a run.
QUICK = PLAIN | {"hooks": True}
NOISY = PLAIN | {"noise_draws": 2, "batch_size": 7}


@pytest.fixture(scope="module")
def network(clinic: Clinic) -> Classifier:
    return load_model(clinic.checkpoint)


@pytest.fixture(scope="module")
def noisy(clinic: Clinic, network: Classifier) -> Diagnosis:
    return diagnose(network, clinic.data, config=DiagnoseConfig(**NOISY), masks=clinic.masks)


def derivative(module: nn.Module, layer: str, image: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """The layer's maps m (K,H,W) for one image, and the derivative of one logit by them."""
    kept: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        logits = module(image[None])
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, label], kept[0])
    return kept[0][0].detach().double(), gradient[0].double()


def answers(clinic: Clinic, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Label, prediction and confidence of each image of a split."""
    _, images, labels = clinic.images(split)
    with torch.no_grad():
        confidence, predicted = clinic.network()(images).softmax(1).max(1)
    return labels, predicted, confidence


def assert_equal_bits(one: Diagnosis, other: Diagnosis) -> None:
    for name in one.layers:
        for array in (*ARRAYS, "count"):
            assert getattr(one[name], array).tobytes() == getattr(other[name], array).tobytes(), (name, array)
        assert one[name].activation_std == other[name].activation_std
    assert one.samples.path.tolist() == other.samples.path.tolist()
    for array in ("label", "predicted", "confidence", "used_in_diagnosis", "stability"):
        assert getattr(one.samples, array).tobytes() == getattr(other.samples, array).tobytes(), array
    assert repr(one.misdiagnosed) == repr(other.misdiagnosed)  # NaN prints the same
    assert repr(one.limits) == repr(other.limits)
    for kind in ("shown", "adversarial"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert (mine is None) == (theirs is None)
        for field in dataclasses.fields(mine) if mine is not None else ():
            assert np.array_equal(getattr(mine, field.name), getattr(theirs, field.name)), (kind, field.name)
    assert (one.wrong, one.broken, one.warnings) == (other.wrong, other.broken, other.warnings)


def assert_close(one: Diagnosis, other: Diagnosis) -> None:
    for name in one.layers:
        for array in ARRAYS:
            first, second = getattr(one[name], array), getattr(other[name], array)
            np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5 * np.abs(second).max(), err_msg=array)
        assert one[name].count.tolist() == other[name].count.tolist()
        assert one[name].activation_std == pytest.approx(other[name].activation_std, rel=1e-5)
    np.testing.assert_allclose(one.samples.confidence, other.samples.confidence, rtol=1e-4)
    np.testing.assert_array_equal(one.samples.used_in_diagnosis, other.samples.used_in_diagnosis)
    np.testing.assert_allclose(one.samples.stability, other.samples.stability, atol=0.01)
    for first, second in zip(one.misdiagnosed, other.misdiagnosed, strict=True):
        assert (first.sample, first.verdict, first.resembles) == (second.sample, second.verdict, second.resembles)
        assert first.background_share == pytest.approx(second.background_share, rel=1e-3, nan_ok=True)
        assert [kernel.channel for kernel in first.kernels] == [kernel.channel for kernel in second.kernels]


# --- figures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(clinic: Clinic, network: Classifier) -> Diagnosis:
    return diagnose(network, clinic.data, config=DiagnoseConfig(**PLAIN), masks=clinic.masks)


def test_every_image_of_both_splits_is_predicted_as_the_plain_network_does(clinic: Clinic, plain: Diagnosis) -> None:
    assert plain.samples.splits == ("train", "val")
    assert plain.examined == "val"
    for split in plain.samples.splits:
        rows = plain.rows(split)
        label, predicted, confidence = answers(clinic, split)
        assert [path.decode() for path in plain.samples.path[rows]] == clinic.images(split)[0]
        assert plain.samples.label[rows].tolist() == label.tolist()
        assert plain.samples.predicted[rows].tolist() == predicted.tolist()
        np.testing.assert_allclose(plain.samples.confidence[rows], confidence, rtol=1e-4)
    label, predicted, _ = answers(clinic, "val")
    assert plain.wrong == int((label != predicted).sum()) > 3
    assert plain.accuracy == pytest.approx(float((label == predicted).float().mean()))
    rows_of_wrong = np.flatnonzero(plain.rows("val"))[(label != predicted).numpy()]
    assert [image.sample for image in plain.misdiagnosed] == rows_of_wrong.tolist()


def test_exactly_the_right_and_confident_training_images_are_used(clinic: Clinic, plain: Diagnosis) -> None:
    label, predicted, confidence = answers(clinic, "train")
    expected = (label == predicted) & (confidence >= 0.9)
    assert bool(((label != predicted) & (confidence >= 0.9)).any()), "the data must hold wrong images with confidence"
    assert plain.samples.used_in_diagnosis[plain.rows("train")].tolist() == expected.tolist()
    assert not plain.samples.used_in_diagnosis[plain.rows("val")].any()
    assert plain[LAYERS[0]].count.tolist() == [int((expected & (label == n)).sum()) for n in range(4)]


def test_right_images_below_the_confidence_asked_for_are_not_used(clinic: Clinic, network: Classifier) -> None:
    label, predicted, confidence = answers(clinic, "train")
    right = np.sort(confidence[label == predicted].numpy())
    gap = int(np.argmax(np.diff(right)))
    limit = float(right[gap : gap + 2].mean())
    with pytest.warns(ModelDoctorWarning, match="classes have fewer than 100 images"):
        found = diagnose(
            network, clinic.data, config=DiagnoseConfig(**(QUICK | {"samples_per_class": 100, "min_confidence": limit}))
        )
    expected = (label == predicted) & (confidence >= limit)
    assert 0 < int(expected.sum()) < len(right)
    assert found.samples.used_in_diagnosis[found.rows("train")].tolist() == expected.tolist()


@pytest.mark.parametrize("layer", LAYERS)
def test_class_correlations_are_those_of_a_loop_over_images(clinic: Clinic, plain: Diagnosis, layer: str) -> None:
    module = clinic.network()
    _, images, labels = clinic.images("train")
    used = plain.samples.used_in_diagnosis[plain.rows("train")]
    by_class: list[list[tuple[Tensor, Tensor]]] = [[] for _ in CLASSES]
    for image, label in zip(images[used], labels[used].tolist(), strict=True):
        by_class[label].append(derivative(module, layer, image, label))
    for n, pairs in enumerate(by_class):
        maps, gradients = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        absolute = gradients.abs().sum((2, 3))
        expected = {
            "correlation": absolute.mean(0),
            "variance": absolute.var(0),
            "signed": gradients.sum((2, 3)).mean(0),
            "activation": maps.mean((0, 2, 3)),
            "contribution": (gradients * maps).abs().sum((2, 3)).mean(0),
        }
        for name, value in expected.items():
            found = getattr(plain[layer], name)[n]
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-6 * float(value.abs().max()), err_msg=name)


def test_the_activations_deviation_is_that_of_all_training_images(clinic: Clinic, plain: Diagnosis) -> None:
    module = clinic.network()
    kept: list[Tensor] = []
    module.get_submodule(LAYERS[0]).register_forward_hook(lambda _, __, output: kept.append(output.double()))
    with torch.no_grad():
        module(clinic.images("train")[1])
    assert plain[LAYERS[0]].activation_std == pytest.approx(float(kept[0].std(correction=0)), rel=1e-5)
    assert plain[LAYERS[0]].delta == pytest.approx(0.1 * plain[LAYERS[0]].activation_std)


def test_background_shares_are_those_of_the_unmasked_half(clinic: Clinic, plain: Diagnosis) -> None:
    """The masks cover the left half; the last layer's maps have two columns, so the share is the right column's."""
    module = clinic.network()
    _, images, _ = clinic.images("val")
    first = int(np.flatnonzero(plain.rows("val"))[0])
    for wrong in plain.misdiagnosed:
        maps, gradient = derivative(module, LAYERS[-1], images[wrong.sample - first], wrong.predicted)
        evidence = (maps * gradient).abs().sum(0)
        assert evidence.shape == (2, 2)
        assert wrong.background_share == pytest.approx(float(evidence[:, 1].sum() / evidence.sum()), rel=1e-3)


def test_noise_of_no_size_changes_nothing_and_noise_of_some_size_does(
    clinic: Clinic, network: Classifier, plain: Diagnosis, noisy: Diagnosis
) -> None:
    tiny = diagnose(network, clinic.data, config=DiagnoseConfig(**NOISY, delta=1e-7))
    name = LAYERS[0]
    np.testing.assert_allclose(tiny[name].correlation, plain[name].correlation, rtol=1e-3)
    assert not np.allclose(noisy[name].correlation, plain[name].correlation, rtol=1e-3)
    largest = plain[name].correlation.max()
    np.testing.assert_allclose(noisy[name].correlation, plain[name].correlation, rtol=0.5, atol=0.05 * largest)
    np.testing.assert_allclose(noisy[name].activation, plain[name].activation, rtol=1e-4)


def test_an_absolute_delta_is_taken_at_its_word(clinic: Clinic, network: Classifier) -> None:
    found = diagnose(network, clinic.data, config=DiagnoseConfig(**QUICK, delta=0.3, delta_unit="absolute"))
    assert [layer.delta for layer in found.layers.values()] == [0.3, 0.3]


def test_stability_is_measured_on_wrong_and_reference_images_alone(noisy: Diagnosis) -> None:
    measured = ~np.isnan(noisy.samples.stability).any(axis=1)
    assert not measured[noisy.rows("train")].any()
    assert measured[[image.sample for image in noisy.misdiagnosed]].all()
    assert noisy.limits is not None
    assert measured.sum() == len(noisy.misdiagnosed) + noisy.limits.references
    assert set(np.unique(noisy.samples.stability[measured])) <= {0.0, 0.5, 1.0}


def test_without_noise_stability_is_not_measured(plain: Diagnosis) -> None:
    assert np.isnan(plain.samples.stability).all()
    assert all(np.isnan(image.stability) for image in plain.misdiagnosed)


# --- what changes no figure --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1}, {"batch_size": 64}, {"workers": 1}, {"workers": 2, "batch_size": 5}, {"hooks": True},
        {"memory": "1MiB"},
    ],
    ids=lambda options: ", ".join(f"{key} {value}" for key, value in options.items()),
)  # fmt: skip
def test_batches_workers_and_hooks_change_no_figure(
    clinic: Clinic, network: Classifier, noisy: Diagnosis, options: dict[str, Any]
) -> None:
    other = diagnose(network, clinic.data, config=DiagnoseConfig(**(NOISY | options)), masks=clinic.masks)
    assert_close(other, noisy)


def test_the_same_seed_gives_the_same_bits(clinic: Clinic, network: Classifier, noisy: Diagnosis) -> None:
    torch.manual_seed(99)
    again = diagnose(network, clinic.data, config=DiagnoseConfig(**NOISY), masks=clinic.masks)
    assert_equal_bits(again, noisy)


def test_another_seed_gives_other_noise(clinic: Clinic, network: Classifier, noisy: Diagnosis) -> None:
    other = diagnose(network, clinic.data, config=DiagnoseConfig(**NOISY, seed=1))
    assert not np.array_equal(other[LAYERS[0]].correlation, noisy[LAYERS[0]].correlation)


def test_a_memory_too_small_for_one_image_is_said_before_any_is_read(clinic: Clinic, network: Classifier) -> None:
    wide = dataclasses.replace(
        network, preprocessing=network.preprocessing.model_copy(update={"input_size": (3, 256, 256)})
    )
    with pytest.raises(MemoryLimitError, match=r"1 MiB[\s\S]*at least [\s\S]*for one image"):
        diagnose(
            wide, clinic.data, config=DiagnoseConfig(**QUICK, memory="1MiB"), progress=lambda *_: pytest.fail("read")
        )


# --- which images ------------------------------------------------------------------------------------------------


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
    other = pytest.warns(ModelDoctorWarning, match="val: 1 images cannot be read")
    with one, other:
        found = diagnose(network, tmp_path / "data", config=DiagnoseConfig(**PLAIN), masks=clinic.masks)
    assert [path for path, _ in found.broken] == [
        "train/amber/0-text.png", "train/birch/zz-half.png", "val/coral/05-empty.jpg"
    ]  # fmt: skip
    assert "empty" in found.broken[2][1]
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
    assert found.wrong == int((label != predicted).sum())
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
    assert runs[0].wrong == plain.wrong


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


# --- interruption ------------------------------------------------------------------------------------------------


def stop_at(stage: str, batch: int) -> Callable[[str, int, int | None], None]:
    """Ctrl-C while the k-th batch of a stage is told."""
    told = 0

    def progress(name: str, done: int, total: int | None) -> None:
        nonlocal told
        told += name == stage
        if name == stage and told == batch:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.parametrize(
    ("stage", "batch"),
    [
        ("predict train", 1),
        ("predict val", 2),
        ("scale", 2),
        ("correlate", 1),
        ("correlate", 6),
        ("explain", 2),
        ("attack", 1),
        ("attack", 2),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    clinic: Clinic, network: Classifier, noisy: Diagnosis, tmp_path: Path, stage: str, batch: int
) -> None:
    output = tmp_path / "d.h5"
    run: dict[str, Any] = {"config": DiagnoseConfig(**NOISY), "masks": clinic.masks, "output": output}
    with pytest.raises(InterruptedRunError, match=stage) as caught:
        diagnose(network, clinic.data, **run, progress=stop_at(stage, batch))
    assert caught.value.exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5.partial"]
    stages: list[str] = []
    resumed = diagnose(network, clinic.data, **run, resume=True, progress=lambda name, *_: stages.append(name))
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5"]
    assert_equal_bits(resumed, noisy)
    assert_equal_bits(read_diagnosis(output), read_written(noisy, tmp_path))
    order = [
        "predict train",
        "predict val",
        "scale",
        "correlate",
        "explain",
        "look at train",
        "compare val",
        "preprocessing",
        "attack",
        "show",
    ]
    assert set(stages) <= set(order[order.index(stage) :]), "a finished stage was done again"


def test_a_resumed_run_counts_broken_images_as_read(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out" / "d.h5"
    shutil.copytree(clinic.data, data)
    (data / "train" / "amber" / "00-broken.png").touch()
    run: dict[str, Any] = {"config": DiagnoseConfig(**(QUICK | {"batch_size": 7})), "output": output}
    with pytest.warns(ModelDoctorWarning, match="train: 1 images cannot be read"):
        whole = diagnose(network, data, **run)
    with pytest.raises(InterruptedRunError):
        diagnose(network, data, **run, progress=stop_at("predict train", 2))
    with pytest.warns(ModelDoctorWarning, match="train: 1 images cannot be read"):
        resumed = diagnose(network, data, **run, resume=True)
    assert_equal_bits(resumed, whole)


def read_written(diagnosis: Diagnosis, folder: Path) -> Diagnosis:
    """As the file holds it: float32."""
    from modeldoctor.results.hdf5 import write_diagnosis

    write_diagnosis(diagnosis, folder / "expected.h5")
    return read_diagnosis(folder / "expected.h5")


@pytest.fixture
def interrupted(clinic: Clinic, network: Classifier, tmp_path: Path) -> Path:
    """The output of a run that was interrupted while it correlated."""
    output = tmp_path / "d.h5"
    with pytest.raises(InterruptedRunError):
        diagnose(
            network, clinic.data, config=DiagnoseConfig(**NOISY, hooks=True), masks=clinic.masks, output=output,
            progress=stop_at("correlate", 2),
        )  # fmt: skip
    return output


def test_a_run_with_other_settings_is_not_continued(clinic: Clinic, network: Classifier, interrupted: Path) -> None:
    partial = interrupted.with_name("d.h5.partial")
    before = partial.read_bytes()
    others: list[tuple[Classifier, dict[str, Any], Path | None]] = [
        (network, {"seed": 1}, clinic.masks),
        (network, {"noise_draws": 3}, clinic.masks),
        (network, {"layers": LAYERS[0]}, clinic.masks),
        (network, {"examine": "train"}, clinic.masks),
        (network, {}, None),
        (dataclasses.replace(network, checkpoint_sha256="0" * 64), {}, clinic.masks),
    ]
    for other, options, masks in others:
        with pytest.raises(StoreError, match=r"another checkpoint or other settings|the data has changed") as caught:
            diagnose(
                other, clinic.data, config=DiagnoseConfig(**(NOISY | {"hooks": True} | options)), masks=masks,
                output=interrupted, resume=True,
            )  # fmt: skip
        assert caught.value.exit_code == 3
    assert partial.read_bytes() == before
    assert not interrupted.exists()


def test_a_damaged_state_is_said_and_a_fresh_run_removes_it(
    clinic: Clinic, network: Classifier, noisy: Diagnosis, interrupted: Path
) -> None:
    partial = interrupted.with_name("d.h5.partial")
    whole = partial.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        partial.write_bytes(content)
        with pytest.raises(StoreError, match="cannot be read"):
            diagnose(network, clinic.data, config=DiagnoseConfig(**NOISY, hooks=True), output=interrupted, resume=True)
    again = diagnose(
        network, clinic.data, config=DiagnoseConfig(**NOISY, hooks=True), masks=clinic.masks, output=interrupted
    )
    assert_close(again, noisy)
    assert not partial.exists()


def test_resuming_with_nothing_to_resume_is_a_run(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    config = DiagnoseConfig(**(QUICK | {"layers": LAYERS[0]}))
    diagnose(network, clinic.data, config=config, output=tmp_path / "d.h5", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5"]


def test_an_interrupt_without_an_output_says_that_nothing_is_kept(clinic: Clinic, network: Classifier) -> None:
    with pytest.raises(InterruptedRunError, match="nothing was kept"):
        diagnose(network, clinic.data, config=DiagnoseConfig(**QUICK), progress=stop_at("predict train", 1))


# --- what is left as it was --------------------------------------------------------------------------------------


def hooks_of(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(one, kind)) for one in module.modules() for kind in kinds)


@pytest.fixture
def untouched(clinic: Clinic) -> Iterator[Classifier]:
    """A network with mixed modes, flags and gradients that must be the same afterwards."""
    network = load_model(clinic.checkpoint)
    module = network.module.train()
    module.get_submodule("layer1").eval()
    for parameter in list(module.parameters())[::2]:
        parameter.requires_grad_(False)
    handle = module.register_forward_hook(lambda *_: None)
    torch.manual_seed(5)
    before = state_of(module)
    yield network
    after = state_of(module)
    for key in before:
        assert after[key] == before[key], key
    handle.remove()


def state_of(module: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()},
        "requires_grad": [parameter.requires_grad for parameter in module.parameters()],
        "gradients": [parameter.grad is None for parameter in module.parameters()],
        "modes": {name: one.training for name, one in module.named_modules()},
        "hooks": hooks_of(module),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "warnings": (list(warnings.filters), warnings.showwarning),
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("hooks", [False, True], ids=["cut", "hooks"])
def test_a_diagnosis_leaves_the_network_as_it_was(clinic: Clinic, untouched: Classifier, hooks: bool) -> None:
    diagnose(untouched, clinic.data, config=DiagnoseConfig(**NOISY, hooks=hooks))


def test_a_network_in_training_mode_is_diagnosed_in_eval_mode(
    clinic: Clinic, untouched: Classifier, plain: Diagnosis
) -> None:
    found = diagnose(untouched, clinic.data, config=DiagnoseConfig(**PLAIN), masks=clinic.masks)
    assert_equal_bits(found, plain)


@pytest.mark.parametrize("stage", ["predict train", "correlate", "explain"])
def test_an_exception_leaves_the_network_as_it_was(clinic: Clinic, untouched: Classifier, stage: str) -> None:
    def fail(name: str, done: int, total: int | None) -> None:
        if name == stage:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        diagnose(untouched, clinic.data, config=DiagnoseConfig(**NOISY, hooks=True), progress=fail)


def test_listing_layers_leaves_the_network_as_it_was(untouched: Classifier) -> None:
    found = list_layers(untouched, DiagnoseConfig(**PLAIN))
    assert [(layer.name, layer.channels, layer.height) for layer in found] == [(LAYERS[0], 48, 4), (LAYERS[1], 192, 2)]


# --- what is refused before any image is read --------------------------------------------------------------------


def test_an_output_that_cannot_be_written_is_said_first(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def fail(*_: object) -> None:
        raise AssertionError("images were read")

    for output in (tmp_path, tmp_path / "file" / "d.h5"):
        with pytest.raises(UsageError, match="cannot write"):
            diagnose(network, clinic.data, config=DiagnoseConfig(**PLAIN), output=output, progress=fail)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "quantum"])
def test_a_device_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be used") as caught:
        resolve_device(name)
    assert caught.value.where == "--device"


def test_a_layer_that_is_not_there_is_said(clinic: Clinic, network: Classifier) -> None:
    with pytest.raises(UsageError, match="no layer is called 'layer9'"):
        diagnose(network, clinic.data, config=DiagnoseConfig(**(PLAIN | {"layers": "layer9"})))


# --- maps and adversarial images, for the report -----------------------------------------------------------------


def test_the_most_telling_images_are_shown_with_their_own_pixels_and_maps(clinic: Clinic, plain: Diagnosis) -> None:
    shown = plain.shown
    assert shown is not None
    telling = sorted(plain.misdiagnosed, key=lambda one: -one.strength * one.confidence)[: len(shown.sample)]
    assert sorted(one.sample for one in telling) == shown.sample.tolist()
    module = clinic.network()
    for i, row in enumerate(shown.sample.tolist()):
        pixels = np.asarray(Image.open(clinic.data / plain.samples.path[row].decode()))
        np.testing.assert_array_equal(shown.thumbnail[i], pixels)
        image = (torch.from_numpy(pixels.copy()).float().permute(2, 0, 1) / 255 - 0.5) / 0.5
        maps, gradient = derivative(module, shown.layer, image, int(plain.samples.predicted[row]))
        np.testing.assert_allclose(shown.derivative[i], gradient.abs().sum(0), rtol=1e-3)
        np.testing.assert_allclose(shown.contribution[i], (gradient * maps).abs().sum(0), rtol=1e-3)
        cam = torch.relu((gradient.mean((1, 2))[:, None, None] * maps).sum(0))
        np.testing.assert_allclose(shown.grad_cam[i], cam, rtol=1e-3, atol=1e-6)


def test_fgsm_steps_every_pixel_by_the_sign_of_the_gradient_of_the_cross_entropy(clinic: Clinic) -> None:
    module, (_, images, labels) = clinic.network(), clinic.images("val")
    mean, std, epsilon = (0.5,) * 3, (0.5,) * 3, 0.05
    turned = fgsm(module, images, labels, epsilon, mean, std)
    assert not turned.requires_grad
    plain = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(module(plain), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, plain)
    pixels = (images * 0.5 + 0.5 + epsilon * gradient.sign()).clamp(0, 1)
    # The sign of a gradient that vanishes beside its image's own is chance in float32.
    sure = gradient.abs() > 1e-3 * gradient.abs().amax((1, 2, 3), keepdim=True)
    assert sure.float().mean() > 0.9
    assert (gradient.abs()[sure] < 1e-6).any(), "none so small that captum would leave it out"
    torch.testing.assert_close((turned * 0.5 + 0.5)[sure], pixels[sure], rtol=0, atol=1e-6)


def test_adversarial_images_are_the_right_ones_that_fgsm_turns(clinic: Clinic, network: Classifier) -> None:
    config = DiagnoseConfig(**(QUICK | {"noise_draws": 2, "fgsm_epsilon": 0.3}))
    found = diagnose(network, clinic.data, config=config)
    assert found.adversarial is not None
    rows, module = found.rows("val"), clinic.network()
    examined = rows & (found.samples.label == found.samples.predicted) & ~np.isnan(found.samples.stability[:, 0])
    attacked = np.flatnonzero(examined)
    assert found.adversarial.attacked == len(attacked)
    _, images, labels = clinic.images("val")
    places = attacked - int(np.flatnonzero(rows)[0])
    predicted = module(fgsm(module, images[places], labels[places], 0.3, (0.5,) * 3, (0.5,) * 3)).argmax(1)
    turned = (predicted != labels[places]).numpy()
    assert turned.sum() > 2
    # A gradient of chance sign may decide a close case.
    both = np.intersect1d(found.adversarial.sample, attacked[turned])
    assert len(both) >= 0.8 * max(turned.sum(), len(found.adversarial.sample))
    assert (found.adversarial.predicted != found.samples.label[found.adversarial.sample]).all()
    shares = np.concatenate([found.adversarial.stability, found.adversarial.fallback])
    assert set(np.unique(shares).tolist()) <= {0.0, 0.5, 1.0}
    assert (found.adversarial.stability + found.adversarial.fallback).max() <= 1


def test_maps_and_adversarial_images_can_be_left_out(clinic: Clinic, network: Classifier) -> None:
    found = diagnose(network, clinic.data, config=DiagnoseConfig(**(QUICK | {"shown": 0, "fgsm_epsilon": 0.0})))
    assert found.shown is None
    assert found.adversarial is None


def test_the_command_line_is_what_makes_it_again(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    config = DiagnoseConfig(**(QUICK | {"batch_size": 7, "shown": 1}))
    found = diagnose(network, clinic.data, config=config, masks=clinic.masks, output=tmp_path / "d d.h5")
    words = shlex.split(found.command)
    assert words[:3] == ["modeldoctor", "diagnose", str(clinic.checkpoint)]
    options = dict(zip(words[3::2], words[4::2], strict=False))
    assert options["--data"] == str(clinic.data)
    assert words[-2:] == ["-o", str(tmp_path / "d d.h5")]
    assert {"--hooks", "--masks", "--shown", "--batch-size", "--noise-draws"} <= set(words)
    assert "--threshold" not in words
    assert read_diagnosis(tmp_path / "d d.h5").command == found.command
    opened = open_data(clinic.data, preprocessing=network.preprocessing)
    assert diagnose(network, opened, config=config).command == ""
