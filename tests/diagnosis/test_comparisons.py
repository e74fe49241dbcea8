"""Comparisons between images, kernels that do harm, quality and duplicates: against cases whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import ImageSet, open_data
from modeldoctor.data.duplicates import find_duplicates
from modeldoctor.data.pictures import PictureArray
from modeldoctor.diagnosis.comparisons import label_doubt, pull_to_label, similarities, unfamiliarity
from modeldoctor.diagnosis.faulty import find_faulty, usual_values
from modeldoctor.diagnosis.looks import slight_alterations
from modeldoctor.diagnosis.quality import damage_of, image_quality
from modeldoctor.diagnosis.state import Looks
from modeldoctor.results.altered import SLIGHT
from modeldoctor.results.verdicts import DAMAGE, DAMAGES, LABEL_DOUBT

PLAIN = Preprocessing(input_size=(3, 64, 64), mean=(0.0,) * 3, std=(1.0,) * 3)


def looks(features: np.ndarray, label: list[int], logits: np.ndarray, altered: np.ndarray | None = None) -> Looks:
    return Looks(
        np.arange(len(label)), np.array(label), logits.astype(np.float32),
        (logits if altered is None else altered).astype(np.float32), features.astype(np.float32),
        np.zeros((len(label), 5), dtype=np.float32), features.astype(np.float32),
    )  # fmt: skip


def clusters(number: int, rng: np.random.Generator) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Images of two classes, each round a direction of its own; logits are twenty times these."""
    label = [row % 2 for row in range(number)]
    features = np.eye(2)[label] + rng.normal(0, 0.1, (number, 2))
    return features, label, 20 * features


def test_a_swapped_label_is_doubted_and_an_image_between_the_classes_is_not() -> None:
    rng = np.random.default_rng(0)
    features, label, logits = clusters(60, rng)
    references = looks(*clusters(60, rng))
    features[0], logits[0] = (0.0, 1.0), (0.0, 20.0)  # labelled 0, a usual 1
    features[2], logits[2] = (0.7, 0.72), (14.0, 14.4)  # labelled 0, between both
    seen = looks(features, label, logits)
    predicted = logits.argmax(1)
    doubt = label_doubt(seen, predicted, similarities(seen.features, references, 2))
    assert doubt[0] > 0.3
    assert doubt[2] < 0.05
    assert np.isnan(np.delete(doubt, [0, 2])).all()


def test_similarity_is_the_mean_cosine_of_the_five_nearest() -> None:
    rng = np.random.default_rng(1)
    features, label, logits = clusters(40, rng)
    references = looks(features, label, logits)
    found = similarities(np.array([[1.0, 0.5]]), references, 3)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ (np.array([1.0, 0.5]) / np.sqrt(1.25))
    for number in (0, 1):
        of_class = sorted(cosines[np.array(label) == number])
        assert found[0, number] == pytest.approx(np.mean(of_class[-5:]), abs=1e-5)
    assert np.isnan(found[0, 2])


def test_unfamiliarity_is_the_mahalanobis_distance_by_the_usual_one() -> None:
    """Of correlated figures; the oracle inverts a covariance, and knows nothing of principal directions."""
    rng = np.random.default_rng(2)
    mixing = np.array([[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 50.0]])
    references = rng.normal(size=(4000, 3)) @ mixing + (3.0, -1.0, 200.0)
    images = np.array([[3.0, -1.0, 200.0], [3.0, 1.0, 200.0], [5.0, 0.8, 200.0], [3.0, -1.0, 500.0]])
    inverse = np.linalg.inv(np.cov(references.T))
    distance = [
        np.sqrt(np.einsum("nd,de,ne->n", x, inverse, x)) for x in (images - [3, -1, 200], references - [3, -1, 200])
    ]
    found = unfamiliarity(images, references)
    np.testing.assert_allclose(found, distance[0] / np.quantile(distance[1], 0.99), atol=0.06)
    assert found[1] > 1 > found[2]  # against the correlation, and along it


def test_unfamiliarity_does_not_depend_on_units_and_holds_for_more_figures_than_images() -> None:
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(5, 300))
    references, new = (rng.normal(size=(number, 5)) @ factors + rng.normal(size=(number, 300)) for number in (120, 200))
    away = new + 12 * rng.normal(size=300)
    found = unfamiliarity(np.concatenate([new, away]), references)
    assert np.mean(found[:200] > 1) < 0.05
    assert np.mean(found[200:] > 1) > 0.95
    units = rng.uniform(0.01, 100, 300)
    np.testing.assert_allclose(unfamiliarity(new * units, references * units), found[:200], rtol=1e-6)
    constant = np.concatenate([references, np.ones((120, 1))], axis=1)
    assert np.isfinite(unfamiliarity(np.concatenate([new, np.ones((200, 1))], axis=1), constant)).all()


def test_few_or_equal_training_images_tell_nothing() -> None:
    rng = np.random.default_rng(4)
    assert np.isnan(unfamiliarity(np.ones((1, 2)), rng.normal(size=(39, 2)))).all()
    assert np.isnan(unfamiliarity(np.ones((1, 2)), np.ones((50, 2)))).all()


def test_alterations_that_turn_an_image_to_its_label_are_counted_in_deviations_of_right_images() -> None:
    """Eleven right images of class 1 whose margin changes by 0..10: mean 5, deviation √11."""
    logits = np.tile([0.0, 8.0], (12, 1))
    altered = logits + np.stack([np.arange(12.0), np.zeros(12)], axis=1)
    altered[11, 0] = 5 + 3 * np.sqrt(11)
    seen = looks(np.ones((12, 2)), [1] * 11 + [0], logits, altered)
    pull = pull_to_label(seen, logits.argmax(1))
    assert pull[11] == pytest.approx(3.0)
    nine = looks(np.ones((10, 2)), [1] * 9 + [0], logits[2:], altered[2:])
    assert np.isnan(pull_to_label(nine, logits[2:].argmax(1))).all()


def test_a_copy_is_what_a_person_takes_for_the_same_image() -> None:
    """A ramp from 0.1 to 0.8, made smaller and large again, and mirrored; a white dot may not outshine white."""
    ramp = torch.linspace(0.1, 0.8, 32).expand(1, 3, 32, 32)
    used = PLAIN.model_copy(update={"mean": (0.25,) * 3, "std": (0.5,) * 3})
    copies = dict(zip(SLIGHT, slight_alterations((ramp - 0.25) / 0.5, used), strict=True))
    seen = {name: (copy[0, 1, 7] * 0.5 + 0.25).tolist() for name, copy in copies.items()}
    row = ramp[0, 0, 0].tolist()
    assert seen["smaller and large again"][4:-4] == pytest.approx(row[4:-4], abs=2e-3)
    assert seen["mirrored"] == pytest.approx(row[::-1])
    half = torch.cat([torch.zeros(1, 3, 8, 16), torch.ones(1, 3, 8, 16)], dim=2)
    smooth = slight_alterations((half - 0.25) / 0.5, used)[0] * 0.5 + 0.25
    assert (smooth.min(), smooth.max()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


def test_a_label_is_doubted_by_the_copies_too() -> None:
    """Two images labelled 0 with the logits of a usual 1: the copies of one stay so, those of the other turn back."""
    rng = np.random.default_rng(0)
    features, label, logits = clusters(60, rng)
    references = looks(*clusters(60, rng))
    features[[0, 2]], logits[[0, 2]] = (0.0, 1.0), (0.0, 20.0)
    altered = logits.copy()
    altered[2] = (12.0, 8.0)
    seen = looks(features, label, logits, altered)
    doubt = label_doubt(seen, logits.argmax(1), similarities(seen.features, references, 2))
    assert doubt[0] > 0.3
    assert doubt[2] < LABEL_DOUBT


def faulty_case(spoiled: int) -> tuple[Looks, np.ndarray, np.ndarray]:
    """A kernel, the third, of which only spoiled images have any: it pushes class 1."""
    features, label, _ = clusters(60, np.random.default_rng(3))
    features = np.hstack([features, np.zeros((60, 1))])
    features[: 2 * spoiled : 2, 2] = 5.0  # images of class 0
    weight = np.array([[10.0, 0.0, 0.0], [0.0, 10.0, 10.0]])
    logits = features @ weight.T
    return looks(features, label, logits), logits.argmax(1), weight.astype(np.float32)


def test_a_kernel_that_costs_more_images_than_it_serves_is_named() -> None:
    seen, predicted, weight = faulty_case(spoiled=20)
    assert (predicted != seen.label).sum() == 20
    found, culprit, confidence = find_faulty(seen, predicted, weight, np.zeros(3, np.float32), 40, 20)
    assert [(kernel.channel, kernel.mended, kernel.broken) for kernel in found] == [(2, 20, 0)]
    assert (culprit[predicted != seen.label] == 2).all()
    assert (culprit[predicted == seen.label] == -1).all()
    assert (confidence[predicted != seen.label] > 0.9).all()


def test_a_kernel_that_serves_as_many_is_not() -> None:
    seen, predicted, weight = faulty_case(spoiled=20)
    found, culprit, _ = find_faulty(seen, predicted, weight, np.zeros(3, np.float32), 4000, 20)
    assert len(found) == 0
    assert (culprit == -1).all()


def test_behind_a_relu_the_usual_value_is_zero_and_else_the_mean() -> None:
    features = np.array([[1.0, 3.0], [0.0, 1.0]])
    assert usual_values(looks(features, [0, 1], features)).tolist() == [0, 0]
    assert usual_values(looks(features - 2, [0, 1], features)).tolist() == [-1.5, 0.0]


def photograph(rng: np.random.Generator) -> Image.Image:
    """Smooth shapes and a little grain, as photographs have."""
    coarse = Image.fromarray(rng.integers(40, 216, (8, 8, 3), dtype=np.uint8)).resize(
        (64, 64), Image.Resampling.BICUBIC
    )
    grain = np.asarray(coarse, dtype=float) + rng.normal(0, 2, (64, 64, 3))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def quality(pictures: list[Image.Image]) -> np.ndarray:
    batch = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures])
    return image_quality(batch, PLAIN).numpy()


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("darker", lambda picture: picture.point(lambda value: value * 0.1)),
        ("brighter", lambda picture: picture.point(lambda value: 255 - (255 - value) * 0.1)),
        ("lower in contrast", lambda picture: picture.point(lambda value: 120 + value * 0.05)),
        ("blurrier", lambda picture: picture.filter(ImageFilter.GaussianBlur(4))),
        ("noisier", lambda picture: Image.fromarray(
            (np.asarray(picture) + np.random.default_rng(1).normal(0, 40, (64, 64, 3))).clip(0, 255).astype(np.uint8)
        )),
        ("blockier", lambda picture: picture.resize((8, 8)).resize((64, 64), Image.Resampling.NEAREST)),
    ],
)  # fmt: skip
def test_each_damage_is_seen(kind: str, damage: object) -> None:
    rng = np.random.default_rng(0)
    references = quality([photograph(rng) for _ in range(600)])
    whole, damaged = photograph(rng), photograph(rng)
    (usual, extreme), (_, number) = damage_of(quality([whole, damage(damaged)]), references)  # type: ignore[operator]
    assert usual <= DAMAGE < extreme
    if kind in ("darker", "brighter", "noisier", "blockier"):
        assert DAMAGES[number] == kind


def test_an_image_in_two_splits_is_found_by_its_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 4)):
        for row in range(number):
            path = tmp_path / split / "ab"[row % 2] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(rng).save(path)
    copied = tmp_path / "val/b/0.png"
    copied.write_bytes((tmp_path / "train/a/4.png").read_bytes())
    splits = open_data(str(tmp_path), preprocessing=PLAIN)
    found, sought = find_duplicates(splits["train"], splits["val"], seed=0)
    assert ([splits["val"].paths[index] for index in found], sought) == (["val/b/0.png"], 5)
    assert find_duplicates(splits["val"], splits["val"], seed=0) == ([], 0)


def test_an_image_in_two_arrays_is_found_by_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    pixels[7] = pixels[2]

    def of(split: str, rows: slice) -> ImageSet:
        labels = np.zeros(len(pixels[rows]), dtype=np.int64)
        return ImageSet(
            split=split, class_names=("a",), labels=labels, paths=[str(row) for row in labels],
            pictures=PictureArray(pixels[rows]), preprocessing=PLAIN,
        )  # fmt: skip

    assert find_duplicates(of("train", slice(5)), of("val", slice(5, 9)), seed=0) == ([2], 4)


def test_few_references_do_not_tell_damage() -> None:
    """Beyond all of a handful in some figure lies nearly every image, whole as it is."""
    rng = np.random.default_rng(0)
    whole = quality([photograph(rng) for _ in range(200)])
    for number, least in ((10, 1.0), (119, 1.0), (120, 0.0)):
        damage, _ = damage_of(whole[:50], quality([photograph(rng) for _ in range(number)]))
        assert np.mean(np.isnan(damage)) == least
    damage, _ = damage_of(whole[:100], quality([photograph(rng) for _ in range(120)]))
    assert np.mean(np.array(damage) > DAMAGE) < 0.1


def test_what_has_no_quality_is_not_damaged() -> None:
    references = np.zeros((200, 6), dtype=np.float32)
    damage, _ = damage_of(np.full((1, 6), np.nan, dtype=np.float32), references)
    assert not damage[0] > DAMAGE
