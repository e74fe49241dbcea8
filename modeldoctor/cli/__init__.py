"""The command line: `entry` starts and ends, `commands` parse and call, `render` draws, `terminal` owns the streams."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from modeldoctor.cli.commands import app

__all__ = ["app", "main"]

_INTERRUPTED = 130  # ExitCode.INTERRUPTED, before anything is imported


def main() -> NoReturn:
    """The console script: from its first moment on Ctrl-C ends it with a code, not a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(_INTERRUPTED))
    from modeldoctor.cli.entry import run

    run()


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modeldoctor.cli.commands import app

    return app
