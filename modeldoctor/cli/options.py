"""From the texts of options to values."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.errors import UsageError


def diagnose_config(**options: Any) -> DiagnoseConfig:
    """The configuration that the options of a command give.

    Raises:
        UsageError: an option has an impossible value.
    """
    try:
        return DiagnoseConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"{first['input']!r}: {first['msg']}", where=option, hint="see --help") from error


def numbers(text: str | None, option: str) -> list[float] | None:
    """One number, or one per channel.

    Raises:
        UsageError: the text is no list of numbers.
    """
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no list of numbers", where=option, expected="0.5 or 0.485,0.456,0.406"
        ) from error
