"""Reading text from anybody: of bounded size, and YAML that stays as small as it looks."""

from __future__ import annotations

import codecs
import csv
import errno
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import yaml

from modeldoctor.runtime.files import regular

SETTINGS_MOST = 1 << 20
"""Bytes of a configuration; PyYAML takes seconds for one."""
RESULT_MOST = 1 << 28
"""Bytes of one stored result, or of one image's annotation, which may hold the image."""
MISSING = ("nan", "NaN", "<NA>")
"""How pandas writes a value that was missing."""
_LINE_MOST = 1 << 20
_SEPARATOR = re.compile(r'"?sep=.?"?\s*', re.IGNORECASE)
_VALUES_MOST, _DEPTH_MOST = 100_000, 50


def is_there(path: Path) -> bool:
    """Whether a regular file is there; a name that no file can have is of none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Whether a file or folder is there; a name that no file can have is of none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def content(path: Path, most: int = RESULT_MOST) -> bytes:
    """What is in a file.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `most` bytes.
    """
    with regular(path).open("rb") as file:
        found = file.read(most + 1) if path.stat().st_size <= most else None
    if found is None or len(found) > most:
        raise OSError(errno.EFBIG, f"the file is larger than {most >> 20} MiB", str(path))
    return found


def lines(stream: TextIO) -> Iterator[str]:
    """The lines of a file, as they are read.

    Raises:
        ValueError: a line is longer than any table's.
    """
    while line := stream.readline(_LINE_MOST):
        if len(line) == _LINE_MOST:
            raise ValueError(f"a line of more than {_LINE_MOST:,} characters")
        yield line


def table_text(path: Path) -> TextIO:
    """A CSV file opened as text: UTF-8, or the UTF-16 that spreadsheets call Unicode text, which begins with a mark.

    Others' letters cannot be told from one another: they raise UnicodeDecodeError when they are read.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    file = regular(path)
    with file.open("rb") as stream:
        wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return file.open(encoding="utf-16" if wide else "utf-8-sig", newline="")


class TableError(ValueError):
    """A table is no table; the text says why.

    Args:
        found: what is wrong.
        hint: what to do about it.
    """

    def __init__(self, found: str, hint: str):
        super().__init__(found)
        self.hint = hint


def next_step(error: Exception, otherwise: str) -> str:
    """What to do about a table that cannot be read: as its error says, if it does."""
    return error.hint if isinstance(error, TableError) else otherwise


class Rows(csv.DictReader):  # type: ignore[type-arg]
    """Rows of a table; those without any value are passed over."""

    def __next__(self) -> dict[str, str]:
        """The next row.

        Raises:
            TableError: it has more values than the header, so that one of them may be cut in two.
        """
        while True:
            row: dict[str | None, Any] = {**super().__next__()}
            further = [cell for cell in row.pop(None, ()) if cell.strip()]
            if further:
                raise TableError(
                    f"line {self.line_num} has values beyond the header's columns, such as {further[0].strip()[:50]!r}",
                    "put values that hold the separator in quotes, or give the column a name in the header",
                )
            if any(cell.strip() for cell in row.values()):
                return {str(name): cell for name, cell in row.items()}

    def spelled(self, names: Iterable[str]) -> dict[str, str]:
        """Columns as the header spells them, by their names in small letters.

        Args:
            names: of columns that there may be once.

        Raises:
            TableError: there is one twice.
        """
        header = [name.strip().lower() for name in self.fieldnames or ()]
        if twice := next((name for name in names if header.count(name) > 1), None):
            raise TableError(f"two columns called {twice}", "delete one of them, or give it another name")
        return dict(zip(header, self.fieldnames or (), strict=True))


def csv_rows(stream: TextIO) -> Rows:
    """The rows of a table between whose columns its header has commas or, without any, semicolons or tabs.

    Spreadsheets write semicolons where the comma is the decimal point, and may say so in a line `sep=;`.
    """
    rows = lines(stream)
    above: list[str] = []
    header = next(rows, "")
    while header and (not header.strip() or _SEPARATOR.fullmatch(header)):
        above.append(header)
        header = next(rows, "")
    separator = next((letter for letter in ",;\t" if letter in header), ",")
    table = Rows(chain(above, [header] if header else [], rows), restval="", delimiter=separator)
    for _ in above:  # read all the same, so that lines are counted from the file's first
        next(table.reader)
    return table


def plain_yaml(text: str) -> Any:
    """What YAML says, in plain values.

    Raises:
        ValueError: it is broken, or aliases in it unfold without end.
    """
    try:
        value = yaml.safe_load(text)
    # Its constructors raise what int(), date() and dictionaries raise.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    _check_extent(value)
    return value


def _check_extent(value: object) -> None:
    """Refuse what everybody who walks through it would never come out of, and text that no file name can be.

    Raises:
        ValueError: too many values, too deep, or a NUL.
    """
    level: list[object] = [value]
    count = 0
    for _ in range(_DEPTH_MOST):
        inner: list[object] = []
        for item in level:
            if isinstance(item, str) and "\0" in item:
                raise ValueError("a NUL character in a text")
            parts: Iterable[object] = (
                (*item, *item.values()) if isinstance(item, dict) else item if isinstance(item, list | set) else ()
            )
            inner.extend(parts)
            if count + len(inner) > _VALUES_MOST:
                raise ValueError(f"more than {_VALUES_MOST:,} values, aliases unfolded")
        count += len(inner)
        if not inner:
            return
        level = inner
    raise ValueError(f"values within values, more than {_DEPTH_MOST} deep")
