"""A small part of scripts/sweep.py: the steps work on a network of each kind, and what fails says at which step."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def sweep():  # type: ignore[no-untyped-def]
    sys.path.insert(0, str(SCRIPTS))
    import sweep

    yield sweep
    sys.path.remove(str(SCRIPTS))


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("modeldoctor/alexnet_small", {"size": 28, "channels": 1}),
        ("timm/test_vit", {}),
        ("timm/test_convnext", {}),
        ("timm/test_efficientnet", {}),
    ],
)
def test_carried_through(sweep, arch: str, options: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
    outcome = sweep.run_one(arch, options)
    assert (outcome.state, outcome.reason) == ("works", "")
    assert outcome.layers > 2
    assert outcome.named in ("exact", "tied")


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
@pytest.mark.parametrize("form", ["whole module", "prefix, average, loss"])
def test_carried_through_as_people_have_it(sweep, form: str) -> None:  # type: ignore[no-untyped-def]
    outcome = sweep.run_one("timm/test_vit", {"form": form})
    assert (outcome.state, outcome.reason) == ("works", "")


def test_a_failure_names_its_step(sweep, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def refuse(path: Path, **options: object) -> None:
        raise sweep.ModelDoctorError("no such thing")

    monkeypatch.setattr(sweep, "load_model", refuse)
    outcome = sweep.run_one("timm/test_vit", {})
    assert (outcome.state, outcome.reason) == ("fails", "identify: no such thing")
    assert sweep.run_one("timm/test_vit", {"size": 3}).reason.startswith(
        "build: AssertionError: it runs at no size; 3 px"
    )


def test_what_takes_too_long_or_crashes_fails(sweep, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sweep, "run_one", lambda arch, options, tell: time.sleep(60))
    assert sweep.isolated("timm/test_vit", {}, limit=0.5).reason == "build: over 0.5 s"
    monkeypatch.setattr(sweep, "run_one", lambda arch, options, tell: os._exit(3))
    assert sweep.isolated("timm/test_vit", {}, limit=30).reason == "build: its process ended with 3"


def test_the_sample_is_the_same_for_a_seed_and_keeps_the_budget(sweep) -> None:  # type: ignore[no-untyped-def]
    drawn = sweep.random_sample(2, 3.0, seed=5)
    assert drawn == sweep.random_sample(2, 3.0, seed=5) != sweep.random_sample(2, 3.0, seed=6)
    for arch in drawn:
        built = sweep.build(sweep.plan_of(arch), meta=True)
        assert sum(one.numel() for one in built.module.parameters()) <= 3e6
