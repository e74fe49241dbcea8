"""Confusion matrices whose answer is known: coin flips between two classes, and networks that tell them apart."""

from __future__ import annotations

import numpy as np
import pytest

from modeldoctor.diagnosis.inseparable import inseparable_pairs


def test_two_classes_that_a_coin_decides_are_found_and_no_others() -> None:
    rng = np.random.default_rng(0)
    counts = np.diag([200, 0, 0, 180])
    for number in (1, 2):
        counts[number, 1:3] = rng.multinomial(200, [0.5, 0.5])
    counts[0, 3], counts[3, 0] = 30, 40  # confused, and told apart
    (pair,) = inseparable_pairs(counts)
    assert (pair.one, pair.other) == (1, 2)
    assert pair.errors == counts[1, 2] + counts[2, 1]
    assert pair.right == pytest.approx((counts[1, 1] + counts[2, 2]) / 400)
    assert pair.right < pair.high < 0.7


@pytest.mark.parametrize(
    "counts",
    [
        np.diag([50, 50]),
        np.array([[80, 20], [25, 75]]),
        np.array([[5, 5], [5, 5]]),  # too few to say so
        np.array([[50, 50], [4, 46]]),  # in one direction alone
        np.zeros((3, 3), dtype=np.int64),
    ],
)
def test_nothing_is_said_of_classes_that_are_told_apart_or_too_small(counts: np.ndarray) -> None:
    assert inseparable_pairs(counts) == []
