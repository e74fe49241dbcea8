"""Ranges, unknown keys, and the defaults that DESIGN and paper name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from modeldoctor.config.diagnose import DiagnoseConfig, Preprocessing

NAN, INF = float("nan"), float("inf")
GOOD: dict[str, Any] = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}


def test_defaults_are_the_designs() -> None:
    config = DiagnoseConfig()
    assert (config.noise_draws, config.samples_per_class, config.threshold) == ("auto", 100, 0.2)
    assert (config.delta, config.delta_unit, config.min_confidence) == (0.1, "std", 0.9)
    assert (config.seed, config.device, config.hooks) == (0, "auto", False)
    assert (config.split, config.examine, config.scan) == (None, None, "enough")
    assert (config.draws_precision, config.draws_per_image) == (0.05, 10)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("noise_draws", (-1, 1001, 1.5, "many")),
        ("draws_precision", (0, -0.1, NAN)),
        ("samples_precision", (0, -0.05, NAN)),
        ("scan", ("some", "")),
        ("delta", (0, -1, NAN, INF, "x")),
        ("delta_unit", ("STD", "pixels", "")),
        ("samples_per_class", (0, -5)),
        ("min_confidence", (-0.01, 1.01, NAN, 90)),
        ("threshold", (-0.1, 1.1, NAN)),
        ("noise_ranges", ((), (0.0,), (-1.0, 1.0), (NAN,), (INF,), (1.0, 0.5), (0.5, 0.5))),
        ("max_explained", (-1,)),
        ("seed", (-1, 0.5, 2**63)),
        ("batch_size", (0, -1)),
        ("workers", (-1,)),
        ("layers", (None, 3)),
        ("hooks", ("maybe",)),
    ],
)
def test_values_out_of_range_are_refused_by_key(key: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValidationError) as caught:
            DiagnoseConfig(**{key: value})
        assert key in str(caught.value), value


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("noise_draws", (0, 1000)), ("delta", (1e-9, 100.0)), ("delta_unit", ("std", "absolute")),
        ("samples_per_class", (1,)), ("min_confidence", (0.0, 1.0)), ("threshold", (0.0, 1.0)),
        ("noise_ranges", ((0.5,), (0.1, 3.0))), ("max_explained", (0,)), ("seed", (0, 2**63 - 1)), ("batch_size", (1,)),
        ("workers", (0,)),
    ],
)  # fmt: skip
def test_the_ends_of_each_range_are_allowed(key: str, values: tuple[Any, ...]) -> None:
    for value in values:
        assert getattr(DiagnoseConfig(**{key: value}), key) == value


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="noise_draw"):
        DiagnoseConfig(noise_draw=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="size"):
        Preprocessing(**GOOD, size=3)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        DiagnoseConfig().seed = 3  # type: ignore[misc]


def test_a_config_survives_json() -> None:
    config = DiagnoseConfig(noise_ranges=(0.25, 4.0), split="train")
    assert DiagnoseConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": (0.5,)}, {"std": (0.2, 0.2)}, {"std": (0.2, 0.0, 0.2)}, {"std": (0.2, -1.0, 0.2)},
        {"mean": (NAN,) * 3},
        {"std": (INF,) * 3}, {"input_size": (3, 0, 8)}, {"input_size": (3, 8)}, {"crop_pct": 0.0}, {"crop_pct": 1.1},
        {"interpolation": "lanczos"},
    ],
)  # fmt: skip
def test_preprocessing_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Preprocessing(**{**GOOD, **changes})


def test_preprocessing_keeps_the_whole_short_side_by_default() -> None:
    assert (Preprocessing(**GOOD).crop_pct, Preprocessing(**GOOD).interpolation) == (1.0, "bicubic")


@pytest.mark.parametrize(
    ("pixels", "images"),
    [((224, 224), 16), ((384, 384), 16), ((112, 224), 32), ((96, 96), 87), ((28, 28), 256), ((1, 1), 256)],
)
def test_more_of_smaller_images_are_run_at_once(pixels: tuple[int, int], images: int) -> None:
    assert DiagnoseConfig().images_at_once((3, *pixels)) == images
    assert DiagnoseConfig(batch_size=5).images_at_once((3, *pixels)) == 5
