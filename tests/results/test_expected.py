"""The accuracy that the user's own evaluation gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from modeldoctor.errors import DataError
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.expected import check_diagnosis

Handmade = Callable[..., Diagnosis]


def test_a_split_of_which_no_image_could_be_read_has_no_accuracy_to_compare(handmade: Handmade) -> None:
    diagnosis = handmade()
    training = replace(diagnosis.samples, split=np.zeros(10, dtype=int))
    for expected in (None, 0.9):
        check_diagnosis(replace(diagnosis, samples=training), expected)


def test_an_accuracy_beyond_chance_is_refused_with_its_figures(handmade: Handmade) -> None:
    diagnosis = handmade()  # 2 of 6 are right
    check_diagnosis(diagnosis, 0.5)
    with pytest.raises(DataError, match=r"accuracy is 33.3% on 6 images of val"):
        check_diagnosis(diagnosis, 0.99)
