"""Formulas by hand on the diagnosis of conftest.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest

from modeldoctor.results.diagnosis import Diagnosis, normalise

Make = Callable[..., Diagnosis]


def test_normalised_is_min_max_over_a_classs_kernels(handmade: Make) -> None:
    normalised = handmade()["stem.conv"].normalised
    np.testing.assert_allclose(normalised[:2], [[0, 0.5, 1, 0.1], [0, 0.25, 1, 1]], rtol=1e-6)
    assert np.isnan(normalised[2]).all()


def test_a_class_without_contrast_has_no_normalised_correlation() -> None:
    result = normalise(np.array([[2.0, 2.0], [1.0, 3.0]]))
    assert np.isnan(result[0]).all()
    assert result[1].tolist() == [0, 1]


def test_kernels_are_correlated_from_the_threshold_on(handmade: Make) -> None:
    layer = handmade()["stem.conv"]
    assert layer.correlated(0.25).tolist() == [[False, True, True, False], [False, True, True, True], [False] * 4]
    assert layer.correlated(0.26)[1].tolist() == [False, False, True, True]
    assert layer.correlated(0.0)[2].tolist() == [False] * 4


def test_accuracy_and_rows_are_of_a_split(handmade: Make) -> None:
    assert handmade().accuracy == 2 / 6
    assert handmade(examined="train").accuracy == 0.75
    assert np.flatnonzero(handmade().rows("train")).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError):
        handmade().rows("test")


def test_accuracy_of_an_empty_split_is_nan(handmade: Make) -> None:
    diagnosis = handmade()
    samples = dataclasses.replace(diagnosis.samples, splits=("train", "val", "none"))
    assert np.isnan(handmade(samples=samples, examined="none").accuracy)


def test_records_cannot_be_changed(handmade: Make) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        handmade().seed = 3  # type: ignore[misc]


def test_the_notebook_table_says_the_figures_and_escapes_names(handmade: Make) -> None:
    layers = {
        "<script>x</script>": dataclasses.replace(handmade()["stem.conv"], name="<script>x</script>"),
    }
    html = handmade(layers=layers, arch="<img src=x>&", examined="val")._repr_html_()
    tags: list[str] = []
    text: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.handle_data = text.append  # type: ignore[method-assign]
    parser.feed(html)
    assert set(tags) == {"p", "b", "table", "tr", "th", "td", "div"}
    assert "<img src=x>&" in text
    assert "<script>x</script>" in text
    assert "33.33%" in "".join(text)
    assert "62.5%" in text
