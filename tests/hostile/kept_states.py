"""What the tests of kept states share: an object that would run code, and changes to what a state holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

EXECUTED: list[str] = []


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (EXECUTED.append, ("executed",))


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return apply
