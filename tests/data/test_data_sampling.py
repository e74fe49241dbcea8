import numpy as np
import pytest

from modeldoctor.data.sampling import choose_confident

OPTIONS = {"per_class": 5, "threshold": 0.9, "seed": 3, "num_classes": 4}


def predictions(count=400):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    predicted = np.where(rng.random(count) < 0.7, labels, rng.integers(0, 3, count))
    return labels, predicted, rng.uniform(0.8, 1.0, count)


def test_chooses_right_and_confident_samples_only():
    labels, predicted, confidence = predictions()
    chosen = choose_confident(labels, predicted, confidence, **OPTIONS)
    assert [len(indices) for indices in chosen] == [5, 5, 5, 0]
    for number, indices in enumerate(chosen):
        assert indices.dtype == np.int64
        assert indices.tolist() == sorted(set(indices.tolist()))
        assert (labels[indices] == number).all()
        assert (predicted[indices] == number).all()
        assert (confidence[indices] >= 0.9).all()


def test_takes_all_where_there_are_few_and_the_threshold_itself():
    labels = predicted = np.array([1, 0, 1, 1])
    confidence = np.array([0.9, 0.95, np.nan, 0.8999])
    chosen = choose_confident(labels, predicted, confidence, **OPTIONS)
    assert [indices.tolist() for indices in chosen] == [[1], [0], [], []]


def test_depends_on_the_seed_alone():
    data = predictions()
    np.random.seed(0)
    first = choose_confident(*data, **OPTIONS)
    np.random.seed(1)
    again = choose_confident(*data, **OPTIONS)
    other = choose_confident(*data, **{**OPTIONS, "seed": 4})
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_class_does_not_depend_on_the_others(changed):
    labels, predicted, confidence = predictions()
    before = choose_confident(labels, predicted, confidence, **OPTIONS)
    confidence = np.where((labels == changed) & (np.arange(400) % 2 == 0), 0.0, confidence)
    after = choose_confident(labels, predicted, confidence, **{**OPTIONS, "num_classes": 3})
    for number in {0, 1, 2} - {changed}:
        assert np.array_equal(before[number], after[number])
    assert not np.array_equal(before[changed], after[changed])


def test_every_sample_is_as_likely():
    labels = predicted = np.zeros(10, dtype=np.int64)
    counts = np.zeros(10)
    for seed in range(2000):
        options = {**OPTIONS, "seed": seed, "num_classes": 1}
        counts[choose_confident(labels, predicted, np.ones(10), **options)[0]] += 1
    assert np.abs(counts / 2000 - 0.5).max() < 0.05
