"""The command line: `entry` starts and ends, `commands` parse and call, `render` draws, `terminal` owns the streams."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from modeldoctor.cli.commands import app

__all__ = ["app", "main"]

_INTERRUPTED = 130  # ExitCode.INTERRUPTED, before anything is imported


def main() -> NoReturn:
    """The console script: from its first moment to its last Ctrl-C ends it with a code, not a traceback.

    Once the work is done, signals are ignored: the interpreter puts their default back while it ends, and that would
    replace the code of a command that wrote everything by the signal's.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        from modeldoctor.cli.entry import run

        run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End with the code that says why; at once while libraries are imported, whose C code hides an exception."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(_INTERRUPTED)
        frame = frame.f_back
    sys.exit(_INTERRUPTED)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modeldoctor.cli.commands import app

    return app
