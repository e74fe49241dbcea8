"""A table that becomes a list where the terminal is too narrow for it: no name or path is cut off or broken."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

_LEAST_TEXT = 16
"""Columns of the terminal that running text is given at least."""
_PADDING = 3


class Sheet(Table):
    """A table whose first column holds names."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if sum(_least_width(column) + _PADDING for column in self.columns) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        yield Text.from_markup(str(self.title or ""), style="table.title")
        for name, *cells in zip(*(_texts(column) for column in self.columns), strict=True):
            yield Text("  ", no_wrap=True, overflow="ignore").append_text(name)
            yield Padding(_joined(self.columns[1:], cells), (0, 0, 0, 4))
        if self.caption:
            yield Text.from_markup(str(self.caption), style="table.caption")


def _texts(column: Column) -> list[Text]:
    return [Text.from_markup(str(cell)) for cell in column.cells]


def _head(column: Column) -> Text:
    return Text.from_markup(str(column.header))


def _least_width(column: Column) -> int:
    """What a column needs so that no line of a name or a figure is broken, and no word of a text or a head."""
    lines = [line for cell in _texts(column) for line in cell.plain.splitlines()]
    whole, words = max(map(len, lines), default=0), max(map(len, _head(column).plain.split()), default=0)
    if column.no_wrap or column.justify == "right":
        return max(whole, words)
    return min(max(whole, words), max([_LEAST_TEXT, words, *(len(word) for line in lines for word in line.split())]))


def _joined(columns: list[Column], cells: list[Text]) -> Text:
    """The cells of a row beside its name, with what they are, but for running text; on lines of their own if long."""
    parts = []
    for column, cell in zip(columns, cells, strict=True):
        is_text = column is columns[-1] and column.justify != "right"
        head = () if is_text else _head(column).split("\n")
        parts.append(Text(" ").join([*head, *cell.split("\n")]))
    several_lines = any("\n" in cell.plain for cell in cells)
    return Text("\n" if several_lines else " · ").join(part for part in parts if part.plain)
