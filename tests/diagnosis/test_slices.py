"""Groups of images that are worse than the rest: nothing in random data, and what was planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeldoctor.diagnosis.looks import covered_by_objects
from modeldoctor.diagnosis.slices import Slice, find_confusions, find_slices
from modeldoctor.diagnosis.state import Looks

CLASSES = ("a", "b", "c")
IMAGES = 600


def looked_at(seed: int) -> tuple[Looks, np.random.Generator]:
    """Images of random features and looks; nothing depends on anything."""
    rng = np.random.default_rng(seed)
    label = rng.integers(len(CLASSES), size=IMAGES)
    features, quality = rng.normal(size=(IMAGES, 16)), rng.random((IMAGES, 6))
    features[:, 0] += 1
    logits = np.zeros((IMAGES, len(CLASSES)))
    columns = (part.astype("f4") for part in (logits, logits, features, quality, features))
    return Looks(np.arange(IMAGES), label, *columns), rng


def found(looks: Looks, wrong: np.ndarray, kept: np.ndarray | None = None) -> tuple[Slice, ...]:
    decided = np.where(wrong, (looks.label + 1) % len(CLASSES), looks.label)
    kept = np.ones(IMAGES, bool) if kept is None else kept
    part = Looks(*(column[kept] for column in looks))
    return find_slices(part, decided[kept], CLASSES, int(wrong.sum()), int((~wrong).sum()), seed=0)


def test_nothing_is_found_where_errors_are_chance() -> None:
    findings = 0
    for seed in range(20):
        looks, rng = looked_at(seed)
        findings += len(found(looks, rng.random(IMAGES) < 0.2))
    assert findings <= 1


@pytest.mark.parametrize(
    ("column", "sign", "name"),
    [
        (0, 1, "the darkest fifth"),
        (2, 1, "the blurriest fifth"),
        (3, -1, "the noisiest fifth"),
        (5, 1, "the fifth of the images with the smallest objects"),
    ],
)
def test_a_planted_slice_is_found_with_its_error_rates(column: int, sign: int, name: str) -> None:
    looks, rng = looked_at(1)
    ranked = np.argsort(np.argsort(sign * looks.quality[:, column]))
    there = ranked < IMAGES // 5
    wrong = rng.random(IMAGES) < np.where(there, 0.7, 0.1)
    (planted,) = found(looks, wrong)
    assert planted.name.startswith(name)
    assert planted.rate == pytest.approx(wrong[there].mean(), abs=0.02)
    assert planted.rest == pytest.approx(wrong[~there].mean(), abs=0.02)
    assert planted.rest < planted.low < planted.rate < planted.high
    assert planted.excess == pytest.approx((planted.rate - planted.rest) * there.sum(), abs=2)
    assert set(planted.rows.tolist()) == set(np.flatnonzero(wrong & there).tolist())


def test_a_cluster_of_features_is_found() -> None:
    looks, rng = looked_at(2)
    there = rng.random(IMAGES) < 0.15
    looks.features[there, 1] += 30
    wrong = rng.random(IMAGES) < np.where(there, 0.8, 0.1)
    slices = found(looks, wrong)
    assert slices
    assert all("like features" in part.name for part in slices)
    assert set(np.concatenate([part.rows for part in slices]).tolist()) <= set(np.flatnonzero(there & wrong).tolist())


def test_rates_are_of_the_whole_split_though_right_images_were_sampled() -> None:
    looks, rng = looked_at(3)
    there = looks.quality[:, 0] < np.quantile(looks.quality[:, 0], 0.2)
    wrong = rng.random(IMAGES) < np.where(there, 0.7, 0.1)
    sampled = found(looks, wrong, kept=wrong | (rng.random(IMAGES) < 0.7))
    assert sampled[0].name.startswith("the darkest")
    assert sampled[0].low < wrong[there].mean() < sampled[0].high


@pytest.mark.parametrize("wrongs", [0, 19, IMAGES - 19])
def test_few_images_are_not_compared(wrongs: int) -> None:
    looks, _ = looked_at(4)
    wrong = np.argsort(looks.quality[:, 0]) < 0
    wrong[np.argsort(looks.quality[:, 0])[:wrongs]] = True
    assert found(looks, wrong) == ()


def test_images_that_are_all_alike_have_no_groups() -> None:
    looks, rng = looked_at(5)
    alike = looks._replace(features=np.ones_like(looks.features), quality=np.ones_like(looks.quality))
    assert found(alike, rng.random(IMAGES) < 0.3) == ()
    unknown = looks._replace(features=np.full_like(looks.features, np.nan), quality=np.full_like(looks.quality, np.nan))
    assert found(unknown, rng.random(IMAGES) < 0.3) == ()


def test_objects_are_not_compared_where_only_some_images_have_masks() -> None:
    looks, rng = looked_at(6)
    there = looks.quality[:, 5] < 0.2
    wrong = rng.random(IMAGES) < np.where(there, 0.7, 0.1)
    assert found(looks, wrong)
    looks.quality[rng.random(IMAGES) < 0.2, 5] = np.nan
    assert found(looks, wrong) == ()


def test_an_objects_size_is_its_share_of_the_image() -> None:
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[:2, :3] = True
    assert covered_by_objects([mask, None], 2).tolist() == pytest.approx([0.3, np.nan], nan_ok=True)
    assert covered_by_objects(None, 2).isnan().all()


def confused(seed: int, *, planted: float = 0.0) -> np.ndarray:
    """(6,6), images by class and prediction: one in five is wrong by chance, and of class 4 more are taken for 1."""
    rng = np.random.default_rng(seed)
    label = rng.integers(6, size=1200)
    predicted = np.where(rng.random(1200) < 0.2, (label + rng.integers(1, 6, 1200)) % 6, label)
    predicted[(label == 4) & (rng.random(1200) < planted)] = 1
    counts = np.zeros((6, 6), dtype=np.int64)
    np.add.at(counts, (label, predicted), 1)
    return counts


def test_no_pair_of_classes_stands_out_where_errors_are_chance() -> None:
    assert sum(len(find_confusions(confused(seed), ())) for seed in range(20)) <= 1


def test_a_class_that_is_taken_for_another_is_found_unless_it_was_told_of() -> None:
    counts = confused(0, planted=0.25)
    (pair,) = find_confusions(counts, ())
    assert (pair.own, pair.taken_for, pair.looked_at) == (4, 1, 30)
    others = [0, 2, 3, 5]
    assert pair.share == counts[4, 1] / counts[4].sum()
    assert pair.rest == counts[others, 1].sum() / counts[others].sum()
    assert pair.rest < pair.low < pair.share < pair.high
    assert pair.excess == round((pair.share - pair.rest) * counts[4].sum())
    assert find_confusions(counts, [frozenset((1, 4))]) == ()
    assert find_confusions(counts[[1, 4]][:, [1, 4]], ()) == ()  # of two classes there is no third to compare with
