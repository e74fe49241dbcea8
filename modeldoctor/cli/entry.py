"""The console script: errors become text and exit codes here alone."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from modeldoctor.cli.commands import app
from modeldoctor.cli.terminal import show_warning, volume
from modeldoctor.errors import ExitCode, InputError, ModelDoctorError


def run() -> NoReturn:
    """Run a command, turn what goes wrong into a message and an exit code."""
    warnings.showwarning = show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names that the terminal cannot show
    try:
        _run()
    except ModelDoctorError as error:
        _end_with(error)
    except OSError as error:
        if error.filename is None or isinstance(error, BrokenPipeError):
            raise
        refused = f"the system refuses: {error.strerror}"
        _end_with(InputError(refused, where=os.fsdecode(error.filename), hint="correct the path, or its permissions"))
    sys.exit(ExitCode.DONE)


def _end_with(error: ModelDoctorError) -> NoReturn:
    """Say what went wrong, and exit with its code."""
    if volume.verbose:
        traceback.print_exc()
    if not error.said:
        Console(stderr=True).print(f"[bold red]error[/]\n{escape(str(error))}", soft_wrap=True, highlight=False)
    sys.exit(error.exit_code)


def _run() -> None:
    """Run a command, in a job with the processes that torchrun started, if it did; all but the primary are silent."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        app()
        return
    from modeldoctor.runtime.distributed import job

    with job() as team, nullcontext() if team.is_primary else _silence():
        try:
            app(obj=team)
        except ModelDoctorError:
            # A launcher that sees one process fail tells the others to end, while this one has yet to say why.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            raise


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing that is printed is seen; an error that leaves this is."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
