"""The two orders in which programs sort class folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in names by their values."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


ORDERS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "text": sorted,
    "number": lambda names: sorted(names, key=natural),
}
"""By the words of --class-order."""
