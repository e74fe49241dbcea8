"""Warnings that are noted, whatever the filters of the caller, which hold all the same."""

from __future__ import annotations

import warnings

import pytest

from modeldoctor.errors import ModelDoctorWarning
from modeldoctor.runtime.session import recorded_warnings


def warn(text: str, category: type[Warning] = ModelDoctorWarning) -> None:
    warnings.warn(text, category, stacklevel=1)


def test_a_warning_that_the_caller_makes_an_error_is_one() -> None:
    """As pytest is configured here, so that a diagnosis that warns unexpectedly fails its test."""
    with pytest.raises(ModelDoctorWarning, match="odd"), recorded_warnings() as said:
        warn("odd")
    assert said == ["odd"]


def test_what_the_caller_does_not_want_to_see_is_noted_in_silence() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("ignore")
        with recorded_warnings() as said:
            warn("odd")
    assert (said, shown) == (["odd"], [])


def test_every_one_is_shown_and_noted_and_those_of_others_only_shown() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        with recorded_warnings() as said:
            for _ in range(2):
                warn("odd")
            warn("theirs", UserWarning)
    assert said == ["odd", "odd"]
    assert [str(warning.message) for warning in shown] == ["odd", "odd", "theirs"]
