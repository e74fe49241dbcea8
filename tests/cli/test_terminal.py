"""Progress in a log: lines that a person can read later, and none but those."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from modeldoctor.cli import terminal


def test_a_log_gets_a_line_for_each_stage_and_one_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said, clock = io.StringIO(), iter(range(0, 1000, 4))
    monkeypatch.setattr(terminal, "err", Console(file=said, width=40))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with terminal.shown_progress() as show:
        for done in (*range(1, 4), 3):
            show("predict [train]", done, 3)
        show("explain", 0, 0)
        for done in range(1, 21):
            show(f"treat · loss {1 / done:.2f}", done, None)
    lines = said.getvalue().splitlines()
    assert lines[0] == "predict [train]: 3 of 3"
    assert [line.split(": ")[1] for line in lines[1:]] == ["8", "16"]
    assert lines[1].startswith("treat · loss 0.12")
