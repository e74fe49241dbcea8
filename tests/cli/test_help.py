"""The help of every command in terminals of several widths."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("columns", [60, 80])
def test_no_option_is_cut_off(columns: int) -> None:
    command = [sys.executable, "-m", "modeldoctor", "treat", "-h"]
    environment = os.environ | {"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    for option in ("--require-improvement", "--model-option", "torchvision/resnet50"):
        assert option in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns
