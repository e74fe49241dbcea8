"""How far a piece of work is: what it tells, and whom."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with the stage, how much of it is done, and how much there is, if that is known."""


def silent(stage: str, done: int, total: int | None) -> None:
    """Nobody is told."""
