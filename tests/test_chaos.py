"""A small part of scripts/chaos.py: a diagnosis that is killed or interrupted goes on to the same result."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import Clinic

SCRIPTS = Path(__file__).parent.parent / "scripts"


def test_a_diagnosis_that_is_hit_goes_on_to_the_same_bits(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import chaos

    # Through hooks nothing is exported, which takes most of the time of so small a run.
    monkeypatch.setattr(chaos, "OPTIONS", (*chaos.OPTIONS, "--hooks", "--workers", "0"))
    (tmp_path / "checkpoint.pt").symlink_to(clinic.checkpoint)
    (tmp_path / "data").symlink_to(clinic.data)
    expected, choose = chaos.undisturbed("diagnose", tmp_path), random.Random(4)
    ended = chaos.trial("diagnose", tmp_path, expected, choose)
    assert ended.fine, (ended.line, capfd.readouterr().out)
    assert ended.hits
    assert all(0 < hit.share < 1 for hit in ended.hits)
    # What is compared tells one result from another.
    assert {**expected[0], "wrong": "0"} != expected[0]
    assert len(expected[0]["samples"]["confidence"][2]) > 100
