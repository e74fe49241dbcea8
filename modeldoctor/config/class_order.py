"""The two orders in which programs sort class folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in names by their values."""
    # Every second part is a number; a sign belongs to a name's first alone, as in "-1".
    parts = enumerate(re.split(r"(^-?\d+|\d+)", name))
    return [(int(part), "") if place % 2 else (-1, part) for place, part in parts]


ORDERS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "text": sorted,
    "number": lambda names: sorted(names, key=natural),
}
"""By the words of --class-order."""
