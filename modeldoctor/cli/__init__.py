"""The command line: `entry` starts and ends, `commands` parse and call, `render` draws, `terminal` owns the streams."""

from modeldoctor.cli.commands import app
from modeldoctor.cli.entry import main

__all__ = ["app", "main"]
