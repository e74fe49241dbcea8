"""What the commands share of the terminal: results on stdout, bars and warnings on stderr, ending on a signal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from modeldoctor.errors import ModelDoctorWarning, one_line, printable
from modeldoctor.runtime.progress import Progress, silent

out = Console()
err = Console(stderr=True)

_LINE_EVERY_S = 30.0


@dataclass
class Volume:
    """How much is said on stderr beside errors and warnings.

    Attributes:
        quiet: no progress and no notes.
        verbose: other libraries' warnings, too, and the traceback of an error.
    """

    quiet: bool = False
    verbose: bool = False


volume = Volume()


def show_parts(parts: Iterable[RenderableType]) -> None:
    """Print parts of a result, an empty line between them; a name that is longer than the line goes on behind it."""
    for part in parts:
        out.print(part, "", crop=False)


def note(text: str) -> None:
    """Say what was assumed, unless nobody wants to know."""
    if not volume.quiet:
        err.print(f"[dim]note: {escape(one_line(text))}[/]", highlight=False, soft_wrap=True)


def note_agreement(expected: float | None) -> None:
    """After the check: the accuracy is the expected one."""
    if expected is not None:
        note(f"accuracy agrees with the {expected:.1%} of --expect-accuracy, as far as chance allows")


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A bar on stderr for each stage, or lines in a log; figures behind " · " in a stage's text change with it."""
    if volume.quiet or not err.is_terminal:
        yield silent if volume.quiet else _lines()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            stage = printable(stage)
            name = stage.partition(" · ")[0]
            if name not in tasks:
                tasks[name] = bars.add_task(stage, total=total)
            bars.update(tasks[name], description=stage, completed=done, total=total)

        yield show


def _lines() -> Progress:
    """Where no bar can move: a line for each stage that is done, and now and then one on the way."""
    said, ended = time.monotonic(), set[str]()

    def show(stage: str, done: int, total: int | None) -> None:
        nonlocal said
        name = stage.partition(" · ")[0]
        if name in ended or not done:
            return
        if done == total:
            ended.add(name)
        if done == total or time.monotonic() - said >= _LINE_EVERY_S:
            said = time.monotonic()
            place = f"{done}" if total is None else f"{done} of {total}"
            err.print(f"{printable(stage)}: {place}", markup=False, highlight=False, soft_wrap=True)

    return show


def show_warning(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
    """Our warnings are for the user; other libraries' are not, unless they are asked for."""
    if volume.verbose or issubclass(category, ModelDoctorWarning):
        err.print(f"[yellow]warning:[/] {escape(one_line(str(message)))}", highlight=False, soft_wrap=True)
