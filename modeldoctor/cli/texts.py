"""The commands that only print: the guide, and a configuration with every key."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from modeldoctor.cli.terminal import out
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TreatConfig
from modeldoctor.config.treat_file import commented_yaml


def guide(
    topic: Annotated[str | None, typer.Argument(help="Which page; without one, the list of pages.")] = None,
) -> None:
    """Read the guide: one page per topic."""
    from rich.markdown import Markdown

    from modeldoctor.guide import TOPICS, read_page

    if topic is None:
        table = Table.grid("", "", padding=(0, 2))
        for name, about in TOPICS.items():
            table.add_row(f"[bold]{name}[/]", about)
        out.print(table, highlight=False)
        return
    text = read_page(topic)
    out.print(Markdown(text)) if out.is_terminal else sys.stdout.write(text)


class Command(StrEnum):
    """Which command takes the configuration."""

    TREAT = "treat"
    DIAGNOSE = "diagnose"


def print_config(
    command: Annotated[Command, typer.Argument(help="Of which command.")] = Command.TREAT,
) -> None:
    """Print a configuration with every key, its default, meaning and range, for --config."""
    if command is Command.DIAGNOSE:
        sys.stdout.write("# Every option of `modeldoctor diagnose` may stand here: data, masks, mean, crop_pct ...\n")
    sys.stdout.write(commented_yaml(TreatConfig if command is Command.TREAT else DiagnoseConfig) + "\n")
