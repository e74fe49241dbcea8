"""The console script run in this process, for the tests of the commands."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modeldoctor import cli

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Call]:
    """Runs the console script in this process, in an empty folder; returns exit code, stdout and stderr."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["modeldoctor", *map(str, arguments)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsys.readouterr()
        code = ended.value.code
        return int(code or 0), written.out, written.err

    yield run
    for number, handler in signals.items():
        signal.signal(number, handler)


def listing(*roots: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time of change."""
    paths = [path for root in roots for path in (root, *root.rglob("*"))]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
