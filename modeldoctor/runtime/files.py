"""Writing files so that a crash leaves the old one whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modeldoctor.errors import UsageError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, remove it on failure.

    Raises:
        UsageError: the folder cannot be written to.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
    except OSError as error:
        raise UsageError(
            f"cannot write: {error.strerror}", where=str(path), hint="choose another place for the output"
        ) from error
    try:
        yield aside
        try:
            aside.replace(path)
        except OSError as error:
            raise UsageError(
                f"cannot write: {error.strerror}", where=str(path), hint="choose another place for the output"
            ) from error
    finally:
        aside.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Say before a long computation that its result could not be written; nothing is made.

    Raises:
        UsageError: it is a folder, or the nearest folder that exists cannot be written to.
    """
    there = next(folder for folder in path.absolute().parents if folder.exists())
    problems = {
        "it is a folder": path.is_dir(),
        f"{there} is no folder": not there.is_dir(),
        f"{there} cannot be written to": there.is_dir() and not os.access(there, os.W_OK | os.X_OK),
    }
    for problem, holds in problems.items():
        if holds:
            raise UsageError(f"cannot write: {problem}", where=str(path), hint="choose another place for the output")
