"""Options that several commands share, and from their texts to values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat_file import key_and_value
from modeldoctor.errors import UsageError

# How the network is built and fed: the same in every command that loads one.
Arch = Annotated[
    str | None,
    typer.Option(help="resnet50, torchvision/resnet50, or CODE.py:FUNCTION; default: as recorded in the file."),
]
Head = Annotated[
    str | None,
    typer.Option(help="Layers of a head that took the place of the network's own: Linear,ReLU,Linear."),
]
NumClasses = Annotated[int | None, typer.Option(help="Classes of the network.")]
Channels = Annotated[int | None, typer.Option(help="Input channels.")]
InputSize = Annotated[int | None, typer.Option(help="Pixels; default: as recorded in the file, else the network's.")]
Mean = Annotated[str | None, typer.Option(help="One value, or one per channel: 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="As --mean.")]
Interpolation = Annotated[str | None, typer.Option(help="nearest, bilinear or bicubic; default as --input-size.")]
CropPct = Annotated[
    float | None, typer.Option(help="Crop size / resize size, as in timm: 224 px cut from 256 px is 0.875.")
]
ResizeMode = Annotated[
    str | None,
    typer.Option(help="shortest (edge, then cropped), squash (to the input's shape) or pad; default as --input-size."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        help="key=value: an argument of the network's constructor, such as output_stride=8; repeatable.",
    ),
]

TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="EXECUTE code from the file: only for files from a source you trust.")
]
Root = Annotated[Path | None, typer.Option(help="Where a named data set, or a CSV's images, lie.")]
Workers = Annotated[
    int | None, typer.Option(help="Processes that read images; by default up to 8 for a GPU. Changes no figure.")
]


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


def read_model_options(texts: list[str] | None) -> dict[str, Any] | None:
    """Arguments from `key=value`, whose values are YAML.

    Raises:
        UsageError: a text is something else.
    """
    try:
        found = dict(map(key_and_value, texts or ()))
        if wrong := [key for key in found if not key.isidentifier()]:
            raise ValueError(f"{wrong[0]!r} is no name of an argument")
    except ValueError as error:
        raise UsageError(
            str(error), where=f"--model-option {' '.join(texts or ())}", expected="key=value, such as output_stride=8"
        ) from error
    return found or None


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


# Of a report.
FailUnder = Annotated[
    list[str] | None, typer.Option(help="FIGURE=NUMBER: exit with 4 where it is less; may be given again.")
]
FailOn = Annotated[list[str] | None, typer.Option(help="FIGURE>NUMBER (or < >= <= == !=): exit with 4 where it holds.")]
Junit = Annotated[Path | None, typer.Option(help="Write the gates to this file as JUnit's test cases.")]
Github = Annotated[
    bool, typer.Option("--github", help="Print annotations for GitHub, and add the report to its step summary.")
]
