"""The order of a network's classes, as the user states it: names, a file of them, or how folders were sorted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from modeldoctor.checkpoint.metadata import class_names_of
from modeldoctor.config.class_order import ORDERS
from modeldoctor.errors import DataError, UsageError
from modeldoctor.runtime.files import regular
from modeldoctor.runtime.reading import is_there

_EXPECTED = (
    "text (as ImageFolder sorts folders: 0, 1, 10, 2), number (0, 1, 2, 10), names in the order of the logits "
    "separated by commas, or a file of them: one per line, or JSON such as class_to_idx"
)


class Stated(NamedTuple):
    """What the user says: one of the two."""

    names: tuple[str, ...] | None = None
    """In the order of the logits."""
    order: str | None = None
    """Of `ORDERS`."""


def read_class_order(stated: str | Sequence[str] | None) -> Stated:
    """The order of the classes from the option's text, or from names.

    Raises:
        UsageError: it says neither.
        DataError: there is such a file, but it cannot be read, or does not name every class once.
    """
    if stated is None:
        return Stated()
    if not isinstance(stated, str):
        return Stated(names=tuple(stated))
    if stated in ORDERS:
        return Stated(order=stated)
    path = Path(stated)
    if is_there(path):  # a list of many names is longer than any file's name
        return Stated(names=_checked(_read(path), str(path), DataError))
    if "," in stated:
        return Stated(names=_checked(tuple(name.strip() for name in stated.split(",")), "--class-order", UsageError))
    raise UsageError(f"{stated!r} is no order and no file", where="--class-order", expected=_EXPECTED)


def _read(path: Path) -> tuple[str, ...]:
    try:
        text = regular(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the class names cannot be read: {error}", where=str(path), expected="a text file in UTF-8"
        ) from error
    try:
        content = json.loads(text)
    except ValueError:
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    if isinstance(content, list | dict) and (names := class_names_of(content)):
        return names
    if isinstance(content, list | dict):
        raise DataError(
            "JSON that does not name the classes 0 ... N - 1",
            where=str(path),
            expected='["ant", "bee"], {"ant": 0, "bee": 1} or {"0": "ant", "1": "bee"}',
            hint="write it as json.dump(train_set.class_to_idx, file)",
        )
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _checked(names: tuple[str, ...], where: str, kind: type[DataError | UsageError]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or "" in names or twice:
        found = f"the class {twice[0]!r} is named twice" if twice else "an empty class name"
        raise kind(found, where=where, expected=_EXPECTED)
    return names
