"""Writing files so that a crash leaves the old one whole."""

from __future__ import annotations

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
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
