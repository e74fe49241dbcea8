"""The command line: `commands` parses and calls, `render` draws what a person sees, `terminal` owns both streams."""

from modeldoctor.cli.commands import app, main

__all__ = ["app", "main"]
