"""Diagnoses of one small trained network against hooks and plain autograd, image by image; resumption bit by bit.

Shapes: N classes, K channels, H x W positions.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, Clinic
from diagnosed import LAYERS, NOISY, QUICK, answers, assert_close, assert_equal_bits
from PIL import Image
from torch import Tensor, nn

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import open_data
from modeldoctor.diagnosis import diagnose
from modeldoctor.diagnosis.attack import fgsm
from modeldoctor.errors import (
    MemoryLimitError,
    ModelDoctorWarning,
)
from modeldoctor.results.altered import CHANGES
from modeldoctor.results.diagnosis import Diagnosis, Verdict
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.verdicts import OWN_BACKGROUNDS, most_telling
from modeldoctor.zoo import Classifier, load_model


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


# --- figures -----------------------------------------------------------------------------------------------------


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
    assert plain.wrong_count == int((label != predicted).sum()) > 3
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


# --- interruption ------------------------------------------------------------------------------------------------


# --- what is left as it was --------------------------------------------------------------------------------------


# --- what is refused before any image is read --------------------------------------------------------------------


# --- maps and adversarial images, for the report -----------------------------------------------------------------


def test_usable_masks_are_counted_by_split(clinic: Clinic, network: Classifier, plain: Diagnosis) -> None:
    assert plain.masked == {"train": 56, "val": 36}
    without = diagnose(network, clinic.data, config=DiagnoseConfig(**QUICK | {"max_explained": 0}))
    assert without.masked == {}


def test_the_most_telling_images_are_shown_with_their_own_pixels_and_maps(clinic: Clinic, plain: Diagnosis) -> None:
    shown = plain.shown
    assert shown is not None
    telling = most_telling(plain.misdiagnosed, len(shown.sample))
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


def test_every_class_has_small_pictures_of_its_wrong_images(clinic: Clinic, plain: Diagnosis) -> None:
    assert plain.pictures is not None
    rows = plain.pictures.sample.tolist()
    assert rows == sorted({*rows})
    wrong = {image.sample for image in plain.misdiagnosed}
    assert {*rows} <= wrong
    for label in {image.label for image in plain.misdiagnosed}:
        of_class = {image.sample for image in plain.misdiagnosed if image.label == label}
        assert len(of_class & {*rows}) == min(20, len(of_class))
    for i, row in enumerate(rows):
        pixels = np.asarray(Image.open(clinic.data / plain.samples.path[row].decode()))
        np.testing.assert_array_equal(plain.pictures.thumbnail[i], pixels)


def test_images_misled_by_their_background_are_shown_without_their_object_and_before_another(
    clinic: Clinic, plain: Diagnosis
) -> None:
    assert plain.shown is not None
    assert plain.altered is not None
    shown = [one for one in plain.misdiagnosed if one.sample in plain.shown.sample]
    misled = {one.sample: one for one in shown if one.verdict is Verdict.BACKGROUND}
    assert {*plain.altered.sample.tolist()} == {*misled}
    module = clinic.network()
    for i, row in enumerate(plain.altered.sample.tolist()):
        path = plain.samples.path[row].decode()
        pixels = np.asarray(Image.open(clinic.data / path)).astype(np.float64)
        mask = np.asarray(Image.open((clinic.masks / path).with_suffix(".png"))) > 0
        picture, change = plain.altered.picture[i], CHANGES[plain.altered.change[i]]
        if change == "object removed":
            pixels[mask] = pixels[~mask].mean(0)
            assert np.abs(picture - pixels).max() <= 0.51  # a whole number for each
            with torch.no_grad():
                logits = module((torch.from_numpy(pixels).float().permute(2, 0, 1)[None] / 255 - 0.5) / 0.5)
            confidence, predicted = logits.softmax(1)[0].max(0)
            assert plain.altered.predicted[i] == int(predicted)
            assert (int(predicted) == misled[row].predicted) == (misled[row].stays_without_object == 1)
            assert plain.altered.confidence[i] == pytest.approx(float(confidence), rel=1e-3)
        else:
            np.testing.assert_array_equal(picture[mask], pixels[mask])
            assert (picture[~mask] != pixels[~mask]).mean() > 0.5
            # At most half of other backgrounds turn these right, so one that does not is shown; most of its class do.
            assert (plain.altered.predicted[i] == plain.samples.label[row]) == (change == "a background of its class")
            assert (change == "a background of its class") <= (misled[row].own_backgrounds > OWN_BACKGROUNDS)


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
    assert (found.shown, found.pictures) == (None, None)
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


def test_the_command_line_states_noise_ranges(clinic: Clinic, network: Classifier) -> None:
    config = DiagnoseConfig(**(QUICK | {"noise_ranges": (0.5, 2.0), "max_explained": 0}))
    words = shlex.split(diagnose(network, clinic.data, config=config).command)
    assert words[words.index("--noise-ranges") + 1] == "0.5,2.0"
    named = load_model(clinic.checkpoint, class_names=CLASSES)
    words = shlex.split(diagnose(named, clinic.data, config=config).command)
    assert words[words.index("--class-order") + 1] == ",".join(CLASSES)


def test_preprocessing_is_that_of_the_images(clinic: Clinic, network: Classifier) -> None:
    other = network.preprocessing.model_copy(update={"mean": (0.4,) * 3})
    opened = open_data(clinic.data, preprocessing=other)
    found = diagnose(network, opened, config=DiagnoseConfig(**(QUICK | {"max_explained": 0})))
    assert found.preprocessing["mean"] == [0.4, 0.4, 0.4]
