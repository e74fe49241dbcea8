"""Checkpoints from anybody: refused with a message that names them, or no network that anyone knows."""

from __future__ import annotations

from pathlib import Path

from checkpoint_files import CHECKPOINTS
from walk import faults

from modeldoctor.zoo import load_model


def test_checkpoints(tmp_path: Path) -> None:
    assert faults(CHECKPOINTS, tmp_path, load_model) == {}
